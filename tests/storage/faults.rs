//! Every operation of the API over stores with seeded faults. An answer is a 5xx or equals the
//! answer without faults. Bytes are never wrong, and an outage never looks like absence.
//! Acknowledged content is served once the faults are over.

use std::sync::Arc;

use bytes::Bytes;
use eyot::oci::manifest::{OCI_IMAGE, OCI_INDEX};
use eyot::oci::{Algorithm, Digest};
use eyot::platform::{Platform, SystemPlatform};
use eyot::registry::Limits;
use eyot::store::faulty::{Faults, Faulty};
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::store::packed::{CHUNK_BYTES_MIN, PackedBlobStore};
use eyot::store::{BlobStore, KeyValue};
use eyot::{Handler, Registry};
use futures_executor::block_on;
use http::{Method, Request, StatusCode};
use serde_json::json;

const SEEDS: u64 = 60;
const FAULTS_PER_MILLE: u32 = 150;
const LAYER: &str = "the bytes of a layer";
const UPLOAD: &str = "first second";

struct Reply {
    status: StatusCode,
    location: String,
    /// `None`: the body broke off.
    body: Option<Bytes>,
}

fn digest(bytes: impl AsRef<[u8]>) -> Digest {
    Algorithm::Sha256.digest(bytes.as_ref())
}

fn image(layer: &str) -> String {
    let blob = json!({ "mediaType": "a/layer", "digest": digest(layer), "size": layer.len() });
    json!({ "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": blob, "layers": [blob] }).to_string()
}

fn referrer(padding: usize) -> String {
    let subject = json!({ "mediaType": OCI_IMAGE, "digest": digest(image(LAYER)), "size": image(LAYER).len() });
    let padding = json!({ "padding": "x".repeat(padding) });
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "subject": subject, "annotations": padding })
        .to_string()
}

/// A registry that contains at least one thing of each kind.
struct World {
    handler: Handler,
    faults: Arc<Faults>,
    session: String,
}

impl World {
    fn new(seed: u64, is_packed: bool) -> Self {
        let platform: Arc<dyn Platform> = Arc::new(SystemPlatform);
        let faults = Faults::new(seed, 0);
        let keys: Arc<dyn KeyValue> = Arc::new(Faulty::new(faults.clone(), Arc::new(MemoryKeyValue::default())));
        let blobs: Arc<dyn BlobStore> = if is_packed {
            let packed = PackedBlobStore::new(keys.clone(), platform.clone(), CHUNK_BYTES_MIN);
            Arc::new(Faulty::new(faults.clone(), Arc::new(packed)))
        } else {
            Arc::new(Faulty::new(faults.clone(), Arc::new(MemoryBlobStore::new(platform.clone()))))
        };
        let limits = Limits { manifest_inline_bytes_max: 1000, warnings: true, ..Limits::default() };
        let handler = Handler::new(Registry::new(keys, blobs, platform, limits), eyot::auth::Access::open());
        let mut world = Self { handler, faults, session: String::new() };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let push = |method, uri: &str, body: &str| {
            let reply = self.send(method, uri, body);
            assert!(reply.status.is_success(), "{uri}: {}", reply.status);
            reply
        };
        push(Method::POST, &format!("/v2/a/blobs/uploads/?digest={}", digest(LAYER)), LAYER);
        push(Method::PUT, "/v2/a/manifests/v1", &image(LAYER));
        push(Method::PUT, "/v2/a/manifests/large", &referrer(2000));
        push(Method::PUT, &format!("/v2/a/manifests/{}", digest(referrer(1))), &referrer(1));
        push(Method::PUT, "/v2/_eyot/warnings/a", "old");
        let session = push(Method::POST, "/v2/a/blobs/uploads/", "").location;
        push(Method::PATCH, &session, &UPLOAD[..5]);
        self.session = session;
    }

    fn send(&self, method: Method, uri: &str, body: &str) -> Reply {
        let request = Request::builder().method(method).uri(uri);
        let response = block_on(self.handler.handle(request.body(body.to_owned().into_bytes().into()).unwrap()));
        let location = response.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
        let (status, location) = (response.status(), location.unwrap_or_default());
        let body = block_on(response.into_body().collect_up_to(1 << 20)).ok();
        Reply { status, location, body }
    }
}

struct Operation {
    method: Method,
    uri: String,
    body: String,
    /// The expected content by URI after success; `None`: the content is absent.
    then: Vec<(String, Option<String>)>,
}

fn operation(method: Method, uri: impl Into<String>) -> Operation {
    Operation { method, uri: uri.into(), body: String::new(), then: Vec::new() }
}

