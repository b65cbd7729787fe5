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
            blobs_url: None,
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
fn with_delete_files_that_have_no_digest_stay_beside_content() {
    for kind in kinds() {
        let (world, folder) = (World::in_memory(), tempfile::tempdir().unwrap());
        world.fill();
        world.export(folder.path(), |request| request.kind = kind).unwrap();
        let own: Vec<String> = tree(folder.path())
            .into_keys()
            .filter_map(|path| path.rsplit_once('/').map(|(folder, _)| folder.to_owned()))
            .filter(|folder| ["blobs", "referrers", "_referrers", "sha256"].iter().any(|end| folder.ends_with(end)))
            .map(|folder| format!("{folder}/mine"))
            .collect();
        own.iter().for_each(|path| fs::write(folder.path().join(path), "x").unwrap());
        world.export(folder.path(), |request| (request.kind, request.delete) = (kind, true)).unwrap();
        let after = tree(folder.path());
        let gone: Vec<_> = own.iter().filter(|path| !after.contains_key(*path)).collect();
        assert!(!own.is_empty() && gone.is_empty(), "{kind:?}: of {own:?} the export removed {gone:?}");
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

/// A rule of `_headers` or `_redirects` matches as Cloudflare documents it: one `*` stands for any
/// text, `:name` for a text without `/`. Returns the texts for the placeholders.
fn matched(pattern: &str, path: &str) -> Option<BTreeMap<String, String>> {
    let (mut found, mut path) = (BTreeMap::new(), path);
    if let Some((before, after)) = pattern.split_once('*') {
        // Greedy: the longest text for which the rest matches.
        let rest = path.strip_prefix(before)?;
        return (0..=rest.len()).rev().find_map(|end| matched(after, rest.get(end..)?));
    }
    for part in pattern.split_inclusive('/') {
        match part.trim_end_matches('/').strip_prefix(':') {
            Some(name) => {
                let end = path.find('/').unwrap_or(path.len());
                found.insert(name.to_owned(), path[..end].to_owned());
                path = path[end..].strip_prefix(if part.ends_with('/') { "/" } else { "" })?;
            }
            None => path = path.strip_prefix(part)?,
        }
    }
    path.is_empty().then_some(found)
}

/// Answers as Cloudflare Pages documents it: redirects first, then the file with the headers of all
/// rules that match the path of the request. Returns the headers and the bytes.
fn pages_answer(site: &Path, path: &str) -> Option<(BTreeMap<String, String>, Vec<u8>)> {
    let text = |name: &str| fs::read_to_string(site.join(name)).unwrap();
    let filled = |text: &str, values: &BTreeMap<String, String>| {
        values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!(":{name}"), value))
    };
    let mut file = path.to_owned();
    for line in text("_redirects").lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        let Some(values) = matched(parts[0], path) else { continue };
        let to = filled(parts[1], &values);
        if parts[2] == "302" {
            return pages_answer(site, &to);
        }
        file = to;
        break;
    }
    if file.ends_with('/') {
        file.push_str("index.html");
    }
    let bytes = fs::read(site.join(file.trim_start_matches('/'))).ok()?;
    let (mut headers, mut values) = (BTreeMap::<String, String>::new(), None);
    for line in text("_headers").lines() {
        let Some(header) = line.strip_prefix("  ") else {
            values = matched(line, path);
            continue;
        };
        let Some(values) = &values else { continue };
        match (header.strip_prefix("! "), header.split_once(": ")) {
            (Some(gone), _) => drop(headers.remove(gone)),
            (None, Some((name, value))) => {
                let value = filled(value, values);
                let joined = headers.get(name).map(|own| format!("{own}, {value}"));
                headers.insert(name.to_owned(), joined.unwrap_or(value));
            }
            (None, None) => panic!("the line {line:?} is no header"),
        }
    }
    Some((headers, bytes))
}

