//! Faults that appear only on a host as slow as Spin: `--manners real` of `tests/spin_host`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::host::{Host, Kind};

const MANIFEST: &str = r#"{"schemaVersion": 2, "manifests": []}"#;
/// The number of requests on one connection whose answers are counted. As many requests before them
/// warm up the host.
const REQUESTS: usize = 60;

/// A kept-alive connection on which the test counts the segments of each answer.
struct Kept(TcpStream);

impl Kept {
    fn to(host: &Host) -> Self {
        let stream = TcpStream::connect(host.client.address).expect("a connection");
        stream.set_nodelay(true).expect("a socket option");
        Self(stream)
    }

    /// Sends a request. Returns the answer and the number of reads that received data. With Nagle's
    /// algorithm on, a second segment arrives only after the first was acknowledged, so the two are
    /// never read as one.
    fn exchange(&mut self, head: &str, body: &str) -> (String, usize) {
        let length = body.len();
        let request = format!("{head} HTTP/1.1\r\nHost: eyot\r\nContent-Length: {length}\r\n");
        let kind = "Content-Type: application/vnd.oci.image.index.v1+json\r\n\r\n";
        self.0.write_all(format!("{request}{kind}{body}").as_bytes()).expect("a request that is taken");
        let (mut answer, mut segments, mut buffer) = (String::new(), 0, [0; 65536]);
        loop {
            let read = self.0.read(&mut buffer).expect("an answer");
            assert!(read > 0, "the connection ended after {answer:?}");
            answer.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
            segments += 1;
            let Some((head, body)) = answer.split_once("\r\n\r\n") else { continue };
            let length =
                head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return (answer, segments);
            }
        }
    }
}

fn calls(host: &Host) -> serde_json::Value {
    let (answer, _) = Kept::to(host).exchange("GET /__host/calls", "");
    serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
}

/// Pulls a manifest `REQUESTS` times after a warm-up. Returns how many answers came in more than
/// one segment.
fn split_answers(host: &Host) -> usize {
    let mut kept = Kept::to(host);
    let (answer, _) = kept.exchange("PUT /v2/team/app/manifests/v1", MANIFEST);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let mut pull = || {
        let (answer, segments) = kept.exchange("GET /v2/team/app/manifests/v1", "");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(MANIFEST), "{answer}");
        segments
    };
    for _ in 0..REQUESTS {
        pull();
    }
    (0..REQUESTS).filter(|_| pull() > 1).count()
}

/// An answer in two segments takes 44 ms on a kept-alive connection. The host's threads race, so a
/// few answers may be split. Without the component's pause, more than half are split.
#[test]
fn small_answers_from_key_value_leave_in_one_segment() {
    let host = Host::start(Kind::SlowSpinHost("spin-key-value"));
    let split = split_answers(&host);
    assert!(split * 3 < REQUESTS, "{split} of {REQUESTS}");
    assert_eq!(calls(&host)["sqlite-execute"], 0);
}

#[test]
fn the_default_store_is_sqlite_and_answers_leave_in_one_segment() {
    let host = Host::start(Kind::SlowSpinHost(""));
    let split = split_answers(&host);
    assert!(split * 10 < REQUESTS, "{split} of {REQUESTS}");
    let calls = calls(&host);
    for unused in ["get", "set", "delete", "exists", "get-keys"] {
        assert_eq!(calls[unused], 0, "{calls}");
    }
}
