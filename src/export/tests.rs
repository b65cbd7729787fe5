//! What an export writes, writes again, and removes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures_executor::block_on;
use serde_json::{Value, json};

use super::{Kind, Place, Request, Result, Selection, Summary, export};
use crate::oci::manifest::{OCI_IMAGE, OCI_INDEX};
use crate::oci::{Algorithm, Digest, Reference, RepositoryName, Tag};
use crate::platform::SystemPlatform;
use crate::registry::{Limits, Registry};
use crate::store::BlobStore;
use crate::store::counting::{Counting, Counts};
use crate::store::file::FileBlobStore;
use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};

/// A registry whose blob store counts its calls.
struct World {
    registry: Registry,
    counts: Arc<Counts>,
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

impl World {
    fn new(blobs: Arc<dyn BlobStore>, limits: Limits) -> Self {
        let blobs = Counting::new(blobs);
        let counts = blobs.counts.clone();
        let keys = Arc::new(MemoryKeyValue::default());
        Self { registry: Registry::new(keys, Arc::new(blobs), Arc::new(SystemPlatform), limits), counts }
    }

    fn in_memory() -> Self {
        Self::new(Arc::new(MemoryBlobStore::new(Arc::new(SystemPlatform))), Limits::default())
    }

    fn blob(&self, repository: &str, bytes: &str) -> Value {
        let digest = Algorithm::Sha256.digest(bytes.as_bytes());
        block_on(self.registry.push_blob(&name(repository), &digest, bytes.as_bytes().to_vec().into())).unwrap();
        json!({"mediaType": "text/plain", "digest": digest, "size": bytes.len()})
    }

    fn push(&self, repository: &str, tags: &[&str], media_type: &str, manifest: &Value) -> Value {
        let bytes = manifest.to_string().into_bytes();
        let (digest, size) = (Algorithm::Sha256.digest(&bytes), bytes.len());
        let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        let to = Reference::Digest(digest.clone());
        block_on(self.registry.push_manifest(&name(repository), &to, &tags, Some(media_type), bytes.into())).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    /// Pushes an image with one layer.
    fn image(&self, repository: &str, tags: &[&str], layer: &str, subject: Option<&Value>) -> Value {
        let (config, layer) = (self.blob(repository, "{}"), self.blob(repository, layer));
        let mut image = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        if let Some(subject) = subject {
            image["subject"] = subject.clone();
        }
        self.push(repository, tags, OCI_IMAGE, &image)
    }

    /// Fills the registry: an index with an image, a referrer of the index with a referrer of its
    /// own, nested names, an untagged image.
    fn fill(&self) {
        let image = self.image("app", &["v1"], "one", None);
        let index = json!({"schemaVersion": 2, "manifests": [image]});
        let index = self.push("app", &["latest", "v2"], OCI_INDEX, &index);
        let signature = self.image("app", &[], "signature", Some(&index));
        self.image("app", &[], "countersignature", Some(&signature));
        self.image("app", &[], "untagged", None);
        self.image("app/b", &["v1"], "one", None);
        self.image("app/tags", &["v1"], "two", None);
    }

    fn export(&self, folder: &Path, change: impl FnOnce(&mut Request)) -> Result<Summary> {
        let mut request = Request {
            kind: Kind::Nginx,
            place: Place::Folder(folder.to_owned()),
            served_from: "/srv/registry".to_owned(),
            selection: Selection::default(),
            delete: false,
            dry_run: false,
            link: false,
        };
        change(&mut request);
        block_on(export(&self.registry, &request, &mut |_, _| {}))
    }
}

/// The files and links below a folder, with their content.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let own = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            if path.is_symlink() {
                assert!(path.exists(), "the link {own} leads nowhere");
                found.insert(own, fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
            } else if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(own, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// The kinds that go to a folder.
fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| kind.goes_to_folder())
}

fn selection(texts: &[&str]) -> Selection {
    Selection::new(texts.iter().map(|text| text.parse().unwrap()).collect())
}

#[test]
fn a_second_export_writes_nothing_and_reads_no_blob() {
    for kind in kinds() {
        let (world, folder) = (World::in_memory(), tempfile::tempdir().unwrap());
        world.fill();
        let first = world.export(folder.path(), |request| request.kind = kind).unwrap();
        assert_eq!((first.repositories, first.tags, first.manifests, first.problems), (3, 5, 7, 0), "{kind:?}");
        let before = tree(folder.path());
        world.counts.take();
        let second = world.export(folder.path(), |request| request.kind = kind).unwrap();
        assert_eq!((second.files_written, second.bytes_written, second.files_removed), (0, 0, 0), "{kind:?}");
        assert_eq!(world.counts.take(), [0; 4], "{kind:?}: calls of the blob store");
        assert_eq!(tree(folder.path()), before, "{kind:?}");
    }
}

#[test]
fn with_delete_the_folder_becomes_that_of_a_first_export() {
    for kind in kinds() {
        let (world, folder) = (World::in_memory(), tempfile::tempdir().unwrap());
        world.fill();
        world.export(folder.path(), |request| request.kind = kind).unwrap();

        world.image("app", &["latest", "new"], "three", None);
        block_on(world.registry.delete_manifest(&name("app"), &reference("v2"))).unwrap();
        let image = block_on(world.registry.manifest(&name("app/tags"), &reference("v1"))).unwrap();
        block_on(world.registry.delete_manifest(&name("app/tags"), &Reference::Digest(image.digest))).unwrap();
        let only = |request: &mut Request| {
            (request.kind, request.delete, request.selection) = (kind, true, selection(&["app", "app/tags"]));
        };
        let before = tree(folder.path());
        let dry = world
            .export(folder.path(), |request| {
                only(request);
                request.dry_run = true;
            })
            .unwrap();
        assert_eq!(tree(folder.path()), before, "{kind:?}: a dry run");
        let wet = world.export(folder.path(), only).unwrap();
        assert_eq!(dry, wet, "{kind:?}: a dry run counts what the export does");
        assert!(wet.files_removed > 3, "{kind:?}: {wet:?}");
        let fresh = tempfile::tempdir().unwrap();
        world.export(fresh.path(), only).unwrap();
        assert_eq!(tree(folder.path()), tree(fresh.path()), "{kind:?}");
    }
}

#[test]
fn tags_bring_what_belongs_to_them_and_nothing_else() {
    for kind in kinds() {
        let (world, folder) = (World::in_memory(), tempfile::tempdir().unwrap());
        world.fill();
        let only = |request: &mut Request| (request.kind, request.selection) = (kind, selection(&["app:late*"]));
        let summary = world.export(folder.path(), only).unwrap();
        // The index, its image, the signature and the countersignature.
        assert_eq!((summary.repositories, summary.tags, summary.manifests, summary.blobs), (1, 1, 4, 4), "{kind:?}");
        let all = tree(folder.path()).into_values().flatten().collect::<Vec<u8>>();
        let has = |bytes: &[u8]| all.windows(bytes.len()).any(|window| window == bytes);
        assert!(has(b"countersignature") && !has(b"untagged"), "{kind:?}");
        let none = world.export(folder.path(), |request| {
            (request.kind, request.selection) = (kind, selection(&["other", "app:none"]));
        });
        assert_eq!(none.unwrap().problems, 2, "{kind:?}: selectors without an effect are named");
    }
}

#[test]
fn content_that_is_missing_or_wrong_is_named_and_the_rest_is_exported() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let blobs = FileBlobStore::open(data.path(), Arc::new(SystemPlatform)).unwrap();
    let world = World::new(Arc::new(blobs), Limits { sparse_manifests: true, ..Limits::default() });
    world.image("app", &["good"], "one", None);
    world.image("app", &["wrong"], "two", None);
    world.image("app", &["lost"], "four", None);
    let wrong: Digest = Algorithm::Sha256.digest(b"two");
    let file = |bytes: &[u8]| {
        let blob = block_on(world.registry.blob(&name("app"), &Algorithm::Sha256.digest(bytes))).unwrap();
        world.registry.blob_file(&blob).unwrap()
    };
    fs::write(file(b"two"), "TWO").unwrap();
    fs::remove_file(file(b"four")).unwrap();
    let absent = json!({"mediaType": OCI_IMAGE, "digest": Algorithm::Sha256.digest(b"absent"), "size": 6});
    world.push("app", &["sparse"], OCI_INDEX, &json!({"schemaVersion": 2, "manifests": [absent]}));
    let summary = world.export(folder.path(), |_| {}).unwrap();
    assert_eq!(summary.problems, 3, "{:?}", summary.named_problems);
    let named = summary.named_problems.concat();
    for part in [wrong.as_str(), "another digest", "cannot read blob", "which is missing"] {
        assert!(named.contains(part), "{part}: {named}");
    }
    let files = tree(folder.path());
    assert!(!files.contains_key(&format!("blobs/sha256/{}", wrong.hex())));
    assert!(files.contains_key(&format!("blobs/sha256/{}", Algorithm::Sha256.digest(b"one").hex())));
    assert_eq!(summary.tags, 4);
}

