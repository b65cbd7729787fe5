//! Memory for work whose size clients choose: manifests that are pushed, and pages of referrers.
//! All requests of a registry share a fixed number of bytes, so that many large requests at once
//! cost no more memory than a few.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A fixed number of bytes from which requests take shares.
pub(super) struct Memory {
    total: u64,
    state: Mutex<State>,
}

struct State {
    /// The number of free bytes. Negative when shares were taken without waiting.
    free: i64,
    /// The waiting requests, in the order of their arrival.
    queue: VecDeque<Waiting>,
    /// The number for the next request that has to wait.
    next: u64,
}

struct Waiting {
    number: u64,
    waker: Waker,
}

/// Bytes that belong to one request until the share is dropped.
pub(crate) struct Share {
    memory: Arc<Memory>,
    bytes: u64,
}

/// An entry in the queue. The entry is removed when the waiting request is dropped.
struct QueueEntry<'a> {
    memory: &'a Memory,
    number: Option<u64>,
}

impl Memory {
    pub(super) fn new(total: u64) -> Arc<Self> {
        let state = State { free: total as i64, queue: VecDeque::new(), next: 0 };
        Arc::new(Self { total, state: Mutex::new(state) })
    }

    /// Takes `most` bytes, or the free bytes if fewer are free, but never fewer than `least`. Does
    /// not wait.
    pub(super) fn take(self: &Arc<Self>, least: u64, most: u64) -> Share {
        let mut state = self.state();
        let bytes = (state.free.max(0) as u64).clamp(least, most.max(least));
        state.free -= bytes as i64;
        Share { memory: self.clone(), bytes }
    }

    /// Takes `bytes`, or the whole memory if `bytes` is more, after waiting for the requests that
    /// came earlier. In a WebAssembly component requests cannot wait for each other
    /// (docs/decisions/0001): there the result is `None` when too few bytes are free.
    pub(super) async fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Share> {
        let bytes = bytes.min(self.total);
        let mut entry = QueueEntry { memory: self, number: None };
        poll_fn(|cx| match entry.poll(bytes, cx) {
            Poll::Pending if cfg!(target_family = "wasm") => Poll::Ready(None),
            polled => polled.map(|()| Some(Share { memory: self.clone(), bytes })),
        })
        .await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake_first(&self) {
        if let Some(first) = self.queue.front() {
            first.waker.wake_by_ref();
        }
    }
}

impl QueueEntry<'_> {
    fn poll(&mut self, bytes: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.memory.state();
        let is_first = state.queue.front().map(|first| first.number) == self.number;
        if is_first && state.free >= bytes as i64 {
            state.free -= bytes as i64;
            if self.number.take().is_some() {
                state.queue.pop_front();
                // The rest may be enough for the next request.
                state.wake_first();
            }
            return Poll::Ready(());
        }
        match self.number {
            Some(number) => {
                let own = state.queue.iter_mut().find(|waiting| waiting.number == number);
                own.into_iter().for_each(|waiting| waiting.waker.clone_from(cx.waker()));
            }
            None => {
                let number = state.next;
                state.next += 1;
                state.queue.push_back(Waiting { number, waker: cx.waker().clone() });
                self.number = Some(number);
            }
        }
        Poll::Pending
    }
}

impl Drop for QueueEntry<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut state = self.memory.state();
            state.queue.retain(|waiting| waiting.number != number);
            state.wake_first();
        }
    }
}

impl Share {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Grows the share to `bytes`, even if too few bytes are free.
    pub(super) fn force_to(&mut self, bytes: u64) {
        let more = bytes.saturating_sub(self.bytes);
        self.memory.state().free -= more as i64;
        self.bytes += more;
    }

    /// Grows the share to `bytes` if enough bytes are free. Returns whether the share has `bytes`
    /// now. Does not wait.
    pub(super) fn grow_to(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let mut state = self.memory.state();
        let is_free = more == 0 || state.free >= more as i64;
        if is_free {
            state.free -= more as i64;
            self.bytes += more;
        }
        is_free
    }

    /// Gives back all bytes of the share but `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let given_back = self.bytes.saturating_sub(bytes);
        self.bytes -= given_back;
        let mut state = self.memory.state();
        state.free += given_back as i64;
        state.wake_first();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn bytes_taken_without_waiting_are_counted() {
        let memory = Memory::new(100);
        let first = memory.take(10, 80);
        assert_eq!((first.bytes(), memory.take(10, 80).bytes()), (80, 20));
        let mut second = memory.take(10, 80);
        let third = memory.take(10, 80);
        assert_eq!((second.bytes(), third.bytes()), (20, 10));
        drop(first);
        second.shrink_to(5);
        assert!(second.grow_to(15) && second.grow_to(10) && !second.grow_to(91));
        assert_eq!(memory.take(10, 200).bytes(), 75);
    }

    #[test]
    fn waiting_requests_keep_their_order_and_leave_the_queue_when_dropped() {
        let memory = Memory::new(100);
        let first = memory.reserve(1000).now_or_never().flatten().expect("all of it");
        assert_eq!(first.bytes(), 100);
        let (mut large, mut gone, mut small) =
            (Box::pin(memory.reserve(90)), Box::pin(memory.reserve(20)), Box::pin(memory.reserve(10)));
        for waiting in [&mut large, &mut gone, &mut small] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        drop(gone);
        drop(first);
        // The small request waits behind the large one, although enough bytes for the small request
        // are free.
        assert!(small.as_mut().now_or_never().is_none());
        let large = block_on(large).expect("bytes natively");
        assert_eq!((large.bytes(), block_on(small).expect("bytes natively").bytes()), (90, 10));
    }
}
