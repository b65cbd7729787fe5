//! The S3 stores over real S3 servers: the contract, and what S3 alone can get wrong.
#![cfg(not(target_family = "wasm"))]

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/s3_server.rs"]
mod s3_server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eyot::host::outbound::NativePlatform;
use eyot::oci::{Algorithm, Digest};
use eyot::registry::Limits;
use eyot::store::s3::{PART_BYTES_MIN, S3, S3Settings};
use eyot::store::{BlobStore, Error, KeyValue, Platform, When, contract};
use eyot::{Body, Handler, Registry};
use futures_util::stream;
use http::{Method, Request, Response};

use proxy::{Act, Proxy, Seen};
use s3_server::{Kind, S3Server};

const MIB: usize = 1024 * 1024;

fn on(kind: Kind, test: impl AsyncFnOnce(&S3Server)) {
    let server = S3Server::start(kind);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        ready(&server).await;
        test(&server).await;
    });
}

/// Waits until the server is up in earnest, and the bucket is there.
async fn ready(server: &S3Server) {
    let keys = server.open().key_value();
    for _ in 0..200 {
        if keys.list("", None, 1).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the S3 server gets no bucket");
}

async fn keep_contract(s3: &S3) {
    let keys: Arc<dyn KeyValue> = Arc::new(s3.key_value());
    for (name, clause) in contract::KEY_VALUE {
        eprintln!("key-value: {name}");
        clause(keys.clone()).await;
    }
    let blobs: Arc<dyn BlobStore> = Arc::new(s3.blob_store());
    for (name, clause) in contract::BLOB_STORE {
        let begin = Instant::now();
        clause(blobs.clone()).await;
        eprintln!("blob store: {name} in {} ms", begin.elapsed().as_millis());
    }
}

#[test]
fn seaweedfs_keeps_the_contract() {
    on(Kind::SeaweedFs, async |server| keep_contract(&server.open()).await);
}

/// What is left of R2's character: parts of one size.
#[test]
fn equal_parts_keep_the_contract() {
    on(Kind::SeaweedFs, async |server| {
        let mut settings = server.settings();
        (settings.equal_parts, settings.part_bytes) = (true, PART_BYTES_MIN);
        keep_contract(&s3_server::open(settings)).await;
    });
}

/// A registry with everything in one bucket, behind a proxy.
struct World {
    handler: Handler,
    proxy: Proxy,
    settings: S3Settings,
}

impl World {
    async fn new(server: &S3Server) -> Self {
        let proxy = Proxy::start(server.address).await;
        let settings = S3Settings { endpoint: format!("http://{}", proxy.address), ..server.settings() };
        Self { handler: handler(settings.clone()), proxy, settings }
    }

    async fn send(&self, method: Method, uri: &str, body: Body) -> Response<Body> {
        let request = Request::builder().method(method).uri(uri).header("content-type", OCI_IMAGE);
        self.handler.handle(request.body(body).unwrap()).await
    }

    /// Pushes as docker does: POST, a PATCH that does not say how long it is, PUT.
    async fn push(&self, repository: &str, bytes: &Bytes) {
        let post = self.send(Method::POST, &format!("/v2/{repository}/blobs/uploads/"), Body::empty()).await;
        assert_eq!(post.status(), 202);
        let pieces: Vec<_> = bytes.chunks(100_000).map(|piece| Ok::<_, Error>(bytes.slice_ref(piece))).collect();
        let patch = self.send(Method::PATCH, header(&post, "location"), Body::from_stream(stream::iter(pieces))).await;
        assert_eq!(patch.status(), 202);
        let end = format!("{}?digest={}", header(&patch, "location"), digest(bytes));
        assert_eq!(self.send(Method::PUT, &end, Body::empty()).await.status(), 201);
    }

    async fn pull(&self, repository: &str, digest: &Digest) -> Bytes {
        let handler = self.handler.clone().with_redirects(eyot::http::Redirects::none());
        let uri = format!("/v2/{repository}/blobs/{digest}");
        let response = handler.handle(Request::get(uri).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200);
        response.into_body().collect_up_to(u64::MAX).await.unwrap()
    }
}

const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

fn handler(settings: S3Settings) -> Handler {
    let platform: Arc<dyn Platform> = Arc::new(NativePlatform::default());
    let s3 = S3::new(settings, platform.clone()).unwrap();
    let registry = Registry::new(Arc::new(s3.key_value()), Arc::new(s3.blob_store()), platform, Limits::default());
    Handler::new(registry)
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers()[name].to_str().unwrap()
}

fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

/// Bytes that differ at every place and from seed to seed.
fn content(seed: u8, length: usize) -> Bytes {
    let byte = |at: usize| (at as u8).wrapping_mul(31) ^ ((at >> 8) as u8).wrapping_mul(7) ^ ((at >> 16) as u8) ^ seed;
    (0..length).map(byte).collect::<Vec<u8>>().into()
}

fn image(layer: &Bytes) -> Bytes {
    let descriptor = serde_json::json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": layer.len(),
    });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": descriptor, "layers": [descriptor],
    });
    manifest.to_string().into()
}

fn is_part(seen: &Seen) -> bool {
    seen.path.contains("partNumber=")
}

#[test]
fn a_push_and_a_pull_cost_what_they_must() {
    on(Kind::SeaweedFs, async |server| {
        let world = World::new(server).await;
        let layer = content(1, 100 * MIB);
        world.push("a", &layer).await;
        let (seen, bytes) = world.proxy.take();
        let parts = seen.iter().filter(|seen| is_part(seen)).count();
        let others: Vec<_> = seen.iter().filter(|seen| !is_part(seen)).collect();
        eprintln!("{bytes} bytes for {}, {parts} parts and {} more: {others:#?}", layer.len(), others.len());
        assert!(bytes <= layer.len() as u64 * 101 / 100, "{bytes} bytes");
        assert!(seen.len() <= layer.len().div_ceil(world.settings.part_bytes as usize) + 8, "{seen:#?}");

        let manifest = image(&layer);
        assert_eq!(world.send(Method::PUT, "/v2/a/manifests/v1", manifest.into()).await.status(), 201);
        let (seen, _) = world.proxy.take();
        eprintln!("PUT manifest: {seen:#?}");
        assert_eq!(world.send(Method::GET, "/v2/a/manifests/v1", Body::empty()).await.status(), 200);
        assert_eq!(world.proxy.take().0.len(), 2);

        let uri = format!("/v2/a/blobs/{}", digest(&layer));
        let head = world.send(Method::HEAD, &uri, Body::empty()).await;
        assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, "104857600"));
        assert_eq!(world.proxy.take().0.len(), 1);
        let get = world.send(Method::GET, &uri, Body::empty()).await;
        assert_eq!((get.status().as_u16(), get.body().length()), (307, Some(0)));
        assert_eq!(header(&get, "docker-content-digest"), digest(&layer).as_str());
        assert_eq!(world.proxy.take().0.len(), 1);
        // Whoever follows gets the bytes, all or a range of them.
        let platform = NativePlatform::default();
        for (range, expected) in
            [("bytes=0-", layer.clone()), ("bytes=20000000-20000009", layer.slice(20_000_000..20_000_010))]
        {
            let request = Request::get(header(&get, "location")).header("range", range).body(Body::empty()).unwrap();
            let response = platform.send(request, Duration::from_secs(10)).await.unwrap();
            assert!(response.into_body().collect_up_to(u64::MAX).await.unwrap() == expected, "{range}");
        }
    });
}
