//! Content for tests, with its digest and its body.

use bytes::Bytes;
use eyot::Body;
use eyot::oci::{Algorithm, Digest};
use eyot::store::Error;
use futures_util::stream;
use http::Response;
use sha2::{Digest as _, Sha256};

pub const MIB: usize = 1024 * 1024;

/// Pseudorandom bytes that differ at every position and for every seed.
pub fn content(seed: u8, length: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(length + 32);
    for block in 0..length.div_ceil(32) as u64 {
        bytes.extend_from_slice(&Sha256::digest([&[seed][..], &block.to_le_bytes()].concat()));
    }
    bytes.truncate(length);
    bytes.into()
}

pub fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

/// A body of unknown length.
pub fn streamed(bytes: &Bytes) -> Body {
    let pieces: Vec<_> = bytes.chunks(100_000).map(|piece| Ok::<_, Error>(bytes.slice_ref(piece))).collect();
    Body::from_stream(stream::iter(pieces))
}

pub fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers()[name].to_str().unwrap()
}
