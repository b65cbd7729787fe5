//! Exports to a bucket of a real S3 server, and imports from there, behind a proxy that counts
//! requests and bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use eyot::Registry;
use eyot::export::{Kind, Place, Request, Selection, Summary, export};
use eyot::host::outbound::NativePlatform;
use eyot::import::{Options, import, open_bucket};
use eyot::oci::manifest::{OCI_IMAGE, OCI_INDEX};
use eyot::oci::{Reference, RepositoryName};
use eyot::platform::SystemPlatform;
use eyot::registry::Limits;
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::store::s3::{Head, Listed, PART_BYTES_MIN, S3Settings, S3Tree};
use eyot::store::{BlobStore, KeyValue};
use serde_json::{Value, json};

use crate::content::{MIB, content, digest};
use crate::proxy::Proxy;
use crate::s3_server::{self, Kind as Server, S3Server};

struct World {
    proxy: Proxy,
    settings: S3Settings,
    keys: Arc<dyn KeyValue>,
    registry: Registry,
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

impl World {
    /// A registry whose blobs are in the bucket, or in memory.
    async fn new(server: &S3Server, in_bucket: bool) -> Self {
        let proxy = Proxy::start(server.address).await;
        let settings = S3Settings {
            endpoint: format!("http://{}", proxy.address),
            part_bytes: PART_BYTES_MIN,
            ..server.settings()
        };
        let s3 = s3_server::open(settings.clone());
        let (keys, blobs): (Arc<dyn KeyValue>, Arc<dyn BlobStore>) = match in_bucket {
            true => (Arc::new(s3.key_value()), Arc::new(s3.blob_store())),
            false => (Arc::new(MemoryKeyValue::default()), Arc::new(MemoryBlobStore::new(Arc::new(SystemPlatform)))),
        };
        let platform = Arc::new(NativePlatform::default());
        let registry = Registry::new(keys.clone(), blobs, platform, Limits::default());
        Self { proxy, settings, keys, registry }
    }

    async fn blob(&self, repository: &str, bytes: Bytes) -> Value {
        let (digest, size) = (digest(&bytes), bytes.len());
        self.registry.push_blob(&name(repository), &digest, bytes.into()).await.unwrap();
        json!({"mediaType": "application/octet-stream", "digest": digest, "size": size})
    }

    async fn push(&self, repository: &str, tags: &[&str], media_type: &str, manifest: &Value) -> Value {
        let bytes = Bytes::from(manifest.to_string());
        let (to, size) = (digest(&bytes), bytes.len());
        let tags: Vec<_> = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        let (name, reference) = (name(repository), Reference::Digest(to.clone()));
        self.registry.push_manifest(&name, &reference, &tags, Some(media_type), bytes.into()).await.unwrap();
        json!({"mediaType": media_type, "digest": to, "size": size})
    }

    async fn image(&self, repository: &str, tags: &[&str], layer: Bytes, subject: Option<&Value>) -> Value {
        let config = self.blob(repository, Bytes::from_static(b"{}")).await;
        let mut image = json!({"schemaVersion": 2, "config": config, "layers": [self.blob(repository, layer).await]});
        if let Some(subject) = subject {
            image["subject"] = subject.clone();
        }
        self.push(repository, tags, OCI_IMAGE, &image).await
    }

    /// An index with an image of a large layer, a referrer, and a second repository with the same
    /// layer.
    async fn fill(&self) -> Value {
        let image = self.image("app", &["v1"], content(1, 12 * MIB), None).await;
        let index = json!({"schemaVersion": 2, "manifests": [image]});
        let index = self.push("app", &["latest"], OCI_INDEX, &index).await;
        self.image("app", &[], content(2, 100), Some(&index)).await;
        self.image("app/tags", &["v1"], content(1, 12 * MIB), None).await;
        index
    }

    fn tree(&self, prefix: &str) -> S3Tree {
        s3_server::open(S3Settings { prefix: prefix.to_owned(), ..self.settings.clone() }).tree()
    }

