//! A registry for the tests of a registry client: the client pushes, meets a fault and tries again.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use eyot::testing::{Fault, serve};
use http::{Method, StatusCode};

fn main() {
    let registry = serve();
    registry.fail(Method::PUT, "/manifests/", 1, Fault::status(StatusCode::TOO_MANY_REQUESTS, Some(0)));

    let statuses: Vec<u16> = std::iter::repeat_with(|| push(&registry.host(), "team/app", "v1")).take(2).collect();

    assert_eq!(statuses, [429, 201]);
    assert_eq!(registry.tags("team/app"), ["v1"]);
    assert_eq!(registry.requests().len(), 2);
    println!("the second try succeeded: {:?}", registry.requests());
}

/// The client under test. A real test uses the client that it is for.
fn push(host: &str, repository: &str, tag: &str) -> u16 {
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let mut stream = TcpStream::connect(host).expect("a connection");
    write!(
        stream,
        "PUT /v2/{repository}/manifests/{tag} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Type: application/vnd.oci.image.index.v1+json\r\nContent-Length: {}\r\n\r\n{manifest}",
        manifest.len()
    )
    .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer[9..12].parse().expect("a status")
}
