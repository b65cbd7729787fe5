//! Uploads whose requests break off, are repeated, or are concurrent.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures_executor::block_on;
use futures_util::future::{join, join_all};
use futures_util::stream;

use super::super::tests::{LastWriterWins, TestPlatform, another_instance, digest, name, read, with_limits};
use super::super::{Chunk, Error, InvalidUpload, Limits, Registry, SessionId};
use crate::oci::{Algorithm, Digest, RepositoryName};
use crate::platform::{Body, BodyError};
use crate::store::contract::yield_now;
use crate::store::file::FileBlobStore;
use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};
use crate::store::packed::PackedBlobStore;
use crate::store::unordered::Unordered;
use crate::store::{self, BlobStore, Family, KeyValue, Location, Result, Stage, Stored};

/// A registry over each kind of store. The file store lies in `folder`.
fn registries(folder: &Path) -> Vec<(&'static str, Registry)> {
    let platform = Arc::new(TestPlatform::default());
    let memory = || -> Arc<dyn KeyValue> { Arc::new(MemoryKeyValue::default()) };
    let unconditional: Arc<dyn KeyValue> = Arc::new(Unordered::new(LastWriterWins(MemoryKeyValue::default())));
    let packed = Arc::new(PackedBlobStore::new(memory(), platform.clone(), 0));
    let files = Arc::new(FileBlobStore::open(folder, platform.clone()).unwrap());
    let in_memory: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::new(platform.clone()));
    let over = |keys, blobs| Registry::new(keys, blobs, platform.clone(), Limits::default());
    vec![
        ("memory", over(memory(), in_memory.clone())),
        ("packed", over(memory(), packed)),
        ("files", over(memory(), files)),
        ("without conditions", over(unconditional, in_memory)),
    ]
}

