//! Reads content in pieces: small pieces for a slow client, large pieces for a client that keeps up
//! (`ClientPace`).

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;

use super::read_at_once;
use crate::platform::{Body, ClientPace, Platform};
use crate::store::Error;

/// The piece size for a client that may be slow, in bytes.
const PIECE_BYTES: usize = 16 * 1024;
/// The piece size for a client that keeps up, in bytes.
const LARGE_PIECE_BYTES: usize = 256 * 1024;

/// The next `length` bytes of a file.
pub(super) fn body(file: File, length: u64, platform: Arc<dyn Platform>) -> Body {
    let state = (file, length, ClientPace::new(PIECE_BYTES, LARGE_PIECE_BYTES), platform);
    let pieces = stream::try_unfold(state, |(file, left, mut pace, platform)| async move {
        if left == 0 {
            return Ok::<_, Error>(None);
        }
        let bytes = left.min(pace.next_bytes(platform.now_ms()) as u64) as usize;
        let (file, piece) = read_at_once(move || read_piece(file, bytes)).await?;
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
