//! Imports from folders: what is taken, what is refused by name, and imports that are cut off at
//! every storage call.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::task::Poll;

use async_trait::async_trait;
use eyot::import::{Error, FoundBlob, FoundManifest, Options, Report, Source, import, open};
use eyot::oci::{Algorithm, Digest, Reference, RepositoryName, Tag};
use eyot::platform::SystemPlatform;
use eyot::registry::{Limits, PageRequest, ReferrersRequest};
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::store::{BlobStore, KeyValue};
use eyot::{Body, Registry};
use futures_executor::block_on;
use futures_util::future::{Either, select};
use serde_json::{Value, json};

use crate::crashes::{Fuse, Fused};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &[u8] = b"{}";

/// An OCI layout in a temporary folder.
struct Layout {
    folder: tempfile::TempDir,
    listed: Vec<Value>,
}

impl Layout {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), listed: Vec::new() }
    }

    fn path_of(&self, digest: &Digest) -> std::path::PathBuf {
        self.folder.path().join(format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex()))
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Algorithm::Sha256.digest(bytes);
        let path = self.path_of(&digest);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        digest
    }

    fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Value {
        json!({ "mediaType": media_type, "digest": digest, "size": size })
    }

    /// Writes a manifest, and adds it to the index of the layout.
    fn manifest(&mut self, tag: Option<&str>, media_type: &str, manifest: &Value) -> Digest {
        let bytes = manifest.to_string();
        let digest = self.blob(bytes.as_bytes());
        let mut listed = Self::descriptor(media_type, &digest, bytes.len());
        if let Some(tag) = tag {
            listed["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        }
        self.listed.push(listed);
        fs::write(
            self.folder.path().join("index.json"),
            json!({ "schemaVersion": 2, "manifests": self.listed }).to_string(),
        )
        .unwrap();
        digest
    }

    fn image(&mut self, tag: Option<&str>, layers: &[&str], subject: Option<&Digest>) -> Digest {
        let layers: Vec<_> =
            layers.iter().map(|text| Self::descriptor(LAYER, &self.blob(text.as_bytes()), text.len())).collect();
        let config = Self::descriptor("application/vnd.oci.image.config.v1+json", &self.blob(CONFIG), CONFIG.len());
        let mut manifest = json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers });
        if let Some(subject) = subject {
            manifest["subject"] = Self::descriptor(IMAGE, subject, 1);
        }
        self.manifest(tag, IMAGE, &manifest)
    }

    fn source(&self) -> Box<dyn Source> {
        block_on(open(self.folder.path(), Limits::default().manifest_bytes_max)).unwrap()
    }
}

/// The stores of a registry.
#[derive(Clone)]
struct Stores {
    keys: Arc<dyn KeyValue>,
    blobs: Arc<dyn BlobStore>,
}

impl Stores {
    fn new() -> Self {
        let platform = Arc::new(SystemPlatform);
        Self { keys: Arc::new(MemoryKeyValue::default()), blobs: Arc::new(MemoryBlobStore::new(platform)) }
    }

    fn registry(&self) -> Registry {
        self.registry_with(Limits::default())
    }

    fn registry_with(&self, limits: Limits) -> Registry {
        Registry::new(self.keys.clone(), self.blobs.clone(), Arc::new(SystemPlatform), limits)
    }

    fn import(&self, source: &dyn Source, options: &Options) -> Report {
        block_on(import(&self.registry(), &self.keys, source, options, &|_| ()))
    }

    /// All tags of a repository with their digests.
    fn tags(&self, repository: &RepositoryName) -> BTreeMap<String, Digest> {
        let registry = self.registry();
        block_on(async {
            let Ok(page) = registry.tags(repository, &PageRequest::default()).await else { return BTreeMap::new() };
            let mut tags = BTreeMap::new();
            for tag in page.entries {
                let manifest = registry.manifest(repository, &Reference::Tag(tag.parse().unwrap())).await.unwrap();
                tags.insert(tag, manifest.digest);
            }
            tags
        })
    }

    fn has_manifest(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        block_on(self.registry().manifest(repository, &Reference::Digest(digest.clone()))).is_ok()
    }

    /// Whether the repository holds a blob whose bytes have the digest.
    fn has_blob(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        let registry = self.registry();
        block_on(async {
            let Ok(blob) = registry.blob(repository, digest).await else { return false };
            let body = registry.read_blob(&blob, 0..blob.size).await.unwrap();
            let bytes = body.collect_up_to(blob.size).await.unwrap();
            assert!(digest.matches(&bytes), "the blob {digest} has other bytes");
            true
        })
    }

