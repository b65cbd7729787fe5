//! Malicious or faulty clients over TCP: slow clients, many clients, and requests that two servers
//! could read in two ways. Each limit takes effect, and the server continues to serve.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::client::raw;
use crate::support::host::{Host, Kind, Settings};
use crate::support::repository::{Repository, Session};
use crate::support::value::{noise, sha256};
use base64ct::{Base64, Encoding as _};
use bytes::Bytes;

const MIB: usize = 1 << 20;
/// More bytes than the socket buffers of both sides hold.
const MORE_THAN_BUFFERS: usize = 32 * MIB;

const EMPTY_INDEX: &str = r#"{"schemaVersion": 2, "manifests": []}"#;

fn native(settings: &Settings, scenario: impl AsyncFnOnce(&mut Host)) {
    on(Kind::Native, settings, scenario);
}

fn on(kind: Kind, settings: &Settings, scenario: impl AsyncFnOnce(&mut Host)) {
    let mut host = Host::start_with(kind, settings);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(scenario(&mut host));
}

fn repository(host: &Host) -> Repository {
    Repository { client: host.client, name: "team/abuse" }
}

/// Reads until the server closes the connection. Returns the status of the first answer and the
/// whole text.
fn heard(mut stream: TcpStream) -> (Option<u16>, String) {
    let mut bytes = Vec::new();
    // A connection reset after the answer counts as the end of the answer.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    (status, text)
}

/// Whether the server has kept the connection open. Only valid for a connection without unread
/// data.
fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let looked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("a socket");
    looked.is_err_and(|why| why.kind() == std::io::ErrorKind::WouldBlock)
}

fn alive(address: SocketAddr) {
    let answer = heard(raw(address, b"GET /v2/ HTTP/1.1\r\nHost: eyot\r\nConnection: close\r\n\r\n"));
    assert_eq!(answer.0, Some(200), "{answer:?}");
}

/// RFC 9112, section 3.2: a proxy that uses the first of two hosts and a server that uses the
/// second would disagree.
#[test]
fn a_request_of_http_1_1_names_one_host() {
    native(&[], async |host| {
        for (head, wanted) in [
            ("GET /v2/ HTTP/1.1\r\nHost: eyot\r\n", 200),
            ("GET /v2/ HTTP/1.1\r\nHost: [::1]:5000\r\n", 200),
            ("GET /v2/ HTTP/1.0\r\n", 200),
            ("GET /v2/ HTTP/1.1\r\n", 400),
            ("GET http://eyot/v2/ HTTP/1.1\r\n", 400),
            ("GET /v2/ HTTP/1.1\r\nHost: eyot\r\nHost: eyot\r\n", 400),
            ("GET /v2/ HTTP/1.1\r\nHost: eyot\r\nhost: other\r\n", 400),
            ("GET /v2/ HTTP/1.1\r\nHost: ey ot\r\n", 400),
            ("GET /v2/ HTTP/1.1\r\nHost: me@eyot\r\n", 400),
            ("PUT /v2/a/manifests/v1 HTTP/1.1\r\nContent-Length: 0\r\n", 400),
        ] {
            let (status, text) = heard(raw(host.client.address, format!("{head}Connection: close\r\n\r\n").as_bytes()));
            assert_eq!(status.or(text.starts_with("HTTP/1.0 200").then_some(200)), Some(wanted), "{head}: {text}");
            assert!(wanted == 200 || text.contains("\"errors\""), "{head}: {text}");
        }
    });
}

/// A registry with one user, on loopback.
const WITH_A_USER: [(&str, &str); 4] =
    [("AUTH_MODE", "write_only"), ("AUTH_USER", "gate"), ("AUTH_PASSWORD", "secret"), ("LISTEN_ADDRESS", "127.0.0.1")];

