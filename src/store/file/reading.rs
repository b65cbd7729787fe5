//! Reads content in pieces. For each client, memory holds the piece that the client has not taken
//! yet. So a slow client gets small pieces, and a client that keeps up gets large pieces, which
//! cost less.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;

use super::unblock;
use crate::platform::{Body, Platform};
use crate::store::Error;

/// The piece size for a client that may be slow, in bytes.
const PIECE_BYTES: usize = 32 * 1024;
/// The piece size for a client that keeps up, in bytes.
const LARGE_PIECE_BYTES: usize = 256 * 1024;
/// How many bytes a client must take without a pause to count as keeping up: more than sockets
/// buffer.
const KEPT_UP_BYTES: u64 = 8 * 1024 * 1024;
/// The longest time between two pieces that does not count as a pause, in milliseconds.
const PAUSE_MS: u64 = 20;

/// How fast a client takes the pieces.
#[derive(Debug, Default)]
struct Pace {
    asked_ms: u64,
    /// The bytes that the client has taken since its last pause.
    taken: u64,
}

impl Pace {
    /// Notes that the client asks for the next piece. Returns the largest size of that piece, in
    /// bytes.
    fn next_bytes(&mut self, now_ms: u64) -> usize {
        if now_ms.saturating_sub(self.asked_ms) > PAUSE_MS {
            self.taken = 0;
        }
        self.asked_ms = now_ms;
        let bytes = if self.taken < KEPT_UP_BYTES { PIECE_BYTES } else { LARGE_PIECE_BYTES };
        self.taken += bytes as u64;
        bytes
    }
}

/// The next `length` bytes of a file.
pub(super) fn body(file: File, length: u64, platform: Arc<dyn Platform>) -> Body {
    let state = (file, length, Pace::default(), platform);
    let pieces = stream::try_unfold(state, |(file, left, mut pace, platform)| async move {
        if left == 0 {
            return Ok::<_, Error>(None);
        }
        let bytes = left.min(pace.next_bytes(platform.now_ms()) as u64) as usize;
        let (file, piece) = unblock(move || read_piece(file, bytes)).await?;
        let left = left - piece.len() as u64;
        Ok(Some((piece, (file, left, pace, platform))))
    });
    Body::from_stream(pieces).with_length(length)
}

fn read_piece(mut file: File, bytes: usize) -> io::Result<(File, Bytes)> {
    let mut piece = vec![0; bytes];
    file.read_exact(&mut piece)?;
    Ok((file, piece.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_small_for_clients_that_pause() {
        let mut pace = Pace::default();
        let small = (0..256).filter(|_| pace.next_bytes(1000) == PIECE_BYTES).count();
        assert_eq!((small, pace.next_bytes(1000 + PAUSE_MS)), (256, LARGE_PIECE_BYTES));
        let mut now_ms = 2000;
        for _ in 0..1000 {
            now_ms += PAUSE_MS + 1;
            assert_eq!(pace.next_bytes(now_ms), PIECE_BYTES);
        }
    }
}
