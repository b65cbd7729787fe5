//! Tests every host over TCP: runs the transcripts, and checks behaviour that transcripts cannot
//! express. `scripts/test` builds the required components.

use std::io::Read as _;
use std::net::Shutdown;
use std::time::Duration;

use crate::support::client::{chunked, raw, raw_status, whole};
use crate::support::host::{Host, Kind};
use crate::support::repository::{Repository, Session, stored};
use crate::support::runner::{self, pieces};
use crate::support::value::{noise, sha256};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};

const MIB: usize = 1 << 20;

/// The maximum memory that a host's process may use above its idle memory.
const MEMORY_LIMIT_BYTES: u64 = 200 << 20;

macro_rules! on_host {
    ($host:ident, $kind:expr) => {
        mod $host {
            use super::*;

            on_host!(@ $kind, transcripts, large_blob, small_chunks, tiny_frames, cut_pushes, cut_uploads_count, slow_client, paused_readers, ten_clients, lists, killed_host, refusals);
        }
    };
    (@ $kind:expr, $($scenario:ident),*) => {
        $(
            #[test]
            fn $scenario() {
                on($kind, super::$scenario);
            }
        )*
    };
}

on_host!(native, Kind::Native);
on_host!(wasi, Kind::Wasi);
on_host!(wasi2, Kind::Wasi2);
on_host!(spin_key_value, Kind::SpinHost("spin-key-value"));
on_host!(spin_sqlite, Kind::SpinHost("spin-sqlite"));
on_host!(real_spin, Kind::Spin);

/// Hosts such as wasmtime by default make an instance for every request.
mod wasi2_once {
    use super::*;

    #[test]
    fn transcripts() {
        on(Kind::Wasi2Once, super::transcripts);
    }

    #[test]
    fn large_blob() {
        on(Kind::Wasi2Once, super::large_blob);
    }

    #[test]
    fn cut_pushes() {
        on(Kind::Wasi2Once, super::cut_pushes);
    }
}

/// The component for Spin 3 shares the requests and bodies with `wasi2`, and the key-value store with
/// `spin_key_value`.
mod spin3 {
    use super::*;

    on_host!(@ Kind::Spin3Host, transcripts, large_blob, cut_pushes, ten_clients, killed_host);
}

/// Requests are served one after the other.
mod jco {
    use super::*;

    /// Node's HTTP parser refuses unknown methods and long headers itself, without a body.
    const ANSWERED_BY_NODE: [&str; 2] = [
        "A method that the endpoint does not allow is answered 405 with Allow",
        "A long URL is answered 414, and long headers 431",
    ];

    on_host!(@ Kind::Jco, large_blob, cut_pushes, killed_host);

    #[test]
    fn transcripts() {
        on(Kind::Jco, async |host| runner::run_all_but(&host.client, &ANSWERED_BY_NODE).await);
    }
}

mod ten_thousand_tags {
    use super::*;

    #[test]
    fn spin_sqlite() {
        on(Kind::SpinHost("spin-sqlite"), super::ten_thousand_tags);
    }
}

mod contract {
    use super::*;

    #[test]
    fn wasi_files() {
        on(Kind::WasiContract, async |host| host.keeps_the_contract().await);
    }

    #[test]
    fn wasi2_files() {
        on(Kind::Wasi2Contract, async |host| host.keeps_the_contract().await);
    }

    #[test]
    fn spin_key_value() {
        on(Kind::SpinHostContract("spin-key-value"), async |host| host.keeps_the_contract().await);
    }

    #[test]
    fn spin3_key_value() {
        on(Kind::Spin3HostContract, async |host| host.keeps_the_contract().await);
    }

    #[test]
    fn spin_sqlite() {
        on(Kind::SpinHostContract("spin-sqlite"), async |host| host.keeps_the_contract().await);
    }
}

/// Only on hosts that store layers as files: the test truncates a file while it is read.
mod broken_answer {
    use super::*;

    #[test]
    fn native() {
        on(Kind::Native, super::broken_answer);
    }

    #[test]
    fn wasi() {
        on(Kind::Wasi, super::broken_answer);
    }

    #[test]
    fn wasi2() {
        on(Kind::Wasi2, super::broken_answer);
    }
}