#[cfg(unix)]
#[test]
fn links_share_the_file_of_the_data_folder() {
    use std::os::unix::fs::MetadataExt as _;
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let blobs = FileBlobStore::open(data.path(), Arc::new(SystemPlatform)).unwrap();
    let world = World::new(Arc::new(blobs), Limits::default());
    world.fill();
    world.counts.take();
    let summary = world.export(folder.path(), |request| request.link = true).unwrap();
    assert_eq!((summary.blobs, summary.blobs_linked, summary.problems), (6, 6, 0));
    assert_eq!(world.counts.take(), [0; 4], "calls of the blob store");
    let digest = Algorithm::Sha256.digest(b"one");
    let blob = block_on(world.registry.blob(&name("app"), &digest)).unwrap();
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let linked = folder.path().join(format!("blobs/sha256/{}", digest.hex()));
    assert_eq!(inode(&linked), inode(&world.registry.blob_file(&blob).unwrap()));
}

#[test]
fn other_folders_and_paths_are_refused() {
    let (world, folder) = (World::in_memory(), tempfile::tempdir().unwrap());
    let refusal = |change: fn(&mut Request)| world.export(folder.path(), change).unwrap_err().to_string();
    fs::write(folder.path().join("mine"), "x").unwrap();
    assert!(refusal(|_| {}).ends_with("has files that are not of an export; name a new or an empty folder"));
    fs::remove_file(folder.path().join("mine")).unwrap();
    let text = refusal(|request| request.served_from = "/srv/a b".to_owned());
    assert!(text.starts_with("the path \"/srv/a b\" cannot stand in the configuration"), "{text}");
    world.export(folder.path(), |_| {}).unwrap();
    let text = refusal(|request| request.kind = Kind::OciLayout);
    assert!(text.ends_with("is an export for nginx; name another folder, or export for nginx"), "{text}");
    let text = refusal(|request| request.kind = Kind::S3);
    assert!(text.starts_with("an export for s3 goes to a bucket (s3://BUCKET/PREFIX), and "), "{text}");
    // Files of others in an export stay.
    fs::write(folder.path().join("mine"), "x").unwrap();
    fs::write(folder.path().join("blobs-mine"), "x").unwrap();
    world.export(folder.path(), |request| request.delete = true).unwrap();
    assert!(tree(folder.path()).contains_key("mine"));
}
