//! The port for facts: small values under keys.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Error, Result, Tidied, TidyRequest};

/// The most bytes a key may have: what the narrowest common store takes.
pub const KEY_BYTES_MAX: usize = 1024;

/// A value with the version it had when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// The version, for [`When::Unchanged`] and [`KeyValue::delete_unchanged`].
    pub version: Version,
}

/// Names one state of one key. Two writes of the same value have different versions where the back end supports
/// [`When::Unchanged`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// The condition of a [`KeyValue::put`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Write in any case; the last writer wins.
    Always,
    /// Write only if the key has no value.
    Absent,
    /// Write only if the key still has this version.
    Unchanged(Version),
}

/// A store of small values under keys, listed in byte order.
///
/// Keys are UTF-8 text of 1 to [`KEY_BYTES_MAX`] bytes. Every answer means that the operation is durable: a value whose
/// `put` was answered survives the end of the process. `contract` holds the clauses in full.
#[async_trait]
pub trait KeyValue: Send + Sync {
    /// The value under `key`. `None` only if the store knows that there is none.
    async fn get(&self, key: &str) -> Result<Option<Entry>>;

    /// Writes `value` under `key` if `when` holds. Gives the version that it wrote, where the back end honours
    /// [`When::Unchanged`].
    ///
    /// # Errors
    /// [`Error::Conflict`] when the condition does not hold, [`Error::Unsupported`] when the back end cannot
    /// tell; it never writes in these cases.
    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>>;

    /// Removes `key`; removing one that is not there is no error.
    async fn delete(&self, key: &str) -> Result<()>;

    /// Removes `key` only if its value still has this version. The default implementation refuses every
    /// call as unsupported.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the value has another version or is gone, [`Error::Unsupported`] when the
    /// back end cannot tell; the store removes nothing in these cases.
    async fn delete_unchanged(&self, key: &str, version: &Version) -> Result<()> {
        let _ = (key, version);
        Err(Error::Unsupported("this store has no conditional deletes"))
    }

    /// At most `limit` keys that begin with `prefix` and sort after `after`, in byte order.
    /// Fewer than `limit` means that there are no more.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>>;

    /// Removes what writers left behind when they were killed, and names what is not the store's own, for a part of the store.
    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied> {
        let _ = request;
        Ok(Tidied::default())
    }

    /// The same store for a writer whose writes make room: they may use space that is kept from all others. `None` where there is
    /// no such space.
    fn for_upkeep(&self) -> Option<Arc<dyn KeyValue>> {
        None
    }

    /// Writes if `when` holds, and without the condition where the back end cannot honour it: for callers that are
    /// correct under last-writer-wins and only more exact with the condition.
    async fn put_sharpened(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        match self.put(key, value.clone(), when).await {
            Err(Error::Unsupported(_)) => self.put(key, value, When::Always).await,
            result => result,
        }
    }
}