fn on(kind: Kind, scenario: impl AsyncFnOnce(&mut Host)) {
    if kind.is_absent() {
        return eprintln!("no Spin 4.1 or later on the PATH: this test has not run");
    }
    let mut host = Host::start(kind);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(scenario(&mut host));
}

fn repository(host: &Host, name: &'static str) -> Repository {
    let client = host.client;
    Repository { client, name }
}

async fn transcripts(host: &mut Host) {
    runner::run_all(&host.client).await;
}

/// Pushes a blob as docker does, in one PATCH of unknown length. The blob has 300 MiB, or 2 GiB
/// with EYOT_BIG=1.
async fn large_blob(host: &mut Host) {
    let mebibytes = match std::env::var("EYOT_BIG") {
        Ok(big) if big == "1" => 2048,
        _ => 300,
    };
    let repository = repository(host, "team/large");
    repository.push(noise(2 * MIB, "to warm up")).await;
    let memory = host.memory();
    memory.reset_peak();
    let idle_bytes = memory.now_bytes();

    let mut hasher = Sha256::new();
    mebibytes_of_noise(mebibytes).for_each(|piece| hasher.update(&piece));
    let digest = format!("sha256:{}", hex::encode(hasher.finalize()));
    let mut session = repository.start().await;
    let body = chunked(futures_util::stream::iter(mebibytes_of_noise(mebibytes)));
    let reply = session.patch(None, body).await;
    assert_eq!(reply.status(), 202, "{reply:?}");
    assert_eq!(stored(&reply), mebibytes * MIB);
    session.finish(&digest).await;
    let pulled = repository.pull(&digest).await;
    assert_eq!(pulled, (digest, (mebibytes * MIB) as u64));

    let growth_bytes = memory.peak_bytes().saturating_sub(idle_bytes);
    eprintln!("{growth_bytes} bytes more than the {idle_bytes} of the idle host");
    assert!(growth_bytes < MEMORY_LIMIT_BYTES, "{growth_bytes} bytes");
}

/// Pieces of 1 MiB that all differ, so that the digest detects swapped pieces.
fn mebibytes_of_noise(mebibytes: usize) -> impl Iterator<Item = Bytes> + Send {
    let block = noise(MIB, "a large layer");
    (0..mebibytes).map(move |index| {
        let mut piece = block.to_vec();
        piece[..8].copy_from_slice(&(index as u64).to_le_bytes());
        piece.into()
    })
}

/// A body in one-byte frames must not need more memory than its bytes.
async fn tiny_frames(host: &mut Host) {
    let repository = repository(host, "team/tiny");
    repository.push(noise(MIB, "to warm up")).await;
    let memory = host.memory();
    memory.reset_peak();
    let idle_bytes = memory.now_bytes();
    let layer = noise(60_000, "tiny frames");
    let bytes: Vec<Bytes> = layer.chunks(1).map(Bytes::copy_from_slice).collect();
    let mut session = repository.start().await;
    let reply = session.patch(None, chunked(futures_util::stream::iter(bytes))).await;
    assert_eq!(reply.status(), 202, "{reply:?}");
    session.finish(&sha256(&layer)).await;
    let growth_bytes = memory.peak_bytes().saturating_sub(idle_bytes);
    assert!(growth_bytes < MEMORY_LIMIT_BYTES, "{growth_bytes} bytes");
}

/// Tags that stay untouched appear in every list while other tags come and go.
async fn lists(host: &mut Host) {
    let repository = repository(host, "team/lists");
    repository.push(Bytes::from_static(b"{}")).await;
    let (config, kept) = (sha256(b"{}"), 30);
    for number in 0..kept {
        repository.tag(&format!("kept-{number:02}"), &config, 2).await;
    }
    let come_and_go = (0..3).map(|client| {
        let repository = repository.clone();
        let (tag, config) = (format!("comes-and-goes-{client}"), config.clone());
        tokio::spawn(async move {
            for _ in 0..60 {
                repository.tag(&tag, &config, 2).await;
                assert_eq!(repository.status_of(Method::DELETE, &format!("manifests/{tag}")).await, 202);
            }
        })
    });
    let come_and_go: Vec<_> = come_and_go.collect();
    while !come_and_go.iter().all(|task| task.is_finished()) {
        let list = repository.tags().await;
        let tags = list["tags"].as_array().expect("tags");
        let listed = tags.iter().filter(|tag| tag.as_str().is_some_and(|tag| tag.starts_with("kept-")));
        assert_eq!(listed.count(), kept, "{list}");
    }
    for task in come_and_go {
        task.await.expect("every request succeeds");
    }
}

