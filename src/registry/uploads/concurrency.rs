//! A limit for the requests that append to the same upload at once. A blob store may have to copy
//! an upload's bytes for each of these requests, so without the limit a client with many small
//! requests could fill the disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::registry::layout::Key;
use crate::registry::limits::APPENDS_AT_ONCE_MAX;

/// For each upload, by key, how many requests of this instance append to the upload.
#[derive(Clone, Default)]
pub(super) struct RunningAppends {
    counts: Arc<Mutex<HashMap<Key, usize>>>,
}

/// Counts a request as running until the value is dropped.
pub(super) struct RunningAppend {
    appends: RunningAppends,
    key: Key,
}

impl RunningAppends {
    /// Counts a request that appends to the upload under `key`; `None` when `APPENDS_AT_ONCE_MAX`
    /// requests do so already.
    pub(super) fn begin(&self, key: Key) -> Option<RunningAppend> {
        let mut counts = self.lock();
        let count = counts.entry(key.clone()).or_default();
        if *count >= APPENDS_AT_ONCE_MAX {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(RunningAppend { appends: self.clone(), key })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningAppend {
    fn drop(&mut self) {
        let mut counts = self.appends.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}
