//! The setting `body_bytes_max`: bodies that are too long are refused at once, and clients that push
//! in chunks of the announced size succeed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use eyot::oci::Algorithm;
use eyot::platform::BodyError;
use eyot::{Body, Handler};
use futures_executor::block_on;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response};

const LIMIT: usize = 100_000;

fn limited() -> Handler {
    Handler::in_memory().with_body_bytes_max(Some(LIMIT as u64))
}

fn send(handler: &Handler, method: &str, uri: &str, body: impl Into<Body>) -> Response<Body> {
    block_on(handler.handle(Request::builder().method(method).uri(uri).body(body.into()).expect("a request")))
}

fn text(response: Response<Body>) -> String {
    let bytes = block_on(response.into_body().collect_up_to(4096)).expect("a short body");
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().expect("text"))
}

fn digest_of(bytes: &[u8]) -> String {
    Algorithm::Sha256.digest(bytes).to_string()
}

/// A body of unknown length in pieces of 1000 bytes, with a counter of the bytes taken from it.
fn streamed(bytes: &Bytes) -> (Body, Arc<AtomicU64>) {
    let taken = Arc::new(AtomicU64::new(0));
    let (counter, bytes) = (taken.clone(), bytes.clone());
    let pieces = stream::iter((0..bytes.len()).step_by(1000)).map(move |start| {
        let piece = bytes.slice(start..bytes.len().min(start + 1000));
        counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok::<_, BodyError>(piece)
    });
    (Body::from_stream(pieces), taken)
}

#[test]
fn a_body_of_a_length_over_the_limit_is_refused_with_the_way_out() {
    let handler = limited();
    let blob = Bytes::from(vec![7; LIMIT + 1]);
    let push = format!("/v2/app/blobs/uploads/?digest={}", digest_of(&blob));
    let session = header(&send(&handler, "POST", "/v2/app/blobs/uploads/", ""), "location").expect("a URL").to_owned();
    for (method, uri) in
        [("POST", push.as_str()), ("PATCH", &session), ("PUT", "/v2/app/manifests/v1"), ("PUT", "/v3/")]
    {
        let response = send(&handler, method, uri, blob.clone());
        assert_eq!(response.status(), 413, "{method} {uri}");
        let text = text(response);
        assert!(text.contains("SIZE_INVALID"), "{text}");
        assert!(text.contains("at most 100000 bytes in one request (setting body_bytes_max)"), "{text}");
        assert!(text.contains("chunks of at most 100000 bytes"), "{text}");
    }
    assert_eq!(send(&handler, "HEAD", &format!("/v2/app/blobs/{}", digest_of(&blob)), "").status(), 404);
    assert_eq!(header(&send(&handler, "GET", &session, ""), "range"), Some("0-0"), "no byte was taken");
}

#[test]
fn a_body_of_unknown_length_is_refused_where_the_limit_is_passed_and_goes_on_in_chunks() {
    let handler = limited();
    let blob = Bytes::from((0..3 * LIMIT).map(|index| index as u8).collect::<Vec<_>>());
    let begun = send(&handler, "POST", "/v2/app/blobs/uploads/", "");
    assert_eq!(header(&begun, "oci-chunk-max-length"), Some("100000"));
    let session = header(&begun, "location").expect("a URL").to_owned();
    let (body, taken) = streamed(&blob);
    let response = send(&handler, "PATCH", &session, body);
    assert_eq!(response.status(), 413);
    assert!(text(response).contains("body_bytes_max"));
    // The handler drains the rest, so that the client can read the answer.
    assert_eq!(taken.load(Ordering::Relaxed), blob.len() as u64);

    let mut location = session;
    for start in (0..blob.len()).step_by(LIMIT) {
        let status = send(&handler, "GET", &location, "");
        let stored = header(&status, "range").and_then(|range| range.split_once('-')?.1.parse::<usize>().ok());
        let stored = stored.map_or(0, |last| if last == 0 { 0 } else { last + 1 });
        assert!(stored <= LIMIT.max(start), "{stored} bytes at {start}");
        let chunk = blob.slice(stored..blob.len().min(stored + LIMIT));
        let response = send(&handler, "PATCH", &location, chunk);
        assert_eq!(response.status(), 202);
        location = header(&response, "location").expect("a URL").to_owned();
    }
    let joint = if location.contains('?') { '&' } else { '?' };
    let digest = digest_of(&blob);
    assert_eq!(send(&handler, "PUT", &format!("{location}{joint}digest={digest}"), "").status(), 201);
    let pulled = send(&handler, "GET", &format!("/v2/app/blobs/{digest}"), "");
    let pulled = block_on(pulled.into_body().collect_up_to(1 << 20)).expect("a whole blob");
    assert!(pulled == blob);
}

#[test]
fn the_limit_is_announced_only_where_there_is_one() {
    let mount = format!("/v2/app/blobs/uploads/?mount={}", digest_of(b"absent"));
    for (handler, expected) in [(limited(), Some("100000")), (Handler::in_memory(), None)] {
        for (method, uri) in [("GET", "/v2/"), ("POST", "/v2/app/blobs/uploads/"), ("POST", mount.as_str())] {
            let response = send(&handler, method, uri, "");
            assert!(response.status().is_success(), "{method} {uri}: {}", response.status());
            assert_eq!(header(&response, "oci-chunk-max-length"), expected, "{method} {uri}");
        }
    }
}
