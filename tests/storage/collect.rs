//! Garbage collection over each pair of stores: which content is removed and which is kept, and
//! that every step can be interrupted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use eyot::Registry;
use eyot::oci::manifest::{OCI_IMAGE, OCI_INDEX};
use eyot::oci::{Algorithm, Digest, Reference, RepositoryName};
use eyot::platform::{Platform, SystemPlatform};
use eyot::registry::{Chunk, CollectRequest, Error, Limits, Report, SessionId};
use eyot::store::file::{FileBlobStore, FileKeyValue};
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::store::packed::PackedBlobStore;
use eyot::store::{BlobStore, Entry, KeyValue, Version, When};
use futures_executor::block_on;
use serde_json::{Value, json};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// A clock that moves only when a test moves it.
struct Clock(AtomicU64);

impl Platform for Clock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn random(&self) -> [u8; 16] {
        SystemPlatform.random()
    }
}

struct World {
    registry: Registry,
    clock: Arc<Clock>,
    keys: Arc<dyn KeyValue>,
    blobs: Arc<dyn BlobStore>,
    repository: RepositoryName,
}

fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

impl World {
    fn new(keys: Arc<dyn KeyValue>, blobs: impl FnOnce(Arc<Clock>) -> Arc<dyn BlobStore>, limits: Limits) -> Self {
        let clock = Arc::new(Clock(AtomicU64::new(HOUR_MS)));
        let blobs = blobs(clock.clone());
        let registry = Registry::new(keys.clone(), blobs.clone(), clock.clone(), limits);
        Self { registry, clock, keys, blobs, repository: "team/app".parse().unwrap() }
    }

    fn in_memory() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        Self::new(Arc::new(MemoryKeyValue::default()), |clock| Arc::new(MemoryBlobStore::new(clock)), limits)
    }

    fn pass(&self, ms: u64) {
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
    }

    fn blob(&self, content: &str) -> Value {
        let (digest, size) = (digest(content.as_bytes()), content.len());
        let body = Bytes::from(content.to_owned()).into();
        block_on(self.registry.push_blob(&self.repository, &digest, body)).unwrap();
        json!({ "mediaType": "application/octet-stream", "digest": digest, "size": size })
    }

    fn push(&self, reference: Option<&str>, manifest: &Value) -> Digest {
        let bytes = Bytes::from(manifest.to_string());
        let digest = digest(&bytes);
        let reference: Reference = reference.map_or_else(|| digest.to_string(), str::to_owned).parse().unwrap();
        let media_type = manifest["mediaType"].as_str();
        let push = self.registry.push_manifest(&self.repository, &reference, &[], media_type, bytes.into());
        block_on(push).unwrap();
        digest
    }

    fn image(&self, reference: Option<&str>, content: &str) -> Digest {
        self.push(reference, &image(&self.blob(content)))
    }

    fn delete(&self, reference: &str) {
        block_on(self.registry.delete_manifest(&self.repository, &reference.parse().unwrap())).unwrap();
    }

    fn has(&self, digest: &Digest) -> bool {
        block_on(self.registry.manifest(&self.repository, &Reference::Digest(digest.clone()))).is_ok()
    }

    fn has_blob(&self, content: &str) -> bool {
        block_on(self.registry.blob(&self.repository, &digest(content.as_bytes()))).is_ok()
    }

    fn read(&self, content: &str) -> String {
        let blob = block_on(self.registry.blob(&self.repository, &digest(content.as_bytes()))).unwrap();
        let body = block_on(self.registry.read_blob(&blob, 0..blob.size)).unwrap();
        String::from_utf8(block_on(body.collect_up_to(1 << 20)).unwrap().to_vec()).unwrap()
    }

    /// Runs one whole round of the collection.
    fn collect(&self, grace_ms: u64) -> Report {
        self.collect_as(&CollectRequest { grace_ms, untagged_lifetime_ms: Some(grace_ms), dry_run: false })
    }

    fn collect_as(&self, request: &CollectRequest) -> Report {
        loop {
            let report = block_on(self.registry.collect_step(request)).unwrap();
            if report.done {
                return report;
            }
        }
    }

    /// The keys and blobs left in the stores, without the collection's own keys.
    fn left(&self) -> Vec<String> {
        let keys = block_on(self.keys.list("", None, 10_000)).unwrap();
        let mut left: Vec<String> = keys.into_iter().filter(|key| !key.starts_with("collection/")).collect();
        left.extend(block_on(self.blobs.list(None, 10_000)).unwrap().into_iter().map(|stored| stored.name));
        left
    }
}

fn image(blob: &Value) -> Value {
    json!({ "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": blob, "layers": [blob] })
}

fn index(children: &[&Digest]) -> Value {
    let children: Vec<Value> =
        children.iter().map(|digest| json!({ "mediaType": OCI_IMAGE, "digest": digest, "size": 1 })).collect();
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children })
}

