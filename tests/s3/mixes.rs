//! The components on a real S3 server, by the outbound HTTP of their host: the contract of the
//! stores, and the protocol with all data or only layers in the bucket. `scripts/test` builds the
//! components that the tests need.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::proxy::{Act, Proxy};
use crate::s3_server::{self, S3Server};
use crate::support::client::{Client, chunked, whole};
use crate::support::host::{Host, Kind};
use crate::support::repository::Repository;
use crate::support::runner::{self, pieces};
use crate::support::upstream::goes_on_after_kills;
use crate::support::value::{noise, sha256};
use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http::header::{LOCATION, RANGE};

const MIB: usize = 1 << 20;
const DENIED: &str = "<Error><Code>AccessDenied</Code><Message>not in this bucket</Message></Error>";
/// Layers are streamed through the component, without redirects.
const STREAM: (&str, &str) = ("REDIRECTS", "false");

#[test]
fn wasi() {
    on_a_server(async |server| {
        strict_contract(server, Kind::WasiContract).await;
        for keys in ["files", "s3"] {
            transcripts(server, Kind::Wasi, keys).await;
        }
        troubles(server, Kind::Wasi, "files").await;
    });
}

#[test]
fn wasi2() {
    on_a_server(async |server| {
        strict_contract(server, Kind::Wasi2Contract).await;
        for keys in ["files", "s3"] {
            transcripts(server, Kind::Wasi2, keys).await;
        }
        troubles(server, Kind::Wasi2, "files").await;
        redirects(server, Kind::Wasi2, "s3").await;
    });
}

#[test]
fn spin() {
    on_a_server(async |server| {
        start(server, Kind::SpinHostContract("s3"), "s3", &[]).keeps_the_contract().await;
        for keys in ["spin-key-value", "spin-sqlite"] {
            transcripts(server, Kind::SpinHost(keys), keys).await;
        }
        redirects(server, Kind::SpinHost("spin-sqlite"), "spin-sqlite").await;
    });
}

#[test]
fn spin3() {
    on_a_server(async |server| {
        start(server, Kind::Spin3HostContract, "s3", &[]).keeps_the_contract().await;
        transcripts(server, Kind::Spin3Host, "spin-key-value").await;
        redirects(server, Kind::Spin3Host, "s3").await;
    });
}

#[test]
fn a_fill_goes_on_after_a_kill() {
    on_a_server(async |server| {
        for kind in [Kind::Native, Kind::Wasi] {
            let more = [("KEYS", "files".to_owned()), ("REDIRECTS", "false".to_owned())];
            let settings: BTreeMap<_, _> = server.environment().into_iter().chain(more).collect();
            goes_on_after_kills(kind, &settings.into_iter().collect::<Vec<_>>()).await;
        }
    });
}

fn on_a_server(test: impl AsyncFnOnce(&S3Server)) {
    let server = S3Server::start(s3_server::Kind::SeaweedFs);
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        server.ready().await;
        test(&server).await;
    });
}

/// A host with layers in the bucket and keys in `keys`.
fn start(server: &S3Server, kind: Kind, keys: &str, more: &[(&'static str, &str)]) -> Host {
    let mut settings: BTreeMap<_, _> = server.environment().into_iter().collect();
    settings.insert("KEYS", keys.to_owned());
    settings.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    Host::start_with(kind, &settings.into_iter().collect::<Vec<_>>())
}

/// A host that reaches the bucket through a proxy.
async fn start_behind(server: &S3Server, kind: Kind, keys: &str) -> (Host, Proxy) {
    let proxy = Proxy::start(server.address).await;
    let endpoint = format!("http://{}", proxy.address);
    let host = start(server, kind, keys, &[STREAM, ("S3_ENDPOINT", &endpoint)]);
    (host, proxy)
}

/// Runs the contract with keys and blobs in the bucket. The proxy refuses chunked transfer coding,
/// as S3 does.
async fn strict_contract(server: &S3Server, kind: Kind) {
    let (host, proxy) = start_behind(server, kind, "s3").await;
    host.keeps_the_contract().await;
    assert!(proxy.take().0.len() > 1000, "the contract went to the bucket");
}

async fn transcripts(server: &S3Server, kind: Kind, keys: &str) {
    eprintln!("keys in {keys}");
    let host = start(server, kind, keys, &[STREAM]);
    runner::run_all(&host.client).await;
}

/// Pushes as docker pushes a layer of several parts.
async fn push(repository: &Repository, layer: &Bytes) {
    let mut session = repository.start().await;
    let reply = session.patch(None, chunked(stream::iter(pieces(layer.clone())))).await;
    assert_eq!(reply.status(), 202, "{reply:?}");
    session.finish(&sha256(layer)).await;
}

/// The registry repairs failures on the way to the bucket by retries, or names them in the log.
async fn troubles(server: &S3Server, kind: Kind, keys: &str) {
    let (host, proxy) = start_behind(server, kind, keys).await;
    let repository = Repository { client: host.client, name: "team/troubled" };
    let layer = noise(40 * MIB, "troubled");
    let mut before = Vec::new();
    // The first answer to every request is lost.
    proxy.script(move |seen| {
        let is_first = !before.contains(seen);
        before.push(seen.clone());
        if is_first { Act::CutAfter } else { Act::Pass }
    });
    push(&repository, &layer).await;
    proxy.script(|_| Act::CutAnswer(9 * MIB));
    assert_eq!(repository.pull(&sha256(&layer)).await, (sha256(&layer), layer.len() as u64));

    proxy.script(|seen| if seen.method == "PUT" { Act::AnswerEarly(403, DENIED) } else { Act::Pass });
    let mut session = repository.start().await;
    proxy.take();
    assert_eq!(session.patch(None, whole(layer)).await.status(), 500);
    // The log line may arrive shortly after the reply.
    let named = async {
        while !host.has_logged("403 AccessDenied: not in this bucket") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), named).await.expect("the cause in the log");
    assert_eq!(proxy.take().0.iter().filter(|seen| seen.method == "PUT").count(), 1, "a refusal is no trouble");
}

/// The client pulls a layer, or a range of the layer, from the bucket itself.
async fn redirects(server: &S3Server, kind: Kind, keys: &str) {
    let host = start(server, kind, keys, &[]);
    let repository = Repository { client: host.client, name: "team/redirected" };
    let layer = noise(40 * MIB, "redirected");
    push(&repository, &layer).await;
    repository.push(Bytes::from_static(b"{}")).await;
    repository.tag("v1", &sha256(&layer), layer.len()).await;
    assert_eq!(repository.manifest("v1").await.status(), 200);

    let blob = Request::get(format!("/v2/team/redirected/blobs/{}", sha256(&layer)));
    let reply = repository.send(blob, whole("")).await;
    assert_eq!((reply.status().as_u16(), reply.body().len()), (307, 0), "{reply:?}");
    let location = reply.headers()[LOCATION].to_str().expect("a URL");
    let path = location.strip_prefix(&format!("http://{}", server.address)).expect("a URL in the bucket");
    let bucket = Client { address: server.address };
    for (range, wanted) in
        [("bytes=0-", layer.clone()), ("bytes=20000000-20000009", layer.slice(20_000_000..20_000_010))]
    {
        let request = Request::get(path).header(RANGE, range).body(whole("")).expect("a request");
        let reply = bucket.fetch(request).await.expect("a reply");
        assert!(*reply.body() == wanted, "{range}: {}", reply.status());
    }
}
