//! The bytes that one request brings for an upload.

use std::ops::Range;

use crate::platform::Body;

/// Bytes for an upload: a chunk, or a whole blob.
#[derive(Debug)]
pub struct Chunk {
    /// Where in the blob the bytes belong, if the client says so.
    pub range: Option<Range<u64>>,
    /// The bytes.
    pub body: Body,
}

impl Chunk {
    /// Whether the chunk has neither bytes nor a range.
    pub(super) fn is_empty(&self) -> bool {
        self.range.is_none() && self.body.length() == Some(0)
    }

    /// The same chunk, whose body has a known length if the body is empty. Some hosts know the
    /// length only when the body is read.
    pub(super) async fn peeked(mut self) -> Self {
        if self.range.is_none() && self.body.length().is_none() {
            self.body = self.body.peeked().await;
        }
        self
    }

    /// Whether the chunk is likely to be the first of its upload: its range begins at byte 0 or,
    /// without a range, its body has no declared length, as clients send whole blobs.
    pub(super) fn is_first(&self) -> bool {
        match &self.range {
            Some(range) => range.start == 0,
            None => self.body.length().is_none(),
        }
    }
}
