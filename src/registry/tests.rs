//! Tests of rules that need a clock, a race or a look into the store. The transcripts in
//! `tests/transcripts` test the behaviour on the wire.

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
    registry.keys.list("", None, 1000).await.unwrap()
}

#[test]
fn an_upload_session_expires() {
    block_on(async {
        let (registry, platform) = in_memory();
        let repository = name("a");
        let session = registry.begin_upload(&repository, Algorithm::Sha256).await.unwrap().session;
        let lifetime = registry.limits.upload_lifetime_ms;
        platform.now_ms.fetch_add(lifetime, Ordering::Relaxed);
        // A chunk extends the lifetime of the upload.
        registry.append_upload(&repository, &session, chunk(b"x")).await.unwrap();
        platform.now_ms.fetch_add(lifetime, Ordering::Relaxed);
        assert_eq!(registry.upload_status(&repository, &session).await.unwrap().offset, 1);
        platform.now_ms.fetch_add(1, Ordering::Relaxed);
        assert_eq!(registry.upload_status(&repository, &session).await, Err(Error::UploadUnknown));
        assert_eq!(keys(&registry).await, [] as [&str; 0]);
    });
}

#[test]
fn an_upload_belongs_to_its_repository() {
    block_on(async {
        let (registry, _) = in_memory();
        let session = registry.begin_upload(&name("a"), Algorithm::Sha256).await.unwrap().session;
        assert_eq!(registry.upload_status(&name("b"), &session).await, Err(Error::UploadUnknown));
        assert_eq!(registry.upload_status(&name("a/b"), &session).await, Err(Error::UploadUnknown));
    });
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

/// An instance remembers the uploads that it began, but must cope with changes by other instances.
#[test]
fn an_upload_goes_on_at_any_instance() {
    block_on(async {
        let (here, platform) = in_memory();
        let there = Registry { begun: Arc::default(), ..here.clone() };
        let repository = name("a");
        let begin = async || here.begin_upload(&repository, Algorithm::Sha256).await.unwrap().session;

        let ahead = begin().await;
        there.append_upload(&repository, &ahead, chunk(b"12")).await.unwrap();
        let rest = Chunk { range: Some(2..4), body: Bytes::from_static(b"34").into() };
        assert_eq!(here.append_upload(&repository, &ahead, rest).await.unwrap().offset, 4);
        here.complete_upload(&repository, &ahead, &digest(b"1234"), chunk(b"")).await.unwrap();

        let ahead = begin().await;
        there.append_upload(&repository, &ahead, chunk(b"12")).await.unwrap();
        assert_eq!(here.append_upload(&repository, &ahead, chunk(b"34")).await.unwrap().offset, 4);

        // The registry cannot know that the stream was meant for a later offset, so the answer
        // tells the client the right offset.
        let stream = || Chunk { range: None, body: slow(b"34") };
        let ahead = begin().await;
        there.append_upload(&repository, &ahead, chunk(b"12")).await.unwrap();
        let late = here.append_upload(&repository, &ahead, stream()).await;
        assert!(matches!(late, Err(Error::ChunkOutOfOrder { offset: 2, .. })), "{late:?}");
        assert_eq!(here.append_upload(&repository, &ahead, stream()).await.unwrap().offset, 4);

        // The last request of an upload is usually empty, but some hosts do not report a length for
        // an empty body.
        let ahead = begin().await;
        there.append_upload(&repository, &ahead, chunk(b"1234")).await.unwrap();
        let nothing = Chunk { range: None, body: slow(b"") };
        here.complete_upload(&repository, &ahead, &digest(b"1234"), nothing).await.unwrap();

        let ahead = begin().await;
        there.append_upload(&repository, &ahead, chunk(b"12")).await.unwrap();
        let late = here.complete_upload(&repository, &ahead, &digest(b"1234"), stream()).await;
        assert!(matches!(late, Err(Error::ChunkOutOfOrder { offset: 2, .. })), "{late:?}");
        here.complete_upload(&repository, &ahead, &digest(b"1234"), stream()).await.unwrap();

        let ahead = begin().await;
        there.append_upload(&repository, &ahead, chunk(b"12")).await.unwrap();
        platform.now_ms.fetch_add(limits::BEGUN_LIFETIME_MS + 1, Ordering::Relaxed);
        assert_eq!(here.append_upload(&repository, &ahead, stream()).await.unwrap().offset, 4);

        for body in [chunk(b"x"), chunk(b""), Chunk { range: None, body: slow(b"") }] {
            let cancelled = begin().await;
            there.cancel_upload(&repository, &cancelled).await.unwrap();
            let late = here.append_upload(&repository, &cancelled, body).await;
            assert!(matches!(late, Err(Error::UploadUnknown)), "{late:?}");
            assert!(matches!(here.upload_status(&repository, &cancelled).await, Err(Error::UploadUnknown)));
        }
    });
}

#[test]
fn of_racing_chunks_one_wins() {
    block_on(async {
        let (registry, _) = in_memory();
        let repository = name("a");
        let session = registry.begin_upload(&repository, Algorithm::Sha256).await.unwrap().session;
        let bodies: [&'static [u8]; 3] = [b"one", b"two", b"six"];
        let appends = bodies.map(|bytes| {
            let chunk = Chunk { range: Some(0..3), body: slow(bytes) };
            registry.append_upload(&repository, &session, chunk)
        });
        let results = join_all(appends).await;
        let winners: Vec<usize> = (0..3).filter(|n| results[*n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        for result in results.iter().filter(|result| result.is_err()) {
            assert!(matches!(result, Err(Error::ChunkOutOfOrder { offset: 3, .. })), "{result:?}");
        }
        let winner = digest(bodies[winners[0]]);
        registry.complete_upload(&repository, &session, &winner, chunk(b"")).await.unwrap();
        assert_eq!(read(&registry, &repository, &winner).await.unwrap(), bodies[winners[0]]);
    });
}

#[test]
fn a_wrong_digest_leaves_the_upload_where_it_stands() {
    block_on(async {
        let (registry, _) = in_memory();
        let repository = name("a");
        let session = registry.begin_upload(&repository, Algorithm::Sha256).await.unwrap().session;
        registry.append_upload(&repository, &session, chunk(b"begin")).await.unwrap();
        for end in [b"".as_slice(), b" end"] {
            let wrong = registry.complete_upload(&repository, &session, &digest(b"other"), chunk(end)).await;
            assert!(matches!(wrong, Err(Error::DigestInvalid(_))), "{wrong:?}");
            assert_eq!(registry.upload_status(&repository, &session).await.unwrap().offset, 5);
        }
        registry.complete_upload(&repository, &session, &digest(b"begin end"), chunk(b" end")).await.unwrap();
        assert_eq!(read(&registry, &repository, &digest(b"begin end")).await.unwrap(), "begin end");
        assert_eq!(registry.upload_status(&repository, &session).await, Err(Error::UploadUnknown));
    });
}

#[test]
fn a_cancelled_upload_gives_its_stage_up() {
    block_on(async {
        let (registry, _) = in_memory();
        let repository = name("a");
        let session = registry.begin_upload(&repository, Algorithm::Sha256).await.unwrap().session;
        registry.append_upload(&repository, &session, chunk(b"x")).await.unwrap();
        let key = keys(&registry).await.pop().unwrap();
        let stage = registry.load::<facts::UploadFact>(&key).await.unwrap().unwrap().stage;
        registry.cancel_upload(&repository, &session).await.unwrap();
        let gone = registry.blobs.append(&stage, Body::empty()).await;
        assert!(matches!(gone, Err(store::Error::Conflict(_))), "{gone:?}");
    });
}

#[test]
fn a_blob_is_limited_over_all_its_chunks() {
    block_on(async {
        let (registry, _) = in_memory();
        let registry = Registry { limits: Limits { blob_bytes_max: 10, ..Limits::default() }, ..registry };
        let repository = name("a");
        let session = registry.begin_upload(&repository, Algorithm::Sha256).await.unwrap().session;
        registry.append_upload(&repository, &session, chunk(b"123456")).await.unwrap();
        // With a known and with an unknown length.
        for body in [Body::from("78901"), slow(b"78901")] {
            let over = registry.append_upload(&repository, &session, Chunk { range: None, body }).await;
            assert!(matches!(over, Err(Error::TooLarge { .. })), "{over:?}");
        }
        registry.append_upload(&repository, &session, chunk(b"7890")).await.unwrap();
        let all = digest(b"1234567890");
        registry.complete_upload(&repository, &session, &all, chunk(b"")).await.unwrap();
        assert_eq!(read(&registry, &repository, &all).await.unwrap(), "1234567890");
    });
}

#[test]
fn a_manifest_names_no_more_than_the_limit() {
    block_on(async {
        let (registry, _) = in_memory();
        let registry = Registry { limits: Limits { manifest_references_max: 2, ..Limits::default() }, ..registry };
        let child = |n: u8| format!(r#"{{"mediaType":"a/b","digest":"{}","size":1}}"#, digest(&[n]));
        for (children, expected) in [(2, "missing"), (3, "too many")] {
            let children: Vec<String> = (0..children).map(child).collect();
            let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, children.join(","));
            let tag = Reference::Tag("v1".parse().unwrap());
            let refused = registry.push_manifest(&name("a"), &tag, &[], None, index.into_bytes().into()).await;
            match refused {
                Err(Error::ManifestBlobUnknown(_)) => assert_eq!(expected, "missing"),
                Err(Error::ManifestInvalid(_)) => assert_eq!(expected, "too many"),
                other => panic!("{other:?}"),
            }
        }
    });
}

/// The client names sha512 only after its chunks were hashed with sha256.
#[test]
fn a_late_algorithm_is_checked_all_the_same() {
    block_on(async {
        let (registry, _) = in_memory();
        let repository = name("a");
        for (named, expected) in [(b"content", true), (b"another", false)] {
            let session = registry.begin_upload(&repository, Algorithm::Sha256).await.unwrap().session;
            registry.append_upload(&repository, &session, chunk(b"content")).await.unwrap();
            let late = Algorithm::Sha512.digest(named);
            let result = registry.complete_upload(&repository, &session, &late, chunk(b"")).await;
            assert_eq!(result.is_ok(), expected, "{result:?}");
            assert_eq!(registry.blob(&repository, &late).await.is_ok(), expected);
            assert_eq!(registry.upload_status(&repository, &session).await, Err(Error::UploadUnknown));
        }
    });
}

/// Lost bytes of a blob are restored by the next push of the blob.
#[test]
fn a_push_brings_lost_content_back() {
    block_on(async {
        let (registry, _) = in_memory();
        let (first, second) = (name("a"), name("b"));
        registry.push_blob(&first, &digest(b"layer"), Bytes::from_static(b"layer").into()).await.unwrap();
        let location = registry.blob(&first, &digest(b"layer")).await.unwrap().fact.location;
        for stored in registry.blobs.list(None, 10).await.unwrap() {
            registry.blobs.remove(&stored.name).await.unwrap();
        }
        assert!(registry.blobs.read(&location, 0..1).await.is_err());
        registry.push_blob(&second, &digest(b"layer"), Bytes::from_static(b"layer").into()).await.unwrap();
        assert_eq!(read(&registry, &second, &digest(b"layer")).await.unwrap(), "layer");
    });
}

#[test]
fn content_is_stored_once_for_all_repositories() {
    block_on(async {
        let (registry, _) = in_memory();
        let (first, second) = (name("a"), name("b"));
        registry.push_blob(&first, &digest(b"layer"), Bytes::from_static(b"layer").into()).await.unwrap();
        registry.push_blob(&second, &digest(b"layer"), Bytes::from_static(b"layer").into()).await.unwrap();
        let mut facts = Vec::new();
        for repository in [&first, &second] {
            let key = layout::blob(repository, &digest(b"layer"));
            facts.push(registry.load::<facts::BlobFact>(&key).await.unwrap().unwrap());
        }
        assert_eq!(facts[0], facts[1]);
        // Deleting a blob in one repository leaves the other repository's blob in place.
        registry.delete_blob(&first, &digest(b"layer")).await.unwrap();
        assert_eq!(read(&registry, &second, &digest(b"layer")).await.unwrap(), "layer");
        let gone = read(&registry, &first, &digest(b"layer")).await;
        assert_eq!(gone, Err(Error::BlobUnknown(digest(b"layer"))));
    });
}

const INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;
const OTHER_INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[] }"#;

async fn push(registry: &Registry, repository: &RepositoryName, tag: &str, bytes: &'static [u8]) {
    let tag = Reference::Tag(tag.parse().unwrap());
    let body = Bytes::from_static(bytes).into();
    registry.push_manifest(repository, &tag, &[], Some(crate::oci::manifest::OCI_INDEX), body).await.unwrap();
}

#[test]
fn a_deleted_manifest_takes_its_tags_and_no_other() {
    block_on(async {
        let (registry, _) = in_memory();
        let registry = Registry { limits: Limits { page_entries_max: 2, ..Limits::default() }, ..registry };
        let repository = name("a");
        for tag in ["t1", "t2", "t3", "t4", "t5", "moved"] {
            push(&registry, &repository, tag, INDEX).await;
        }
        push(&registry, &repository, "moved", OTHER_INDEX).await;
        push(&registry, &name("a/b"), "t1", INDEX).await;
        registry.delete_manifest(&repository, &Reference::Digest(digest(INDEX))).await.unwrap();
        let tags = registry.tags(&repository, &PageRequest::default()).await.unwrap();
        assert_eq!(tags.entries, ["moved"]);
        let kept = registry.manifest(&name("a/b"), &Reference::Digest(digest(INDEX))).await;
        assert_eq!(kept.unwrap().size, INDEX.len() as u64);
    });
}

#[test]
fn a_large_manifest_lies_with_the_blobs() {
    block_on(async {
        let (registry, _) = in_memory();
        let limits = Limits { manifest_inline_bytes_max: INDEX.len() as u64, ..Limits::default() };
        let registry = Registry { limits, ..registry };
        let repository = name("a");
        push(&registry, &repository, "small", INDEX).await;
        push(&registry, &repository, "large", OTHER_INDEX).await;
        for (tag, bytes, in_blobs) in [("small", INDEX, false), ("large", OTHER_INDEX, true)] {
            let manifest = registry.manifest(&repository, &Reference::Tag(tag.parse().unwrap())).await.unwrap();
            assert_eq!(registry.read_manifest(&manifest).await.unwrap().collect_up_to(1000).await.unwrap(), bytes);
            let value = registry.keys.get(&layout::manifest(&repository, &digest(bytes))).await.unwrap().unwrap().value;
            assert_eq!(!value.ends_with(bytes), in_blobs, "{value:?}");
        }
    });
}

fn refers_to(subject: &[u8], note: &str) -> Vec<u8> {
    let of = digest(subject);
    let subject = format!(r#"{{"mediaType":"a/b","digest":"{of}","size":{}}}"#, subject.len());
    format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"note":"{note}"}},"subject":{subject}}}"#)
        .into_bytes()
}