/// The cost of one page in SQLite: statements, rows, virtual machine steps, rows scanned without an
/// index.
type PageCost = [u64; 4];

/// A page of a list of 10,000 tags is complete and costs SQLite the same as a page of 1,000 tags.
async fn ten_thousand_tags(host: &mut Host) {
    let repository = repository(host, "team/many");
    let index = Bytes::from_static(br#"{"schemaVersion": 2, "manifests": []}"#);
    let digest = sha256(&index);
    let mut tags: Vec<String> = Vec::new();
    let mut costs: Vec<PageCost> = Vec::new();
    for count in [1000, 10_000] {
        while tags.len() < count {
            // A push may name at most 100 tags. Their order differs from the order of lists.
            tags.extend((tags.len()..tags.len() + 100).map(|n| format!("build-{:05}", n * 7919 % 10_007)));
            let query: Vec<String> = tags[tags.len() - 100..].iter().map(|tag| format!("tag={tag}")).collect();
            let put = repository.put_manifest(&format!("{digest}?{}", query.join("&")));
            let put = put.header(CONTENT_TYPE, "application/vnd.oci.image.index.v1+json");
            assert_eq!(repository.send(put, whole(index.clone())).await.status(), 201);
        }
        let (listed, mut pages) = tags_in_pages(host, &repository).await;
        tags.sort();
        assert!(listed == tags, "{count} tags in order");
        // A new instance first opens the database, which needs additional statements.
        assert!(pages.iter().all(|[statements, ..]| *statements <= 3), "{pages:?}");
        // Take the median, because some pages come from new instances.
        pages.sort_by_key(|[_, _, steps, _]| *steps);
        println!("{count} tags, pages of 100: {:?} in the middle, {:?} at most", pages[count / 200], pages.last());
        costs.push(pages[count / 200]);
    }
    let [statements, rows, _, scanned] = costs[0];
    assert_eq!((statements, rows, scanned), (1, 101, 0));
    assert_eq!(costs[0], costs[1]);
}

async fn tags_in_pages(host: &Host, repository: &Repository) -> (Vec<String>, Vec<PageCost>) {
    let (mut tags, mut costs): (Vec<String>, _) = (Vec::new(), Vec::new());
    loop {
        get_json(host, "/__host/calls/reset").await;
        let last = tags.last().map_or(String::new(), |last| format!("&last={last}"));
        let page = get_json(host, &format!("/v2/{}/tags/list?n=100{last}", repository.name)).await;
        let calls = get_json(host, "/__host/calls").await;
        let of = |kind: &str| calls[format!("sqlite-{kind}")].as_u64().expect("a number");
        costs.push(["execute", "rows", "steps", "scanned"].map(of));
        let page: Vec<String> = serde_json::from_value(page["tags"].clone()).expect("tags");
        tags.extend_from_slice(&page);
        if page.len() < 100 {
            return (tags, costs);
        }
    }
}

async fn get_json(host: &Host, path: &str) -> serde_json::Value {
    let reply = host.client.fetch(Request::get(path).body(whole("")).expect("a request")).await.expect("a reply");
    assert_eq!(reply.status(), 200, "{reply:?}");
    serde_json::from_slice(reply.body()).expect("JSON")
}

async fn small_chunks(host: &mut Host) {
    let repository = repository(host, "team/chunks");
    let layer = noise(4 * MIB, "small chunks");
    let digest = sha256(&layer);
    let mut session = repository.start().await;
    for start in (0..layer.len()).step_by(1024) {
        let end = start + 1024;
        let chunk = whole(layer.slice(start..end));
        let reply = session.patch(Some((start, end)), chunk).await;
        assert_eq!(reply.status(), 202, "{reply:?}");
        assert_eq!(stored(&reply), end);
    }
    session.finish(&digest).await;
    let length = layer.len() as u64;
    assert_eq!(repository.pull(&digest).await, (digest, length));
}

/// The way in which a raw request declares the end of its body.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    LengthAndRange,
    Chunked,
}

