//! Readiness: whether the stores answer a harmless read within a bounded time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, join, select};

use super::{BlobStore, KeyValue};
use crate::platform::{Causes, Platform};

/// How long a store may take to answer.
pub const WAIT_MAX: Duration = Duration::from_secs(5);
/// A key that no store holds: a read of the key costs the store the least.
const ABSENT_KEY: &str = "check/ready";

/// A store does not answer. The text names the store and the cause, for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {store} is not ready: {cause}")]
#[non_exhaustive]
pub struct NotReady {
    store: &'static str,
    cause: String,
}

/// Asks both stores at the same time. Returns the stores that are not ready; no store if both
/// answered within [`WAIT_MAX`].
pub async fn not_ready(
    keys: &Arc<dyn KeyValue>,
    blobs: &Arc<dyn BlobStore>,
    platform: &Arc<dyn Platform>,
) -> Vec<NotReady> {
    let keys = async { keys.get(ABSENT_KEY).await.map(drop) };
    let (keys, blobs) = join(within(platform, keys), within(platform, blobs.probe())).await;
    let problems = [("key-value store", keys), ("blob store", blobs)].into_iter().filter_map(|(store, answer)| {
        let cause = match answer {
            Some(Ok(())) => return None,
            Some(Err(error)) => Causes(&error).to_string(),
            None => format!("no answer within {} seconds", WAIT_MAX.as_secs()),
        };
        Some(NotReady { store, cause })
    });
    problems.collect()
}

/// The output of `work`, if `work` ends within [`WAIT_MAX`]. On a platform that cannot wait there is
/// no limit.
async fn within<T>(platform: &Arc<dyn Platform>, work: impl Future<Output = T>) -> Option<T> {
    let end_ms = platform.now_ms() + WAIT_MAX.as_millis() as u64;
    match select(pin!(work), platform.sleep(WAIT_MAX)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(((), work)) if platform.now_ms() < end_ms => Some(work.await),
        Either::Right(_) => None,
    }
}