fn on_each(test: impl AsyncFn(&'static str, &Registry, &RepositoryName)) {
    let folder = tempfile::tempdir().unwrap();
    for (store, registry) in registries(folder.path()) {
        block_on(test(store, &registry, &name("a")));
    }
}

async fn begin(registry: &Registry) -> SessionId {
    registry.begin_upload(&name("a"), Algorithm::Sha256).await.unwrap().session
}

async fn offset(registry: &Registry, session: &SessionId) -> u64 {
    registry.upload_status(&name("a"), session).await.unwrap().offset
}

fn interrupted() -> BodyError {
    BodyError::Interrupted("on purpose".into())
}

/// A body that declares one byte more than `bytes`, and after `bytes` fails with `error` or just
/// ends.
fn cut(bytes: &Bytes, error: Option<BodyError>) -> Body {
    let pieces: Vec<_> = [Ok(bytes.clone())].into_iter().chain(error.map(Err)).collect();
    Body::from_stream(stream::iter(pieces)).with_length(bytes.len() as u64 + 1)
}

fn at(start: u64, body: Body) -> Chunk {
    let length = body.length().unwrap();
    Chunk { range: Some(start..start + length), body }
}

fn noise(length: usize) -> Bytes {
    (0..length).map(|n| (n * 31 % 251) as u8).collect()
}

#[test]
fn the_bytes_that_arrived_of_a_broken_chunk_count() {
    on_each(async |store, registry, repository| {
        let layer = noise(200_000);
        for error in [Some(interrupted()), Some(BodyError::Idle { limit_seconds: 1 }), None] {
            let session = begin(registry).await;
            // The first chunk is sent without a range, the second chunk with a range.
            let first = Chunk { range: None, body: cut(&layer.slice(..70_000), error.clone()) };
            registry.append_upload(repository, &session, first).await.unwrap_err();
            assert_eq!(offset(registry, &session).await, 70_000, "{store}");
            let second = at(70_000, cut(&layer.slice(70_000..90_001), error.clone()));
            registry.append_upload(repository, &session, second).await.unwrap_err();
            assert_eq!(offset(registry, &session).await, 90_001, "{store}");
            // A client that has asked for the offset continues without a range.
            let third = Chunk { range: None, body: cut(&layer.slice(90_001..100_000), error.clone()) };
            registry.append_upload(repository, &session, third).await.unwrap_err();
            assert_eq!(offset(registry, &session).await, 100_000, "{store}");
            // The closing request breaks off, too.
            let last = at(100_000, cut(&layer.slice(100_000..150_000), error));
            registry.complete_upload(repository, &session, &digest(&layer), last).await.unwrap_err();
            assert_eq!(offset(registry, &session).await, 150_000, "{store}");
            let rest = at(150_000, layer.slice(150_000..).into());
            registry.complete_upload(repository, &session, &digest(&layer), rest).await.unwrap();
            assert!(read(registry, repository, &digest(&layer)).await.unwrap() == layer, "{store}");
            registry.delete_blob(repository, &digest(&layer)).await.unwrap();
        }
    });
}

/// The stored bytes of a broken request do not block the repeated request, even if the client does
/// not know of the stored bytes.
#[test]
fn a_broken_request_can_be_repeated_unchanged() {
    on_each(async |store, registry, repository| {
        let layer = noise(100_000);
        let begun = layer.slice(..40_000);
        // The whole blob in one request, which is cut twice.
        let session = begin(registry).await;
        for length in [30_000, 50_000] {
            let whole = Chunk { range: None, body: cut(&layer.slice(..length), Some(interrupted())) };
            let error = registry.complete_upload(repository, &session, &digest(&layer), whole).await.unwrap_err();
            assert!(
                matches!(error, Error::UploadInvalid(InvalidUpload::BrokenOff(BodyError::Interrupted(_)))),
                "{store}: {error:?}"
            );
            assert!(registry.blob(repository, &digest(&layer)).await.is_err());
        }
        let whole = Chunk { range: None, body: layer.clone().into() };
        registry.complete_upload(repository, &session, &digest(&layer), whole).await.unwrap();
        registry.delete_blob(repository, &digest(&layer)).await.unwrap();

        // A later chunk, with and without a range.
        for has_range in [true, false] {
            let session = begin(registry).await;
            let start = Chunk { range: None, body: begun.clone().into() };
            registry.append_upload(repository, &session, start).await.unwrap();
            let chunk = |body| if has_range { at(40_000, body) } else { Chunk { range: None, body } };
            for length in [50_000, 60_000] {
                let body = cut(&layer.slice(40_000..length), Some(interrupted()));
                registry.append_upload(repository, &session, chunk(body)).await.unwrap_err();
            }
            let again = chunk(layer.slice(40_000..).into());
            let status = registry.append_upload(repository, &session, again).await.unwrap();
            assert_eq!(status.offset, 100_000, "{store}");
            let end = Chunk { range: None, body: Body::empty() };
            registry.complete_upload(repository, &session, &digest(&layer), end).await.unwrap();
            assert!(read(registry, repository, &digest(&layer)).await.unwrap() == layer, "{store}");
            registry.delete_blob(repository, &digest(&layer)).await.unwrap();
        }
    });
}

/// The bytes of a complete body with a wrong length are dropped.
#[test]
fn a_wrong_chunk_does_not_count() {
    on_each(async |store, registry, repository| {
        let bytes = || Body::from_stream(stream::iter([Ok::<_, BodyError>(noise(1000))]));
        let session = begin(registry).await;
        let wrong = [
            // The body is complete, but its length differs from the range.
            Chunk { range: Some(0..1001), body: bytes() },
            Chunk { range: Some(0..999), body: bytes() },
            Chunk { range: Some(0..1001), body: bytes().with_length(1000) },
            // The body is longer than its declared length.
            Chunk { range: None, body: bytes().with_length(999) },
        ];
        for chunk in wrong {
            let error = registry.append_upload(repository, &session, chunk).await.unwrap_err();
            assert!(matches!(error, Error::SizeInvalid(_)), "{store}: {error:?}");
            assert_eq!(offset(registry, &session).await, 0, "{store}");
        }
        let limits = Limits { blob_bytes_max: 999, ..Limits::default() };
        let registry = with_limits(registry, limits);
        let error = registry.append_upload(repository, &session, Chunk { range: None, body: bytes() }).await;
        assert!(matches!(error, Err(Error::TooLarge { .. })), "{store}: {error:?}");
        assert_eq!(offset(&registry, &session).await, 0, "{store}");
    });
}

/// A body of `bytes` that fails once `released` is set.
fn hanging(bytes: Bytes, released: Arc<AtomicBool>) -> Body {
    let length = bytes.len() as u64 + 1;
    let pieces = stream::unfold(Some(bytes), move |bytes| {
        let released = released.clone();
        async move {
            if let Some(bytes) = bytes {
                return Some((Ok(bytes), None));
            }
            while !released.load(Ordering::Relaxed) {
                yield_now().await;
            }
            Some((Err(interrupted()), None))
        }
    });
    Body::from_stream(pieces).with_length(length)
}

/// The server may notice a cut connection long after the client has resumed the upload on another
/// connection.
#[test]
fn a_cut_that_is_noticed_late_takes_no_bytes_back() {
    on_each(async |store, registry, repository| {
        let layer = noise(90_000);
        for start in [0, 10_000] {
            let session = begin(registry).await;
            if start > 0 {
                let first = Chunk { range: None, body: layer.slice(..start).into() };
                registry.append_upload(repository, &session, first).await.unwrap();
            }
            let released = Arc::new(AtomicBool::new(false));
            let broken = at(start as u64, hanging(layer.slice(start..50_000), released.clone()));
            let resumed = async {
                assert_eq!(offset(registry, &session).await, start as u64, "{store}");
                let rest = at(start as u64, layer.slice(start..).into());
                let status = registry.append_upload(repository, &session, rest).await.unwrap();
                assert_eq!(status.offset, 90_000, "{store}");
                released.store(true, Ordering::Relaxed);
            };
            let (broken, ()) = join(registry.append_upload(repository, &session, broken), resumed).await;
            assert!(matches!(broken, Err(Error::UploadInvalid(_))), "{store}: {broken:?}");
            assert_eq!(offset(registry, &session).await, 90_000, "{store}");
            let end = Chunk { range: None, body: Body::empty() };
            registry.complete_upload(repository, &session, &digest(&layer), end).await.unwrap();
            assert!(read(registry, repository, &digest(&layer)).await.unwrap() == layer, "{store}");
            registry.delete_blob(repository, &digest(&layer)).await.unwrap();
        }
    });
}

/// The cut is recorded while the resumed request is still in progress.
#[test]
fn a_cut_that_is_noticed_early_does_not_disturb_the_resumed_request() {
    on_each(async |store, registry, repository| {
        let layer = noise(60_000);
        let session = begin(registry).await;
        let released = Arc::new(AtomicBool::new(false));
        let noticed = Arc::new(AtomicBool::new(false));
        let broken = async {
            let broken = Chunk { range: None, body: hanging(layer.slice(..20_000), released.clone()) };
            registry.append_upload(repository, &session, broken).await.unwrap_err();
            noticed.store(true, Ordering::Relaxed);
        };
        let resumed = async {
            // The resumed request reads the session before the cut of the other request is
            // recorded.
            let (noticed, released) = (noticed.clone(), released.clone());
            let all = layer.clone();
            let body = Body::from_stream(stream::once(async move {
                released.store(true, Ordering::Relaxed);
                while !noticed.load(Ordering::Relaxed) {
                    yield_now().await;
                }
                Ok::<_, BodyError>(all)
            }));
            registry.append_upload(repository, &session, Chunk { range: None, body }).await
        };
        let ((), resumed) = join(broken, resumed).await;
        assert_eq!(resumed.unwrap().offset, 60_000, "{store}");
        let end = Chunk { range: None, body: Body::empty() };
        registry.complete_upload(repository, &session, &digest(&layer), end).await.unwrap();
        assert!(read(registry, repository, &digest(&layer)).await.unwrap() == layer, "{store}");
    });
}

/// Concurrent, broken and wrong requests to one upload never keep more than three copies of its
/// bytes.
#[test]
fn many_requests_to_one_upload_keep_few_copies() {
    const MIB: usize = 1024 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let (_, registry) = registries(folder.path()).remove(2);
    let stages = folder.path().join("stages");
    let (repository, layer) = (name("a"), noise(4 * MIB));
    let most = Arc::new(AtomicU64::new(0));
    block_on(async {
        let session = begin(&registry).await;
        let start = Chunk { range: None, body: layer.clone().into() };
        registry.append_upload(&repository, &session, start).await.unwrap();
        for has_range in [true, false] {
            let begun = offset(&registry, &session).await;
            let results = join_all((0..20).map(|_| {
                let (path, most) = (stages.clone(), most.clone());
                let body = Body::from_stream(stream::once(async move {
                    for _ in 0..10 {
                        yield_now().await;
                    }
                    most.fetch_max(bytes_in(&path), Ordering::Relaxed);
                    Ok::<_, BodyError>(Bytes::from_static(b"x"))
                }));
                let range = has_range.then(|| begun..begun + 1);
                registry.append_upload(&repository, &session, Chunk { range, body })
            }));
            let results = results.await;
            assert!(results.iter().any(Result::is_ok), "{results:?}");
            for error in results.into_iter().filter_map(Result::err) {
                assert!(matches!(error, Error::Busy | Error::ChunkOutOfOrder { .. }), "{error:?}");
            }
        }
        for _ in 0..20 {
            let broken = Chunk { range: None, body: cut(&noise(10), Some(interrupted())) };
            registry.append_upload(&repository, &session, broken).await.unwrap_err();
            let wrong = Chunk { range: None, body: noise(11).into() };
            registry.complete_upload(&repository, &session, &digest(b"other"), wrong).await.unwrap_err();
            most.fetch_max(bytes_in(&stages), Ordering::Relaxed);
        }
    });
    let copies = most.load(Ordering::Relaxed) / (4 * MIB as u64);
    assert!(copies <= 3, "{copies} copies");
    assert!(bytes_in(&stages) < 9 * MIB as u64, "{} bytes are left", bytes_in(&stages));
}

/// Some hosts do not report that a closing request is empty. Its instance may remember the upload
/// in its initial state.
#[test]
fn a_closing_request_with_an_empty_stream_commits_the_stored_bytes() {
    on_each(async |store, registry, repository| {
        let elsewhere = another_instance(registry);
        let session = begin(registry).await;
        let layer = noise(5000);
        let all = Chunk { range: None, body: layer.clone().into() };
        elsewhere.append_upload(repository, &session, all).await.unwrap();
        let empty =
            Chunk { range: None, body: Body::from_stream(stream::empty::<std::result::Result<Bytes, BodyError>>()) };
        let ended = registry.complete_upload(repository, &session, &digest(&layer), empty).await;
        assert_eq!(ended, Ok(()), "{store}");
        assert!(read(registry, repository, &digest(&layer)).await.unwrap() == layer, "{store}");
    });
}

/// A store that keeps nothing of an interrupted append, like S3 with a part that is forwarded as it
/// arrives.
struct Streaming(MemoryBlobStore);

#[async_trait::async_trait]
impl BlobStore for Streaming {
    async fn stage(&self) -> Result<Stage> {
        self.0.stage().await
    }

    fn kept_append_bytes(&self) -> Option<u64> {
        Some(1000)
    }

    async fn append(&self, stage: &Stage, mut body: Body) -> Result<Stage> {
        let (length, mut all) = (body.length(), Vec::new());
        while let Some(data) = body.next().await {
            all.extend_from_slice(&data?);
        }
        match length {
            Some(length) if length != all.len() as u64 => Err(store::Error::unavailable("a request was cut")),
            _ => self.0.append(stage, all.into()).await,
        }
    }

    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location> {
        self.0.commit(stage, digest).await
    }

    async fn discard(&self, stage: &Stage) -> Result<()> {
        self.0.discard(stage).await
    }

    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body> {
        self.0.read(location, range).await
    }

    async fn family(&self, stage: &Stage) -> Result<Family> {
        self.0.family(stage).await
    }

    async fn names_of(&self, location: &Location) -> Result<Vec<String>> {
        self.0.names_of(location).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>> {
        self.0.list(after, limit).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.0.remove(name).await
    }
}

#[test]
fn whole_segments_count_in_a_store_that_streams() {
    block_on(async {
        let platform = Arc::new(TestPlatform::default());
        let blobs = Arc::new(Streaming(MemoryBlobStore::new(platform.clone())));
        let registry = Registry::new(Arc::new(MemoryKeyValue::default()), blobs, platform, Limits::default());
        let (repository, layer) = (name("a"), noise(9500));
        let session = begin(&registry).await;
        // Bodies of known length, in pieces whose ends differ from the ends of segments.
        for (length, counted) in [(900, 0), (1700, 1000), (4999, 4000)] {
            let start = offset(&registry, &session).await;
            let sent = layer.slice(start as usize..length);
            let pieces = sent.chunks(333).map(Bytes::copy_from_slice).map(Ok);
            let pieces: Vec<_> = pieces.chain([Err(interrupted())]).collect();
            let body = Body::from_stream(stream::iter(pieces)).with_length(layer.len() as u64 - start);
            let cut = registry.append_upload(&repository, &session, at(start, body)).await;
            assert!(matches!(cut, Err(Error::UploadInvalid(_))), "{cut:?}");
            assert_eq!(offset(&registry, &session).await, counted);
        }
        let rest = at(4000, layer.slice(4000..).into());
        registry.complete_upload(&repository, &session, &digest(&layer), rest).await.unwrap();
        assert!(read(&registry, &repository, &digest(&layer)).await.unwrap() == layer);
    });
}

/// The number of bytes in a folder and below it, without the space reserved for the collection.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name() != "reserve")
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes_in(&entry.path()),
            _ => entry.metadata().map_or(0, |metadata| metadata.len()),
        })
        .sum()
}
