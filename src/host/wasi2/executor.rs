//! Runs the future that answers a request, and waits for the host's pollables meanwhile.
//!
//! WASI 0.2 gives an instance one request at a time, as a function that returns after the answer is
//! sent. One future is therefore all that an instance has to run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use wasip2::io::poll::{Pollable, poll};

thread_local! {
    /// The pollables that unfinished [`Ready`] futures wait for, by the number of the future.
    static WAITING: RefCell<BTreeMap<u64, (Arc<Pollable>, Waker)>> = const { RefCell::new(BTreeMap::new()) };
}

/// Runs `future` to its end.
///
/// # Panics
/// When `future` waits, and no [`Ready`] could wake the future: the instance would wait forever.
pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(woken.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        // A part of the future may have woken another part.
        if !woken.0.swap(false, Relaxed) {
            wake_the_ready();
        }
    }
}

/// Blocks until the host reports at least one pollable as ready, and wakes the futures of all that
/// are ready.
fn wake_the_ready() {
    let waiting: Vec<_> = WAITING.with_borrow(|waiting| waiting.values().cloned().collect());
    assert!(!waiting.is_empty(), "a request waits for an event that no host can report");
    let pollables: Vec<&Pollable> = waiting.iter().map(|(pollable, _)| &**pollable).collect();
    for index in poll(&pollables) {
        waiting[index as usize].1.wake_by_ref();
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// A future that ends when a pollable is ready. The pollable is dropped with the future, so the
/// stream or answer of the pollable must live longer than the future.
pub(super) struct Ready {
    number: u64,
    pollable: Arc<Pollable>,
}

impl Ready {
    pub(super) fn new(pollable: Pollable) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self { number: LAST.fetch_add(1, Relaxed), pollable: Arc::new(pollable) }
    }
}

impl Future for Ready {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.pollable.ready() {
            return Poll::Ready(());
        }
        let waiting = (self.pollable.clone(), cx.waker().clone());
        WAITING.with_borrow_mut(|all| all.insert(self.number, waiting));
        Poll::Pending
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        WAITING.with_borrow_mut(|all| all.remove(&self.number));
    }
}
