//! The calls to the file system that a write costs natively, when keys and layers are files.
//! docs/design/files.md has the same numbers.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use eyot::auth::Access;
use eyot::oci::{Algorithm, Digest};
use eyot::platform::{Platform, SystemPlatform};
use eyot::registry::Limits;
use eyot::store::file::{DiskCalls, DiskWatch, FileBlobStore, FileKeyValue};
use eyot::{Body, Handler, Registry};
use http::{Method, Request, StatusCode};

const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

struct Watched {
    handler: Handler,
    watch: DiskWatch,
    _folder: tempfile::TempDir,
}

impl Watched {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let handler = handler(folder.path());
        Self { handler, watch: DiskWatch::new(folder.path()), _folder: folder }
    }

    /// Sends a request. Returns the calls to the file system that the request made, and the
    /// `Location` of the answer.
    fn cost(&self, method: Method, uri: &str, body: impl Into<Bytes>, expected: StatusCode) -> (DiskCalls, String) {
        self.watch.take();
        let request = Request::builder().method(&method).uri(uri).header("content-type", OCI_IMAGE);
        let request = request.body(Body::from(body.into())).unwrap();
        let response = futures_executor::block_on(self.handler.handle(request));
        assert_eq!(response.status(), expected, "{method} {uri}");
        let calls = self.watch.take();
        println!("{method:6} {:.70}: {calls:?}", uri.split('?').next().unwrap());
        let location = response.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
        (calls, location.unwrap_or_default())
    }

    fn push_blob(&self, bytes: &'static [u8]) -> DiskCalls {
        let uri = format!("/v2/app/blobs/uploads/?digest={}", digest(bytes));
        self.cost(Method::POST, &uri, bytes, StatusCode::CREATED).0
    }

    fn push_manifest(&self, reference: &str, manifest: &Bytes) -> DiskCalls {
        let uri = format!("/v2/app/manifests/{reference}");
        self.cost(Method::PUT, &uri, manifest.clone(), StatusCode::CREATED).0
    }
}

fn handler(folder: &Path) -> Handler {
    let platform: Arc<dyn Platform> = Arc::new(SystemPlatform);
    let keys = Arc::new(FileKeyValue::open(folder, platform.clone()).unwrap());
    let blobs = Arc::new(FileBlobStore::open(folder, platform.clone()).unwrap());
    Handler::new(Registry::new(keys, blobs, platform, Limits::default()), Access::open())
}

fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

fn image(layer: &[u8], note: &str) -> Bytes {
    let descriptor = serde_json::json!({ "mediaType": "application/x", "digest": digest(layer), "size": layer.len() });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": descriptor, "layers": [descriptor],
        "annotations": { "note": note },
    });
    manifest.to_string().into()
}

/// The syncs, the new names and the new folders of a write.
fn written(calls: DiskCalls) -> [u64; 4] {
    [calls.file_syncs, calls.folder_syncs, calls.names, calls.folders_made]
}

#[test]
fn a_write_costs_these_calls_to_the_file_system() {
    let watched = Watched::new();
    // The first writes make the folders of the repository.
    watched.push_blob(b"the first layer");
    let manifest = image(b"the first layer", "first");
    watched.push_manifest("v1", &manifest);
    let small = watched.push_blob(b"another layer");
    let tag = watched.push_manifest("v2", &manifest);
    let again = watched.push_manifest("v2", &manifest);
    let other = watched.push_manifest("v3", &image(b"the first layer", "other"));
    let (begin, location) = watched.cost(Method::POST, "/v2/app/blobs/uploads/", "", StatusCode::ACCEPTED);
    let (first, location) = watched.cost(Method::PATCH, &location, "a chunk", StatusCode::ACCEPTED);
    let (second, location) = watched.cost(Method::PATCH, &location, "a chunk", StatusCode::ACCEPTED);
    let end = format!("{location}?digest={}", digest(b"a chunka chunk"));
    let (close, _) = watched.cost(Method::PUT, &end, "", StatusCode::CREATED);
    let found = [
        ("a blob in one POST", small),
        ("a manifest that is stored already, under a new tag", tag),
        ("the same manifest and tag again", again),
        ("a new manifest under a new tag", other),
        ("POST that begins an upload", begin),
        ("PATCH with the first chunk", first),
        ("PATCH with a further chunk", second),
        ("PUT that ends the upload", close),
    ]
    .map(|(request, calls)| (request, written(calls)));
    // Syncs of files, syncs of folders, names, new folders.
    let expected = [
        ("a blob in one POST", [5, 15, 8, 4]),
        ("a manifest that is stored already, under a new tag", [4, 4, 4, 0]),
        ("the same manifest and tag again", [4, 4, 4, 0]),
        ("a new manifest under a new tag", [4, 6, 5, 1]),
        ("POST that begins an upload", [1, 5, 2, 2]),
        ("PATCH with the first chunk", [2, 4, 1, 1]),
        ("PATCH with a further chunk", [2, 2, 2, 0]),
        ("PUT that ends the upload", [2, 6, 5, 1]),
    ];
    assert_eq!(found, expected);
}
