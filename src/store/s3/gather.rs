//! Bodies cut into parts.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use crate::store::{Body, BodyError, Error, Result};

/// How large the blocks are that bytes are gathered in: small pieces of a body must not keep large buffers alive.
const BLOCK_BYTES: usize = 256 * 1024;

/// Bytes gathered from a body until they are enough for a part.
pub(super) struct Gather {
    body: Body,
    blocks: VecDeque<Bytes>,
    block: BytesMut,
    length: u64,
}

impl Gather {
    pub(super) fn new(body: Body) -> Self {
        Self { body, blocks: VecDeque::new(), block: BytesMut::new(), length: 0 }
    }

    /// How many bytes are held.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Puts bytes before all that is held.
    pub(super) fn prepend(&mut self, bytes: Vec<Bytes>) {
        for bytes in bytes.into_iter().rev() {
            self.length += bytes.len() as u64;
            self.blocks.push_front(bytes);
        }
    }

    /// Reads until `length` bytes are held or more, or the body ends.
    pub(super) async fn fill(&mut self, length: u64) -> Result<(), BodyError> {
        while self.length < length {
            let Some(data) = self.body.next().await else { return Ok(()) };
            let mut data = data?;
            self.length += data.len() as u64;
            while !data.is_empty() {
                if self.block.is_empty() {
                    // All at once: a buffer that grew would end up to twice as large, and be kept so.
                    self.block = BytesMut::with_capacity(BLOCK_BYTES);
                }
                let room = BLOCK_BYTES - self.block.len();
                self.block.extend_from_slice(&data.split_to(data.len().min(room)));
                if self.block.len() == BLOCK_BYTES {
                    self.blocks.push_back(std::mem::take(&mut self.block).freeze());
                }
            }
        }
        Ok(())
    }

    /// Takes the first `length` bytes, or all that is held.
    pub(super) fn take(&mut self, length: u64) -> Vec<Bytes> {
        if !self.block.is_empty() {
            self.blocks.push_back(std::mem::take(&mut self.block).freeze());
        }
        let mut left = length.min(self.length);
        self.length -= left;
        let mut taken = Vec::new();
        while left > 0 {
            let Some(mut block) = self.blocks.pop_front() else { break };
            if block.len() as u64 > left {
                self.blocks.push_front(block.split_off(left as usize));
            }
            left -= block.len() as u64;
            taken.push(block);
        }
        taken
    }

    /// Everything that is held, and the rest of the body behind it, as one stream.
    pub(super) fn into_stream(mut self) -> Shared {
        let held = self.take(u64::MAX);
        Shared(Arc::new(Mutex::new(Source { held: held.into(), body: self.body })))
    }
}

/// A stream from which parts are taken one after the other without being held.
pub(super) struct Shared(Arc<Mutex<Source>>);

struct Source {
    held: VecDeque<Bytes>,
    body: Body,
}

/// The next bytes of a stream.
struct Part {
    source: Arc<Mutex<Source>>,
    left: u64,
}

impl Shared {
    /// The next `length` bytes; the part before must have been read to its end.
    pub(super) fn part(&self, length: u64) -> Body {
        Body::new(Part { source: self.0.clone(), left: length })
    }

    /// Makes sure that the stream is at its end.
    pub(super) async fn finish(self) -> Result<()> {
        let mut left = Body::new(Part { source: self.0, left: u64::MAX });
        match left.next().await {
            None => Ok(()),
            Some(Ok(_)) => Err(Error::Unavailable("the body is longer than it said".into())),
            Some(Err(error)) => Err(error.into()),
        }
    }
}

impl http_body::Body for Part {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let source = self.source.clone();
        let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
        let mut data = loop {
            if let Some(held) = source.held.pop_front() {
                break held;
            }
            match ready!(Pin::new(&mut source.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        source.held.push_back(data);
                    }
                }
                other => return Poll::Ready(other),
            }
        };
        if data.len() as u64 > self.left {
            source.held.push_front(data.split_off(self.left as usize));
        }
        self.left -= data.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}
