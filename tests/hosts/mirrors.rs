//! Pulls through an upstream, on hosts: the upstream's requests and bytes are counted.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;

use super::support::client::whole;
use super::support::host::{Host, Kind};
use super::support::value::sha256;

const MIB: usize = 1024 * 1024;
/// How much of a layer may be fetched twice after a kill: one piece of a fill, and what was on the
/// way between the servers.
const BUFFER_BYTES: u64 = 12 * MIB as u64;

/// A registry with one blob, which sends the blob slowly if the test asks for it.
struct Upstream {
    address: SocketAddr,
    digest: String,
    blob: Bytes,
    served: Arc<Served>,
}

#[derive(Default)]
struct Served {
    /// The request lines, with the `Range` header.
    requests: Mutex<Vec<String>>,
    bytes: AtomicU64,
    /// How long the upstream waits before each MiB, in milliseconds.
    pause_ms: AtomicU64,
}

impl Upstream {
    fn start(length: usize) -> Self {
        let blob: Bytes = (0..length).map(|at| (at >> 10) as u8 ^ at as u8).collect::<Vec<u8>>().into();
        let (digest, served) = (sha256(&blob), Arc::<Served>::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (content, counted) = (blob.clone(), served.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (content, counted) = (content.clone(), counted.clone());
                std::thread::spawn(move || answer(connection.unwrap(), &content, &counted));
            }
        });
        Self { address, digest, blob, served }
    }

    fn settings(&self) -> [(&'static str, String); 1] {
        [("UPSTREAMS", format!("up http://{} plain-http", self.address))]
    }

    fn request(&self) -> Request<super::support::client::RequestBody> {
        Request::get(format!("/v2/up/team/app/blobs/{}", self.digest)).body(whole("")).unwrap()
    }

    /// The requests and the bytes since the last call.
    fn take(&self) -> (Vec<String>, u64) {
        (std::mem::take(&mut self.served.requests.lock().unwrap()), self.served.bytes.swap(0, Relaxed))
    }
}

/// Answers one request, and closes the connection.
fn answer(mut connection: TcpStream, blob: &Bytes, served: &Served) -> Option<()> {
    let mut lines = BufReader::new(connection.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let mut start = 0;
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().ok()?;
        }
    }
    served.requests.lock().unwrap().push(format!("{} {start}", first.split(' ').next()?));
    let (size, length) = (blob.len(), blob.len() - start);
    let status = match start {
        0 => "200 OK".to_owned(),
        _ => format!("206 Partial Content\r\ncontent-range: bytes {start}-{}/{size}", size - 1),
    };
    write!(connection, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n").ok()?;
    for piece in blob.slice(start..).chunks(MIB) {
        std::thread::sleep(Duration::from_millis(served.pause_ms.load(Relaxed)));
        connection.write_all(piece).ok()?;
        served.bytes.fetch_add(piece.len() as u64, Relaxed);
    }
    Some(())
}

#[tokio::test]
async fn natively_many_clients_share_one_fetch() {
    let upstream = Upstream::start(64 * MIB);
    upstream.served.pause_ms.store(5, Relaxed);
    let host = Host::start_with(Kind::Native, &upstream.settings());
    let memory = host.memory();
    memory.reset_peak();
    let idle_bytes = memory.now_bytes();
    let fetches = join_all((0..50).map(|_| async {
        let body = host.client.open(upstream.request()).await.unwrap().into_body();
        sha256(&body.collect().await.unwrap().to_bytes())
    }));
    assert!(fetches.await.iter().all(|digest| *digest == upstream.digest));
    assert_eq!(upstream.take(), (vec!["GET 0".to_owned()], upstream.blob.len() as u64));
    let grown_bytes = memory.peak_bytes().saturating_sub(idle_bytes);
    assert!(grown_bytes < 60 * MIB as u64, "{grown_bytes} bytes above idle");
    let again = host.client.fetch(upstream.request()).await.unwrap();
    assert_eq!((again.status(), again.body().len()), (StatusCode::OK, upstream.blob.len()));
    assert_eq!(upstream.take(), (vec![], 0));
}

async fn a_fill_goes_on_after_a_kill(kind: Kind) {
    let upstream = Upstream::start(48 * MIB);
    upstream.served.pause_ms.store(20, Relaxed);
    let mut host = Host::start_with(kind, &upstream.settings());
    let mut body = host.client.open(upstream.request()).await.unwrap().into_body();
    let mut received = 0;
    while received < 24 * MIB {
        received += body.frame().await.unwrap().unwrap().into_data().map_or(0, |data| data.len());
    }
    host.kill_and_restart();
    drop(body);
    upstream.served.pause_ms.store(0, Relaxed);
    let whole = host.client.fetch(upstream.request()).await.unwrap();
    assert_eq!(sha256(whole.body()), upstream.digest);
    let (requests, bytes) = upstream.take();
    assert!(requests.len() == 2 && requests[1] != "GET 0", "{requests:?}");
    assert!(bytes <= upstream.blob.len() as u64 + BUFFER_BYTES, "{bytes} bytes, {requests:?}");
    let again = host.client.fetch(upstream.request()).await.unwrap();
    assert_eq!(again.body().len(), upstream.blob.len());
    assert_eq!(upstream.take(), (vec![], 0));
}

#[tokio::test]
async fn natively_a_fill_goes_on_after_a_kill() {
    a_fill_goes_on_after_a_kill(Kind::Native).await;
}