/// Sends a request that declares the whole `body` but contains only its first `cut` bytes.
fn cut_request(
    host: &Host,
    method: &str,
    target: &str,
    framing: Framing,
    (offset, body): (usize, &[u8]),
    cut: usize,
) -> std::net::TcpStream {
    let address = host.client.address;
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\n").into_bytes();
    let length = body.len();
    let fields = match framing {
        Framing::Length => format!("Content-Length: {length}\r\n\r\n"),
        Framing::LengthAndRange => {
            let last = offset + length - 1;
            format!("Content-Length: {length}\r\nContent-Range: {offset}-{last}\r\n\r\n")
        }
        // A single chunk that declares the full length. Its end is never sent.
        Framing::Chunked => format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n"),
    };
    bytes.extend_from_slice(fields.as_bytes());
    bytes.extend_from_slice(&body[..cut]);
    raw(address, &bytes)
}

/// A client disappears in the middle of a PATCH. The session reports its offset, and the upload
/// resumes from there at once, even if the server has not noticed the cut yet. An incomplete blob
/// cannot be pulled.
async fn cut_and_resume(host: &Host, framing: Framing, offset: usize, layer: Bytes, cut: usize) {
    let repository = repository(host, "team/cut");
    let digest = sha256(&layer);
    let mut session = repository.start().await;
    if offset > 0 {
        let start = whole(layer.slice(..offset));
        let reply = session.patch(Some((0, offset)), start).await;
        assert_eq!(reply.status(), 202, "{reply:?}");
    }
    let rest = (offset, &layer[offset..]);
    let stream = cut_request(host, "PATCH", &session.location, framing, rest, cut);
    drop(stream);
    let now = session.offset().await;
    assert!((offset..=offset + cut).contains(&now), "{now}");
    assert_eq!(repository.head_blob(&digest).await, 404);
    session.resume(&layer).await;
    session.finish(&digest).await;
    let length = layer.len() as u64;
    assert_eq!(repository.pull(&digest).await, (digest, length));
}

async fn cut_pushes(host: &mut Host) {
    for framing in [Framing::Length, Framing::LengthAndRange, Framing::Chunked] {
        for offset in [0, MIB] {
            let layer = noise(5 * MIB, &format!("cut {framing:?} {offset}"));
            cut_and_resume(host, framing, offset, layer, 2 * MIB).await;
        }
    }
    // The server may handle the resumed request and the end of the cut request in any order.
    for round in 0..40 {
        let layer = noise(MIB + round * 50_000, &format!("cut {round}"));
        let (offset, cut) = (round % 2 * 1000, layer.len() / 2);
        cut_and_resume(host, Framing::Length, offset, layer, cut).await;
    }

    let repository = repository(host, "team/cut");
    // The worst case: the bytes before the cut have the digest that the request names.
    let layer = noise(2 * MIB, "cut in the closing PUT");
    let part = sha256(&layer[..MIB]);
    for framing in [Framing::Length, Framing::Chunked] {
        let Session { location, .. } = repository.start().await;
        let joint = if location.contains('?') { '&' } else { '?' };
        let uploads = "/v2/team/cut/blobs/uploads/";
        for (method, target) in
            [("PUT", format!("{location}{joint}digest={part}")), ("POST", format!("{uploads}?digest={part}"))]
        {
            let mut stream = cut_request(host, method, &target, framing, (0, &layer), MIB);
            // Close only the write side, so that the server can still answer and the test knows
            // when the server has finished the request.
            stream.shutdown(Shutdown::Write).expect("an open socket");
            let status = raw_status(&mut stream);
            assert!(status.is_none_or(|status| status >= 400), "{status:?}");
            assert_eq!(repository.head_blob(&part).await, 404, "{method} {framing:?}");
        }
    }

    let manifest = br#"{"schemaVersion": 2, "manifests": []}  "#;
    let target = "/v2/team/cut/manifests/cut";
    let cut = manifest.len() - 2;
    let mut stream = cut_request(host, "PUT", target, Framing::Length, (0, manifest), cut);
    stream.shutdown(Shutdown::Write).expect("an open socket");
    let status = raw_status(&mut stream);
    assert!(status.is_none_or(|status| status >= 400), "{status:?}");
    assert_eq!(repository.manifest("cut").await.status(), 404);
}

/// How often the test asks for a status until a host has noticed the end of a connection, and the
/// pause between requests.
const STATUS_TRIES_MAX: usize = 600;
const STATUS_PAUSE: Duration = Duration::from_millis(50);

