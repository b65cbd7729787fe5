//! The port for facts: small values under keys.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Error, Result, Tidied, TidyRequest};

/// The most bytes that a key may have: the limit of the narrowest common store.
pub const KEY_BYTES_MAX: usize = 1024;

/// A value with its version at the time of the read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// The version, for [`When::Unchanged`] and [`KeyValue::delete_unchanged`].
    pub version: Version,
}

/// Names one state of one key. Two writes of the same value have different versions where the back
/// end supports [`When::Unchanged`].
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
/// Keys are UTF-8 text of 1 to [`KEY_BYTES_MAX`] bytes. Every answer means that the operation is
/// durable: a value whose `put` was answered survives the end of the process. `contract` holds the
/// clauses in full.
#[async_trait]
pub trait KeyValue: Send + Sync {
    /// The value under `key`. `None` means that the store knows that `key` has no value; a store
    /// that cannot be reached gives an error.
    async fn get(&self, key: &str) -> Result<Option<Entry>>;

    /// Writes `value` under `key` if `when` holds. Returns the version of the written value where
    /// the back end honours [`When::Unchanged`], and `None` elsewhere.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the condition does not hold, [`Error::Unsupported`] when the back
    /// end cannot evaluate the condition. The store writes nothing in both cases.
    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>>;

    /// Removes `key`. Removing an absent key is no error.
    async fn delete(&self, key: &str) -> Result<()>;

    /// Removes `key` only if its value still has this version. The default implementation refuses
    /// every call as unsupported.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the value has another version or is gone, [`Error::Unsupported`]
    /// when the back end cannot compare versions. The store removes nothing in both cases.
    async fn delete_unchanged(&self, key: &str, version: &Version) -> Result<()> {
        let _ = (key, version);
        Err(Error::unsupported("this store makes no conditional deletes"))
    }

    /// At most `limit` keys that begin with `prefix` and sort after `after`, in byte order. Fewer
    /// than `limit` keys mean that no more keys follow.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>>;

    /// Tidies a part of the store: removes leftovers of killed writers, and reports entries that
    /// are not the store's own. The default implementation does nothing.
    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied> {
        let _ = request;
        Ok(Tidied::default())
    }

    /// The same store for a writer whose writes free space, such as the collector. Its writes may
    /// use space that the store keeps back from all other writers. `None` where the store keeps no
    /// space back.
    fn for_upkeep(&self) -> Option<Arc<dyn KeyValue>> {
        None
    }
}

impl dyn KeyValue + '_ {
    /// Writes if `when` holds. Where the back end does not support the condition, writes without
    /// the condition. For callers that are correct under last-writer-wins and only more exact with
    /// the condition.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the condition does not hold.
    pub async fn put_where_supported(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        match self.put(key, value.clone(), when).await {
            Err(Error::Unsupported(_)) => self.put(key, value, When::Always).await,
            result => result,
        }
    }
}