fn referrer(subject: &Digest, kind: &str) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "artifactType": kind,
        "subject": { "mediaType": OCI_IMAGE, "digest": subject, "size": 1 },
    })
}

/// Fills a registry with content of every kind, partly in use and partly not.
fn populate(world: &World) {
    let one = world.image(None, "one");
    let two = world.image(None, "two");
    world.push(Some("index"), &index(&[&one, &two]));
    let signed = world.image(Some("v1"), "signed");
    world.push(None, &referrer(&signed, "application/signature"));
    world.image(Some("v1"), "moved");
    world.blob("never named");
    let large = "x".repeat(300_000);
    world.push(Some("large"), &json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "large": large }));
    let status = block_on(world.registry.begin_upload(&world.repository, Algorithm::Sha256)).unwrap();
    let chunk = Chunk { range: None, body: "x".repeat(70_000).into_bytes().into() };
    block_on(world.registry.append_upload(&world.repository, &status.session, chunk)).unwrap();
}

/// Runs a test over each pair of stores.
fn each_world(limits: &Limits, test: impl Fn(&World)) {
    test(&World::with_limits(limits.clone()));
    let keys: Arc<dyn KeyValue> = Arc::new(MemoryKeyValue::default());
    let packed =
        |clock: Arc<Clock>| -> Arc<dyn BlobStore> { Arc::new(PackedBlobStore::new(keys.clone(), clock, 65_536)) };
    test(&World::new(keys.clone(), packed, limits.clone()));
    let folder = tempfile::tempdir().unwrap();
    let keys: Arc<dyn KeyValue> = Arc::new(FileKeyValue::open(folder.path(), Arc::new(SystemPlatform)).unwrap());
    let open =
        |clock: Arc<Clock>| -> Arc<dyn BlobStore> { Arc::new(FileBlobStore::open(folder.path(), clock).unwrap()) };
    test(&World::new(keys, open, limits.clone()));
}

/// Collects without grace until a round removes nothing. Only `untagged_lifetime_ms` protects
/// untagged manifests.
fn collect_all(world: &World, untagged_lifetime_ms: Option<u64>) -> Report {
    loop {
        world.pass(25 * HOUR_MS);
        let request = CollectRequest { grace_ms: 0, untagged_lifetime_ms, dry_run: false };
        let report = world.collect_as(&request);
        if report.manifests.removed + report.blobs.removed + report.content.removed == 0
            && report.content.condemned == 0
        {
            return report;
        }
    }
}

/// Checks that a tagged manifest of this form keeps every blob that occurs in it, and that the
/// blobs are collected after the manifest.
fn keeps(manifest: impl Fn(&World) -> Value, blobs: &[&str]) {
    for untagged_lifetime_ms in [None, Some(0)] {
        each_world(&Limits::default(), |world| {
            let manifest = manifest(world);
            let digest = world.push(Some("v1"), &manifest);
            world.blob("never named");
            let report = collect_all(world, untagged_lifetime_ms);
            assert_eq!((report.missing_blobs.count, report.unknown.count), (0, 0), "{report:?}");
            assert!(world.has(&digest) && !world.has_blob("never named"));
            for blob in blobs {
                assert!(world.has_blob(blob), "{blob} of {manifest}");
                assert_eq!(world.read(blob), *blob, "{manifest}");
            }
            world.delete("v1");
            collect_all(world, Some(0));
            assert_eq!(world.left(), Vec::<String>::new(), "{manifest}");
        });
    }
}

#[test]
fn layers_that_need_not_be_here_but_are_stay() {
    let foreign = |with: Value| {
        move |world: &World| {
            let mut layer = world.blob("foreign");
            for (member, value) in with.as_object().unwrap() {
                layer[member] = value.clone();
            }
            json!({ "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": world.blob("config"), "layers": [layer] })
        }
    };
    for with in [
        json!({ "urls": ["https://example.com/layer"] }),
        json!({ "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip" }),
        json!({ "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" }),
    ] {
        keeps(foreign(with), &["foreign", "config"]);
    }
}

#[test]
fn digests_in_manifests_of_every_type_stay() {
    let digest_of = |world: &World, content: &str| world.blob(content)["digest"].as_str().unwrap().to_owned();
    for kind in ["application/vnd.oci.artifact.manifest.v1+json", "application/vnd.cncf.oras.artifact.manifest.v1+json"]
    {
        keeps(|world| json!({ "mediaType": kind, "blobs": [world.blob("one"), world.blob("two")] }), &["one", "two"]);
    }
    keeps(
        |world| {
            json!({
                "schemaVersion": 1, "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws",
                "name": "team/app", "tag": "v1", "architecture": "amd64",
                "fsLayers": [{ "blobSum": digest_of(world, "one") }, { "blobSum": digest_of(world, "two") }],
                "history": [{ "v1Compatibility": json!({ "id": "x", "from": digest_of(world, "three") }).to_string() }],
                "signatures": [{ "protected": "e30" }],
            })
        },
        &["one", "two", "three"],
    );
    keeps(
        |world| {
            json!({
                "mediaType": "application/vnd.example.thing+json",
                "parts": [[{ "at": { digest_of(world, "one"): { "size": 3 } } }]],
                "note": format!("see team/app@{}, and more", digest_of(world, "two")),
            })
        },
        &["one", "two"],
    );
    keeps(
        |world| {
            let mut image = image(&world.blob("layer"));
            image["annotations"] = json!({ "base": digest_of(world, "one") });
            image["layers"][0]["annotations"] = json!({ "x": format!("app:v1@{}", digest_of(world, "two")) });
            image
        },
        &["layer", "one", "two"],
    );
}