    /// The sizes of everything in the blob store, committed or not.
    fn stored_bytes(&self) -> Vec<u64> {
        let mut sizes: Vec<u64> =
            block_on(self.blobs.list(None, 1000)).unwrap().iter().filter_map(|stored| stored.bytes).collect();
        sizes.sort_unstable();
        sizes
    }
}

/// A source that counts the bytes of blobs that are read, and that can stop in the middle.
struct Watched<'a> {
    inner: &'a dyn Source,
    read: Arc<AtomicU64>,
    /// The number of bytes after which a body gives nothing more, as a program that was killed.
    stops_after: u64,
}

impl<'a> Watched<'a> {
    fn new(inner: &'a dyn Source) -> Self {
        Self { inner, read: Arc::default(), stops_after: u64::MAX }
    }
}

#[async_trait]
impl Source for Watched<'_> {
    async fn repositories(&self) -> Result<Vec<String>, Error> {
        self.inner.repositories().await
    }

    async fn tags(&self, repository: &str) -> Result<Vec<Tag>, Error> {
        self.inner.tags(repository).await
    }

    async fn listed(&self, repository: &str) -> Result<Vec<Digest>, Error> {
        self.inner.listed(repository).await
    }

    async fn resolve(&self, repository: &str, tag: &Tag) -> Result<Digest, Error> {
        self.inner.resolve(repository, tag).await
    }

    async fn manifest(&self, repository: &str, digest: &Digest, limit_bytes: u64) -> Result<FoundManifest, Error> {
        self.inner.manifest(repository, digest, limit_bytes).await
    }

    async fn referrers(&self, repository: &str, subject: &Digest) -> Result<Vec<Digest>, Error> {
        self.inner.referrers(repository, subject).await
    }

    async fn blob(&self, repository: &str, digest: &Digest, start: u64) -> Result<FoundBlob, Error> {
        let FoundBlob { start, size, mut body } = self.inner.blob(repository, digest, start).await?;
        let (read, stops_after) = (self.read.clone(), self.stops_after);
        let body = Body::from_poll(body.length(), move |cx| {
            if read.load(Relaxed) >= stops_after {
                return Poll::Pending;
            }
            let polled = body.poll_next(cx);
            if let Poll::Ready(Some(Ok(data))) = &polled {
                read.fetch_add(data.len() as u64, Relaxed);
            }
            polled
        });
        Ok(FoundBlob { start, size, body })
    }
}

fn named(name: &str) -> Options {
    Options { target: Some(name.parse().unwrap()), ..Options::default() }
}

fn app() -> RepositoryName {
    "app".parse().unwrap()
}

fn problems(report: &Report) -> Vec<String> {
    report.problems.iter().map(|problem| format!("{}: {}", problem.name, problem.why)).collect()
}

/// A layout with an index, shared layers, a referrer and an untagged image.
fn layout() -> (Layout, BTreeMap<String, Digest>, Vec<Digest>) {
    let mut layout = Layout::new();
    let one = layout.image(Some("v1"), &["base", "one"], None);
    let two = layout.image(Some("v2"), &["base", "two"], None);
    let child = layout.image(None, &["child"], None);
    let children = json!([
        Layout::descriptor(IMAGE, &one, fs::metadata(layout.path_of(&one)).unwrap().len() as usize),
        Layout::descriptor(IMAGE, &child, fs::metadata(layout.path_of(&child)).unwrap().len() as usize)
    ]);
    let index =
        layout.manifest(Some("all"), INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children }));
    let referrer = layout.image(None, &["signature"], Some(&two));
    let alone = layout.image(None, &["alone"], None);
    let tags = [("v1", &one), ("v2", &two), ("all", &index)].map(|(tag, digest)| (tag.to_owned(), digest.clone()));
    (layout, tags.into(), vec![child, referrer, alone])
}

const TEXTS: [&str; 6] = ["base", "one", "two", "child", "signature", "alone"];

fn blobs() -> Vec<(Digest, u64)> {
    let texts = TEXTS.iter().map(|text| text.as_bytes()).chain([CONFIG]);
    texts.map(|bytes| (Algorithm::Sha256.digest(bytes), bytes.len() as u64)).collect()
}

