//! Reads content in pieces: small pieces for a slow client, large pieces for a client that keeps up
//! (`ClientPace`).

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream;

use super::read_at_once;
use crate::platform::{Body, ClientPace, Platform};
use crate::store::Error;

/// The piece size for a client that may be slow, in bytes.
const PIECE_BYTES: usize = 16 * 1024;
/// The piece size for a client that keeps up, in bytes.
const LARGE_PIECE_BYTES: usize = 256 * 1024;

/// The buffer of a body between two pieces. The buffer comes back when the consumer of the body has
/// dropped the piece, so that a long body needs one buffer and not a new one for each piece.
#[derive(Default)]
struct Spare(Mutex<Option<Vec<u8>>>);

/// A piece of a body.
struct Piece {
    buffer: Vec<u8>,
    spare: Arc<Spare>,
}

/// The next `length` bytes of a file.
pub(super) fn body(file: File, length: u64, platform: Arc<dyn Platform>) -> Body {
    let pace = ClientPace::new(PIECE_BYTES, LARGE_PIECE_BYTES);
    let state = (file, length, pace, platform, Arc::<Spare>::default());
    let pieces = stream::try_unfold(state, |(file, left, mut pace, platform, spare)| async move {
        if left == 0 {
            return Ok::<_, Error>(None);
        }
        let bytes = left.min(pace.next_bytes(platform.now_ms()) as u64) as usize;
        let buffer = spare.buffer(bytes);
        let (file, buffer) = read_at_once(move || read_piece(file, buffer)).await?;
        let left = left - buffer.len() as u64;
        let piece = Bytes::from_owner(Piece { buffer, spare: spare.clone() });
        Ok(Some((piece, (file, left, pace, platform, spare))))
    });
    Body::from_stream(pieces).with_length(length)
}

fn read_piece(mut file: File, mut buffer: Vec<u8>) -> io::Result<(File, Vec<u8>)> {
    file.read_exact(&mut buffer)?;
    Ok((file, buffer))
}

impl Spare {
    /// A buffer of `bytes` bytes with any content: the spare buffer where its size fits. A slow
    /// client does not keep a large buffer.
    fn buffer(&self, bytes: usize) -> Vec<u8> {
        match self.slot().take() {
            Some(mut spare) if spare.len() >= bytes && spare.len() <= bytes.max(PIECE_BYTES) => {
                spare.truncate(bytes);
                spare
            }
            _ => vec![0; bytes],
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        *self.spare.slot() = Some(std::mem::take(&mut self.buffer));
    }
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use std::io::{Seek as _, Write as _};

    use futures_executor::block_on;

    use super::*;
    use crate::platform::SystemPlatform;

    const LENGTH: usize = 8 * 1024 * 1024 + 5;

    fn of_file() -> (Vec<u8>, Body) {
        let content: Vec<u8> = (0..LENGTH).map(|at| (at >> 14) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        file.rewind().unwrap();
        (content, body(file, LENGTH as u64, Arc::new(SystemPlatform)))
    }

    #[test]
    fn a_dropped_piece_gives_its_buffer_to_the_next_piece() {
        let spare = Arc::<Spare>::default();
        drop(Piece { buffer: vec![7; LARGE_PIECE_BYTES], spare: spare.clone() });
        // A new buffer would have zeros.
        assert_eq!(spare.buffer(LARGE_PIECE_BYTES), [7; LARGE_PIECE_BYTES]);
        drop(Piece { buffer: vec![7; LARGE_PIECE_BYTES], spare: spare.clone() });
        assert_eq!(spare.buffer(PIECE_BYTES).capacity(), PIECE_BYTES, "a slow client keeps a large buffer");
    }

    #[test]
    fn a_body_whose_pieces_are_dropped_has_the_bytes_of_the_file() {
        let (content, mut body) = of_file();
        let mut read = 0;
        block_on(async {
            while let Some(piece) = body.next().await {
                let piece = piece.unwrap();
                assert!(content[read..].starts_with(&piece), "other bytes at {read}");
                read += piece.len();
            }
        });
        assert_eq!(read, LENGTH);
    }

    #[test]
    fn pieces_that_the_consumer_keeps_stay_as_they_are() {
        let (content, mut body) = of_file();
        let mut pieces = Vec::new();
        block_on(async {
            while let Some(piece) = body.next().await {
                pieces.push(piece.unwrap());
            }
        });
        assert!(pieces.concat() == content, "a kept piece has other bytes");
    }
}
