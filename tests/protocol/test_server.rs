//! The faults of `eyot::testing`, as a client sees them that reads the bytes of the connection.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use eyot::testing::{Fault, TestRegistry, serve};
use http::{Method, StatusCode};

const INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// Sends a request, and returns the head and the body of the answer, which are empty if none came.
fn send(registry: &TestRegistry, method: &str, path: &str, body: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(registry.address()).expect("a connection");
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n\
         Content-Type: application/vnd.oci.image.index.v1+json\r\n\r\n{body}",
        registry.host()
    )
    .expect("a request");
    let mut answer = Vec::new();
    // A connection that breaks off is the fault that some tests ask for.
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(0, |at| at + 4);
    let body = answer.split_off(end);
    (String::from_utf8(answer).expect("a head"), body)
}

fn with_manifest() -> TestRegistry {
    let registry = serve();
    let (head, _) = send(&registry, "PUT", "/v2/app/manifests/v1", INDEX);
    assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
    registry.forget_requests();
    registry
}

#[test]
fn a_status_comes_as_often_as_asked_for_and_changes_nothing() {
    let registry = with_manifest();
    registry.fail(Method::DELETE, "/manifests/", 2, Fault::status(StatusCode::TOO_MANY_REQUESTS, Some(7)));
    for _ in 0..2 {
        let (head, body) = send(&registry, "DELETE", "/v2/app/manifests/v1", "");
        assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("retry-after: 7\r\n"), "{head}");
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["errors"][0]["code"], "TOOMANYREQUESTS");
        assert_eq!(registry.tags("app"), ["v1"]);
    }
    let (head, _) = send(&registry, "DELETE", "/v2/app/manifests/v1", "");
    assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    let statuses: Vec<_> = registry.requests().into_iter().map(|request| request.status.unwrap().as_u16()).collect();
    assert_eq!(statuses, [429, 429, 202]);
}

#[test]
fn a_cut_body_has_exactly_the_bytes_before_the_cut() {
    let registry = with_manifest();
    for after_bytes in [0, 1, 20] {
        registry.fail(Method::GET, "/manifests/", 1, Fault::CutBody { after_bytes });
        let (head, body) = send(&registry, "GET", "/v2/app/manifests/v1", "");
        assert!(head.contains(&format!("content-length: {}\r\n", INDEX.len())), "{head}");
        assert_eq!(body, &INDEX.as_bytes()[..after_bytes as usize]);
    }
}

#[test]
fn wrong_bytes_have_the_length_of_the_right_bytes() {
    let registry = with_manifest();
    registry.fail(Method::GET, "/manifests/", 1, Fault::WrongBytes);
    let (_, wrong) = send(&registry, "GET", "/v2/app/manifests/v1", "");
    let (_, right) = send(&registry, "GET", "/v2/app/manifests/v1", "");
    assert_eq!(right, INDEX.as_bytes());
    assert_eq!(wrong.len(), right.len());
    assert_eq!(wrong.iter().zip(&right).filter(|(wrong, right)| wrong != right).count(), 1);
}

#[test]
fn a_request_without_an_answer_and_a_late_request_are_carried_out() {
    let registry = with_manifest();
    registry.fail(Method::PUT, "/manifests/v2", 1, Fault::NoAnswer);
    registry.fail(Method::PUT, "/manifests/v3", 1, Fault::Late(Duration::from_millis(1)));
    let (head, body) = send(&registry, "PUT", "/v2/app/manifests/v2", INDEX);
    assert!(head.is_empty() && body.is_empty(), "{head}");
    let (head, _) = send(&registry, "PUT", "/v2/app/manifests/v3", INDEX);
    assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
    assert_eq!(registry.tags("app"), ["v1", "v2", "v3"]);
    let statuses: Vec<_> = registry.requests().into_iter().map(|request| request.status).collect();
    assert_eq!(statuses, [None, Some(StatusCode::CREATED)]);
}