#[test]
fn a_layout_moves_in_whole_and_a_second_import_reads_nothing() {
    let (layout, tags, untagged) = layout();
    let (source, stores) = (layout.source(), Stores::new());
    let dry = stores.import(&*source, &Options { dry_run: true, ..named("app") });
    assert_eq!((dry.tags, dry.manifests, dry.blobs), (3, 6, 7), "{dry:?}");
    assert_eq!((stores.tags(&app()), stores.stored_bytes()), (BTreeMap::new(), vec![]));

    let report = stores.import(&*source, &named("app"));
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.tags, report.manifests, report.blobs, report.bytes, report.unnamed), (3, 6, 7, 31, 1));
    assert_eq!(dry.bytes, report.bytes);
    assert_eq!(stores.tags(&app()), tags);
    assert!(untagged.iter().all(|digest| stores.has_manifest(&app(), digest)));
    assert!(blobs().iter().all(|(digest, _)| stores.has_blob(&app(), digest)));
    let referrers = block_on(stores.registry().referrers(&app(), &tags["v2"], &ReferrersRequest::default())).unwrap();
    assert_eq!(referrers.descriptors.len(), 1);

    let watched = Watched::new(&*source);
    let again = stores.import(&watched, &named("app"));
    let expected = Report { repositories: 1, tags_here: 3, manifests_here: 6, blobs_here: 7, ..Report::default() };
    assert_eq!((again, watched.read.load(Relaxed)), (expected, 0));

    // Another repository gets the same blobs without their bytes.
    let other = stores.import(&watched, &named("other"));
    assert_eq!((other.blobs, other.blobs_here, watched.read.load(Relaxed)), (0, 7, 0));
    assert_eq!(stores.tags(&"other".parse().unwrap()), tags);
}

#[test]
fn a_pattern_brings_the_referrers_and_the_tags_of_signatures() {
    let (mut layout, tags, untagged) = layout();
    let signature = format!("sha256-{}.sig", tags["v2"].hex());
    layout.image(Some(&signature), &["cosign"], None);
    layout.image(Some(&format!("sha256-{}.sig", tags["v1"].hex())), &["other"], None);
    let stores = Stores::new();
    let report = stores.import(&*layout.source(), &Options { tags: vec!["v2".parse().unwrap()], ..named("app") });
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(stores.tags(&app()).into_keys().collect::<Vec<_>>(), [signature, "v2".to_owned()]);
    let held: Vec<bool> = untagged.iter().map(|digest| stores.has_manifest(&app(), digest)).collect();
    assert_eq!(held, [false, true, false], "the referrer alone");
}

#[test]
fn names_come_from_the_source_and_from_the_options() {
    let mut layout = Layout::new();
    layout.image(Some("docker.io/library/one:v1"), &["one"], None);
    layout.image(Some("localhost:5000/team/Two:v1"), &["two"], None);
    let (source, stores) = (layout.source(), Stores::new());
    let report = stores.import(&*source, &Options { prefix: Some("old".parse().unwrap()), ..Options::default() });
    assert_eq!(stores.tags(&"old/library/one".parse().unwrap()).len(), 1);
    let [problem] = &problems(&report)[..] else { panic!("{report:?}") };
    assert!(problem.starts_with("team/Two: old/team/Two is not a repository name"), "{problem}");

    let both = stores.import(&*source, &named("app"));
    let ended = both.ended.unwrap().to_string();
    assert_eq!(ended, "2 repositories would get the name app: library/one, team/Two; choose one with --repositories");
    let chosen = Options { repositories: vec!["library/*".parse().unwrap()], ..named("app:v2") };
    assert!(stores.import(&*source, &chosen).is_complete());
    assert_eq!(stores.tags(&app()).into_keys().collect::<Vec<_>>(), ["v2"]);
}

/// Makes a layout with a good image and a bad one, and imports the layout. Returns the only problem
/// after the name of the image.
fn refusal(limits: Limits, spoil: impl Fn(&mut Layout) -> Digest) -> String {
    let mut layout = Layout::new();
    layout.image(Some("good"), &["good"], None);
    let bad = spoil(&mut layout);
    let stores = Stores::new();
    let report =
        block_on(import(&stores.registry_with(limits), &stores.keys, &*layout.source(), &named("app"), &|_| ()));
    assert_eq!(stores.tags(&app()).into_keys().collect::<Vec<_>>(), ["good"]);
    assert!(!stores.has_manifest(&app(), &bad));
    // The configuration is shared, and of the good image there is one layer.
    assert_eq!(stores.stored_bytes(), [2, 4], "nothing of the bad image is stored");
    let [problem] = &problems(&report)[..] else { panic!("{report:?}") };
    problem.strip_prefix("app:bad: ").unwrap().to_owned()
}

fn spoiled_layer(layout: &mut Layout, spoil: impl Fn(&Path)) -> Digest {
    let image = layout.image(Some("bad"), &["a layer"], None);
    let path = layout.path_of(&Algorithm::Sha256.digest(b"a layer"));
    fs::remove_file(&path).unwrap();
    spoil(&path);
    image
}