impl Operation {
    fn with(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    fn then(mut self, uri: impl Into<String>, body: impl Into<String>) -> Self {
        self.then.push((uri.into(), Some(body.into())));
        self
    }

    fn then_gone(mut self, uri: impl Into<String>) -> Self {
        self.then.push((uri.into(), None));
        self
    }
}

/// Every operation of the API; `{session}` stands for an upload session.
fn operations() -> Vec<Operation> {
    let blob = |repository: &str, bytes: &str| format!("/v2/{repository}/blobs/{}", digest(bytes));
    let manifest = |bytes: &str| format!("/v2/a/manifests/{}", digest(bytes));
    let (layer, old, new, large) = (blob("a", LAYER), image(LAYER), referrer(3), referrer(3000));
    let mut all = Vec::new();
    for method in [Method::GET, Method::HEAD] {
        let reads = ["/v2/", "/v2/_catalog", "/v2/a/tags/list", "/v2/a/manifests/v1", "/v2/a/manifests/large"];
        all.extend(reads.map(|uri| operation(method.clone(), uri)));
        let reads = [manifest(&old), layer.clone(), format!("/v2/a/referrers/{}", digest(&old))];
        all.extend(reads.map(|uri| operation(method.clone(), uri)));
        all.extend(["{session}", "/v2/_eyot/warnings/a"].map(|uri| operation(method.clone(), uri)));
    }
    let uploads = |query: String| operation(Method::POST, format!("/v2/b/blobs/uploads/?{query}"));
    let then_layer = blob("b", LAYER);
    all.extend([
        uploads(String::new()),
        uploads(format!("digest={}", digest("new"))).with("new").then(blob("b", "new"), "new"),
        // Another push of stored content, which is stored only once.
        uploads(format!("digest={}", digest(LAYER))).with(LAYER).then(&then_layer, LAYER),
        uploads(format!("mount={}&from=a", digest(LAYER))).then(&then_layer, LAYER),
        uploads(format!("mount={}", digest(LAYER))).then(&then_layer, LAYER),
        operation(Method::PATCH, "{session}").with(&UPLOAD[5..]),
        operation(Method::PUT, format!("{{session}}?digest={}", digest(UPLOAD)))
            .with(&UPLOAD[5..])
            .then(blob("a", UPLOAD), UPLOAD),
        operation(Method::DELETE, "{session}").then_gone("{session}"),
        operation(Method::PUT, "/v2/a/manifests/v2").with(&new).then("/v2/a/manifests/v2", &new),
        operation(Method::PUT, "/v2/a/manifests/v1").with(&large).then("/v2/a/manifests/v1", &large),
        operation(Method::PUT, format!("{}?tag=v3&tag=v4", manifest(&new))).with(&new).then(manifest(&new), &new),
        operation(Method::DELETE, "/v2/a/manifests/v1").then_gone("/v2/a/manifests/v1").then(manifest(&old), &old),
        operation(Method::DELETE, manifest(&old)).then_gone("/v2/a/manifests/v1").then_gone(manifest(&old)),
        operation(Method::DELETE, &layer).then_gone(&layer),
        operation(Method::PUT, "/v2/_eyot/warnings/a").with("new"),
        operation(Method::DELETE, "/v2/_eyot/warnings/a"),
        operation(Method::POST, "/v2/_eyot/collect"),
        operation(Method::POST, "/v2/_eyot/collect?dry_run=true"),
    ]);
    all
}

/// The content that exists before an operation.
fn fixtures() -> Vec<(String, String)> {
    let large = referrer(2000);
    let blob = format!("/v2/a/blobs/{}", digest(LAYER));
    let small = format!("/v2/a/manifests/{}", digest(referrer(1)));
    vec![
        (blob, LAYER.to_owned()),
        ("/v2/a/manifests/v1".to_owned(), image(LAYER)),
        ("/v2/a/manifests/large".to_owned(), large),
        (small, referrer(1)),
    ]
}

fn is_read(operation: &Operation) -> bool {
    operation.method == Method::GET || operation.method == Method::HEAD
}

/// Runs an operation over faulty stores and returns whether the request succeeded.
fn run(operation: &Operation, seed: u64, is_packed: bool) -> bool {
    let name = format!("{} {}, seed {seed}, packed: {is_packed}", operation.method, operation.uri);
    let world = World::new(seed, is_packed);
    let uri = operation.uri.replace("{session}", &world.session);
    let expected = is_read(operation).then(|| world.send(operation.method.clone(), &uri, ""));

    world.faults.set_chance(FAULTS_PER_MILLE);
    let reply = world.send(operation.method.clone(), &uri, &operation.body);
    world.faults.set_chance(0);

    let (status, is_upload) = (reply.status, operation.uri.starts_with("{session}"));
    let succeeded = match &expected {
        Some(expected) => {
            assert!(status == expected.status || status.is_server_error(), "{name}: {status}");
            if status == expected.status && reply.body.is_some() {
                assert_eq!(reply.body, expected.body, "{name}");
            }
            status == expected.status
        }
        // A chunk whose first copy was stored is out of order when it is repeated. The answer tells
        // the client where the upload stands.
        None => {
            let is_out_of_order = status == StatusCode::RANGE_NOT_SATISFIABLE && is_upload;
            assert!(status.is_success() || status.is_server_error() || is_out_of_order, "{name}: {status}");
            status.is_success()
        }
    };
    // A mount may turn into an upload.
    if succeeded && !(operation.uri.contains("mount=") && status == StatusCode::ACCEPTED) {
        for (uri, wanted) in &operation.then {
            let uri = uri.replace("{session}", &world.session);
            let found = world.send(Method::GET, &uri, "");
            match wanted {
                Some(wanted) => assert_eq!(found.body.unwrap(), wanted.as_bytes(), "{name}: GET {uri}"),
                None => assert_eq!(found.status, StatusCode::NOT_FOUND, "{name}: GET {uri}"),
            }
        }
    }
    // An operation must not change other content.
    let touched = |uri: &str| uri == operation.uri || operation.then.iter().any(|(touched, _)| touched == uri);
    for (uri, bytes) in fixtures().into_iter().filter(|(uri, _)| !touched(uri)) {
        let found = world.send(Method::GET, &uri, "");
        assert_eq!((found.status, found.body.unwrap()), (StatusCode::OK, bytes.into()), "{name}: GET {uri}");
    }
    succeeded
}

#[test]
fn an_outage_is_an_error_and_nothing_else() {
    let (mut succeeded, mut failed) = (0, 0);
    for operation in operations() {
        for seed in 0..SEEDS {
            for is_packed in [false, true] {
                if run(&operation, seed, is_packed) { succeeded += 1 } else { failed += 1 }
            }
        }
    }
    println!("{succeeded} requests succeeded, {failed} failed");
    assert!(succeeded > 500 && failed > 500, "{succeeded} succeeded, {failed} failed");
}