/// Sends a login. Returns the status and the answer.
fn log_in(address: SocketAddr, user: &str, password: &str) -> (Option<u16>, String) {
    let credentials = Base64::encode_string(format!("{user}:{password}").as_bytes());
    let head = "GET /v2/ HTTP/1.1\r\nHost: eyot\r\nConnection: close\r\n";
    heard(raw(address, format!("{head}Authorization: Basic {credentials}\r\n\r\n").as_bytes()))
}

/// Each guess of a password is counted, even among many concurrent guesses.
fn guesses(kind: Kind) {
    on(kind, &WITH_A_USER, async |host| {
        let address = host.client.address;
        let guess = move |number: usize| log_in(address, "gate", &format!("guess {number}"));
        let begun = Instant::now();
        let guesses: Vec<_> = (0..100).map(|number| std::thread::spawn(move || guess(number))).collect();
        let answers: Vec<_> = guesses.into_iter().map(|guess| guess.join().expect("an answer")).collect();
        // The first ten guesses are free, the eleventh is checked, and each further guess is
        // checked after a wait of 1 s, 2 s, 4 s and so on.
        let most = 11 + (begun.elapsed().as_secs() + 1).ilog2() as usize;
        let looked_at = answers.iter().filter(|(status, _)| *status == Some(401)).count();
        assert!((1..=most).contains(&looked_at), "{looked_at} of at most {most}");
        for (status, text) in answers.iter().filter(|(status, _)| *status != Some(401)) {
            assert!(matches!(status, Some(429 | 503)) && text.contains("retry-after: "), "{text}");
        }
    });
}

/// Logins of many users at once hash in few instances, so that few instances keep the memory of
/// hashes.
fn crowd_of_logins(kind: Kind) {
    on(kind, &WITH_A_USER, async |host| {
        let address = host.client.address;
        let log_in = move |number: usize| log_in(address, &format!("user{number}"), "guess");
        // The first request compiles the component, which needs more memory than serving.
        assert_eq!(log_in(0).0, Some(401));
        let memory = host.memory();
        memory.reset_peak();
        let logins: Vec<_> = (0..300).map(|number| std::thread::spawn(move || log_in(number))).collect();
        let answers: Vec<_> = logins.into_iter().map(|login| login.join().expect("an answer")).collect();
        for (status, text) in &answers {
            assert!(matches!(status, Some(401 | 429 | 503)), "{text}");
        }
        assert!(answers.iter().any(|(status, _)| *status == Some(401)), "some passwords are checked");
        let peak = memory.peak_bytes();
        assert!(peak < 300 * MIB as u64, "{peak} bytes");
    });
}

#[test]
fn crowd_of_logins_natively() {
    crowd_of_logins(Kind::Native);
}

#[test]
fn crowd_of_logins_under_wasmtime() {
    crowd_of_logins(Kind::Wasi);
}

#[test]
fn guesses_natively() {
    guesses(Kind::Native);
}

#[test]
fn guesses_under_wasmtime() {
    guesses(Kind::Wasi);
}