/// The received bytes of a broken request are kept, and the client continues after them: in the
/// middle of a layer, and in the closing request.
async fn cut_uploads_count(host: &mut Host) {
    let repository = repository(host, "team/counted");
    let cut = MIB + 12_345;
    for (number, framing) in [Framing::Length, Framing::LengthAndRange, Framing::Chunked].into_iter().enumerate() {
        for (method, is_closed) in [("PATCH", false), ("PATCH", true), ("PUT", false)] {
            let layer = noise(4 * MIB, &format!("counted {framing:?} {method} {is_closed}"));
            let digest = sha256(&layer);
            let mut session = repository.start().await;
            // Some uploads have bytes before the broken request, some do not.
            let start = number % 2 * 1000;
            if start > 0 {
                let reply = session.patch(Some((0, start)), whole(layer.slice(..start))).await;
                assert_eq!(reply.status(), 202, "{reply:?}");
            }
            let target = match method {
                "PUT" => format!("{}?digest={digest}", session.location),
                _ => session.location.clone(),
            };
            let rest = (start, &layer[start..]);
            let mut stream = cut_request(host, method, &target, framing, rest, cut);
            if is_closed {
                drop(stream);
            } else {
                stream.shutdown(Shutdown::Write).expect("an open socket");
                let status = raw_status(&mut stream);
                assert!(status.is_none_or(|status| status >= 400), "{status:?}");
            }
            let mut now = 0;
            for _ in 0..STATUS_TRIES_MAX {
                now = session.offset().await;
                if now == start + cut {
                    break;
                }
                tokio::time::sleep(STATUS_PAUSE).await;
            }
            assert_eq!(now, start + cut, "{framing:?} {method} {is_closed}");
            assert_eq!(repository.head_blob(&digest).await, 404);
            session.resume(&layer).await;
            session.finish(&digest).await;
            assert_eq!(repository.pull(&digest).await, (digest, layer.len() as u64));
        }
    }
}

/// A client that stalls in the middle of its body blocks no other client, not even a request to the
/// same upload.
async fn slow_client(host: &mut Host) {
    let repository = repository(host, "team/slow");
    let layer = noise(3 * MIB, "slow");
    let mut session = repository.start().await;
    let chunk = cut_request(host, "PATCH", &session.location, Framing::Length, (0, &layer), MIB);
    let manifest = br#"{"schemaVersion": 2, "manifests": []}  "#;
    let push = cut_request(host, "PUT", "/v2/team/slow/manifests/slow", Framing::Length, (0, manifest), 10);
    repository.push(Bytes::from_static(b"{}")).await;
    repository.tag("quick", &sha256(b"{}"), 2).await;
    repository.tag("slow", &sha256(b"{}"), 2).await;
    assert_eq!(repository.tags().await["tags"], serde_json::json!(["quick", "slow"]));
    assert_eq!(session.offset().await, 0);
    // The fast client can use the upload without waiting for the stalled request.
    session.resume(&layer).await;
    session.finish(&sha256(&layer)).await;
    assert_eq!(repository.pull(&sha256(&layer)).await, (sha256(&layer), layer.len() as u64));
    drop((chunk, push));
    assert_eq!(repository.pull(&sha256(&layer)).await, (sha256(&layer), layer.len() as u64));
}

/// Clients that begin to read after the time in which the host drops an idle instance. The size of
/// the socket buffers is unknown, so the answers have many lengths. For some lengths the host holds
/// all remaining bytes and the component has already finished.
async fn paused_readers(host: &mut Host) {
    let layer = noise(5 * MIB, "paused");
    let digest = repository(host, "team/paused").push(layer.clone()).await;
    let lengths = (1..=80).map(|step| step * MIB / 16);
    let sockets: Vec<_> = lengths
        .map(|length| {
            let target = format!("/v2/team/paused/blobs/{digest}");
            let fields = format!("Host: eyot\r\nConnection: close\r\nRange: bytes=0-{}\r\n", length - 1);
            (length, raw(host.client.address, format!("GET {target} HTTP/1.1\r\n{fields}\r\n").as_bytes()))
        })
        .collect();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let cut = sockets.into_iter().filter_map(|(length, mut socket)| {
        let mut reply = Vec::new();
        let _ = socket.read_to_end(&mut reply);
        let head = reply.windows(4).position(|end| end == b"\r\n\r\n").map_or(reply.len(), |at| at + 4);
        (reply[head..] != layer[..length]).then_some((length, reply.len() - head))
    });
    let cut: Vec<_> = cut.collect();
    assert!(cut.is_empty(), "wanted and got: {cut:?}");
}

