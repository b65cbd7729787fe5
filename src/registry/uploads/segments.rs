//! A body cut into segments that are appended one by one, for stores that keep nothing of an append
//! that breaks off.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::platform::{Body, BodyError};
use crate::registry::limits::SEGMENTS_MAX;

/// A body of known length that is read segment by segment.
pub(super) struct Segments {
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
    pub(super) fn new(body: Body, segment_bytes: Option<u64>) -> Result<Self, Body> {
        let (Some(length), Some(segment_bytes)) = (body.length(), segment_bytes) else { return Err(body) };
        if length <= segment_bytes {
            return Err(body);
        }
        let segment_bytes = segment_bytes.max(length.div_ceil(SEGMENTS_MAX));
        let source = Arc::new(Mutex::new(Source { body, held: Bytes::new() }));
        Ok(Self { source, left: length, segment_bytes })
    }

    /// The next segment. The caller must read the segment before to its end first.
    pub(super) fn next(&mut self) -> Option<Body> {
        if self.left == 0 {
            return None;
        }
        let length = self.left.min(self.segment_bytes);
        self.left -= length;
        Some(Body::new(Segment { source: self.source.clone(), left: length }))
    }
}

impl Segment {
    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl http_body::Body for Segment {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut source = self.source();
        while source.held.is_empty() {
            match ready!(Pin::new(&mut source.body).poll_frame(cx)) {
                Some(Ok(frame)) => source.held = frame.into_data().unwrap_or_default(),
                ended => return Poll::Ready(ended),
            }
        }
        let length = self.left.min(source.held.len() as u64);
        let data = source.held.split_to(length as usize);
        drop(source);
        self.left -= length;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}
