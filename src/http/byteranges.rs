//! Several ranges of a blob in one answer: `multipart/byteranges` (RFC 9110, section 14.6).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;
use futures_util::stream;

use crate::platform::{Body, BodyError};
use crate::registry::{Blob, Registry};
use crate::store;

/// The largest gap between two parts that one read covers, in bytes. The gap is read and left out,
/// which costs less than a second read.
const GAP_BYTES_MAX: u64 = 128 * 1024;

/// The parts of a blob that one answer contains.
pub(super) struct ByteRanges {
    blob: Blob,
    parts: Vec<Range<u64>>,
    boundary: String,
}

/// The state of an answer's body while the body is sent.
struct Sending {
    registry: Arc<Registry>,
    ranges: ByteRanges,
    /// Groups of parts. Each group is read from the store by one call.
    reads: IntoIter<VecDeque<Range<u64>>>,
    reading: Option<Reading>,
    is_closed: bool,
}

/// A group of parts that is being read from the store.
struct Reading {
    body: Body,
    /// Bytes that were read and not yet sent.
    held: Bytes,
    /// The offset in the blob at which the held bytes begin.
    at: u64,
    parts: VecDeque<Range<u64>>,
    /// Whether the head of the first of `parts` was sent.
    is_begun: bool,
}

impl ByteRanges {
    /// `boundary` must not occur in the blob, so the boundary is drawn for each answer.
    pub(super) fn new(blob: Blob, parts: Vec<Range<u64>>, boundary: String) -> Self {
        Self { blob, parts, boundary }
    }

    pub(super) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// The answer's body. The length of the body is known. At most one piece from the store is held
    /// in memory.
    pub(super) fn into_body(self, registry: Arc<Registry>) -> Body {
        let length = self.length();
        let reads = reads(&self.parts).into_iter();
        let sending = Sending { registry, ranges: self, reads, reading: None, is_closed: false };
        let pieces = stream::try_unfold(sending, async |mut sending| {
            let piece = sending.next().await?;
            Ok::<_, BodyError>(piece.map(|piece| (piece, sending)))
        });
        Body::from_stream(pieces).with_length(length)
    }

    fn length(&self) -> u64 {
        let parts = self.parts.iter().map(|part| self.head(part).len() as u64 + part.end - part.start);
        parts.sum::<u64>() + self.end().len() as u64
    }

    fn head(&self, part: &Range<u64>) -> String {
        let (boundary, first, last, size) = (&self.boundary, part.start, part.end - 1, self.blob.size);
        format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
             Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
        )
    }

    fn end(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

/// Groups parts that follow each other in the blob with gaps of at most [`GAP_BYTES_MAX`].
fn reads(parts: &[Range<u64>]) -> Vec<VecDeque<Range<u64>>> {
    let mut reads: Vec<VecDeque<Range<u64>>> = Vec::new();
    for part in parts.iter().cloned() {
        let last = reads.last_mut();
        match last.filter(|read| read.back().is_some_and(|last| follows(last, &part))) {
            Some(read) => read.push_back(part),
            None => reads.push(VecDeque::from([part])),
        }
    }
    reads
}

fn follows(last: &Range<u64>, part: &Range<u64>) -> bool {
    part.start >= last.end && part.start - last.end <= GAP_BYTES_MAX
}

impl Sending {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let Some(reading) = &mut self.reading else {
                let Some(parts) = self.reads.next() else {
                    let was_closed = std::mem::replace(&mut self.is_closed, true);
                    return Ok((!was_closed).then(|| self.ranges.end().into()));
                };
                self.reading = Some(self.read(parts).await?);
                continue;
            };
            let Some(part) = reading.parts.front().cloned() else {
                self.reading = None;
                continue;
            };
            if !std::mem::replace(&mut reading.is_begun, true) {
                return Ok(Some(self.ranges.head(&part).into()));
            }
            match reading.take(&part).await? {
                Some(piece) => return Ok(Some(piece)),
                None => {
                    reading.parts.pop_front();
                    reading.is_begun = false;
                }
            }
        }
    }

    async fn read(&mut self, parts: VecDeque<Range<u64>>) -> Result<Reading, BodyError> {
        let stretch = parts.front().map_or(0, |part| part.start)..parts.back().map_or(0, |part| part.end);
        let at = stretch.start;
        let read = self.registry.read_blob(&self.ranges.blob, stretch).await;
        let body = read.map_err(|error| match error {
            crate::registry::Error::Store(error) => BodyError::from(error),
            error => store::Error::unavailable("cannot read the next range of a blob").because(error).into(),
        })?;
        Ok(Reading { body, held: Bytes::new(), at, parts, is_begun: false })
    }
}

impl Reading {
    /// The next bytes of a part; `None` at the part's end. Parts of one group are taken in
    /// ascending order.
    async fn take(&mut self, part: &Range<u64>) -> Result<Option<Bytes>, BodyError> {
        loop {
            self.advance(part.start.saturating_sub(self.at));
            if self.at == part.end {
                return Ok(None);
            }
            if !self.held.is_empty() {
                return Ok(Some(self.advance(part.end - self.at)));
            }
            let short = || store::Error::corrupt("a blob ended before its declared length");
            self.held = self.body.next().await.ok_or_else(short)??;
        }
    }

    /// Takes at most `most` of the bytes that are held.
    fn advance(&mut self, most: u64) -> Bytes {
        let length = most.min(self.held.len() as u64);
        self.at += length;
        self.held.split_to(length as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_with_small_gaps_are_read_at_once() {
        let gap = GAP_BYTES_MAX;
        // Three parts near each other; a part too far away; two parts before that part.
        let near = [0..1, 5..10, 10 + gap..11 + gap];
        let far = [13 + 2 * gap..20 + 2 * gap, 2..3, 3..4];
        let found = reads(&[near, far].concat());
        let lengths: Vec<usize> = found.iter().map(VecDeque::len).collect();
        assert_eq!(lengths, [3, 1, 2]);
    }
}
