//! Stores whose every call waits at a gate, and a key store without conditional writes.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use eyot::Body;
use eyot::oci::Digest;
use eyot::store::{
    BlobStore, Entry, Error, Family, KeyValue, Location, Object, Result, Stage, Stored, Tidied, TidyRequest, Version,
    When,
};

use crate::executor::Scheduler;

/// A store whose every call waits at a gate, so that any other task may run first.
pub struct Gated<S: ?Sized> {
    pub scheduler: Scheduler,
    pub inner: Arc<S>,
    /// Whether a blob store can read content before its commit. S3 cannot.
    pub reads_stages: bool,
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a decorator forwards every method")]
impl KeyValue for Gated<dyn KeyValue> {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.scheduler.gate("get", key).await;
        self.inner.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        if self.scheduler.is_traced() {
            self.scheduler.remark(&format!("is to put {key} {when:?} {}", String::from_utf8_lossy(&value)));
        }
        self.scheduler.gate("put", key).await;
        self.inner.put(key, value, when).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.scheduler.gate("delete", key).await;
        self.inner.delete(key).await
    }

    async fn delete_unchanged(&self, key: &str, version: &Version) -> Result<()> {
        self.scheduler.gate("delete unchanged", key).await;
        self.inner.delete_unchanged(key, version).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        self.scheduler.gate("list", prefix).await;
        self.inner.list(prefix, after, limit).await
    }

    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied> {
        self.scheduler.gate("tidy keys", "").await;
        self.inner.tidy(request).await
    }

    fn for_upkeep(&self) -> Option<Arc<dyn KeyValue>> {
        let inner = self.inner.for_upkeep()?;
        Some(Arc::new(Gated { scheduler: self.scheduler.clone(), inner, reads_stages: self.reads_stages }))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a decorator forwards every method")]
impl BlobStore for Gated<dyn BlobStore> {
    async fn stage(&self) -> Result<Stage> {
        self.scheduler.gate("stage", "").await;
        self.inner.stage().await
    }

    async fn append(&self, stage: &Stage, body: Body) -> Result<Stage> {
        self.scheduler.gate("append", &stage.0).await;
        self.inner.append(stage, body).await
    }

    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location> {
        self.scheduler.gate("commit", &stage.0).await;
        self.inner.commit(stage, digest).await
    }

    async fn discard(&self, stage: &Stage) -> Result<()> {
        self.scheduler.gate("discard", &stage.0).await;
        self.inner.discard(stage).await
    }

    fn kept_append_bytes(&self) -> Option<u64> {
        self.inner.kept_append_bytes()
    }

    async fn abandon(&self, stage: &Stage, before: Option<&Stage>) -> Result<()> {
        self.scheduler.gate("abandon", &stage.0).await;
        self.inner.abandon(stage, before).await
    }

    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body> {
        self.scheduler.gate("read", &location.0).await;
        self.inner.read(location, range).await
    }

    async fn read_stage(&self, stage: &Stage, range: Range<u64>) -> Result<Option<Body>> {
        if !self.reads_stages {
            return Ok(None);
        }
        self.scheduler.gate("read", &stage.0).await;
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
        self.scheduler.gate("list stored", after.unwrap_or_default()).await;
        self.inner.list(after, limit).await
    }

    async fn probe(&self) -> Result<()> {
        self.scheduler.gate("probe", "").await;
        self.inner.probe().await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.scheduler.gate("remove", name).await;
        self.inner.remove(name).await
    }

    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied> {
        self.scheduler.gate("tidy content", "").await;
        self.inner.tidy(request).await
    }
}

/// A key store without conditional writes, like Spin's.
pub struct Unconditional(pub Arc<dyn KeyValue>);

#[async_trait]
impl KeyValue for Unconditional {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.0.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        match when {
            When::Always => self.0.put(key, value, when).await.map(|_| None),
            _ => Err(Error::unsupported("no conditions here")),
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        self.0.list(prefix, after, limit).await
    }
}
