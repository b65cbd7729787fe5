//! Panics below the handler: the request gets an answer, the next request is served, and the client
//! learns only the request id. Components are built without unwinding; their host replaces the
//! instance instead.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use eyot::oci::{Algorithm, Digest};
use eyot::platform::{BodyError, SystemPlatform};
use eyot::registry::Limits;
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::store::{BlobStore, Entry, Error, Family, KeyValue, Location, Stage, Stored, Version, When};
use eyot::{Body, Handler, Registry};
use futures_executor::block_on;
use futures_util::stream;
use http::{Request, Response, StatusCode};

const SECRET: &str = "the store has lost its head";
const EMPTY_INDEX: &str = r#"{"schemaVersion": 2, "manifests": []}"#;

/// Panics at one of the coming calls: 1 is the next call.
#[derive(Default)]
struct Trap(AtomicU32);

impl Trap {
    fn step(&self) {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        assert!(left != 1, "{SECRET}");
    }
}

struct Panicking<S> {
    trap: Arc<Trap>,
    inner: S,
}

#[async_trait]
impl KeyValue for Panicking<MemoryKeyValue> {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.trap.step();
        self.inner.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>, Error> {
        self.trap.step();
        self.inner.put(key, value, when).await
    }

    async fn delete(&self, key: &str) -> Result<(), Error> {
        self.trap.step();
        self.inner.delete(key).await
    }

    async fn delete_unchanged(&self, key: &str, version: &Version) -> Result<(), Error> {
        self.trap.step();
        self.inner.delete_unchanged(key, version).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Error> {
        self.trap.step();
        self.inner.list(prefix, after, limit).await
    }
}

#[async_trait]
impl BlobStore for Panicking<MemoryBlobStore> {
    async fn stage(&self) -> Result<Stage, Error> {
        self.trap.step();
        self.inner.stage().await
    }

    async fn append(&self, stage: &Stage, body: Body) -> Result<Stage, Error> {
        self.trap.step();
        self.inner.append(stage, body).await
    }

    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location, Error> {
        self.trap.step();
        self.inner.commit(stage, digest).await
    }

    async fn discard(&self, stage: &Stage) -> Result<(), Error> {
        self.trap.step();
        self.inner.discard(stage).await
    }

    fn kept_append_bytes(&self) -> Option<u64> {
        self.inner.kept_append_bytes()
    }

    async fn abandon(&self, stage: &Stage, before: Option<&Stage>) -> Result<(), Error> {
        self.inner.abandon(stage, before).await
    }

    async fn read_stage(&self, stage: &Stage, range: Range<u64>) -> Result<Option<Body>, Error> {
        self.trap.step();
        self.inner.read_stage(stage, range).await
    }

    /// With a trap set, the stream of bytes may panic in the middle.
    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body, Error> {
        let half = range.start + (range.end - range.start) / 2;
        let first = self.inner.read(location, range.start..half).await?;
        let rest = self.inner.read(location, half..range.end).await?;
        let (trap, length) = (self.trap.clone(), range.end - range.start);
        let pieces = stream::unfold((first, rest, false), move |(mut first, mut rest, in_rest)| {
            let trap = trap.clone();
            async move {
                if !in_rest && let Some(data) = first.next().await {
                    return Some((data, (first, rest, false)));
                }
                trap.step();
                let data = rest.next().await?;
                Some((data, (first, rest, true)))
            }
        });
        Ok(Body::from_stream(pieces).with_length(length))
    }

    async fn family(&self, stage: &Stage) -> Result<Family, Error> {
        self.inner.family(stage).await
    }