#[test]
fn a_slow_head_is_cut_off() {
    native(&[("HEAD_TIMEOUT_SECONDS", "1")], async |host| {
        let silent = raw(host.client.address, b"");
        let mut trickling = raw(host.client.address, b"GET /v2/ HTTP/1.1\r\nX-Slow: ");
        let mut reader = trickling.try_clone().expect("a socket");
        // Each byte arrives in time, but the head never ends.
        let trickle = std::thread::spawn(move || {
            while trickling.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let mut rest = Vec::new();
        let _ = reader.read_to_end(&mut rest);
        trickle.join().expect("a thread that ends");
        assert_eq!(heard(silent), (None, String::new()));
        alive(host.client.address);
    });
}

#[test]
fn a_body_that_stalls_is_cut_off_and_one_that_trickles_is_not() {
    native(&[("BODY_IDLE_TIMEOUT_SECONDS", "1")], async |host| {
        let address = host.client.address;
        let repository = repository(host);
        let uploads = "/v2/team/abuse/blobs/uploads/";
        let manifest = "/v2/team/abuse/manifests/stalled";
        let digest = sha256(b"0123456789");
        for (method, target) in [
            ("PATCH", "".into()),
            ("PUT", format!("?digest={digest}")),
            ("POST", format!("{uploads}?digest={digest}")),
            ("PUT", manifest.into()),
            // The invalid tag `-` is refused, and the server waits only to drain the rest of the
            // body.
            ("PUT", "/v2/team/abuse/manifests/-".into()),
        ] {
            for framing in ["Content-Length: 10\r\n\r\n01234", "Transfer-Encoding: chunked\r\n\r\na\r\n01234"] {
                let mut session = repository.start().await;
                let is_upload = !target.starts_with('/');
                let target = if is_upload { format!("{}{target}", session.location) } else { target.clone() };
                let begun = format!("{method} {target} HTTP/1.1\r\nHost: eyot\r\n{framing}");
                let (status, text) = heard(raw(address, begun.as_bytes()));
                let wanted = if target.ends_with('-') { 400 } else { 408 };
                assert_eq!(status, Some(wanted), "{method} {target}: {text}");
                assert!(wanted == 400 || text.contains("sent nothing of the body for 1 seconds"), "{text}");
                // The upload continues at the offset where the body stalled.
                let expected = if is_upload { 5 } else { 0 };
                assert_eq!(session.offset().await, expected, "{method} {target} {framing:?}");
            }
        }
        assert_eq!(repository.manifest("stalled").await.status(), 404);

        let mut session = repository.start().await;
        let head = format!("PATCH {} HTTP/1.1\r\nHost: eyot\r\nConnection: close\r\n", session.location);
        let mut trickling = raw(address, format!("{head}Content-Length: 10\r\n\r\n").as_bytes());
        for byte in b"0123456789" {
            std::thread::sleep(Duration::from_millis(250));
            trickling.write_all(&[*byte]).expect("an open connection");
        }
        assert_eq!(heard(trickling).0, Some(202));
        session.finish(&digest).await;
    });
}

/// With only one connection allowed, other clients wait until the server cuts off the client that
/// does not read.
#[test]
fn a_client_that_does_not_read_its_answer_is_cut_off() {
    native(&[("BODY_IDLE_TIMEOUT_SECONDS", "1"), ("CONNECTIONS_MAX", "1")], async |host| {
        let digest = repository(host).push(noise(MORE_THAN_BUFFERS, "not read")).await;
        let get = format!("GET /v2/team/abuse/blobs/{digest} HTTP/1.1\r\nHost: eyot\r\n\r\n");
        let deaf = raw(host.client.address, get.as_bytes());
        alive(host.client.address);
        let (status, text) = heard(deaf);
        assert!(status == Some(200) && text.len() < MORE_THAN_BUFFERS, "{status:?}, {} bytes", text.len());
    });
}

#[test]
fn connections_over_the_limit_wait() {
    native(&[("CONNECTIONS_MAX", "2")], async |host| {
        let request = b"GET /v2/ HTTP/1.1\r\nHost: eyot\r\n\r\n";
        let mut first = raw(host.client.address, request);
        let mut second = raw(host.client.address, request);
        let mut answer = [0; 15];
        for connection in [&mut first, &mut second] {
            connection.read_exact(&mut answer).expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
        }
        let mut third = raw(host.client.address, request);
        third.set_read_timeout(Some(Duration::from_millis(300))).expect("a time limit");
        assert!(third.read(&mut answer).is_err(), "served though both places are taken");
        third.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
        drop(first);
        third.read_exact(&mut answer).expect("an answer, as there is a place now");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    });
}

/// With these settings, timeouts never end the silent connections: heads that do not end, unwanted
/// bodies, bodies of which one byte arrived, and answers that are not read.
#[test]
fn clients_that_say_nothing_leave_places_for_others() {
    let never = "86400";
    let settings = [
        ("CONNECTIONS_MAX", "9"),
        ("HEAD_TIMEOUT_SECONDS", never),
        ("BODY_IDLE_TIMEOUT_SECONDS", never),
        ("UNWANTED_BODY_TIMEOUT_SECONDS", never),
        ("BODY_BYTES_PER_SECOND_MIN", "0"),
    ];
    native(&settings, async |host| {
        let address = host.client.address;
        let digest = repository(host).push(noise(MORE_THAN_BUFFERS, "not read")).await;
        let Session { location, .. } = repository(host).start().await;
        let mut sessions = Vec::new();
        for _ in 0..2 {
            sessions.push(repository(host).start().await.location);
        }
        // A slow upload that sends bytes all the time, and therefore is not a silent client.
        let upload = std::thread::spawn(move || {
            let piece = noise(1024, "a slow line");
            let head = format!(
                "PATCH {location} HTTP/1.1\r\nHost: eyot\r\nConnection: close\r\nContent-Length: 81920\r\n\r\n"
            );
            let mut line = raw(address, head.as_bytes());
            for _ in 0..80 {
                line.write_all(&piece).expect("an open connection");
                std::thread::sleep(Duration::from_millis(100));
            }
            heard(line)
        });
        let silent = [
            String::new(),
            "GET /v2/ HTTP/1.1\r\nX-Slow: ".into(),
            "PUT /v2/team/abuse/manifests/- HTTP/1.1\r\nHost: eyot\r\nContent-Length: 1000\r\n\r\nx".into(),
            "POST /v2/_eyot/token HTTP/1.1\r\nHost: eyot\r\nContent-Length: 1000\r\n\r\nx".into(),
            format!("PATCH {} HTTP/1.1\r\nHost: eyot\r\nContent-Length: 1000\r\n\r\nx", sessions[0]),
            format!("PATCH {} HTTP/1.1\r\nHost: eyot\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", sessions[1]),
            format!("GET /v2/team/abuse/blobs/{digest} HTTP/1.1\r\nHost: eyot\r\n\r\n"),
            "GET /v2/ HTTP/1.1\r\nHost: eyot\r\n\r\n".into(),
        ];
        let silent: Vec<_> = silent.iter().map(|text| raw(address, text.as_bytes())).collect();
        let mut held = Vec::new();
        let mut come = || {
            let mut new = raw(address, b"GET /v2/ HTTP/1.1\r\nHost: eyot\r\n\r\n");
            let mut answer = [0; 15];
            new.read_exact(&mut answer).expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
            // Each new connection is kept open too, so that all silent connections have to be
            // closed.
            held.push(new);
        };
        while silent[..6].iter().any(is_open) {
            come();
        }
        // A connection with an unread answer does not show that the server has closed it.
        (0..20).for_each(|_| come());
        assert_eq!(upload.join().expect("a thread that ends").0, Some(202));
        silent.into_iter().for_each(|silent| drop(heard(silent)));
    });
}

/// Each byte of an unwanted body arrives in time, but the whole body takes too long.
#[test]
fn a_body_that_nobody_wants_is_not_waited_for() {
    native(&[("UNWANTED_BODY_TIMEOUT_SECONDS", "1")], async |host| {
        for (method, target, wanted) in
            [("PUT", "/v2/team/abuse/manifests/-", 400), ("POST", "/v2/_eyot/token", 404), ("PUT", "/v3/", 404)]
        {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: eyot\r\nContent-Length: 60000\r\n\r\n");
            let mut trickling = raw(host.client.address, head.as_bytes());
            let reader = trickling.try_clone().expect("a socket");
            let trickle = std::thread::spawn(move || {
                while trickling.write_all(b"x").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            let (status, text) = heard(reader);
            assert_eq!(status, Some(wanted), "{method} {target}: {text}");
            trickle.join().expect("a thread that ends");
        }
        alive(host.client.address);
    });
}

#[test]
fn a_request_under_way_ends_when_the_process_is_told_to_stop() {
    native(&[], async |host| {
        let address = host.client.address;
        let Session { location, .. } = repository(host).start().await;
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: eyot\r\nContent-Length: 10\r\n\r\n01234");
        let mut under_way = raw(address, head.as_bytes());
        // An answer on a later connection proves that the server has accepted the earlier
        // connection.
        alive(address);
        host.terminate();
        while TcpStream::connect(address).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
        under_way.write_all(b"56789").expect("an open connection");
        let (status, text) = heard(under_way);
        assert!(status == Some(202) && text.to_lowercase().contains("range: 0-9"), "{text}");
        assert!(host.ended().success());
        host.kill_and_restart();
        let mut session = Session { repository: repository(host), location };
        assert_eq!(session.offset().await, 10);
    });
}

#[test]
fn a_request_that_does_not_end_holds_the_stop_up_for_its_time_only() {
    native(&[("STOP_TIMEOUT_SECONDS", "1")], async |host| {
        let head = "PUT /v2/team/abuse/manifests/v1 HTTP/1.1\r\nHost: eyot\r\nContent-Length: 10\r\n\r\n01234";
        let stalled = raw(host.client.address, head.as_bytes());
        alive(host.client.address);
        host.terminate();
        assert!(host.ended().success());
        assert_eq!(heard(stalled).0, None);
        while !host.has_logged("requests were cut off") {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

/// The expected result of a request: a certain status, or a refusal (any error status, or no
/// answer).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    Status(u16),
    Refused,
}

/// The end of a body must be declared in one way that all servers read alike (RFC 9112, section 6).
#[test]
fn framings() {
    use Wanted::{Refused, Status};
    native(&[("BODY_IDLE_TIMEOUT_SECONDS", "5")], async |host| {
        let address = host.client.address;
        for (framing, wanted) in [
            ("Content-Length: 5\r\n\r\n01234", Status(202)),
            ("Content-Length:  5 \r\n\r\n01234", Status(202)),
            ("Content-Length: 0005\r\n\r\n01234", Status(202)),
            ("Content-Length: 5\r\nContent-Length: 5\r\n\r\n01234", Status(202)),
            ("Content-Length: 5\r\nContent-Length: 6\r\n\r\n012345", Refused),
            ("Content-Length: 5, 5\r\n\r\n01234", Refused),
            ("Content-Length: +5\r\n\r\n01234", Refused),
            ("Content-Length: -5\r\n\r\n01234", Refused),
            ("Content-Length: 5 5\r\n\r\n01234", Refused),
            ("Content-Length: 0x5\r\n\r\n01234", Refused),
            ("Content-Length: 5.0\r\n\r\n01234", Refused),
            ("Content-Length: \r\n\r\n01234", Refused),
            ("Content-Length: 18446744073709551621\r\n\r\n01234", Refused),
            ("Content-Length : 5\r\n\r\n01234", Refused),
            ("Content-Length: 5\r\n X-Folded: 1\r\n\r\n01234", Refused),
            ("Content-Length:\u{b}5\r\n\r\n01234", Refused),
            ("Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n0\r\n\r\n", Status(202)),
            ("Transfer-Encoding: Chunked\r\n\r\n005;a=b\r\n01234\r\n0\r\nX-Trailer: 1\r\n\r\n", Status(202)),
            ("Transfer-Encoding: chunked\r\n\r\n-5\r\n01234\r\n0\r\n\r\n", Refused),
            ("Transfer-Encoding: chunked\r\n\r\n+5\r\n01234\r\n0\r\n\r\n", Refused),
            ("Transfer-Encoding: chunked\r\n\r\n0x5\r\n01234\r\n0\r\n\r\n", Refused),
            ("Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\n01234\r\n0\r\n\r\n", Refused),
            ("Transfer-Encoding: chunked\r\n\r\n5\r\n012345\r\n0\r\n\r\n", Refused),
            ("Transfer-Encoding: chunked\r\n\r\n\r\n01234\r\n0\r\n\r\n", Refused),
            ("Transfer-Encoding: gzip, chunked\r\n\r\n5\r\n01234\r\n0\r\n\r\n", Status(501)),
            ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n0\r\n\r\n", Status(501)),
            ("Transfer-Encoding: chunked, chunked\r\n\r\n5\r\n01234\r\n0\r\n\r\n", Status(501)),
            ("Transfer-Encoding: gzip\r\n\r\n01234", Refused),
            ("Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\n01234", Refused),
            ("Transfer-Encoding: xchunked\r\n\r\n5\r\n01234\r\n0\r\n\r\n", Refused),
            ("Transfer-Encoding: chunked, gzip\r\n\r\n5\r\n01234\r\n0\r\n\r\n", Refused),
        ] {
            let Session { location, .. } = repository(host).start().await;
            let head = format!("PATCH {location} HTTP/1.1\r\nHost: eyot\r\nConnection: close\r\n");
            let (status, text) = heard(raw(address, format!("{head}{framing}").as_bytes()));
            match wanted {
                Status(wanted) => assert_eq!(status, Some(wanted), "{framing:?}: {text}"),
                Refused => assert!(status.is_none_or(|status| status == 400), "{framing:?}: {text}"),
            }
            if wanted == Status(202) {
                assert!(text.contains("range: 0-4\r\n"), "{framing:?}: {text}");
            } else {
                let mut session = Session { repository: repository(host), location };
                // The bytes before the broken framing are kept: the upload continues after them.
                let kept = if framing.contains("\r\n5\r\n012345") { 5 } else { 0 };
                assert_eq!(session.offset().await, kept, "{framing:?}");
            }
            alive(address);
        }
    });
}

/// A request with both Content-Length and chunked coding: hyper uses only the chunks, hides the
/// length from eyot, and closes the connection, as RFC 9112 demands. So a proxy that used the
/// length cannot be made to smuggle a second request.
#[test]
fn behind_a_length_and_chunks_nothing_more_is_read() {
    native(&[], async |host| {
        for order in [
            "Content-Length: 60\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 60\r\n",
        ] {
            let session = repository(host).start().await;
            let head =
                format!("PATCH {} HTTP/1.1\r\nHost: eyot\r\n{order}\r\n5\r\n01234\r\n0\r\n\r\n", session.location);
            let second = "GET /v2/ HTTP/1.1\r\nHost: eyot\r\nConnection: close\r\n\r\n";
            let (status, text) = heard(raw(host.client.address, format!("{head}{second}").as_bytes()));
            assert!(status == Some(202) && text.contains("range: 0-4\r\n"), "{text}");
            assert!(text.contains("connection: close\r\n") && !text.contains("200 OK"), "{order:?}: {text}");
        }
    });
}

/// A path cannot lead out of the data folder, or to another repository's keys in it.
async fn paths(host: &mut Host) {
    let address = host.client.address;
    let digest = repository(host).push(Bytes::from_static(b"{}")).await;
    let before = files(host.data());
    let put = format!("Content-Length: {}\r\n\r\n{EMPTY_INDEX}", EMPTY_INDEX.len());
    for target in [
        "/v2/../manifests/v1",
        "/v2/../../../../etc/manifests/passwd",
        "/v2/team/../other/manifests/v1",
        "/v2/team/./abuse/manifests/v1",
        "/v2/%2e%2e/%2e%2e/manifests/v1",
        "/v2/team%5cabuse/manifests/v1",
        "/v2/team\\abuse/manifests/v1",
        "/v2//team/abuse/manifests/v1",
        "/v2/team//abuse/manifests/v1",
        "//v2/team/abuse/manifests/v1",
        "/v2/team/abuse//manifests/v1",
        "/v2/team/abuse/manifests//v1",
        "/v2/team/abuse/manifests/..",
        "/v2/team/abuse/manifests/.",
        "/v2/team/abuse/manifests/..%2f..%2fv1",
        "/v2/team/abuse/manifests/v1%00",
        "/v2/team/abuse%00/manifests/v1",
        "/v2/team/abuse/manifests/%00",
        "/v2/team/abuse/manifests/v1%0d%0aX-Injected:%201",
        "/v2/team/abuse/manifests/v1%zz",
        "/v2/team/abuse/manifests/v1%",
        "/v2/team/abuse/manifests/v%ff1",
        "/v2/team/abuse/manifests/v1%2500",
        "/v2/team/Abuse/manifests/v1",
        "/v2/team/ab\u{fc}se/manifests/v1",
        "/v2/team/abuse/manifests/\u{ff56}1",
        "/v2/team/abuse\u{202e}/manifests/v1",
        "/v2/team/abuse!v1/manifests/v1",
        "/v2/team/abuse/manifests/v1!v2",
        "/v2/team/abuse;x=1/manifests/v1",
        "/v2/team/abuse/manifests/sha256:..",
        "/v2/team/abuse/blobs/uploads/..",
        "/v2/team/abuse/blobs/uploads/%2e%2e%2f%2e%2e",
        "/v2",
        "/v2/?x=/manifests/v1",
        "*",
        "/",
        "",
        "v2/team/abuse/manifests/v1",
    ] {
        let request = format!("PUT {target} HTTP/1.1\r\nHost: eyot\r\nConnection: close\r\n{put}");
        let (status, text) = heard(raw(address, request.as_bytes()));
        assert!(status.is_none_or(|status| (400..500).contains(&status)), "{target:?}: {text}");
        assert!(!text.to_lowercase().contains("\nx-injected"), "{target:?}: {text}");
    }
    assert_eq!(files(host.data()), before);
    // Other spellings of the same path are accepted.
    for target in
        ["http://eyot/v2/team/abuse/manifests/v1", "/v2/team%2fabuse/manifests/v1", "/v2/team%2F%61buse/manifests/v1/"]
    {
        let request = format!("PUT {target} HTTP/1.1\r\nHost: eyot\r\nConnection: close\r\n{put}");
        let (status, text) = heard(raw(address, request.as_bytes()));
        assert!(status == Some(201) && text.contains("location: /v2/team/abuse/manifests/"), "{target:?}: {text}");
    }
    assert_eq!(repository(host).head_blob(&digest.replace(':', "%3A")).await, 200);
}

fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    files.sort();
    files
}

#[test]
fn paths_natively() {
    native(&[], paths);
}

#[test]
fn paths_under_wasmtime() {
    on(Kind::Wasi, &[], paths);
}

#[test]
fn too_many_headers_and_too_large_ones() {
    native(&[], async |host| {
        let fields = "Host: eyot\r\nConnection: close\r\n";
        let long = "x".repeat(40_000);
        let (status, text) =
            heard(raw(host.client.address, format!("GET /v2/ HTTP/1.1\r\n{fields}X-Long: {long}\r\n\r\n").as_bytes()));
        assert!(status == Some(431) && text.contains("more than 32768 bytes"), "{text}");
        // The largest accepted head, and a head that does not end, which is refused without waiting
        // for its end.
        let (last, fields_bytes) = ("x".repeat(8192 - "/v2/a/tags/list?last=".len()), "HostConnectionXeyotclose".len());
        let most = "x".repeat(32 * 1024 - fields_bytes);
        let (status, text) = heard(raw(
            host.client.address,
            format!("GET /v2/a/tags/list?last={last} HTTP/1.1\r\n{fields}X: {most}\r\n\r\n").as_bytes(),
        ));
        assert!(status == Some(404) && text.contains("NAME_UNKNOWN"), "{text}");
        let endless = format!("GET /v2/ HTTP/1.1\r\n{fields}X: {}", "x".repeat(48 * 1024));
        assert_eq!(heard(raw(host.client.address, endless.as_bytes())).0, Some(431));
        let many: String = (0..5000).map(|number| format!("X-{number}: 1\r\n")).collect();
        let (status, _) =
            heard(raw(host.client.address, format!("GET /v2/ HTTP/1.1\r\n{fields}{many}\r\n").as_bytes()));
        assert_eq!(status, Some(431));
        let (status, text) = heard(raw(
            host.client.address,
            format!("GET /v2/a/tags/list?last={} HTTP/1.1\r\n{fields}\r\n", "x".repeat(9000)).as_bytes(),
        ));
        assert!(status == Some(414) && text.contains("more than 8192 bytes"), "{text}");
        alive(host.client.address);
    });
}

/// Each unread answer and each unfinished head costs one connection and one buffer.
#[test]
fn clients_that_do_not_go_on_take_little_memory() {
    const CLIENTS: usize = 200;
    const BYTES_EACH_MAX: u64 = 192 << 10;
    native(&[("BODY_IDLE_TIMEOUT_SECONDS", "600"), ("HEAD_TIMEOUT_SECONDS", "600")], async |host| {
        let (address, memory) = (host.client.address, host.memory());
        let digest = repository(host).push(noise(MORE_THAN_BUFFERS, "not taken")).await;
        let get = format!("GET /v2/team/abuse/blobs/{digest} HTTP/1.1\r\nHost: eyot\r\n\r\n");
        let head = format!("GET /v2/ HTTP/1.1\r\nHost: eyot\r\nX: {}", "x".repeat(47 << 10));
        for (kind, request) in [("answers", get), ("heads", head)] {
            alive(address);
            memory.reset_peak();
            let before = memory.now_bytes();
            let silent: Vec<_> = (0..CLIENTS).map(|_| raw(address, request.as_bytes())).collect();
            // Wait until the server's memory has stopped growing.
            let (mut last, mut same) = (0, 0);
            while same < 10 {
                std::thread::sleep(Duration::from_millis(50));
                let peak = memory.peak_bytes();
                same = if peak == last { same + 1 } else { 0 };
                last = peak;
            }
            let each = last.saturating_sub(before) / CLIENTS as u64;
            eprintln!("{CLIENTS} clients with {kind}: {each} bytes each");
            assert!(each < BYTES_EACH_MAX, "{kind}: {each} bytes each");
            drop(silent);
        }
    });
}

/// Each abandoned upload costs one file and nothing else.
async fn open_uploads(host: &mut Host) {
    let memory = host.memory();
    let repository = repository(host);
    repository.push(noise(MIB, "to warm up")).await;
    memory.reset_peak();
    let idle_bytes = memory.now_bytes();
    let begin = (0..8).map(|_| {
        let repository = repository.clone();
        tokio::spawn(async move {
            let mut last = repository.start().await;
            for _ in 1..250 {
                last = repository.start().await;
            }
            last
        })
    });
    let begin: Vec<_> = begin.collect();
    let layer = noise(1000, "the upload that goes on");
    for begun in begin {
        let mut session = begun.await.expect("uploads that begin");
        session.resume(&layer).await;
        session.finish(&sha256(&layer)).await;
    }
    assert_eq!(repository.pull(&sha256(&layer)).await, (sha256(&layer), 1000));
    let growth_bytes = memory.peak_bytes().saturating_sub(idle_bytes);
    eprintln!("2000 open uploads: {growth_bytes} bytes more");
    assert!(growth_bytes < 100 << 20, "{growth_bytes} bytes");
}

#[test]
fn open_uploads_natively() {
    native(&[], open_uploads);
}

#[test]
fn open_uploads_under_wasmtime() {
    on(Kind::Wasi, &[], open_uploads);
}