/// Pushes a cache as BuildKit does, with and without an index around it.
#[test]
fn blobs_that_an_index_lists_stay() {
    const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    let cache = |world: &World, kind: &str| {
        let mut config = world.blob("cache config");
        config["mediaType"] = "application/vnd.buildkit.cacheconfig.v0".into();
        let mut layer = world.blob("cached layer");
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip".into();
        json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [layer, config] })
    };
    for kind in [OCI_INDEX, DOCKER_LIST] {
        keeps(|world| cache(world, kind), &["cache config", "cached layer"]);
        keeps(
            |world| {
                let inner = world.push(None, &cache(world, kind));
                world.push(None, &index(&[&inner]));
                index(&[&world.push(None, &index(&[&inner]))])
            },
            &["cache config", "cached layer"],
        );
    }
    // A child that is neither a blob nor a manifest of the repository is refused.
    let world = World::in_memory();
    let bytes = Bytes::from(index(&[&digest(b"nowhere")]).to_string());
    let reference = "v1".parse().unwrap();
    let pushed = world.registry.push_manifest(&world.repository, &reference, &[], None, bytes.into());
    assert_eq!(block_on(pushed), Err(Error::ManifestBlobUnknown(vec![digest(b"nowhere")])));
}

/// A missing blob that an index lists is reported like a missing layer of an image.
#[test]
fn a_child_that_is_no_manifest_is_told_when_it_is_missing() {
    let world = World::in_memory();
    let cache = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [world.blob("cached")] });
    let manifest = world.push(Some("v1"), &cache);
    // A child of an unknown media type does not count as missing if it exists as a manifest.
    let kind = "application/vnd.example.thing+json";
    let thing = world.push(None, &json!({ "mediaType": kind, "at": digest(b"nowhere") }));
    let child = json!({ "mediaType": kind, "digest": thing, "size": 1 });
    world.push(Some("v2"), &json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child] }));
    assert_eq!(world.collect(0).missing_blobs.count, 0);
    block_on(world.registry.delete_blob(&world.repository, &digest(b"cached"))).unwrap();
    let missing = world.collect(0).missing_blobs;
    assert_eq!(missing.first, [format!("team/app@{manifest} names {}", digest(b"cached"))]);
}

#[test]
fn freed_bytes_are_those_of_the_content() {
    each_world(&Limits::default(), |world| {
        let contents = ["", "one", &"two".repeat(30_000), &"three".repeat(60_000)];
        let chunked = "chunked ".repeat(20_000);
        contents.iter().for_each(|content| drop(world.blob(content)));
        let status = block_on(world.registry.begin_upload(&world.repository, Algorithm::Sha256)).unwrap();
        for part in chunked.as_bytes().chunks(50_000) {
            let chunk = Chunk { range: None, body: part.to_vec().into() };
            block_on(world.registry.append_upload(&world.repository, &status.session, chunk)).unwrap();
        }
        let last = Chunk { range: None, body: Bytes::new().into() };
        let digest = digest(chunked.as_bytes());
        block_on(world.registry.complete_upload(&world.repository, &status.session, &digest, last)).unwrap();
        let expected: usize = contents.iter().map(|content| content.len()).sum::<usize>() + chunked.len();
        let freed: u64 = (0..3).map(|_| world.collect(0).bytes_freed).sum();
        assert_eq!(freed, expected as u64);
    });
}

fn nothing_is_left(world: &World) {
    populate(world);
    for tag in ["index", "v1", "large"] {
        world.delete(tag);
    }
    world.pass(25 * HOUR_MS);
    let first = world.collect(0);
    assert_eq!((first.uploads.removed, first.unknown.count, first.missing_blobs.count), (1, 0, 0), "{first:?}");
    let second = world.collect(0);
    assert_eq!((second.blobs.removed, second.content.condemned), (0, 0), "{second:?}");
    assert_eq!(world.left(), Vec::<String>::new(), "{first:?} {second:?}");
}

#[test]
fn nothing_is_left_in_memory() {
    nothing_is_left(&World::in_memory());
}