    async fn names_of(&self, location: &Location) -> Result<Vec<String>, Error> {
        self.inner.names_of(location).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>, Error> {
        self.inner.list(after, limit).await
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        self.inner.remove(name).await
    }
}

fn panicking_handler() -> (Handler, Arc<Trap>) {
    let (trap, platform) = (Arc::new(Trap::default()), Arc::new(SystemPlatform));
    let keys = Arc::new(Panicking { trap: trap.clone(), inner: MemoryKeyValue::default() });
    let blobs = Arc::new(Panicking { trap: trap.clone(), inner: MemoryBlobStore::new(platform.clone()) });
    (Handler::new(Registry::new(keys, blobs, platform, Limits::default()), eyot::auth::Access::open()), trap)
}

fn request(method: &str, uri: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri(uri).header("x-request-id", "it-was.me_1").body(body.into()).unwrap()
}

fn send(handler: &Handler, method: &str, uri: &str, body: impl Into<Body>) -> (Response<()>, Result<Bytes, BodyError>) {
    let (head, body) = block_on(handler.handle(request(method, uri, body))).into_parts();
    (Response::from_parts(head, ()), block_on(body.collect_up_to(1 << 20)))
}

/// Keeps the lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Panics in turn at every storage call of a push, of reads and of a deletion.
#[test]
fn a_panic_is_answered_and_the_next_request_is_served() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false);
    let logged = tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish());
    let (handler, trap) = panicking_handler();
    let layer = format!("/v2/a/blobs/uploads/?digest={}", Algorithm::Sha256.digest(b"a layer"));
    let mut panics = 0;
    for (method, uri, body, expected) in [
        ("POST", layer.as_str(), "a layer", StatusCode::CREATED),
        ("PUT", "/v2/a/manifests/v1", EMPTY_INDEX, StatusCode::CREATED),
        ("GET", "/v2/a/manifests/v1", "", StatusCode::OK),
        ("GET", "/v2/a/tags/list", "", StatusCode::OK),
        ("GET", "/v2/_catalog", "", StatusCode::OK),
        ("DELETE", "/v2/a/manifests/v1", "", StatusCode::ACCEPTED),
    ] {
        for at in 1.. {
            trap.0.store(at, Ordering::Relaxed);
            let (head, body) = send(&handler, method, uri, body);
            assert_eq!(head.headers()["x-request-id"], "it-was.me_1");
            if trap.0.swap(0, Ordering::Relaxed) != 0 {
                assert_eq!(head.status(), expected, "{method} {uri}");
                break;
            }
            panics += 1;
            let body = body.unwrap();
            let error: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(head.status(), StatusCode::INTERNAL_SERVER_ERROR, "{method} {uri}, call {at}");
            assert_eq!(head.headers()["content-length"], body.len().to_string());
            assert_eq!(error["errors"][0]["code"], "UNKNOWN");
            assert!(!error.to_string().contains(SECRET));
            assert_eq!(send(&handler, "GET", "/v2/", "").0.status(), StatusCode::OK);
        }
    }
    assert!(panics > 15, "only {panics} panics");
    // Outside of a request, lines have no id.
    tracing::info!("after the requests");
    drop(logged);
    let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for (level, id, text) in [
        ("ERROR", "request{id=\"it-was.me_1\"}: ", format!("a panic: {SECRET}")),
        ("INFO", "request{id=\"it-was.me_1\"}: ", "GET /v2/_catalog 500".to_owned()),
        ("INFO", "", "after the requests".to_owned()),
    ] {
        let expected = format!("{level} {id}{text}");
        assert!(lines.lines().any(|line| line.trim_start() == expected), "{expected}: {lines}");
    }
}

#[test]
fn a_panic_in_an_answer_breaks_the_answer_off() {
    let (handler, trap) = panicking_handler();
    let digest = Algorithm::Sha256.digest(b"a whole layer");
    assert_eq!(
        send(&handler, "POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), "a whole layer").0.status(),
        201
    );
    let uri = format!("/v2/a/blobs/{digest}");
    let response = block_on(handler.handle(request("GET", &uri, "")));
    assert_eq!((response.status(), response.body().length()), (StatusCode::OK, Some(13)));
    trap.0.store(1, Ordering::Relaxed);
    let mut body = response.into_body();
    assert_eq!(block_on(body.next()).unwrap().unwrap(), "a whol");
    assert!(matches!(block_on(body.next()), Some(Err(BodyError::Interrupted(_)))));
    assert!(block_on(body.next()).is_none());
    assert_eq!(send(&handler, "GET", &uri, "").1.unwrap(), "a whole layer");
}

/// A panic in a request's body, for example in another HTTP server below the handler.
#[test]
fn a_panic_in_a_request_body_is_answered() {
    let handler = Handler::in_memory();
    // The first request needs the body. The second request is refused, and its body is only
    // drained.
    for (uri, expected) in [("/v2/a/manifests/v1", 500), ("/v2/a/manifests/-v1", 400)] {
        let pieces = stream::poll_fn(|_| -> Poll<Option<Result<Bytes, BodyError>>> { panic!("{SECRET}") });
        let (head, body) = send(&handler, "PUT", uri, Body::from_stream(pieces));
        assert_eq!((head.status().as_u16(), body.is_ok()), (expected, true), "{uri}");
    }
}

#[test]
fn a_request_without_a_valid_id_gets_a_new_id() {
    let handler = Handler::in_memory();
    let mut seen = std::collections::BTreeSet::new();
    for given in [None, Some(""), Some("a b"), Some("a/b"), Some("é"), Some(&*"x".repeat(65))] {
        let mut request = Request::get("/v2/");
        if let Some(given) = given {
            request = request.header("x-request-id", http::HeaderValue::from_bytes(given.as_bytes()).unwrap());
        }
        let response = block_on(handler.handle(request.body(Body::empty()).unwrap()));
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert!(id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{given:?}: {id}");
        seen.insert(id);
    }
    assert_eq!(seen.len(), 6);
    let longest = "x".repeat(64);
    let request = Request::get("/v2/").header("x-request-id", &longest).body(Body::empty()).unwrap();
    assert_eq!(block_on(handler.handle(request)).headers()["x-request-id"], longest);
}