#[test]
fn bad_content_is_refused_by_name_and_nothing_of_it_is_stored() {
    let layer = Algorithm::Sha256.digest(b"a layer");
    let other = Algorithm::Sha256.digest(b"b layer");
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "a layer").unwrap();
    let path = format!("blobs/sha256/{}", layer.hex());
    let outside_path = outside.path().canonicalize().unwrap();
    type Spoil<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: Vec<(Spoil<'_>, String)> = vec![
        (
            Box::new(|path| fs::write(path, "b layer").unwrap()),
            format!("the blob {layer}: the content has the digest {other}, not {layer}"),
        ),
        (
            Box::new(|path| fs::write(path, "a lay").unwrap()),
            format!("the blob {layer}: the blob {layer} has 5 bytes, and its manifest says 7"),
        ),
        (
            Box::new(|path| symlink(outside.path(), path).unwrap()),
            format!("the blob {layer}: {path} is a link out of the folder, to {}", outside_path.display()),
        ),
        (
            Box::new(|path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success())),
            format!("the blob {layer}: {path} is not a regular file"),
        ),
        (Box::new(|_| ()), format!("{layer} is not there: there is no file {path}")),
    ];
    for (spoil, expected) in &cases {
        assert_eq!(refusal(Limits::default(), |layout| spoiled_layer(layout, spoil)), *expected);
    }
    // A registry that takes sparse manifests takes absent content, and no other.
    let sparse = || Limits { sparse_manifests: true, ..Limits::default() };
    assert_eq!(refusal(sparse(), |layout| spoiled_layer(layout, &cases[0].0)), cases[0].1);
}

#[test]
fn bad_manifests_are_refused_by_name() {
    let changed = refusal(Limits::default(), |layout| {
        let image = layout.image(Some("bad"), &[], None);
        let path = layout.path_of(&image);
        fs::write(&path, fs::read_to_string(&path).unwrap().replace("2", "3")).unwrap();
        image
    });
    assert!(changed.contains(" has the digest sha256:") && changed.ends_with(": its bytes were changed"), "{changed}");
    let huge = refusal(Limits::default(), |layout| {
        let image = layout.image(Some("bad"), &[], None);
        fs::File::create(layout.path_of(&image)).unwrap().set_len(100 * 1000 * 1000).unwrap();
        image
    });
    assert!(huge.ends_with(" has 100000000 bytes, and at most 4194304 are read"), "{huge}");
    let nested = refusal(Limits::default(), |layout| {
        let mut inner = layout.blob(br#"{"schemaVersion": 2, "manifests": []}"#);
        for _ in 0..20 {
            let size = fs::metadata(layout.path_of(&inner)).unwrap().len() as usize;
            let index = json!({ "schemaVersion": 2, "manifests": [Layout::descriptor(INDEX, &inner, size)] });
            inner = layout.blob(index.to_string().as_bytes());
        }
        let size = fs::metadata(layout.path_of(&inner)).unwrap().len() as usize;
        layout.manifest(
            Some("bad"),
            INDEX,
            &json!({ "schemaVersion": 2, "manifests": [Layout::descriptor(INDEX, &inner, size)] }),
        )
    });
    assert_eq!(nested, "indexes are nested more than 16 deep");
}

#[test]
fn an_import_that_was_cut_off_at_any_storage_call_ends_equal() {
    let (layout, tags, _) = layout();
    let source = layout.source();
    let mut calls = 0;
    let mut was_complete = false;
    while !was_complete {
        for works in [false, true] {
            let stores = Stores::new();
            let fuse = Arc::new(Fuse { calls_left: AtomicI64::new(calls), recovers: false, works });
            let fused = Stores {
                keys: Arc::new(Fused { fuse: fuse.clone(), inner: stores.keys.clone() }),
                blobs: Arc::new(Fused { fuse, inner: stores.blobs.clone() }),
            };
            let cut_off = fused.import(&*source, &named("app"));
            was_complete = cut_off.is_complete();
            // The tags that exist lead to whole images.
            for (tag, digest) in stores.tags(&app()) {
                assert_eq!(tags[&tag], digest, "cut off after {calls} calls");
            }
            let registry = stores.registry();
            let left = blobs().into_iter().filter(|(digest, _)| block_on(registry.blob(&app(), digest)).is_err());
            let most: u64 = left.map(|(_, size)| size).sum();
            let watched = Watched::new(&*source);
            let report = stores.import(&watched, &named("app"));
            assert!(report.is_complete(), "cut off after {calls} calls: {report:?}");
            let read = watched.read.load(Relaxed);
            assert!(read <= most, "cut off after {calls} calls: {read} bytes were read, and {most} were missing");
            assert_eq!(report.bytes, read);
            assert_eq!(stores.tags(&app()), tags);
            assert!(blobs().iter().all(|(digest, _)| stores.has_blob(&app(), digest)));
        }
        calls += 1;
    }
    assert!(calls > 50, "the import makes only {calls} storage calls");
}

#[test]
fn a_large_blob_goes_on_after_the_last_whole_step() {
    const STEP: u64 = 64 * 1024 * 1024;
    const SIZE: u64 = 2 * STEP + STEP / 2;
    let mut layout = Layout::new();
    let bytes = vec![7; SIZE as usize];
    let digest = layout.blob(&bytes);
    drop(bytes);
    let config = Layout::descriptor("application/vnd.oci.image.config.v1+json", &layout.blob(CONFIG), CONFIG.len());
    let layers = [Layout::descriptor(LAYER, &digest, SIZE as usize)];
    let manifest = json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers });
    let image = layout.manifest(Some("v1"), IMAGE, &manifest);
    let (source, stores) = (layout.source(), Stores::new());

    let killed = Watched { stops_after: 2 * STEP + 1000, ..Watched::new(&*source) };
    let read = killed.read.clone();
    let registry = stores.registry();
    let options = named("app");
    let running = pin!(import(&registry, &stores.keys, &killed, &options, &|_| ()));
    let stopped = pin!(std::future::poll_fn(move |cx| {
        cx.waker().wake_by_ref();
        if read.load(Relaxed) > 2 * STEP + 100 { Poll::Ready(()) } else { Poll::Pending }
    }));
    assert!(matches!(block_on(select(running, stopped)), Either::Right(_)), "the import cannot end");

    let watched = Watched::new(&*source);
    let report = stores.import(&watched, &options);
    assert!(report.is_complete(), "{report:?}");
    let config_bytes = if report.blobs_here == 0 { CONFIG.len() as u64 } else { 0 };
    assert_eq!(watched.read.load(Relaxed), SIZE - 2 * STEP + config_bytes);
    assert_eq!(stores.tags(&app()), [("v1".to_owned(), image)].into());
    assert!(stores.has_blob(&app(), &digest));
    assert_eq!(block_on(stores.keys.list("import/", None, 10)).unwrap(), Vec::<String>::new());
}

