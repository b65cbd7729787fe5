//! Tests of rules that need a clock, a race or a look into the store. The transcripts in
//! `tests/transcripts` test the behaviour on the wire.

mod blobs;
mod manifests;
mod preconditions;
mod referrers;
mod uploads;
mod warnings;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_executor::block_on;
use futures_util::future::{BoxFuture, join_all};

use super::*;
use crate::oci::{Algorithm, Digest, Reference, RepositoryName};
use crate::platform::Body;
use crate::store::packed::PackedBlobStore;
use crate::store::unordered::{Unordered, UnorderedStore};
use crate::store::{self, When};

/// A clock that the test moves, and random numbers that count up.
#[derive(Default)]
pub(super) struct TestPlatform {
    pub(super) now_ms: AtomicU64,
    drawn: AtomicU64,
}

impl Platform for TestPlatform {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn random(&self) -> [u8; 16] {
        u128::from(self.drawn.fetch_add(1, Ordering::Relaxed)).to_le_bytes()
    }
}

pub(super) fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

pub(super) fn chunk(bytes: &'static [u8]) -> Chunk {
    Chunk { range: None, body: Bytes::from_static(bytes).into() }
}

pub(super) fn in_memory() -> (Registry, Arc<TestPlatform>) {
    let platform = Arc::new(TestPlatform::default());
    (Registry::in_memory(platform.clone()), platform)
}

pub(super) async fn read(registry: &Registry, repository: &RepositoryName, digest: &Digest) -> Result<Bytes> {
    let blob = registry.blob(repository, digest).await?;
    Ok(registry.read_blob(&blob, 0..blob.size).await?.collect_up_to(1 << 20).await.unwrap())
}

async fn keys(registry: &Registry) -> Vec<String> {
    registry.parts.facts.keys.list("", None, 1000).await.unwrap()
}

/// The same stores under other limits.
pub(super) fn with_limits(registry: &Registry, limits: Limits) -> Registry {
    let (keys, blobs) = (registry.parts.facts.keys.clone(), registry.parts.content.blobs.clone());
    Registry::new(keys, blobs, registry.parts.platform.clone(), limits)
}

/// Another instance over the same stores.
pub(super) fn another_instance(registry: &Registry) -> Registry {
    with_limits(registry, registry.limits().clone())
}

/// A body whose bytes come only after every concurrent request has read the session.
fn slow(bytes: &'static [u8]) -> Body {
    Body::from_stream(futures_util::stream::unfold(0, move |step| async move {
        if step == 5 {
            return None;
        }
        store::contract::yield_now().await;
        let part = if step == 4 { Bytes::from_static(bytes) } else { Bytes::new() };
        Some((Ok::<_, crate::platform::BodyError>(part), step + 1))
    }))
}

const INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;
const OTHER_INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[] }"#;

async fn push(registry: &Registry, repository: &RepositoryName, tag: &str, bytes: &'static [u8]) {
    let tag = Reference::Tag(tag.parse().unwrap());
    let body = Bytes::from_static(bytes).into();
    registry.push_manifest(repository, &tag, &[], Some(crate::oci::manifest::OCI_INDEX), body).await.unwrap();
}

fn refers_to(subject: &[u8], note: &str) -> Vec<u8> {
    let of = digest(subject);
    let subject = format!(r#"{{"mediaType":"a/b","digest":"{of}","size":{}}}"#, subject.len());
    format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"note":"{note}"}},"subject":{subject}}}"#)
        .into_bytes()
}

/// A store without conditional writes, like Spin's. All promises of the registry hold there too.
pub(super) struct LastWriterWins(pub(super) MemoryKeyValue);

#[async_trait::async_trait]
impl UnorderedStore for LastWriterWins {
    async fn get(&self, key: &str) -> store::Result<Option<Bytes>> {
        Ok(self.0.get(key).await?.map(|entry| entry.value))
    }

    async fn set(&self, key: &str, value: Bytes) -> store::Result<()> {
        self.0.put(key, value, When::Always).await.map(drop)
    }

    async fn delete(&self, key: &str) -> store::Result<()> {
        self.0.delete(key).await
    }

    async fn keys(&self, each: &mut (dyn FnMut(String) + Send)) -> store::Result<()> {
        self.0.list("", None, usize::MAX).await?.into_iter().rev().for_each(each);
        Ok(())
    }
}

#[test]
fn the_longest_keys_fit_every_store() {
    let repository = name(&"n".repeat(crate::oci::name::NAME_BYTES_MAX));
    let tag = "t".repeat(crate::oci::name::TAG_BYTES_MAX).parse().unwrap();
    let longest = layout::tag_of(&repository, &Algorithm::Sha512.digest(b""), &tag);
    assert!(longest.len() <= store::KEY_BYTES_MAX, "{}", longest.len());
}

/// Lets another request do all of its work before one call, after `calls_left` earlier calls.
pub(super) struct Interleaved {
    pub(super) inner: Arc<dyn KeyValue>,
    pub(super) calls_left: AtomicI64,
    pub(super) other_request: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Interleaved {
    async fn run_other_request(&self) {
        if self.calls_left.fetch_sub(1, Ordering::Relaxed) == 0 {
            let other_request = self.other_request.lock().unwrap().take();
            other_request.unwrap().await;
        }
    }
}

#[async_trait::async_trait]
impl KeyValue for Interleaved {
    async fn get(&self, key: &str) -> store::Result<Option<store::Entry>> {
        self.run_other_request().await;
        self.inner.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> store::Result<Option<store::Version>> {
        self.run_other_request().await;
        self.inner.put(key, value, when).await
    }

    async fn delete(&self, key: &str) -> store::Result<()> {
        self.run_other_request().await;
        self.inner.delete(key).await
    }

    async fn delete_unchanged(&self, key: &str, version: &store::Version) -> store::Result<()> {
        self.run_other_request().await;
        self.inner.delete_unchanged(key, version).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> store::Result<Vec<String>> {
        self.run_other_request().await;
        self.inner.list(prefix, after, limit).await
    }
}