#[test]
fn nothing_is_left_of_packed_content() {
    let keys: Arc<dyn KeyValue> = Arc::new(MemoryKeyValue::default());
    let packed =
        |clock: Arc<Clock>| -> Arc<dyn BlobStore> { Arc::new(PackedBlobStore::new(keys.clone(), clock, 65_536)) };
    nothing_is_left(&World::new(keys.clone(), packed, Limits::default()));
}

#[test]
fn nothing_is_left_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let keys: Arc<dyn KeyValue> = Arc::new(FileKeyValue::open(folder.path(), Arc::new(SystemPlatform)).unwrap());
    let open =
        |clock: Arc<Clock>| -> Arc<dyn BlobStore> { Arc::new(FileBlobStore::open(folder.path(), clock).unwrap()) };
    nothing_is_left(&World::new(keys, open, Limits::default()));
    for part in ["blobs", "stages", "tmp"] {
        assert_eq!(std::fs::read_dir(folder.path().join(part)).unwrap().count(), 0, "{part}");
    }
    let kinds = std::fs::read_dir(folder.path().join("keys")).unwrap();
    let kinds: Vec<String> = kinds.map(|kind| kind.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(kinds, ["collection"]);
}

/// Removes everything in steps of 1 or 3 keys, also when memory holds only a few marks.
#[test]
fn nothing_is_left_by_small_steps() {
    for (collect_step_keys_max, marks_max) in [(1, 1 << 17), (3, 4), (1, 1)] {
        let limits = Limits { collect_step_keys_max, marks_max, ..Limits::default() };
        let world = World::with_limits(limits);
        populate(&world);
        let one = digest(image(&world.blob("one")).to_string().as_bytes());
        // The collector follows nested indexes at any depth, with marks in memory or in the store.
        let outer = world.push(None, &index(&[&world.push(None, &index(&[&one]))]));
        world.push(Some("outer"), &index(&[&outer]));
        world.push(None, &referrer(&outer, "application/signature"));
        world.delete("index");
        world.pass(25 * HOUR_MS);
        assert_eq!(
            world.collect(0).manifests.removed,
            4,
            "the index, another image of it, what was v1 and its referrer"
        );
        assert!(world.has(&one) && world.has_blob("one") && world.has(&outer));
        world.collect(HOUR_MS);
        for tag in ["v1", "large"] {
            assert!(block_on(world.registry.manifest(&world.repository, &tag.parse().unwrap())).is_ok());
        }
        assert!(world.has_blob("moved"));
        for tag in ["v1", "large", "outer"] {
            world.delete(tag);
        }
        collect_all(&world, Some(0));
        assert_eq!(world.left(), Vec::<String>::new());
    }
}

#[test]
fn content_in_use_is_kept() {
    let world = World::in_memory();
    populate(&world);
    let (one, signed) = (digest(image(&world.blob("one")).to_string().as_bytes()), world.image(Some("v2"), "signed"));
    for _ in 0..3 {
        world.pass(25 * HOUR_MS);
        world.collect(0);
    }
    assert!(world.has(&one), "what an index lists is kept");
    assert!(world.has(&signed));
    let request = Default::default();
    let referrers = block_on(world.registry.referrers(&world.repository, &signed, &request)).unwrap();
    assert_eq!(referrers.descriptors.len(), 1, "what refers to something kept is kept");
    assert!(world.has_blob("one") && world.has_blob("signed") && world.has_blob("moved"));
    assert!(!world.has_blob("never named"));
    let blob = block_on(world.registry.blob(&world.repository, &digest(b"one"))).unwrap();
    let body = block_on(world.registry.read_blob(&blob, 0..3)).unwrap();
    assert_eq!(block_on(body.collect_up_to(10)).unwrap(), "one");
    let large = block_on(world.registry.manifest(&world.repository, &"large".parse().unwrap())).unwrap();
    let body = block_on(world.registry.read_manifest(&large)).unwrap();
    assert_eq!(block_on(body.collect_up_to(1 << 20)).unwrap().len() as u64, large.size);
}

#[test]
fn nothing_is_removed_before_its_grace_period_is_over() {
    let world = World::in_memory();
    world.image(Some("v1"), "layer");
    world.delete("v1");
    world.pass(25 * HOUR_MS);
    // First the manifest is collected, then the blobs that it named, then their bytes.
    for (collected, manifests, blobs, content) in [
        (0, [0, 1, 0], [1, 0, 0], [1, 0, 0]),
        (59, [0, 1, 0], [1, 0, 0], [1, 0, 0]),
        (60, [0, 0, 1], [0, 1, 0], [1, 0, 0]),
        (119, [0, 0, 0], [0, 1, 0], [1, 0, 0]),
        (120, [0, 0, 0], [0, 0, 1], [0, 1, 0]),
        (180, [0, 0, 0], [0, 0, 0], [0, 0, 1]),
    ] {
        world.clock.0.store(26 * HOUR_MS + collected * 60_000, Ordering::Relaxed);
        let report = world.collect(HOUR_MS);
        for (tally, expected) in [(report.manifests, manifests), (report.blobs, blobs), (report.content, content)] {
            assert_eq!([tally.kept, tally.condemned, tally.removed], expected, "after {collected}: {report:?}");
        }
    }
    world.pass(2 * HOUR_MS);
    world.collect(HOUR_MS);
    assert_eq!(world.left(), Vec::<String>::new());
}

