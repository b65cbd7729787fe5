//! Upload sessions: expiry, other instances, races, wrong digests, limits.

use super::*;

#[test]
fn an_upload_session_expires() {
    block_on(async {
        let (registry, platform) = in_memory();
        let repository = name("a");
        let session = registry.begin_upload(&repository, Algorithm::Sha256).await.unwrap().session;
        let lifetime = registry.limits().upload_lifetime_ms;
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

/// An instance remembers the uploads that it began, but must cope with changes by other instances.
#[test]
fn an_upload_goes_on_at_any_instance() {
    block_on(async {
        let (here, platform) = in_memory();
        let there = another_instance(&here);
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
        platform.now_ms.fetch_add(limits::RECENT_SESSION_LIFETIME_MS + 1, Ordering::Relaxed);
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
fn exactly_one_of_racing_chunks_wins() {
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
fn a_wrong_digest_does_not_change_the_upload() {
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
fn cancelling_an_upload_discards_its_stage() {
    block_on(async {
        let (registry, _) = in_memory();
        let repository = name("a");
        let session = registry.begin_upload(&repository, Algorithm::Sha256).await.unwrap().session;
        registry.append_upload(&repository, &session, chunk(b"x")).await.unwrap();
        let key = keys(&registry).await.pop().unwrap();
        let stage = registry.parts.facts.load::<facts::UploadFact>(&key).await.unwrap().unwrap().stage;
        registry.cancel_upload(&repository, &session).await.unwrap();
        let gone = registry.parts.content.blobs.append(&stage, Body::empty()).await;
        assert!(matches!(gone, Err(store::Error::Conflict(_))), "{gone:?}");
    });
}

#[test]
fn a_blob_is_limited_over_all_its_chunks() {
    block_on(async {
        let (registry, _) = in_memory();
        let registry = with_limits(&registry, Limits { blob_bytes_max: 10, ..Limits::default() });
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

/// The client names sha512 only after its chunks were hashed with sha256.
#[test]
fn a_digest_of_another_algorithm_is_checked_at_the_end() {
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