    async fn export(&self, tree: &S3Tree, change: impl FnOnce(&mut Request)) -> eyot::export::Result<Summary> {
        let mut request = Request {
            kind: Kind::S3,
            place: Place::Bucket(tree.clone()),
            served_from: String::new(),
            blobs_url: None,
            selection: Selection::default(),
            delete: false,
            dry_run: false,
            link: false,
        };
        change(&mut request);
        export(&self.registry, &request, &mut |_, _| {}).await
    }
}

/// All objects of a tree with their bytes.
async fn objects(tree: &S3Tree) -> BTreeMap<String, Bytes> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![String::new()]);
    while let Some(folder) = folders.pop() {
        for (name, listed) in tree.list(&folder, usize::MAX).await.unwrap() {
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            match listed {
                Listed::Folder => folders.push(path),
                Listed::Object { .. } => {
                    let bytes = tree.get(&path).await.unwrap().unwrap();
                    found.insert(path, bytes);
                }
            }
        }
    }
    found
}

fn run(test: impl AsyncFnOnce(&S3Server)) {
    let server = S3Server::start(Server::SeaweedFs);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        server.ready().await;
        test(&server).await;
    });
}

/// Layers of a registry in the same bucket are copied by the server, in one request or in parts. A
/// second export writes nothing and asks about no single object.
#[test]
fn a_registry_in_the_bucket_is_exported_by_copies() {
    run(async |server| {
        let world = World::new(server, true).await;
        let index = world.fill().await;
        for (prefix, copy_bytes_max) in [("site/", u64::MAX), ("parts/", PART_BYTES_MIN)] {
            let tree = world.tree(prefix).with_copy_bytes_max(copy_bytes_max);
            let dry = world.export(&tree, |request| request.dry_run = true).await.unwrap();
            world.proxy.take();
            let first = world.export(&tree, |_| {}).await.unwrap();
            let (_, sent) = world.proxy.take();
            assert_eq!(first, dry, "a dry run counts what the export does");
            assert_eq!((first.repositories, first.tags, first.manifests, first.problems), (2, 3, 4, 0));
            assert_eq!(first.blobs_copied, first.blobs, "{first:?}");
            assert!(sent < 20_000, "{sent} bytes were sent for an export of {} bytes of blobs", 24 * MIB);

            let layer = content(1, 12 * MIB);
            for repository in ["app", "app/tags"] {
                let path = format!("v2/{repository}/blobs/{}", digest(&layer));
                assert_eq!(tree.get(&path).await.unwrap().as_ref(), Some(&layer), "{path}");
            }
            let digest = index["digest"].as_str().unwrap();
            for (path, expected) in [
                ("v2/", "application/json"),
                ("v2/_catalog", "application/json"),
                ("v2/app/tags/list", "application/json"),
                ("v2/app/manifests/latest", OCI_INDEX),
                (&format!("v2/app/manifests/{digest}"), OCI_INDEX),
                ("v2/app/manifests/v1", OCI_IMAGE),
                (&format!("v2/app/referrers/{digest}"), OCI_INDEX),
                (&format!("v2/app/blobs/{}", crate::content::digest(&layer)), "application/octet-stream"),
            ] {
                let found = tree.find(path).await.unwrap().unwrap_or_else(|| panic!("{path} is missing"));
                assert_eq!(found.content_type.as_deref(), Some(expected), "{path}");
                // SeaweedFS keeps no bytes of an object that ends in `/`.
                assert!(found.bytes > 0 || path == "v2/", "{path}");
            }
            let referrers = tree.get(&format!("v2/app/referrers/{digest}")).await.unwrap().unwrap();
            let referrers: Value = serde_json::from_slice(&referrers).unwrap();
            assert_eq!(referrers["manifests"].as_array().unwrap().len(), 1);

            world.proxy.take();
            let second = world.export(&tree, |_| {}).await.unwrap();
            assert_eq!((second.files_written, second.bytes_written), (0, 0), "{second:?}");
            let (seen, sent) = world.proxy.take();
            assert!(seen.iter().all(|seen| ["GET", "HEAD"].contains(&seen.method.as_str())), "{seen:?}");
            let of_export: Vec<_> =
                seen.iter().filter(|seen| seen.path.contains(prefix.trim_end_matches('/'))).collect();
            assert!(of_export.len() <= 15, "{of_export:#?}");
            assert_eq!(sent, 0);
        }
    });
}