/// The store fails in the middle of an answer: the client must see that the layer is incomplete.
async fn broken_answer(host: &mut Host) {
    let repository = repository(host, "team/broken");
    let length = 64 * MIB;
    let layer = noise(length, "broken");
    let digest = repository.push(layer).await;
    let file = largest_file(host.data());
    assert_eq!(file.metadata().expect("a file").len(), length as u64);

    let request = Request::get(format!("/v2/team/broken/blobs/{digest}")).body(whole("")).expect("a request");
    let reply = host.client.open(request).await.expect("a reply");
    assert_eq!((reply.status().as_u16(), &reply.headers()[CONTENT_LENGTH]), (200, &length.into()));
    // The reply exceeds the socket buffers, so the server has not read the end of the file yet.
    file.set_len(48 * MIB as u64).expect("a file of ours");
    let (mut body, mut received) = (reply.into_body(), 0);
    let broken = loop {
        match body.frame().await {
            Some(Ok(frame)) => received += frame.data_ref().map_or(0, |data| data.len()),
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(broken && received < length, "{received} bytes look like a whole layer");
    // The server sends no bytes of a blob that is known to be broken, and continues to serve other
    // requests.
    let again = repository.status_of(Method::GET, &format!("blobs/{digest}")).await;
    assert_eq!(again, 500);
    let other = noise(MIB, "after the broken one");
    let digest = repository.push(other).await;
    assert_eq!(repository.pull(&digest).await, (digest, MIB as u64));
}

fn largest_file(folder: &std::path::Path) -> std::fs::File {
    fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }
    let largest = files(folder).into_iter().max_by_key(|path| path.metadata().expect("a file").len());
    std::fs::OpenOptions::new().write(true).open(largest.expect("a file")).expect("a file of ours")
}

const TAGS: [&str; 10] = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9"];

/// Ten clients concurrently push the same layer, each with a tag of its own.
async fn ten_clients(host: &mut Host) {
    let repository = repository(host, "team/crowd");
    let layer = noise(2 * MIB, "the layer of all");
    let digest = sha256(&layer);
    let pushes = TAGS.map(|tag| {
        let (repository, layer, digest) = (repository.clone(), layer.clone(), digest.clone());
        tokio::spawn(async move {
            repository.push(Bytes::from_static(b"{}")).await;
            let mut session = repository.start().await;
            let body = chunked(futures_util::stream::iter(pieces(layer.clone())));
            let reply = session.patch(None, body).await;
            assert_eq!(reply.status(), 202, "{reply:?}");
            session.finish(&digest).await;
            let manifest = repository.tag(tag, &digest, layer.len()).await;
            (tag, manifest)
        })
    });
    for push in pushes {
        let (tag, manifest) = push.await.expect("a push that succeeds");
        assert_eq!(*repository.manifest(tag).await.body(), manifest);
    }
    assert_eq!(repository.tags().await["tags"], serde_json::json!(TAGS));
    let pulls = TAGS.map(|_| {
        let (repository, digest) = (repository.clone(), digest.clone());
        tokio::spawn(async move { repository.pull(&digest).await })
    });
    for pull in pulls {
        let pulled = pull.await.expect("a pull that succeeds");
        assert_eq!(pulled, (digest.clone(), layer.len() as u64));
    }
}

/// Kills the host (SIGKILL) in the middle of a PATCH and starts a new process on the same data.
async fn killed_host(host: &mut Host) {
    let before = repository(host, "team/killed");
    let kept = noise(MIB, "kept");
    let kept_digest = before.push(kept.clone()).await;
    before.push(Bytes::from_static(b"{}")).await;
    let manifest = before.tag("kept", &kept_digest, kept.len()).await;

    let layer = noise(40 * MIB, "killed");
    let digest = sha256(&layer);
    let mut session = before.start().await;
    let reply = session.patch(None, whole(layer.slice(..MIB))).await;
    assert_eq!(reply.status(), 202, "{reply:?}");
    let rest = (MIB, &layer[MIB..]);
    let target = &session.location;
    // The body exceeds the socket buffers: when `cut_request` returns, the server has begun to
    // read.
    let stream = cut_request(host, "PATCH", target, Framing::Length, rest, 24 * MIB);
    host.kill_and_restart();
    drop(stream);

    let after = repository(host, "team/killed");
    session.repository = after.clone();
    let now = session.offset().await;
    assert!((MIB..=25 * MIB).contains(&now), "{now}");
    assert_eq!(after.head_blob(&digest).await, 404);
    session.resume(&layer).await;
    session.finish(&digest).await;
    assert_eq!(after.pull(&digest).await, (digest, layer.len() as u64));
    assert_eq!(after.pull(&kept_digest).await, (kept_digest, MIB as u64));
    let reply = after.manifest("kept").await;
    assert_eq!(reply.status(), 200, "{reply:?}");
    assert_eq!(*reply.body(), manifest);
}

/// Oversized or malformed requests are refused and store nothing, and the server continues to
/// serve.
async fn refusals(host: &mut Host) {
    let repository = repository(host, "team/refused");
    repository.push(noise(2 * MIB, "to warm up")).await;
    let memory = host.memory();
    memory.reset_peak();
    let idle_bytes = memory.now_bytes();

    let huge = Bytes::from(vec![b' '; 100_000_000]);
    let digest = sha256(&huge);
    for reference in ["huge", &digest] {
        let streamed = chunked(futures_util::stream::iter(pieces(huge.clone())));
        for body in [whole(huge.clone()), streamed] {
            let reply = repository.send(repository.put_manifest(reference), body).await;
            assert_eq!(reply.status(), 413, "{reply:?}");
            assert!(String::from_utf8_lossy(reply.body()).contains("SIZE_INVALID"));
        }
        assert_eq!(repository.manifest(reference).await.status(), 404);
    }
    let growth_bytes = memory.peak_bytes().saturating_sub(idle_bytes);
    assert!(growth_bytes < 64 << 20, "{growth_bytes} bytes");

    let media_type = format!("application/{}", "x".repeat(8000));
    let manifest = whole(r#"{"schemaVersion": 2, "manifests": []}"#);
    let request = repository.put_manifest("typed").header(CONTENT_TYPE, media_type);
    assert_eq!(repository.send(request, manifest).await.status(), 400);
    assert_eq!(repository.manifest("typed").await.status(), 404);

    let name = "n".repeat(5000);
    let long_name = Request::get(format!("/v2/{name}/tags/list"));
    let reply = repository.send(long_name, whole("")).await;
    assert!(reply.status().is_client_error(), "{reply:?}");
    let long_tag = format!("manifests/{name}");
    assert_eq!(repository.status_of(Method::HEAD, &long_tag).await, 404);

    let fields = "Host: eyot\r\nConnection: close\r\n";
    let long = "x".repeat(MIB);
    for (request, wanted) in [
        (format!("GET /v2/ HTTP/1.1\r\n{fields}X-Long: {long}\r\n\r\n"), None),
        (format!("GET /v2/{long} HTTP/1.1\r\n{fields}\r\n"), None),
        (format!("get /v2/ HTTP/1.1\r\n{fields}\r\n"), Some(405)),
        (format!("{} /v2/ HTTP/1.1\r\n{fields}\r\n", &long[..2000]), Some(405)),
        (format!("G\u{1}T /v2/ HTTP/1.1\r\n{fields}\r\n"), None),
        ("\u{16}\u{3}\u{1}\u{2}\0\r\n\r\n".into(), None),
        (format!("GET /v2/ HTTP/1.1\r\n{fields}Content-Length: -1\r\n\r\n"), None),
        (format!("PUT /v2/ HTTP/1.1\r\n{fields}Transfer-Encoding: chunked\r\n\r\nzz\r\n"), None),
    ] {
        let shown = &request[..request.len().min(60)];
        let status = raw_status(&mut raw(host.client.address, request.as_bytes()));
        // The host's HTTP server may answer before eyot sees the request, or only close the
        // connection.
        match wanted {
            Some(_) => assert_eq!(status, wanted, "{shown:?}"),
            None => assert!(status.is_none_or(|status| (400..500).contains(&status)), "{shown:?}: {status:?}"),
        }
        let alive = repository.send(Request::get("/v2/"), whole("")).await;
        assert_eq!(alive.status(), 200, "after {shown:?}");
    }
}