#[test]
fn a_push_protects_a_condemned_blob() {
    let world = World::in_memory();
    let blob = world.blob("layer");
    world.collect(HOUR_MS);
    world.pass(2 * HOUR_MS);
    world.push(Some("v1"), &image(&blob));
    let report = world.collect(HOUR_MS);
    assert_eq!((report.blobs.kept, report.blobs.removed), (1, 0), "{report:?}");
    // Once untagged, the manifest is collected, here by a round without grace.
    world.delete("v1");
    world.pass(HOUR_MS / 2);
    assert_eq!(world.collect(0).manifests.removed, 1);
}

#[test]
fn a_push_in_the_middle_of_a_round_protects_its_blobs() {
    // Steps are as small as possible, so the push comes at every point of the round.
    for steps in 0..40 {
        let world = World::with_limits(Limits { collect_step_keys_max: 1, ..Limits::default() });
        let blob = world.blob("layer");
        let request = CollectRequest { grace_ms: 0, untagged_lifetime_ms: Some(0), dry_run: false };
        let mut done = false;
        for _ in 0..steps {
            done = done || block_on(world.registry.collect_step(&request)).unwrap().done;
        }
        let bytes = Bytes::from(image(&blob).to_string());
        let reference: Reference = "v1".parse().unwrap();
        let (repository, body) = (&world.repository, bytes.clone().into());
        match block_on(world.registry.push_manifest(repository, &reference, &[], Some(OCI_IMAGE), body)) {
            Ok(_) => {
                for _ in 0..3 {
                    world.collect(0);
                }
                assert!(world.has(&digest(&bytes)) && world.has_blob("layer"), "after {steps} steps");
                let blob = block_on(world.registry.blob(&world.repository, &digest(b"layer"))).unwrap();
                assert!(block_on(world.registry.read_blob(&blob, 0..5)).is_ok(), "after {steps} steps");
            }
            Err(Error::ManifestBlobUnknown(_)) => {
                assert!(!world.has(&digest(&bytes)), "a refused push leaves nothing");
            }
            Err(error) => panic!("{error}"),
        }
        if done {
            return;
        }
    }
    panic!("a round never ends");
}

/// The collection removes outdated counts of failed logins, one page at a time. All other keys of
/// the layer `auth` stay.
#[test]
fn failed_logins_are_forgotten() {
    let limits = Limits { collect_page_entries_max: 10, collect_step_keys_max: 10, ..Limits::default() };
    let mut world = World::with_limits(limits);
    world.registry = world.registry.clone().with_expiring(&eyot::auth::EXPIRING);
    world.pass(365 * 24 * HOUR_MS);
    let now_ms = world.clock.now_ms();
    let counts = [
        (json!({ "count": 3, "last_ms": now_ms - HOUR_MS }), false),
        (json!({ "count": 3, "last_ms": now_ms - 60_000 }), true),
        (json!({ "count": 0, "last_ms": now_ms - HOUR_MS, "good_ms": now_ms - HOUR_MS }), true),
        (json!({ "count": 0, "last_ms": now_ms - HOUR_MS, "good_ms": now_ms - 25 * HOUR_MS }), false),
        // A count from a clock that was ahead, and an unreadable value.
        (json!({ "count": 3, "last_ms": now_ms + 24 * HOUR_MS }), false),
        (json!("nonsense"), false),
    ];
    let put = |key: &str, value: &Value| {
        block_on(world.keys.put(key, value.to_string().into(), When::Always)).unwrap();
    };
    put("auth/failures-secret", &json!("secret"));
    put("auth/user!alice", &counts[0].0);
    let mut expected = vec!["auth/failures-secret".to_owned(), "auth/user!alice".to_owned()];
    for number in 0..120 {
        let (value, stays) = &counts[number % counts.len()];
        let key = format!("auth/failures/{}/{number:04}", ["address", "user-network"][number % 2]);
        put(&key, value);
        expected.extend(stays.then_some(key));
    }
    expected.sort();
    let request = CollectRequest { grace_ms: 0, untagged_lifetime_ms: Some(0), dry_run: true };
    assert_eq!(world.collect_as(&request).leftovers.removed, 80);
    assert_eq!(world.left().len(), 122, "a dry run removes nothing");
    let mut before = 0;
    let report = loop {
        let report = block_on(world.registry.collect_step(&CollectRequest { dry_run: false, ..request })).unwrap();
        assert!(report.leftovers.removed - before <= 20, "a step is bounded");
        before = report.leftovers.removed;
        if report.done {
            break report;
        }
    };
    assert_eq!(report.leftovers.removed, 80);
    assert_eq!(world.left(), expected);
}

