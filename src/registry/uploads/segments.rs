//! A body cut into segments that are appended one by one, for stores that keep nothing of an append
//! that breaks off.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::platform::{Body, BodyError};
use crate::registry::limits::SEGMENTS_MAX;

/// A body of known length that is read segment by segment.
pub(crate) struct Segments {
    source: Arc<Mutex<Source>>,
    left: u64,
    segment_bytes: u64,
}

struct Source {
    body: Body,
    /// Bytes that arrived with the end of a segment and belong to the next segment.
    held: Bytes,
}

struct Segment {
    source: Arc<Mutex<Source>>,
    left: u64,
}

impl Segments {
    /// Cuts `body` into segments of `segment_bytes`, or into larger segments if there would be more
    /// than `SEGMENTS_MAX`. Returns the body as `Err` if the body fits into one segment, if the
    /// body's length is unknown, or if there is no segment size.
    pub(crate) fn new(body: Body, segment_bytes: Option<u64>) -> Result<Self, Body> {
        let (Some(length), Some(segment_bytes)) = (body.length(), segment_bytes) else { return Err(body) };
        if length <= segment_bytes {
            return Err(body);
        }
        let segment_bytes = segment_bytes.max(length.div_ceil(SEGMENTS_MAX));
        let source = Arc::new(Mutex::new(Source { body, held: Bytes::new() }));
        Ok(Self { source, left: length, segment_bytes })
    }

    /// The next segment. The caller must read the segment before to its end first.
    pub(crate) fn next(&mut self) -> Option<Body> {
        if self.left == 0 {
            return None;
        }
        let length = self.left.min(self.segment_bytes);
        self.left -= length;
        let mut segment = Segment { source: self.source.clone(), left: length };
        Some(Body::from_poll(Some(length), move |cx| segment.poll(cx)))
    }
}

impl Segment {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if source.held.is_empty() {
            match ready!(source.body.poll_next(cx)) {
                Some(Ok(data)) => source.held = data,
                ended => return Poll::Ready(ended),
            }
        }
        let length = self.left.min(source.held.len() as u64);
        self.left -= length;
        Poll::Ready(Some(Ok(source.held.split_to(length as usize))))
    }
}
