//! A lock that blocks the thread, as Spin's locks do, but with a timeout.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The timeout. Spin waits for ever. Five seconds are long enough for regular work of another
/// instance.
const PATIENCE: Duration = Duration::from_secs(5);

/// Blocks this thread until the lock is free. After the timeout, the call logs `complaint` and
/// returns `complaint` as the error.
///
/// Must run on a thread that may block: in `spawn_blocking` or `block_in_place`.
pub fn acquire<T>(lock: &Arc<Mutex<T>>, complaint: &str) -> Result<OwnedMutexGuard<T>, String> {
    let waiting = tokio::time::timeout(PATIENCE, Arc::clone(lock).lock_owned());
    Handle::current().block_on(waiting).map_err(|_| {
        eprintln!("spin-host: {complaint}");
        complaint.to_owned()
    })
}