/// Keys that run a number of collection steps before each call.
struct Collected {
    inner: Arc<dyn KeyValue>,
    collector: Registry,
    steps: usize,
}

impl Collected {
    async fn collect(&self) {
        let request = CollectRequest { grace_ms: 0, untagged_lifetime_ms: Some(0), dry_run: false };
        for _ in 0..self.steps {
            self.collector.collect_step(&request).await.unwrap();
        }
    }
}

#[async_trait::async_trait]
impl KeyValue for Collected {
    async fn get(&self, key: &str) -> eyot::store::Result<Option<Entry>> {
        self.collect().await;
        self.inner.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> eyot::store::Result<Option<Version>> {
        self.collect().await;
        self.inner.put(key, value, when).await
    }

    async fn delete(&self, key: &str) -> eyot::store::Result<()> {
        self.collect().await;
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> eyot::store::Result<Vec<String>> {
        self.inner.list(prefix, after, limit).await
    }
}

/// Keys that cancel an upload and run two rounds without grace just before its content gets a fact.
struct Cancelling {
    inner: Arc<dyn KeyValue>,
    other: Registry,
    upload: Mutex<Option<(RepositoryName, SessionId)>>,
}

impl Cancelling {
    async fn cancel_and_collect(&self) {
        let upload = self.upload.lock().unwrap().take();
        let Some((repository, session)) = upload else { return };
        self.other.cancel_upload(&repository, &session).await.unwrap();
        let request = CollectRequest { grace_ms: 0, untagged_lifetime_ms: Some(0), dry_run: false };
        for _ in 0..2 {
            while !self.other.collect_step(&request).await.unwrap().done {}
        }
    }
}

#[async_trait::async_trait]
impl KeyValue for Cancelling {
    async fn get(&self, key: &str) -> eyot::store::Result<Option<Entry>> {
        self.inner.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> eyot::store::Result<Option<Version>> {
        if key.starts_with("content/") {
            self.cancel_and_collect().await;
        }
        self.inner.put(key, value, when).await
    }

    async fn delete(&self, key: &str) -> eyot::store::Result<()> {
        self.inner.delete(key).await
    }

    async fn delete_unchanged(&self, key: &str, version: &Version) -> eyot::store::Result<()> {
        self.inner.delete_unchanged(key, version).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> eyot::store::Result<Vec<String>> {
        self.inner.list(prefix, after, limit).await
    }
}

/// A client cancels an upload whose last request has committed the content, and two rounds pass
/// before that request writes the facts. The request must not acknowledge the blob.
#[test]
fn an_upload_that_is_cancelled_at_its_end_is_not_acknowledged() {
    let mut world = World::in_memory();
    let other = world.registry.clone();
    let keys = Arc::new(Cancelling { inner: world.keys.clone(), other: other.clone(), upload: Mutex::default() });
    world.registry = Registry::new(keys.clone(), world.blobs.clone(), world.clock.clone(), Limits::default());
    let session = block_on(world.registry.begin_upload(&world.repository, Algorithm::Sha256)).unwrap().session;
    *keys.upload.lock().unwrap() = Some((world.repository.clone(), session.clone()));
    let chunk = Chunk { range: None, body: Bytes::from("layer").into() };
    let completed = block_on(world.registry.complete_upload(&world.repository, &session, &digest(b"layer"), chunk));
    assert_eq!(completed, Err(Error::Busy));
    assert!(!world.has_blob("layer"), "a fact must not refer to removed content");
    world.blob("layer");
    assert_eq!(world.read("layer"), "layer");
}

/// Keys that run a round without grace just before a manifest gets its fact, and fail every call
/// after the fact: the push dies there.
struct Dying {
    inner: Arc<dyn KeyValue>,
    other: Registry,
    is_dead: AtomicBool,
}

impl Dying {
    fn inner(&self) -> eyot::store::Result<&dyn KeyValue> {
        match self.is_dead.load(Ordering::Relaxed) {
            true => Err(eyot::store::Error::unavailable("the process was killed")),
            false => Ok(&*self.inner),
        }
    }
}

#[async_trait::async_trait]
impl KeyValue for Dying {
    async fn get(&self, key: &str) -> eyot::store::Result<Option<Entry>> {
        self.inner()?.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> eyot::store::Result<Option<Version>> {
        let inner = self.inner()?;
        if !key.starts_with("manifest/") {
            return inner.put(key, value, when).await;
        }
        let request = CollectRequest { grace_ms: 0, untagged_lifetime_ms: None, dry_run: false };
        while !self.other.collect_step(&request).await.unwrap().done {}
        inner.put(key, value, when).await?;
        self.is_dead.store(true, Ordering::Relaxed);
        self.inner().map(|_| None)
    }

    async fn delete(&self, key: &str) -> eyot::store::Result<()> {
        self.inner()?.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> eyot::store::Result<Vec<String>> {
        self.inner()?.list(prefix, after, limit).await
    }
}

/// A round passes between the content and the fact of a large manifest, and the push dies after the
/// fact. The fact must lead to the content, now and after more rounds.
#[test]
fn a_push_that_dies_leaves_no_large_manifest_without_content() {
    let limits = Limits { manifest_inline_bytes_max: 500, ..Limits::default() };
    let mut world = World::with_limits(limits.clone());
    let other = world.registry.clone();
    let large = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "annotations": { "padding": "x".repeat(1000) },
    });
    let (bytes, keys) = (
        Bytes::from(large.to_string()),
        Dying { inner: world.keys.clone(), other: other.clone(), is_dead: AtomicBool::new(false) },
    );
    world.registry = Registry::new(Arc::new(keys), world.blobs.clone(), world.clock.clone(), limits);
    let reference = Reference::Digest(digest(&bytes));
    let push = world.registry.push_manifest(&world.repository, &reference, &[], Some(OCI_INDEX), bytes.clone().into());
    assert!(matches!(block_on(push), Err(Error::Store(_))), "the push dies");
    world.registry = other;
    for round in 0..4 {
        let manifest = block_on(world.registry.manifest(&world.repository, &reference)).expect("the fact is there");
        let body = block_on(world.registry.read_manifest(&manifest));
        let body = body.unwrap_or_else(|error| panic!("after {round} more rounds: {error}"));
        assert_eq!(block_on(body.collect_up_to(10_000)).unwrap(), bytes);
        world.collect_as(&CollectRequest { grace_ms: 0, untagged_lifetime_ms: None, dry_run: false });
    }
}

/// Runs steps of rounds without grace before each storage call of a client, so that rounds begin
/// and end in the middle of each push. The client may have to push its layer again; then its
/// manifest is accepted.
#[test]
fn a_push_gets_in_beside_rounds_without_end() {
    for (steps, collect_step_keys_max) in [(1, 1), (2, 1), (3, 1), (7, 1), (20, 1), (100, 1), (3, 1000)] {
        let limits = Limits { collect_step_keys_max, manifest_inline_bytes_max: 500, ..Limits::default() };
        let mut world = World::with_limits(limits.clone());
        let collector = world.registry.clone();
        let keys = Arc::new(Collected { inner: world.keys.clone(), collector: collector.clone(), steps });
        world.registry = Registry::new(keys, world.blobs.clone(), world.clock.clone(), limits);
        world.pass(HOUR_MS);
        let push = |tag: &str, padding: usize, layer: &str| {
            let (layer_digest, reference) = (digest(layer.as_bytes()), tag.parse().unwrap());
            let body = Bytes::from(layer.to_owned()).into();
            let pushed = block_on(world.registry.push_blob(&world.repository, &layer_digest, body));
            assert!(matches!(pushed, Ok(()) | Err(Error::Busy)), "{pushed:?}");
            let blob = json!({ "mediaType": "a/b", "digest": layer_digest, "size": layer.len() });
            let mut image = image(&blob);
            image["annotations"] = json!({ "padding": "x".repeat(padding) });
            let body = Bytes::from(image.to_string()).into();
            block_on(world.registry.push_manifest(&world.repository, &reference, &[], Some(OCI_IMAGE), body))
        };
        for (tag, padding) in [("small", 0), ("large", 1000)] {
            let outcomes: Vec<_> = (0..3).map(|_| push(tag, padding, &format!("layer of {tag}"))).collect();
            let first = outcomes.iter().position(Result::is_ok);
            assert!(first.is_some(), "{tag} {steps} {collect_step_keys_max}: {outcomes:?}");
            for _ in 0..300 {
                world.pass(HOUR_MS);
                block_on(collector.collect_step(&world.registry.collect_request())).unwrap();
            }
            assert!(world.has_blob(&format!("layer of {tag}")), "{tag} {steps} {collect_step_keys_max}");
        }
    }
}

/// State written before the clock was set back blocks neither the collection nor a push.
#[test]
fn a_clock_that_was_set_back_blocks_nothing() {
    const DAY_MS: u64 = 24 * HOUR_MS;
    let world = World::with_limits(Limits { collect_step_keys_max: 1, ..Limits::default() });
    let blob = world.blob("layer");
    // The state that a collector leaves when it is killed in a sweep, with a clock that is a year
    // ahead.
    world.pass(365 * DAY_MS);
    let request = CollectRequest { grace_ms: 0, untagged_lifetime_ms: Some(0), dry_run: false };
    block_on(world.registry.collect_step(&request)).unwrap();
    let now_ms = world.clock.now_ms();
    let swept = [format!("blob/team/app!{}", digest(b"layer"))];
    let state = json!({ "round": 1, "activity": { "sweeping": { "keys": swept, "since_ms": now_ms } } });
    let lease = json!({ "held": { "since_ms": now_ms } });
    for (key, value) in [("state", state), ("lease!0000000000000001", lease)] {
        block_on(world.keys.put(&format!("collection/{key}"), value.to_string().into(), When::Always)).unwrap();
    }
    assert_eq!(block_on(world.registry.collect_step(&request)), Err(Error::Busy));
    world.clock.0.fetch_sub(365 * DAY_MS, Ordering::Relaxed);
    world.push(Some("v1"), &image(&blob));
    assert!(block_on(world.registry.collect_step(&request)).is_ok());
    world.collect(0);
    // The grace of content that was condemned by the clock ahead is counted from now on.
    world.pass(365 * DAY_MS);
    world.blob("another");
    world.collect(HOUR_MS);
    world.collect(HOUR_MS);
    world.clock.0.fetch_sub(365 * DAY_MS, Ordering::Relaxed);
    world.collect(HOUR_MS);
    world.pass(HOUR_MS);
    assert_eq!(world.collect(HOUR_MS).blobs.removed, 1);
    assert!(world.has_blob("layer"));
}

#[test]
fn a_dry_run_changes_nothing_and_reports_the_same() {
    let world = World::in_memory();
    populate(&world);
    world.delete("index");
    world.pass(25 * HOUR_MS);
    let before = world.left();
    let request = CollectRequest { grace_ms: 0, untagged_lifetime_ms: Some(0), dry_run: true };
    let told = world.collect_as(&request);
    assert_eq!(world.left(), before);
    let done = world.collect(0);
    assert_eq!((told.manifests, told.uploads), (done.manifests, done.uploads), "{told:?} {done:?}");
    assert!(told.manifests.removed > 0);
}

#[test]
fn missing_blobs_are_reported_and_stop_nothing() {
    let world = World::in_memory();
    let blob = world.blob("layer");
    let manifest = world.push(Some("v1"), &image(&blob));
    block_on(world.registry.delete_blob(&world.repository, &digest(b"layer"))).unwrap();
    let report = world.collect(0);
    assert_eq!(report.missing_blobs.count, 2, "as config and as layer: {report:?}");
    assert!(report.missing_blobs.first[0].contains(manifest.as_str()), "{report:?}");
    assert!(world.has(&manifest));
}

#[test]
fn an_unreadable_key_keeps_everything_that_it_may_refer_to() {
    let world = World::in_memory();
    world.blob("layer");
    let broken = [format!("manifest/team/app!{}", digest(b"x")), format!("upload/other!{}", SystemPlatform.uuid())];
    for key in &broken {
        block_on(world.keys.put(key, "nonsense".into(), When::Always)).unwrap();
    }
    for _ in 0..3 {
        let report = world.collect(0);
        assert_eq!((report.manifests.removed, report.blobs.removed, report.content.removed), (0, 0, 0), "{report:?}");
        assert_eq!(report.unknown.first, [broken[0].clone(), broken[1].clone()], "{report:?}");
    }
    assert!(world.has_blob("layer"), "a manifest that cannot be read may name it");
}

#[test]
fn a_step_at_a_time() {
    let world = World::with_limits(Limits { collect_step_keys_max: 1, ..Limits::default() });
    populate(&world);
    let request = world.registry.collect_request();
    let key = "collection/lease!0000000000000000";
    let lease = json!({ "held": { "since_ms": world.clock.now_ms() - 59_000 } });
    block_on(world.keys.put(key, lease.to_string().into(), When::Always)).unwrap();
    assert_eq!(block_on(world.registry.collect_step(&request)), Err(Error::Busy));
    world.pass(1001);
    assert!(!block_on(world.registry.collect_step(&request)).unwrap().done);
}

/// A large manifest whose bytes were lost, for example by an interrupted push, is collected when it
/// is untagged, and does not block the collection.
#[test]
fn a_manifest_without_bytes_is_removed_when_it_is_untagged() {
    let world = World::in_memory();
    let large = "x".repeat(300_000);
    let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "large": large });
    let digest = world.push(None, &manifest);
    block_on(world.keys.delete(&format!("large/team/app!{digest}"))).unwrap();
    world.blob("never named");
    world.pass(25 * HOUR_MS);
    for _ in 0..3 {
        world.collect(0);
    }
    assert_eq!(world.left(), Vec::<String>::new());
    // A tagged manifest without bytes stays, together with all content that it may name.
    world.push(Some("v1"), &manifest);
    world.blob("never named");
    block_on(world.keys.delete(&format!("large/team/app!{digest}"))).unwrap();
    world.pass(25 * HOUR_MS);
    assert_eq!(world.collect(0).unknown.count, 1);
    assert!(world.has(&digest) && world.has_blob("never named"));
}
