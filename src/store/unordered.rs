//! Facts in a store that lists all its keys at once, in no order, and knows no conditions: Spin's key-value interface
//! and its like.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Entry, Error, KeyValue, Result, Version, When};

/// What such a store offers.
#[async_trait]
pub trait UnorderedStore: Send + Sync {
    /// The value under `key`.
    async fn get(&self, key: &str) -> Result<Option<Bytes>>;
    /// Writes a value, over another if there is one.
    async fn set(&self, key: &str, value: Bytes) -> Result<()>;
    /// Removes a value; one that is not there is no error.
    async fn delete(&self, key: &str) -> Result<()>;
    /// Gives every key of the store to `each`. Where the store takes no other call meanwhile, this must see to it that none
    /// is made.
    async fn keys(&self, each: &mut (dyn FnMut(String) + Send)) -> Result<()>;
}

/// Makes a [`KeyValue`] of an [`UnorderedStore`]. A listing reads every key of the store and holds at most `limit` of
/// them. Conditions are [unsupported](Error::Unsupported).
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
            return Err(Error::Unsupported("this store has no conditional writes"));
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