/// Content of another store is sent once, and copied for further repositories.
#[test]
fn a_layer_is_sent_once_for_all_repositories() {
    run(async |server| {
        let world = World::new(server, false).await;
        world.fill().await;
        let tree = world.tree("site/");
        let layer = content(1, 12 * MIB);
        let first = world.export(&tree, |_| {}).await.unwrap();
        let (_, sent) = world.proxy.take();
        assert_eq!((first.blobs, first.blobs_copied, first.problems), (5, 2, 0), "{first:?}");
        assert!((12 * MIB as u64..13 * MIB as u64).contains(&sent), "{sent} bytes were sent");
        let path = format!("v2/app/tags/blobs/{}", digest(&layer));
        assert_eq!(tree.get(&path).await.unwrap(), Some(layer));

        // What is gone from the registry goes from the bucket, and nothing else does.
        world.registry.delete_manifest(&name("app"), &"latest".parse().unwrap()).await.unwrap();
        let image = world.registry.manifest(&name("app/tags"), &"v1".parse().unwrap()).await.unwrap();
        world.registry.delete_manifest(&name("app/tags"), &Reference::Digest(image.digest)).await.unwrap();
        world.image("app", &["new"], content(3, 10), None).await;
        tree.put("mine", &Head::of("text/plain"), vec![Bytes::from_static(b"x")]).await.unwrap();
        let only = |request: &mut Request| {
            request.delete = true;
            request.selection = Selection::new(vec!["app".parse().unwrap()]);
        };
        let dry = world.export(&tree, |request| (only(request), request.dry_run = true).0).await.unwrap();
        let wet = world.export(&tree, only).await.unwrap();
        assert_eq!(wet, dry, "a dry run counts what the export does");
        assert!(wet.files_removed >= 4, "{wet:?}");
        let fresh = world.tree("fresh/");
        world.export(&fresh, only).await.unwrap();
        let (mut left, fresh) = (objects(&tree).await, objects(&fresh).await);
        assert_eq!(left.remove("mine").as_deref(), Some(&b"x"[..]));
        assert_eq!(left.keys().collect::<Vec<_>>(), fresh.keys().collect::<Vec<_>>());
        assert!(left == fresh, "the objects have the bytes of a first export");
    });
}

/// Layouts go to a bucket too. Other objects and other exports are refused.
#[test]
fn a_bucket_holds_layouts_and_keeps_foreign_objects() {
    run(async |server| {
        let world = World::new(server, true).await;
        world.fill().await;
        let tree = world.tree("layouts/");
        let summary = world.export(&tree, |request| request.kind = Kind::OciLayout).await.unwrap();
        assert_eq!((summary.problems, summary.blobs_copied), (0, summary.blobs));
        for path in ["app/oci-layout", "app/index.json", "app/tags/index.json"] {
            assert!(tree.find(path).await.unwrap().is_some(), "{path}");
        }
        let refusal = async |prefix: &str, kind| {
            let tree = world.tree(prefix);
            world.export(&tree, |request| request.kind = kind).await.unwrap_err().to_string()
        };
        let text = refusal("layouts/", Kind::S3).await;
        assert_eq!(
            text,
            "s3://eyot/layouts/ is an export for oci-layout; name another folder, or export for oci-layout"
        );
        let text = refusal("registry/", Kind::S3).await;
        assert!(text.starts_with("s3://eyot/registry/ has files that are not of an export"), "{text}");
        let text = refusal("nginx/", Kind::Nginx).await;
        assert_eq!(text, "an export for nginx goes to a folder, and s3://eyot/nginx/ is none");
    });
}

