//! Cuts bodies into parts: by gathering bytes in memory, or as a shared stream.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use crate::platform::{Body, BodyError};
use crate::store::{Error, Result};

/// The size of the blocks in which bytes are gathered. Copying into blocks lets go of the large
/// buffers behind small pieces of a body.
const BLOCK_BYTES: usize = 256 * 1024;

/// Gathers bytes from a body until they are enough for a part.
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

    /// The number of bytes held in memory.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Adds bytes before the bytes that are held.
    pub(super) fn prepend(&mut self, bytes: Vec<Bytes>) {
        for bytes in bytes.into_iter().rev() {
            self.length += bytes.len() as u64;
            self.blocks.push_front(bytes);
        }
    }

    /// Reads until at least `length` bytes are held, or the body ends.
    pub(super) async fn fill(&mut self, length: u64) -> Result<(), BodyError> {
        while self.length < length {
            let Some(data) = self.body.next().await else { return Ok(()) };
            let mut data = data?;
            self.length += data.len() as u64;
            while !data.is_empty() {
                if self.block.is_empty() {
                    // Reserve the whole block at once: a growing buffer would end up to twice as
                    // large and stay so.
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

    /// Removes and returns the first `length` bytes, or all held bytes if there are fewer.
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

    /// Returns one stream of the held bytes and the rest of the body.
    pub(super) fn into_stream(mut self) -> Shared {
        let held = self.take(u64::MAX).into();
        Shared(Arc::new(Mutex::new(Source { held, body: self.body, taken: Some(Vec::new()), reader: 0 })))
    }
}

/// A stream from which parts are read one after the other, without holding a part in memory.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Source>>);

struct Source {
    held: VecDeque<Bytes>,
    body: Body,
    /// The held bytes that the reader has taken, for a rewind. `None` once the reader has gone past
    /// the held bytes or met an error: a rewind is impossible then.
    taken: Option<Vec<Bytes>>,
    /// The number of the only reader that may read. The number changes because a connection may go
    /// on reading for a request that has failed.
    reader: u64,
}

/// The next bytes of a stream, of known length: the payload of one request.
pub(super) struct StreamedPart {
    stream: Shared,
    length: u64,
}

/// The body of one request: the bytes of a part, for one reader.
struct PartBody {
    stream: Shared,
    left: u64,
    reader: u64,
}

impl Shared {
    /// Returns the next `length` bytes as a part. The previous part must have been read to its end.
    pub(super) fn part(&self, length: u64) -> StreamedPart {
        self.source().taken = Some(Vec::new());
        StreamedPart { stream: self.clone(), length }
    }

    /// Checks that the stream is at its end.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the stream has more bytes; the error of the body when reading
    /// fails.
    pub(super) async fn finish(self) -> Result<()> {
        let mut left = self.part(u64::MAX).body();
        match left.next().await {
            None => Ok(()),
            Some(Ok(_)) => Err(Error::unavailable("the body is longer than its declared length")),
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamedPart {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The bytes of the part for a new reader. Earlier readers get an error from now on.
    pub(super) fn body(&self) -> Body {
        let reader = self.stream.source().next_reader();
        let mut part = PartBody { stream: self.stream.clone(), left: self.length, reader };
        Body::from_poll(Some(self.length), move |cx| part.poll(cx))
    }

    /// Puts back the bytes that were taken, if all of them are still held, so that the part can be
    /// read again. Returns whether that was possible. Earlier readers get an error from now on.
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
        if self.held.is_empty() {
            match ready!(self.body.poll_next(cx)) {
                Some(Ok(data)) => self.held.push_back(data),
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

impl PartBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut source = self.stream.source();
        if source.reader != self.reader {
            return Poll::Ready(Some(Err(BodyError::Interrupted("the request was given up".into()))));
        }
        let polled = ready!(source.poll(self.left, cx));
        if let Some(Ok(data)) = &polled {
            self.left -= data.len() as u64;
        }
        Poll::Ready(polled)
    }
}
