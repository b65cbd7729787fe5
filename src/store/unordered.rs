//! Facts in a store that lists all its keys at once, in no order, and knows no conditions: Spin's key-value interface
//! and its like.

use std::collections::BTreeSet;

use async_lock::RwLock;
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
    /// Gives every key of the store to `each`.
    async fn keys(&self, each: &mut (dyn FnMut(String) + Send)) -> Result<()>;
}

/// Makes a [`KeyValue`] of an [`UnorderedStore`]. A listing reads every key of the store and holds at most `limit` of
/// them. Conditions are [unsupported](Error::Unsupported).
pub struct Unordered<S> {
    store: S,
    // Such a host may answer no other call until a listing is read to its end, and a call that waits for the host may stop
    // everything in this instance, the listing included.
    listing: RwLock<()>,
}

impl<S> Unordered<S> {
    /// Wraps `store`.
    pub fn new(store: S) -> Self {
        Self { store, listing: RwLock::new(()) }
    }
}

#[async_trait]
impl<S: UnorderedStore> KeyValue for Unordered<S> {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let _no_listing = self.listing.read().await;
        let value = self.store.get(key).await?;
        Ok(value.map(|value| Entry { value, version: Version(String::new()) }))
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<()> {
        if when != When::Always {
            return Err(Error::Unsupported("this store has no conditional writes"));
        }
        let _no_listing = self.listing.read().await;
        self.store.set(key, value).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let _no_listing = self.listing.read().await;
        self.store.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let _only_us = self.listing.write().await;
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
