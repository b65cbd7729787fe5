//! An upstream with one layer, for hosts that pull through. The upstream counts requests and bytes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;

use super::client::{RequestBody, whole};
use super::host::{Host, Kind};
use super::value::sha256;

const MIB: usize = 1024 * 1024;
/// How many bytes the upstream sends at once.
const SENT_AT_ONCE: usize = 64 * 1024;
/// How far the upstream is ahead of the client in tests that count bytes after a kill. Without this
/// limit the sockets between the servers hold up to tens of MiB that no server has read.
const AHEAD_BYTES: u64 = MIB as u64;
/// The bytes that a fill may lose by a kill: one piece, and one read.
const PIECE_BYTES: u64 = 4 * MIB as u64 + 256 * 1024;

/// A registry with one layer.
pub struct Upstream {
    pub address: SocketAddr,
    pub digest: String,
    pub blob: Bytes,
    pub served: Arc<Served>,
}

/// The answers of an upstream.
#[derive(Default)]
pub struct Served {
    /// The request lines, with the first byte of the `Range` header.
    requests: Mutex<Vec<String>>,
    bytes: AtomicU64,
    /// The byte before which the upstream waits; `None` if the upstream does not wait.
    gate: Mutex<Option<u64>>,
    opened: Condvar,
}

impl Upstream {
    pub fn start(length: usize) -> Self {
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

    pub fn settings(&self) -> [(&'static str, String); 1] {
        [("UPSTREAMS", format!("up http://{} plain-http", self.address))]
    }

    pub fn request(&self) -> Request<RequestBody> {
        Request::get(format!("/v2/up/team/app/blobs/{}", self.digest)).body(whole("")).unwrap()
    }

    /// The requests and the bytes since the last call.
    pub fn take(&self) -> (Vec<String>, u64) {
        (std::mem::take(&mut self.served.requests.lock().unwrap()), self.served.bytes.swap(0, Relaxed))
    }

    /// Lets the upstream send up to a byte of the layer; `None` lets the upstream send everything.
    fn open(&self, until: Option<u64>) {
        *self.served.gate.lock().unwrap() = until;
        self.served.opened.notify_all();
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
    let mut sent = start;
    for piece in blob.slice(start..).chunks(SENT_AT_ONCE) {
        sent += piece.len();
        let gate = served.gate.lock().unwrap();
        drop(served.opened.wait_while(gate, |gate| gate.is_some_and(|until| sent as u64 > until)).unwrap());
        connection.write_all(piece).ok()?;
        served.bytes.fetch_add(piece.len() as u64, Relaxed);
    }
    Some(())
}

/// Kills a host after its client has received some bytes of a layer that is not here, at several
/// bytes. The next pull gets the layer, and the upstream sends at most a piece of the layer twice.
pub async fn goes_on_after_kills(kind: Kind, settings: &[(&'static str, String)]) {
    let size = 16 * MIB;
    for killed_at in [1, 3 * MIB, 9 * MIB + 7, size - 1] {
        let upstream = Upstream::start(size);
        let mut settings = [settings, &upstream.settings()].concat();
        if matches!(kind, Kind::SpinHost(_)) {
            settings.push(("UPSTREAM_HOST", format!("http://{}", upstream.address)));
        }
        let mut host = Host::start_with(kind, &settings);
        upstream.open(Some(AHEAD_BYTES));
        let mut body = host.client.open(upstream.request()).await.unwrap().into_body();
        let mut received = 0;
        // The last bytes come only when the layer is stored.
        while received < killed_at.min(size - 2 * MIB) {
            received += body.frame().await.unwrap().unwrap().into_data().map_or(0, |data| data.len());
            upstream.open(Some(received as u64 + AHEAD_BYTES));
        }
        host.kill_and_restart();
        drop(body);
        upstream.open(None);
        let whole = host.client.fetch(upstream.request()).await.unwrap();
        assert_eq!(sha256(whole.body()), upstream.digest, "killed at {received}");
        let (requests, bytes) = upstream.take();
        let most = upstream.blob.len() as u64 + AHEAD_BYTES + PIECE_BYTES;
        assert!(bytes <= most, "killed at {received}: {bytes} bytes in {requests:?}, and at most {most} expected");
        eprintln!(
            "killed at {received}: {} bytes more than the layer, {requests:?}",
            bytes - upstream.blob.len() as u64
        );
        let again = host.client.fetch(upstream.request()).await.unwrap();
        assert_eq!(again.body().len(), upstream.blob.len());
        assert_eq!(upstream.take(), (vec![], 0), "killed at {received}: the layer is not stored");
    }
}
