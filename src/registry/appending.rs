//! A limit for the requests that add to the same upload at once. A blob store may have to copy an
//! upload's bytes for each of these requests, so without the limit a client with many small
//! requests could fill the disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::limits::APPENDS_AT_ONCE_MAX;

/// For each upload, by key, how many requests of this instance add to the upload.
pub(super) type Uploads = Arc<Mutex<HashMap<String, usize>>>;

/// The place of a request among those that add to an upload. Dropping the value frees the place.
pub(super) struct Appending {
    uploads: Uploads,
    key: String,
}

impl Appending {
    /// Takes a place at the upload under `key`; `None` when all `APPENDS_AT_ONCE_MAX` places are
    /// taken.
    pub(super) fn begin(uploads: &Uploads, key: String) -> Option<Self> {
        let mut counts = lock(uploads);
        let count = counts.entry(key.clone()).or_default();
        if *count >= APPENDS_AT_ONCE_MAX {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self { uploads: uploads.clone(), key })
    }
}

impl Drop for Appending {
    fn drop(&mut self) {
        let mut counts = lock(&self.uploads);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

fn lock(uploads: &Uploads) -> MutexGuard<'_, HashMap<String, usize>> {
    uploads.lock().unwrap_or_else(PoisonError::into_inner)
}