/// An exported tree and layouts in a bucket move in again, with equal exports, and layers are read
/// by ranges.
#[test]
fn a_bucket_moves_in() {
    run(async |server| {
        let world = World::new(server, true).await;
        world.fill().await;
        let first = world.tree("first/");
        world.export(&first, |_| {}).await.unwrap();
        let first = objects(&first).await;
        for kind in [Kind::S3, Kind::OciLayout] {
            let from = world.tree(&format!("{}/", kind.as_str()));
            world.export(&from, |request| request.kind = kind).await.unwrap();
            let here = World::new(server, false).await;
            let source = open_bucket(from.clone(), here.registry.limits().manifest_bytes_max).await.unwrap();
            let report = import(&here.registry, &here.keys, &*source, &Options::default(), &|_| {}).await;
            assert!(report.is_complete(), "{kind:?}: {report:?}");
            let again = here.tree(&format!("again-{}/", kind.as_str()));
            here.export(&again, |_| {}).await.unwrap();
            let again = objects(&again).await;
            assert_eq!(again.keys().collect::<Vec<_>>(), first.keys().collect::<Vec<_>>(), "{kind:?}");
            assert!(again == first, "{kind:?}: an export of an import of an export has the same bytes");
        }
        let error = open_bucket(world.tree("none/"), 1000).await.err().unwrap().to_string();
        assert!(error.starts_with("s3://eyot/none/ is none of the folders that can be imported"), "{error}");
    });
}

/// The data of distribution in a bucket, as its S3 driver writes them.
#[test]
fn the_data_of_distribution_move_in_from_a_bucket() {
    run(async |server| {
        let world = World::new(server, false).await;
        let tree = world.tree("old/");
        let (config, layer) = (Bytes::from_static(b"{}"), content(4, 6 * MIB));
        let described = |bytes: &Bytes| json!({"mediaType": "x/y", "digest": digest(bytes), "size": bytes.len()});
        let image = json!({"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": described(&config), "layers": [described(&layer)]});
        let image = Bytes::from(image.to_string());
        let put = async |path: String, bytes: &Bytes| {
            let path = format!("docker/registry/v2/{path}");
            tree.put(&path, &Head::of("application/octet-stream"), vec![bytes.clone()]).await.unwrap();
        };
        for bytes in [&config, &layer, &image] {
            let hex = digest(bytes).hex().to_owned();
            put(format!("blobs/sha256/{}/{hex}/data", &hex[..2]), bytes).await;
        }
        let link = Bytes::from(digest(&image).to_string());
        let manifests = "repositories/team/app/_manifests";
        put(format!("{manifests}/revisions/sha256/{}/link", digest(&image).hex()), &link).await;
        put(format!("{manifests}/tags/v1/current/link"), &link).await;
        world.proxy.take();
        let source = open_bucket(tree, 1_000_000).await.unwrap();
        let report = import(&world.registry, &world.keys, &*source, &Options::default(), &|_| {}).await;
        assert!(report.is_complete(), "{report:?}");
        assert_eq!((report.tags, report.manifests, report.blobs), (1, 1, 2));
        let tagged = world.registry.manifest(&name("team/app"), &"v1".parse().unwrap()).await.unwrap();
        assert_eq!(tagged.digest, digest(&image));
        let (seen, _) = world.proxy.take();
        assert!(seen.iter().all(|seen| ["GET", "HEAD"].contains(&seen.method.as_str())), "{seen:?}");
        let reads = |bytes: &Bytes| {
            seen.iter().filter(|seen| seen.method == "GET" && seen.path.contains(digest(bytes).hex())).count()
        };
        assert_eq!(reads(&layer), 1, "each layer is read once");
    });
}

/// Content with another digest than it should have becomes no object, in one request or in parts.
#[test]
fn content_with_a_wrong_digest_becomes_no_object() {
    run(async |server| {
        let world = World::new(server, false).await;
        let tree = world.tree("site/");
        let head = Head::of("application/octet-stream");
        for (path, length) in [("small", 100), ("large", 12 * MIB)] {
            world.proxy.take();
            let filled = tree.fill(path, &head, content(1, length).into(), &digest(b"other")).await;
            assert!(matches!(filled, Ok(false)), "{path}: {filled:?}");
            assert_eq!(tree.find(path).await.unwrap(), None, "{path}");
            let (seen, _) = world.proxy.take();
            let count = |method: &str| seen.iter().filter(|seen| seen.method == method).count();
            let expected = if path == "small" { [0, 0, 0] } else { [1, 3, 1] };
            assert_eq!(["POST", "PUT", "DELETE"].map(count), expected, "{path}: begun, parts, aborted: {seen:?}");
            let filled = tree.fill(path, &head, content(1, length).into(), &digest(&content(1, length))).await;
            assert!(matches!(filled, Ok(true)), "{path}: {filled:?}");
        }
    });
}
