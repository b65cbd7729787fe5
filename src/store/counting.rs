//! Decorators that count calls and the bytes read. The number of storage calls per request does not
//! vary between machines, so tests can require an exact number.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    BlobStore, Entry, Family, KeyValue, Location, Object, Result, Stage, Stored, Tidied, TidyRequest, Version, When,
};
use crate::oci::Digest;
use crate::platform::Body;

/// Counts the calls to the store inside.
pub struct Counting<S: ?Sized> {
    /// How many calls there were.
    pub counts: Arc<Counts>,
    inner: Arc<S>,
}

/// How many calls there were, by kind.
#[derive(Debug, Default)]
pub struct Counts {
    reads: AtomicU64,
    writes: AtomicU64,
    deletes: AtomicU64,
    lists: AtomicU64,
    read_bytes: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads, writes, deletes and listings since the previous call of `take`.
    pub fn take(&self) -> [u64; 4] {
        [&self.reads, &self.writes, &self.deletes, &self.lists].map(|counter| counter.swap(0, Ordering::Relaxed))
    }

    /// The bytes of values read and of content ranges asked for, since the previous call of
    /// `take_read_bytes`.
    pub fn take_read_bytes(&self) -> u64 {
        self.read_bytes.swap(0, Ordering::Relaxed)
    }
}

impl<S: ?Sized> Counting<S> {
    /// Counts the calls to `inner`.
    pub fn new(inner: Arc<S>) -> Self {
        Self { counts: Arc::default(), inner }
    }
}

/// `tidy` is not counted, because its result says how many entries were looked at.
#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a decorator forwards every method")]
impl<S: KeyValue + ?Sized> KeyValue for Counting<S> {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        Counts::add(&self.counts.reads);
        let entry = self.inner.get(key).await?;
        let bytes = entry.as_ref().map_or(0, |entry| entry.value.len() as u64);
        self.counts.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(entry)
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        Counts::add(&self.counts.writes);
        self.inner.put(key, value, when).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        Counts::add(&self.counts.deletes);
        self.inner.delete(key).await
    }

    async fn delete_unchanged(&self, key: &str, version: &Version) -> Result<()> {
        Counts::add(&self.counts.deletes);
        self.inner.delete_unchanged(key, version).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        Counts::add(&self.counts.lists);
        self.inner.list(prefix, after, limit).await
    }

    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied> {
        self.inner.tidy(request).await
    }

    fn for_upkeep(&self) -> Option<Arc<dyn KeyValue>> {
        let inner = self.inner.for_upkeep()?;
        Some(Arc::new(Counting { counts: self.counts.clone(), inner }))
    }
}

/// `append` and `commit` count as writes. `stage` is not counted, because no back end needs to do
/// any work for it. `tidy` is not counted either.
#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a decorator forwards every method")]
impl<S: BlobStore + ?Sized> BlobStore for Counting<S> {
    async fn stage(&self) -> Result<Stage> {
        self.inner.stage().await
    }

    async fn append(&self, stage: &Stage, body: Body) -> Result<Stage> {
        Counts::add(&self.counts.writes);
        self.inner.append(stage, body).await
    }

    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location> {
        Counts::add(&self.counts.writes);
        self.inner.commit(stage, digest).await
    }

    async fn discard(&self, stage: &Stage) -> Result<()> {
        Counts::add(&self.counts.deletes);
        self.inner.discard(stage).await
    }

    fn kept_append_bytes(&self) -> Option<u64> {
        self.inner.kept_append_bytes()
    }

    async fn abandon(&self, stage: &Stage, before: Option<&Stage>) -> Result<()> {
        Counts::add(&self.counts.deletes);
        self.inner.abandon(stage, before).await
    }

    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body> {
        Counts::add(&self.counts.reads);
        self.counts.read_bytes.fetch_add(range.end.saturating_sub(range.start), Ordering::Relaxed);
        self.inner.read(location, range).await
    }

    async fn read_stage(&self, stage: &Stage, range: Range<u64>) -> Result<Option<Body>> {
        Counts::add(&self.counts.reads);
        self.counts.read_bytes.fetch_add(range.end.saturating_sub(range.start), Ordering::Relaxed);
        self.inner.read_stage(stage, range).await
    }

    async fn redirect(&self, location: &Location) -> Result<Option<String>> {
        self.inner.redirect(location).await
    }

    fn file(&self, location: &Location) -> Option<PathBuf> {
        self.inner.file(location)
    }

    fn object(&self, location: &Location) -> Option<Object> {
        self.inner.object(location)
    }

    async fn family(&self, stage: &Stage) -> Result<Family> {
        self.inner.family(stage).await
    }

    async fn names_of(&self, location: &Location) -> Result<Vec<String>> {
        self.inner.names_of(location).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>> {
        Counts::add(&self.counts.lists);
        self.inner.list(after, limit).await
    }

    async fn probe(&self) -> Result<()> {
        Counts::add(&self.counts.lists);
        self.inner.probe().await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        Counts::add(&self.counts.deletes);
        self.inner.remove(name).await
    }

    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied> {
        self.inner.tidy(request).await
    }
}
