//! When calls to the file system run. Natively each call runs on a thread of its own, because a disk
//! may need long; the number of calls that write or list at once is bounded, so that a crowd of
//! pushes and lists leaves processor time for pulls. A component has no threads, and runs each call
//! at once.

#[cfg(not(target_family = "wasm"))]
use std::{sync::LazyLock, thread::available_parallelism};

#[cfg(not(target_family = "wasm"))]
use async_lock::Semaphore;

/// How many calls that write run at once. Further calls wait in the order of their arrival.
#[cfg(not(target_family = "wasm"))]
const WRITES_AT_ONCE_MAX: usize = 16;

#[cfg(not(target_family = "wasm"))]
static WRITES: Semaphore = Semaphore::new(WRITES_AT_ONCE_MAX);

/// The places for calls that list: as many as there are processors, because a list needs little else
/// than processor time.
#[cfg(not(target_family = "wasm"))]
static LISTS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, usize::from)));

/// Runs work that writes when `WRITES` has a free place.
pub(super) async fn in_turn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(not(target_family = "wasm"))]
    let _place = WRITES.acquire().await;
    read_at_once(work).await
}

/// Runs work that lists when `LISTS` has a free place.
pub(super) async fn list_in_turn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(not(target_family = "wasm"))]
    let _place = LISTS.acquire().await;
    read_at_once(work).await
}

/// Runs a small read, without waiting for calls that write or list.
pub(super) async fn read_at_once<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(not(target_family = "wasm"))]
    return blocking::unblock(work).await;
    #[cfg(target_family = "wasm")]
    return work();
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::{Context, Waker};

    use futures_executor::block_on;
    use futures_util::future::{Future, join_all};

    use super::*;

    /// Tests of other modules that write or list wait until this test ends.
    #[test]
    fn a_read_does_not_wait_for_writes_and_lists() {
        let lists = available_parallelism().map_or(1, usize::from);
        let ended = Arc::<AtomicUsize>::default();
        let counted = || {
            let ended = ended.clone();
            move || {
                ended.fetch_add(1, SeqCst);
            }
        };
        block_on(async {
            let writing = join_all((0..WRITES_AT_ONCE_MAX).map(|_| WRITES.acquire())).await;
            let listing = join_all((0..lists).map(|_| LISTS.acquire())).await;
            let mut waiting: Vec<Pin<Box<dyn Future<Output = ()>>>> =
                vec![Box::pin(in_turn(counted())), Box::pin(list_in_turn(counted()))];
            for work in &mut waiting {
                assert!(work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
            // The pool of threads takes work in order. Work that did not wait would have ended before
            // these reads.
            for _ in 0..100 {
                read_at_once(|| ()).await;
            }
            assert_eq!(ended.load(SeqCst), 0, "work beyond the limits runs");
            drop((writing, listing));
            join_all(waiting).await;
            assert_eq!(ended.load(SeqCst), 2);
        });
    }
}
