//! `auth_mode=local` on every host: requests under other names than this machine's are refused,
//! because a domain name of another party may lead to this machine (DNS rebinding).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::host::{Host, Kind};

/// The status of the answer to a request with this request line and these headers.
fn status(host: &Host, line: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(host.client.address).expect("a connection");
    let request = format!("{line} HTTP/1.1\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request that is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

#[test]
fn a_local_registry_refuses_other_names() {
    // wasmtime keeps the Host header from components of WASI 0.3, but passes on the host in a URL.
    for (name, kind, shows_host) in [
        ("wasmtime", Kind::Wasi, false),
        ("wasmtime, WASI 0.2", Kind::Wasi2, true),
        ("Spin", Kind::SpinHost("spin-sqlite"), true),
        ("native", Kind::Native, true),
    ] {
        let host = Host::start_with(kind, &[("AUTH_MODE", "local")]);
        let own = format!("Host: {}\r\n", host.client.address);
        let other = "Host: registry.example\r\n";
        assert_eq!(status(&host, "GET /v2/", &own), 200, "{name}");
        assert_eq!(status(&host, "GET http://registry.example/v2/", other), 403, "{name}");
        assert_eq!(status(&host, "GET /v2/", other), if shows_host { 403 } else { 200 }, "{name}");
        // A change is refused on every host by the page's origin.
        let page = format!("{own}Origin: http://registry.example\r\n");
        assert_eq!(status(&host, "POST /v2/a/blobs/uploads/", &page), 403, "{name}");
        assert_eq!(status(&host, "POST /v2/a/blobs/uploads/", &own), 202, "{name}");
    }
}
