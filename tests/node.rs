//! The handler with the in-memory store, without an operating system: wasm32-unknown-unknown, under
//! Node.
#![cfg(all(target_family = "wasm", target_os = "unknown"))]

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use eyot::auth::Access;
use eyot::oci::Algorithm;
use eyot::platform::Platform;
use eyot::{Body, Handler, Registry};
use http::{Request, Response, StatusCode};
use wasm_bindgen_test::wasm_bindgen_test;

/// A platform with a fixed clock and counted randomness, both controlled by the test.
#[derive(Default)]
struct TestPlatform {
    drawn: AtomicU64,
}

impl Platform for TestPlatform {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn random(&self) -> [u8; 16] {
        u128::from(self.drawn.fetch_add(1, Ordering::Relaxed)).to_le_bytes()
    }
}

struct Client {
    handler: Handler,
    requests: Cell<u32>,
}

impl Client {
    fn new() -> Self {
        let registry = Registry::in_memory(Arc::new(TestPlatform::default()));
        Self { handler: Handler::new(registry, Access::open()), requests: Cell::new(0) }
    }

    async fn send(&self, method: &str, uri: &str, body: impl Into<Body>, expected: StatusCode) -> Response<Body> {
        self.requests.set(self.requests.get() + 1);
        let request = Request::builder().method(method).uri(uri).body(body.into()).unwrap();
        let response = self.handler.handle(request).await;
        assert_eq!(response.status(), expected, "{method} {uri}");
        response
    }
}

async fn bytes(response: Response<Body>) -> Vec<u8> {
    response.into_body().collect_up_to(1 << 20).await.unwrap().to_vec()
}

#[wasm_bindgen_test]
async fn an_image_is_pushed_and_pulled() {
    let client = Client::new();
    let layer = b"a layer".as_slice();
    let layer_digest = Algorithm::Sha256.digest(layer);

    let begun = client.send("POST", "/v2/team/app/blobs/uploads/", Body::empty(), StatusCode::ACCEPTED).await;
    let location = begun.headers()["location"].to_str().unwrap().to_owned();
    client.send("PATCH", &location, layer[..3].to_vec(), StatusCode::ACCEPTED).await;
    client.send("PATCH", &location, layer[3..].to_vec(), StatusCode::ACCEPTED).await;
    client.send("PUT", &format!("{location}?digest={layer_digest}"), Body::empty(), StatusCode::CREATED).await;

    let descriptor = format!(r#"{{"mediaType":"a/b","digest":"{layer_digest}","size":{}}}"#, layer.len());
    let manifest = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{descriptor}]}}"#);
    let uri = "/v2/team/app/manifests/v1";
    client.send("PUT", uri, manifest.clone().into_bytes(), StatusCode::CREATED).await;

    assert_eq!(bytes(client.send("GET", uri, Body::empty(), StatusCode::OK).await).await, manifest.into_bytes());
    let blob = format!("/v2/team/app/blobs/{layer_digest}");
    assert_eq!(bytes(client.send("GET", &blob, Body::empty(), StatusCode::OK).await).await, layer);
    let tags = client.send("GET", "/v2/team/app/tags/list", Body::empty(), StatusCode::OK).await;
    assert_eq!(bytes(tags).await, br#"{"name":"team/app","tags":["v1"]}"#);
    assert_eq!(client.requests.get(), 8);
}

#[wasm_bindgen_test]
async fn missing_content_is_not_found() {
    let client = Client::new();
    client.send("GET", "/v2/", Body::empty(), StatusCode::OK).await;
    client.send("GET", "/v2/team/app/manifests/v1", Body::empty(), StatusCode::NOT_FOUND).await;
    client.send("GET", "/v2/TEAM/manifests/v1", Body::empty(), StatusCode::BAD_REQUEST).await;
    client.send("GET", "/v2/team/app/tags/list", Body::empty(), StatusCode::NOT_FOUND).await;
}
