//! `eyot check` with upstreams: the lines that an operator reads, and the exit status.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use crate::support::host::free_port;

/// A server that answers every request with this status, headers and body. A request with the login
/// of `alice` gets 200 and `{}`.
fn start(status: &'static str, headers: &'static str, body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            let lines = BufReader::new(connection.try_clone().expect("a socket")).lines();
            let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let is_alice = head.iter().any(|line| line.ends_with("Basic YWxpY2U6aHVudGVyMw=="));
            let (status, headers, body) = if is_alice { ("200 OK", "", "{}") } else { (status, headers, body) };
            let length = body.len();
            // Ignore errors: a client that finds no TLS here goes away at once.
            let _ = write!(
                connection,
                "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
        }
    });
    address
}

/// Runs `eyot check`. Returns whether the check succeeds, and its lines about upstreams.
fn check(upstreams: &str, logins: &str) -> (bool, Vec<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eyot"));
    command.arg("check").env("UPSTREAMS", upstreams).env("UPSTREAM_LOGINS", logins);
    command.env("KEYS", "memory").env("BLOBS", "memory").stdin(Stdio::null());
    let output = command.output().expect("a program of ours");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(!format!("{text}{}", String::from_utf8_lossy(&output.stderr)).contains("hunter"), "{text}");
    let lines = text.lines().filter(|line| line.contains("upstream ")).map(str::to_owned).collect();
    (output.status.success(), lines)
}

#[test]
fn each_upstream_is_tried_and_named() {
    let registry = start("200 OK", "content-type: application/json\r\n", "{}");
    let closed = start("401 Unauthorized", "www-authenticate: Basic realm=\"x\"\r\n", "");
    let page = start("200 OK", "content-type: text/html\r\n", "<html>");
    let nothing = free_port();
    let (succeeds, lines) = check(&format!("open http://{registry}; mine http://{closed}"), "mine alice hunter3");
    assert_eq!(
        lines,
        [
            "holds    upstream open: answers; there is no login for this upstream",
            "holds    upstream mine: answers, and takes the login"
        ]
    );
    assert!(succeeds);
    for (url, expected) in [
        (format!("http://127.0.0.1:{nothing}"), "Connection refused"),
        (format!("https://{registry}"), "the server did not speak TLS"),
        (format!("http://{page}"), "/v2/ is no registry: the answer is a web page"),
        (format!("http://{closed}"), "the upstream refuses the login of this registry: answer 401 Unauthorized"),
    ] {
        let (succeeds, lines) = check(&format!("open http://{registry}; up {url}"), "up bob hunter2");
        assert!(lines[0].starts_with("holds    upstream open: "), "{lines:?}");
        assert!(lines[1].starts_with("BROKEN   upstream up: ") && lines[1].contains(expected), "{url}: {lines:?}");
        assert!(!succeeds, "{url}");
    }
}