#[test]
fn the_rules_of_cloudflare_pages_give_each_manifest_its_type() {
    let (world, folder) = (World::in_memory(), tempfile::tempdir().unwrap());
    world.fill();
    let summary = world.export(folder.path(), |request| request.kind = Kind::CloudflarePages).unwrap();
    assert_eq!((summary.problems, summary.repositories), (0, 3), "{summary:?}");
    let site = folder.path().join("site");
    for (repository, tag) in [("app", "v1"), ("app", "latest"), ("app", "v2"), ("app/b", "v1"), ("app/tags", "v1")] {
        let expected = block_on(world.registry.manifest(&name(repository), &reference(tag))).unwrap();
        for reference in [tag, expected.digest.as_str()] {
            let path = format!("/v2/{repository}/manifests/{reference}");
            let (headers, bytes) = pages_answer(&site, &path).unwrap_or_else(|| panic!("{path} is missing"));
            assert_eq!(headers["Content-Type"], expected.media_type, "{path}");
            assert_eq!(headers["Docker-Content-Digest"], expected.digest.as_str(), "{path}");
            assert_eq!(Algorithm::Sha256.digest(&bytes), expected.digest, "{path}");
        }
    }
    let layer = Algorithm::Sha256.digest(b"two");
    let (headers, bytes) = pages_answer(&site, &format!("/v2/app/tags/blobs/{layer}")).unwrap();
    assert_eq!((headers["Docker-Content-Digest"].as_str(), bytes.as_slice()), (layer.as_str(), &b"two"[..]));
    for (path, expected) in [
        ("/v2/", "application/json"),
        ("/v2/_catalog", "application/json"),
        ("/v2/app/tags/tags/list", "application/json"),
        (
            &format!(
                "/v2/app/referrers/{}",
                block_on(world.registry.manifest(&name("app"), &reference("v2"))).unwrap().digest
            ),
            OCI_INDEX,
        ),
    ] {
        let (headers, bytes) = pages_answer(&site, path).unwrap_or_else(|| panic!("{path} is missing"));
        assert_eq!((headers["Content-Type"].as_str(), bytes.is_empty()), (expected, false), "{path}");
    }
    assert!(pages_answer(&site, "/v2/app/manifests/none").is_none());
}

#[test]
fn hosts_of_pages_name_what_they_cannot_take() {
    let (world, folder) = (World::in_memory(), tempfile::tempdir().unwrap());
    let large = "x".repeat(25 * 1024 * 1024 + 1);
    world.image("app", &["v1"], &large, None);
    let digest = Algorithm::Sha256.digest(large.as_bytes());
    let kind = |request: &mut Request| request.kind = Kind::CloudflarePages;
    let summary = world.export(folder.path(), kind).unwrap();
    assert_eq!(summary.problems, 1);
    let named = &summary.named_problems[0];
    assert!(named.contains(digest.as_str()) && named.contains("--blobs-url"), "{named}");
    let elsewhere = |request: &mut Request| {
        (request.kind, request.blobs_url) = (Kind::CloudflarePages, Some("https://blobs.example.org/".to_owned()));
    };
    let summary = world.export(folder.path(), elsewhere).unwrap();
    assert_eq!((summary.problems, folder.path().join(format!("blobs/{digest}")).exists()), (0, true));
    let redirects = fs::read_to_string(folder.path().join("site/_redirects")).unwrap();
    assert!(redirects.ends_with("/v2/*/blobs/:digest https://blobs.example.org/:digest 302\n"), "{redirects}");
    let other = |url: &'static str| {
        world.export(folder.path(), |request| {
            (request.kind, request.blobs_url) = (Kind::CloudflarePages, Some(url.to_owned()));
        })
    };
    assert!(other("blobs.example.org").unwrap_err().to_string().starts_with("\"blobs.example.org\" is not a URL"));

    // One manifest of the usual type, and more of another type than there are rules.
    for number in 0..100 {
        let index = json!({"schemaVersion": 2, "manifests": [], "annotations": {"number": number.to_string()}});
        world.push("indexes", &[], OCI_INDEX, &index);
        world.image("app", &[], &format!("layer {number}"), None);
    }
    let text = world.export(folder.path(), elsewhere).unwrap_err().to_string();
    assert!(text.starts_with("the export needs 105 header rules"), "{text}");
    assert!(text.contains("Cloudflare Pages takes 100"), "{text}");
}

#[test]
fn netlify_has_a_rule_for_each_depth_of_names() {
    let (world, folder) = (World::in_memory(), tempfile::tempdir().unwrap());
    world.fill();
    world.export(folder.path(), |request| request.kind = Kind::Netlify).unwrap();
    let text = |name: &str| fs::read_to_string(folder.path().join("site").join(name)).unwrap();
    let redirects = text("_redirects");
    for line in ["/v2/:name1/blobs/:digest /blobs/:digest 200", "/v2/:name1/:name2/blobs/:digest /blobs/:digest 200"] {
        assert!(redirects.lines().any(|found| found == line), "{line}: {redirects}");
    }
    assert_eq!(redirects.lines().filter(|line| line.ends_with(" 302")).count(), 5, "one for each tag");
    let index = block_on(world.registry.manifest(&name("app"), &reference("v2"))).unwrap().digest;
    let rule = format!("/v2/app/manifests/{index}\n  Content-Type: {OCI_INDEX}\n");
    assert!(text("_headers").contains(&rule), "{}", text("_headers"));
}