#[test]
fn referrers_listed_under_a_fallback_tag_are_taken_in() {
    block_on(async {
        let (registry, _) = in_memory();
        let repository = name("a");
        let (valid, of_another) = (refers_to(INDEX, "valid"), refers_to(OTHER_INDEX, "of another"));
        let mut listed = Vec::new();
        for bytes in [&valid, &of_another] {
            let reference = Reference::Digest(digest(bytes));
            registry.push_manifest(&repository, &reference, &[], None, bytes.clone().into()).await.unwrap();
            listed.push(format!(r#"{{"mediaType":"a/b","digest":"{}","size":{}}}"#, digest(bytes), bytes.len()));
        }
        // The state from before the registry stored referrers.
        let key = layout::referrer(&repository, &digest(INDEX), digest(&valid).as_str());
        registry.keys.delete(&key).await.unwrap();
        let request = ReferrersRequest::default();
        assert_eq!(registry.referrers(&repository, &digest(INDEX), &request).await.unwrap().descriptors, []);

        let fallback = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, listed.join(","));
        let tag: crate::oci::Tag = format!("sha256-{}", digest(INDEX).hex()).parse().unwrap();
        let tag = Reference::Tag(tag);
        registry.push_manifest(&repository, &tag, &[], None, fallback.into_bytes().into()).await.unwrap();
        for _ in 0..2 {
            let page = registry.referrers(&repository, &digest(INDEX), &request).await.unwrap();
            let digests: Vec<_> = page.descriptors.iter().map(|descriptor| &descriptor.digest).collect();
            assert_eq!(digests, [&digest(&valid)]);
        }
    });
}

#[test]
fn annotations_larger_than_a_value_are_read_from_the_manifest() {
    block_on(async {
        let (registry, _) = in_memory();
        let limits = Limits { manifest_inline_bytes_max: 1000, ..Limits::default() };
        let registry = Registry { limits, ..registry };
        let repository = name("a");
        let large = refers_to(INDEX, &"x".repeat(5000));
        let reference = Reference::Digest(digest(&large));
        registry.push_manifest(&repository, &reference, &[], None, large.into()).await.unwrap();
        let entries = registry.keys.list("", None, 100).await.unwrap();
        for key in entries {
            assert!(registry.keys.get(&key).await.unwrap().unwrap().value.len() < 1000, "{key}");
        }
        let page = registry.referrers(&repository, &digest(INDEX), &ReferrersRequest::default()).await.unwrap();
        assert_eq!(page.descriptors[0].annotations["note"].len(), 5000);
    });
}

#[test]
fn warnings_cost_nothing_where_there_are_none() {
    block_on(async {
        let (registry, _) = in_memory();
        let (repository, tag) = (name("a"), "v1".parse().unwrap());
        registry.set_warning(&repository, Some(&tag), "use v2").await.unwrap();
        assert_eq!(registry.warnings(&repository, Some(&tag)).await, Ok(vec![]));
        let registry = Registry { limits: Limits { warnings: true, ..Limits::default() }, ..registry };
        registry.set_warning(&repository, None, "moved").await.unwrap();
        let all = ["moved", "use v2"].map(str::to_owned).to_vec();
        assert_eq!(registry.warnings(&repository, Some(&tag)).await, Ok(all));
        registry.delete_warning(&repository, None).await.unwrap();
        assert_eq!(registry.warnings(&repository, Some(&tag)).await, Ok(vec!["use v2".to_owned()]));
        assert_eq!(registry.warnings(&name("a/b"), Some(&tag)).await, Ok(vec![]));
        for bad in ["", "two\nlines", "ö", &"x".repeat(1001)] {
            let refused = registry.set_warning(&repository, None, bad).await;
            assert!(matches!(refused, Err(Error::WarningInvalid(_))), "{bad}");
        }
    });
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
fn racing_chunks_without_conditions_never_mix() {
    block_on(async {
        let platform = Arc::new(TestPlatform::default());
        let keys: Arc<dyn KeyValue> = Arc::new(Unordered::new(LastWriterWins(MemoryKeyValue::default())));
        let blobs = Arc::new(PackedBlobStore::new(keys.clone(), platform.clone(), 0));
        let registry = Registry::new(keys, blobs, platform, Limits::default());
        let repository = name("a");
        let session = registry.begin_upload(&repository, Algorithm::Sha256).await.unwrap().session;
        let bodies: [&'static [u8]; 2] = [&[1; 100_000], &[2; 100_000]];
        let appends = bodies.map(|bytes| {
            let chunk = Chunk { range: None, body: slow(bytes) };
            registry.append_upload(&repository, &session, chunk)
        });
        assert!(join_all(appends).await.iter().all(Result::is_ok));
        let mut completed = 0;
        for bytes in bodies {
            if registry.complete_upload(&repository, &session, &digest(bytes), chunk(b"")).await.is_ok() {
                assert!(read(&registry, &repository, &digest(bytes)).await.unwrap() == bytes);
                completed += 1;
            }
        }
        assert_eq!(completed, 1);
    });
}

#[test]
fn the_longest_keys_fit_every_store() {
    let repository = name(&"n".repeat(crate::oci::name::NAME_BYTES_MAX));
    let tag = "t".repeat(crate::oci::name::TAG_BYTES_MAX).parse().unwrap();
    let longest = layout::tag_of(&repository, &Algorithm::Sha512.digest(b""), &tag);
    assert!(longest.len() <= store::KEY_BYTES_MAX, "{}", longest.len());
}

/// Lets another request do all of its work before one call, after `calls_left` earlier calls.
pub(super) struct Meddled {
    pub(super) inner: Arc<dyn KeyValue>,
    pub(super) calls_left: AtomicI64,
    pub(super) meddle: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Meddled {
    async fn turn(&self) {
        if self.calls_left.fetch_sub(1, Ordering::Relaxed) == 0 {
            let meddle = self.meddle.lock().unwrap().take();
            meddle.unwrap().await;
        }
    }
}

#[async_trait::async_trait]
impl KeyValue for Meddled {
    async fn get(&self, key: &str) -> store::Result<Option<store::Entry>> {
        self.turn().await;
        self.inner.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> store::Result<Option<store::Version>> {
        self.turn().await;
        self.inner.put(key, value, when).await
    }

    async fn delete(&self, key: &str) -> store::Result<()> {
        self.turn().await;
        self.inner.delete(key).await
    }

    async fn delete_unchanged(&self, key: &str, version: &store::Version) -> store::Result<()> {
        self.turn().await;
        self.inner.delete_unchanged(key, version).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> store::Result<Vec<String>> {
        self.turn().await;
        self.inner.list(prefix, after, limit).await
    }
}

/// A push and a deletion of the same manifest. Each runs completely between any two storage calls
/// of the other.
#[test]
fn a_push_and_a_deletion_that_meet_leave_no_name_that_leads_nowhere() {
    async fn push(registry: &Registry) -> Result<()> {
        let (tag, more) = (Reference::Tag("v1".parse().unwrap()), ["v2".parse().unwrap()]);
        let bytes = refers_to(INDEX, "met");
        registry.push_manifest(&name("a"), &tag, &more, None, bytes.into()).await.map(drop)
    }
    async fn delete(registry: &Registry) -> Result<()> {
        let reference = Reference::Digest(digest(&refers_to(INDEX, "met")));
        registry.delete_manifest(&name("a"), &reference).await
    }
    block_on(async {
        for push_is_first in [true, false] {
            let mut meetings = 0;
            for calls_left in 0.. {
                let (plain, platform) = in_memory();
                let plain = Arc::new(plain);
                push(&plain).await.unwrap();
                let other = plain.clone();
                let meddle: BoxFuture<'static, ()> = Box::pin(async move {
                    if push_is_first { delete(&other).await.unwrap() } else { push(&other).await.unwrap() }
                });
                let (calls_left, meddle) = (AtomicI64::new(calls_left), Mutex::new(Some(meddle)));
                let keys = Arc::new(Meddled { inner: plain.keys.clone(), calls_left, meddle });
                let registry = Registry::new(keys.clone(), plain.blobs.clone(), platform, Limits::default());
                if push_is_first {
                    push(&registry).await.unwrap()
                } else {
                    delete(&registry).await.unwrap()
                }
                if keys.meddle.lock().unwrap().is_some() {
                    break;
                }
                meetings += 1;
                let tags = plain.tags(&name("a"), &PageRequest::default()).await.unwrap().entries;
                let tags = tags.into_iter().map(|tag| Reference::Tag(tag.parse().unwrap()));
                let referrers =
                    plain.referrers(&name("a"), &digest(INDEX), &ReferrersRequest::default()).await.unwrap();
                let referrers = referrers.descriptors.into_iter().map(|found| Reference::Digest(found.digest));
                for reference in tags.chain(referrers) {
                    let found = plain.manifest(&name("a"), &reference).await;
                    assert!(found.is_ok(), "meeting {meetings}, push first: {push_is_first}: {found:?}");
                }
            }
            assert!(meetings > 5, "only {meetings}");
        }
    });
}
