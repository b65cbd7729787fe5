//! Facts in a store that lists all its keys at once, in no order, and has no conditional
//! operations, such as Spin's key-value interface.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Entry, Error, KeyValue, Result, Version, When};

/// The operations of a store without order and conditions.
#[async_trait]
pub trait UnorderedStore: Send + Sync {
    /// The value under `key`.
    async fn get(&self, key: &str) -> Result<Option<Bytes>>;
    /// Writes a value, replacing an older value if there is one.
    async fn set(&self, key: &str, value: Bytes) -> Result<()>;
    /// Removes a value. Removing an absent value is no error.
    async fn delete(&self, key: &str) -> Result<()>;
    /// Gives every key of the store to `each`. If the store accepts no other call during the
    /// listing, the implementation must prevent other calls.
    async fn keys(&self, each: &mut (dyn FnMut(String) + Send)) -> Result<()>;
}

/// Makes a [`KeyValue`] of an [`UnorderedStore`]. A listing reads every key of the store and holds
/// at most `limit` of them. Conditions are [unsupported](Error::Unsupported).
pub struct Unordered<S> {
    store: S,
}

impl<S> Unordered<S> {
    /// Wraps `store`.
    pub fn new(store: S) -> Self {
        Self { store }
    }
}

#[async_trait]
impl<S: UnorderedStore> KeyValue for Unordered<S> {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let value = self.store.get(key).await?;
        Ok(value.map(|value| Entry { value, version: Version(String::new()) }))
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        if when != When::Always {
            return Err(Error::unsupported("this store makes no conditional writes"));
        }
        self.store.set(key, value).await?;
        Ok(None)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.store.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let mut first = BTreeSet::new();
        let mut take = |key: String| {
            if key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after) {
                first.insert(key);
                if first.len() > limit {
                    first.pop_last();
                }
            }
        };
        self.store.keys(&mut take).await?;
        Ok(first.into_iter().collect())
    }
}
