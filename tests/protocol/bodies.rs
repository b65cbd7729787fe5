//! Request bodies that arrive slowly, or that the handler does not need.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use bytes::Bytes;
use eyot::oci::Algorithm;
use eyot::platform::BodyError;
use eyot::{Body, Handler};
use futures_executor::block_on;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http::{Request, Response, StatusCode};

const MIB: usize = 1 << 20;

fn request(method: &str, uri: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri(uri).body(body.into()).unwrap()
}

fn send(handler: &Handler, method: &str, uri: &str, body: impl Into<Body>, expected: StatusCode) -> Response<Body> {
    let response = block_on(handler.handle(request(method, uri, body)));
    assert_eq!(response.status(), expected, "{method} {uri}");
    response
}

fn header(response: &Response<Body>, name: &str) -> String {
    response.headers()[name].to_str().unwrap().to_owned()
}

/// A body of `mebibytes` MiB, with a counter of the MiB taken from it.
fn counted(mebibytes: usize) -> (Body, Arc<AtomicU64>) {
    let (piece, taken) = (Bytes::from(vec![0; MIB]), Arc::new(AtomicU64::new(0)));
    let counter = taken.clone();
    let pieces = stream::iter(0..mebibytes).map(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok::<_, BodyError>(piece.clone())
    });
    (Body::from_stream(pieces), taken)
}

/// The rest of a refused body is drained: a client that is answered before it has sent everything
/// would see a connection reset instead of the answer.
#[test]
fn the_rest_of_a_refused_body_is_drained() {
    let handler = Handler::in_memory();
    let refusals = [
        ("PUT", "/v2/a/manifests/-bad", StatusCode::BAD_REQUEST),
        ("PUT", "/v2/a/manifests/v1", StatusCode::PAYLOAD_TOO_LARGE),
        ("POST", "/v2/a/tags/list", StatusCode::METHOD_NOT_ALLOWED),
        ("PATCH", "/v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000", StatusCode::NOT_FOUND),
        ("POST", "/v2/a/blobs/uploads/?digest=sha256:12", StatusCode::BAD_REQUEST),
        // Beginning an upload is accepted, but does not use the body.
        ("POST", "/v2/a/blobs/uploads/", StatusCode::ACCEPTED),
    ];
    for (method, uri, expected) in refusals {
        let (body, taken) = counted(20);
        send(&handler, method, uri, body, expected);
        assert_eq!(taken.load(Ordering::Relaxed), 20, "{method} {uri}");
    }
}

#[test]
fn draining_an_endless_body_stops_at_the_limit() {
    let (body, taken) = counted(1000);
    send(&Handler::in_memory(), "PUT", "/v2/a/manifests/-bad", body, StatusCode::BAD_REQUEST);
    assert_eq!(taken.load(Ordering::Relaxed), 33);
}

#[test]
fn a_body_that_waits_for_100_continue_is_not_drained() {
    let handler = Handler::in_memory();
    let (body, taken) = counted(20);
    let mut waiting = request("PUT", "/v2/a/manifests/-bad", body);
    waiting.headers_mut().insert("expect", "100-continue".parse().unwrap());
    assert_eq!(block_on(handler.handle(waiting)).status(), StatusCode::BAD_REQUEST);
    assert_eq!(taken.load(Ordering::Relaxed), 0);
}

/// A body whose second part comes when the gate is opened.
fn gated(first: &'static [u8], rest: &'static [u8]) -> (Body, Arc<AtomicBool>) {
    let gate = Arc::new(AtomicBool::new(false));
    let opened = gate.clone();
    let wait = stream::poll_fn(move |_| match opened.load(Ordering::Relaxed) {
        // No waker is needed: the test polls again.
        false => Poll::Pending,
        true => Poll::Ready(Some(())),
    });
    let rest = wait.take(1).map(move |()| Bytes::from_static(rest));
    let pieces = stream::iter([Bytes::from_static(first)]).chain(rest).map(Ok::<_, BodyError>);
    (Body::from_stream(pieces), gate)
}

/// No lock is held while a client's body is read: neither for its upload, nor for its repository,
/// nor for its tag.
#[test]
fn a_slow_body_delays_no_other_request() {
    let handler = Handler::in_memory();
    let session = header(&send(&handler, "POST", "/v2/a/blobs/uploads/", "", StatusCode::ACCEPTED), "location");
    let (body, chunk_gate) = gated(b"begin", b" end");
    let mut chunk = Box::pin(handler.handle(request("PATCH", &session, body)));
    let empty = r#"{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []"#;
    let (body, manifest_gate) = gated(empty.as_bytes(), b"}");
    let mut manifest = Box::pin(handler.handle(request("PUT", "/v2/a/manifests/v1", body)));
    for _ in 0..5 {
        assert!(chunk.as_mut().now_or_never().is_none() && manifest.as_mut().now_or_never().is_none());
    }

    let status = send(&handler, "GET", &session, "", StatusCode::NO_CONTENT);
    assert_eq!(header(&status, "range"), "0-0");
    let digest = Algorithm::Sha256.digest(b"another");
    let other = header(&send(&handler, "POST", "/v2/a/blobs/uploads/", "", StatusCode::ACCEPTED), "location");
    send(&handler, "PATCH", &other, "another", StatusCode::ACCEPTED);
    send(&handler, "PUT", &format!("{other}?digest={digest}"), "", StatusCode::CREATED);
    send(&handler, "GET", &format!("/v2/a/blobs/{digest}"), "", StatusCode::OK);
    let other_manifest = Body::from(format!("{empty} }}").into_bytes());
    send(&handler, "PUT", "/v2/a/manifests/v1", other_manifest, StatusCode::CREATED);
    send(&handler, "GET", "/v2/a/tags/list", "", StatusCode::OK);
    send(&handler, "DELETE", "/v2/a/manifests/v1", "", StatusCode::ACCEPTED);

    chunk_gate.store(true, Ordering::Relaxed);
    manifest_gate.store(true, Ordering::Relaxed);
    let chunk = block_on(chunk);
    assert_eq!((chunk.status(), header(&chunk, "range").as_str()), (StatusCode::ACCEPTED, "0-8"));
    assert_eq!(block_on(manifest).status(), StatusCode::CREATED);
    let whole = Algorithm::Sha256.digest(b"begin end");
    send(&handler, "PUT", &format!("{session}?digest={whole}"), "", StatusCode::CREATED);
    send(&handler, "GET", "/v2/a/manifests/v1", "", StatusCode::OK);
}
