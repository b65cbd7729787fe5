//! Bodies cut into parts.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};

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
        let held = self.take(u64::MAX).into();
        Shared(Arc::new(Mutex::new(Source { held, body: self.body, taken: Some(Vec::new()), reader: 0 })))
    }
}

/// A stream from which parts are taken one after the other without being held.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Source>>);

struct Source {
    held: VecDeque<Bytes>,
    body: Body,
    /// What the reader has taken of what was held; `None` when it has come to more than that, or to an error.
    taken: Option<Vec<Bytes>>,
    /// Who may read. A connection may go on with a request that has failed.
    reader: u64,
}

/// The next bytes of a stream, of known length.
pub(super) struct Part {
    stream: Shared,
    length: u64,
}

/// The bytes of a part, once.
struct PartBody {
    stream: Shared,
    left: u64,
    reader: u64,
}

impl Shared {
    /// The next `length` bytes; the part before must have been read to its end.
    pub(super) fn part(&self, length: u64) -> Part {
        self.source().taken = Some(Vec::new());
        Part { stream: self.clone(), length }
    }

    /// Makes sure that the stream is at its end.
    pub(super) async fn finish(self) -> Result<()> {
        let mut left = self.part(u64::MAX).body();
        match left.next().await {
            None => Ok(()),
            Some(Ok(_)) => Err(Error::Unavailable("the body is longer than it said".into())),
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The bytes, for one reader.
    pub(super) fn body(&self) -> Body {
        let reader = self.stream.source().next_reader();
        Body::new(PartBody { stream: self.stream.clone(), left: self.length, reader })
    }

    /// Puts back what was taken, if nothing of it is lost: the part can be read once more then.
    pub(super) fn rewind(&self) -> bool {
        let mut source = self.stream.source();
        source.next_reader();
        let Some(taken) = source.taken.replace(Vec::new()) else {
            source.taken = None;
            return false;
        };
        taken.into_iter().rev().for_each(|bytes| source.held.push_front(bytes));
        true
    }
}

impl Source {
    fn next_reader(&mut self) -> u64 {
        self.reader += 1;
        self.reader
    }

    fn poll(&mut self, most: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let is_held = !self.held.is_empty();
        while self.held.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => self.held.extend(frame.into_data()),
                Some(Err(error)) => {
                    self.taken = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => return Poll::Ready(None),
            }
        }
        let Some(mut data) = self.held.pop_front() else { return Poll::Ready(None) };
        if data.len() as u64 > most {
            self.held.push_front(data.split_off(most as usize));
        }
        match &mut self.taken {
            Some(taken) if is_held => taken.push(data.clone()),
            taken => *taken = None,
        }
        Poll::Ready(Some(Ok(data)))
    }
}

impl http_body::Body for PartBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let stream = self.stream.clone();
        let mut source = stream.source();
        if source.reader != self.reader {
            return Poll::Ready(Some(Err(BodyError::Interrupted("the request was given up".into()))));
        }
        Poll::Ready(match ready!(source.poll(self.left, cx)) {
            Some(Ok(data)) => {
                self.left -= data.len() as u64;
                Some(Ok(Frame::data(data)))
            }
            Some(Err(error)) => Some(Err(error)),
            None => None,
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}
