//! Shares work among requests that want the same result at the same time: the first request begins
//! the work, the others wait for its outcome.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

use crate::platform::Platform;

/// Work in progress, by key. There is at most one entry for each request that waits.
pub(super) struct Flights<K, T> {
    under_way: Arc<Mutex<HashMap<K, Shared<BoxFuture<'static, T>>>>>,
}

impl<K: Hash + Eq + Clone + Send + 'static, T: Clone + Send + Sync + 'static> Flights<K, T> {
    pub(super) fn new() -> Self {
        Self { under_way: Arc::default() }
    }

    /// Does `work`, or waits for the same work that another request has begun. Gives the outcome,
    /// and whether this request began the work. On a platform with background tasks the work goes
    /// on when the request that began the work is gone. On other platforms no request may wait for
    /// another, so each request does its own work.
    pub(super) async fn join<F>(&self, platform: &dyn Platform, key: K, work: F) -> (T, bool)
    where
        F: Future<Output = T> + Send + 'static,
    {
        if !platform.runs_tasks() {
            return (work.await, true);
        }
        let (joined, began) = self.start(platform, key, work);
        (joined.await, began)
    }

    /// Begins `work` in the background, unless the same work is in progress. Gives a future for the
    /// outcome, and whether this call began the work. The work goes on if the future is dropped.
    /// Only for platforms with background tasks.
    pub(super) fn start<F>(&self, platform: &dyn Platform, key: K, work: F) -> (Shared<BoxFuture<'static, T>>, bool)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = under_way.get(&key) {
            return (known.clone(), false);
        }
        let landing = Landing { under_way: self.under_way.clone(), key: key.clone() };
        let begun = async move {
            let _landing = landing;
            work.await
        };
        let begun = begun.boxed().shared();
        under_way.insert(key, begun.clone());
        platform.spawn(begun.clone().map(drop).boxed());
        (begun, true)
    }
}

/// Removes the entry when the work ends, also by a panic.
struct Landing<K: Hash + Eq, T: Clone> {
    under_way: Arc<Mutex<HashMap<K, Shared<BoxFuture<'static, T>>>>>,
    key: K,
}

impl<K: Hash + Eq, T: Clone> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let landed = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        // Drop the future after the lock is released: the drop may run other code.
        drop(landed);
    }
}