#[test]
fn static_sites_and_folders_of_layouts_are_told_apart() {
    let (layout, tags, _) = layout();
    // zot and olareg keep a layout for each repository, also one in the folder of another.
    let zot = tempfile::tempdir().unwrap();
    // The site has repositories with the names of parts of the tree.
    let site = tempfile::tempdir().unwrap();
    for name in ["a", "a/b", "a/manifests", "a/tags"] {
        let repository = zot.path().join(name);
        fs::create_dir_all(repository.join("blobs/sha256")).unwrap();
        fs::copy(layout.folder.path().join("index.json"), repository.join("index.json")).unwrap();
        let place = site.path().join("v2").join(name);
        fs::create_dir_all(place.join("manifests")).unwrap();
        fs::create_dir_all(place.join("blobs")).unwrap();
        for blob in fs::read_dir(layout.folder.path().join("blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let hex = blob.file_name().into_string().unwrap();
            fs::copy(blob.path(), repository.join("blobs/sha256").join(&hex)).unwrap();
            let bytes = fs::read(blob.path()).unwrap();
            let part = if bytes.starts_with(b"{\"") { "manifests" } else { "blobs" };
            fs::write(place.join(part).join(format!("sha256:{hex}")), bytes).unwrap();
        }
        for (tag, digest) in &tags {
            fs::copy(layout.path_of(digest), place.join("manifests").join(tag)).unwrap();
        }
    }
    for folder in [zot, site] {
        let stores = Stores::new();
        let source = block_on(open(folder.path(), 1 << 20)).unwrap();
        let report = stores.import(&*source, &Options::default());
        assert!(report.is_complete(), "{report:?}");
        assert_eq!((report.repositories, report.tags, report.manifests, report.blobs), (4, 12, 24, 7));
        for name in ["a", "a/b", "a/manifests", "a/tags"] {
            assert_eq!(stores.tags(&name.parse().unwrap()), tags, "{name}");
        }
    }
    let empty = tempfile::tempdir().unwrap();
    let error = block_on(open(empty.path(), 1 << 20)).err().unwrap().to_string();
    assert!(error.contains("is none of the folders that can be imported"), "{error}");
}
