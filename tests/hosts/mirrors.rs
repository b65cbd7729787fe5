//! Pulls through an upstream that behaves as Docker Hub does, on hosts. The upstream's requests and
//! bytes are counted, and the upstream fails in every way that the cache must handle.

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::{RETRY_AFTER, WARNING};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;

use super::support::client::{RequestBody, whole};
use super::support::host::{Host, Kind};
use super::support::hub::{Fault, Hub, REPOSITORY};
use super::support::value::{noise, sha256};

const MIB: usize = 1024 * 1024;
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// How often a fault happens that does not end.
const ALWAYS: usize = usize::MAX;

/// A host and its upstream.
struct Setup {
    hub: Hub,
    host: Host,
}

impl Setup {
    fn start(kind: Kind) -> Self {
        let hub = Hub::start();
        let host = Host::start_with(kind, &settings(kind, &hub, ""));
        Self { hub, host }
    }

    async fn manifest(&self, reference: &str) -> Response<Bytes> {
        self.host.client.fetch(request("manifests", reference)).await.unwrap()
    }

    /// The answer to a pull of a blob; an error if the body breaks off.
    async fn blob(&self, digest: &str) -> Result<Response<Bytes>, String> {
        self.host.client.fetch(request("blobs", digest)).await
    }

    fn requests(&self) -> Vec<String> {
        self.hub.take().0
    }
}

/// The settings of a host that mirrors the hub, with options of the upstream.
fn settings(kind: Kind, hub: &Hub, options: &str) -> Vec<(&'static str, String)> {
    let mut settings = vec![("UPSTREAMS", hub.setting(options))];
    if matches!(kind, Kind::SpinHost(_)) {
        settings.extend(["UPSTREAM_HOST", "UPSTREAM_TOKEN_HOST", "UPSTREAM_CONTENT_HOST"].into_iter().zip(hub.urls()));
    }
    settings
}

fn request(kind: &str, name: &str) -> Request<RequestBody> {
    Request::get(format!("/v2/docker.io/{REPOSITORY}/{kind}/{name}")).body(whole("")).unwrap()
}

/// An image with one layer. Returns the manifest and the digests of the config and the layer.
fn image(hub: &Hub, name: &str) -> (Bytes, [String; 2]) {
    let blobs = [Bytes::from(format!("{{\"image\":\"{name}\"}}")), noise(5000, name)];
    let descriptor = |blob: &Bytes, media_type: &str| serde_json::json!({"mediaType": media_type, "digest": sha256(blob), "size": blob.len()});
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor(&blobs[0], "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(&blobs[1], "application/vnd.oci.image.layer.v1.tar")],
    });
    (manifest.to_string().into(), blobs.map(|blob| hub.add_blob(blob)))
}

/// Adds a manifest without an image behind the manifest, under a tag.
fn tag(hub: &Hub, name: &str) -> Bytes {
    let (manifest, _) = image(hub, name);
    hub.add_manifest(Some(name), IMAGE, manifest.clone());
    manifest
}

macro_rules! on_host {
    ($host:ident, $kind:expr, $($scenario:ident),*) => {
        mod $host {
            use super::Kind;

            $(
                #[tokio::test]
                async fn $scenario() {
                    super::$scenario($kind).await;
                }
            )*
        }
    };
    ($host:ident, $kind:expr) => {
        on_host!(
            $host,
            $kind,
            a_pull_costs_the_upstream_as_little_as_possible,
            a_fill_logs_in_again_when_its_token_expires,
            manifests_of_a_failing_upstream,
            blobs_of_a_failing_upstream,
            an_upstream_that_is_down,
            an_upstream_that_hangs
        );
    };
}

on_host!(native, Kind::Native);
on_host!(wasi, Kind::Wasi);
// The rest of the component is that of the WASI host.
on_host!(
    spin,
    Kind::SpinHost("spin-sqlite"),
    a_pull_costs_the_upstream_as_little_as_possible,
    blobs_of_a_failing_upstream
);

async fn a_pull_costs_the_upstream_as_little_as_possible(kind: Kind) {
    let Setup { hub, mut host } = Setup::start(kind);
    let architectures = ["amd64", "arm64", "arm", "ppc64le", "riscv64", "s390x"];
    let images = architectures.map(|architecture| image(&hub, architecture));
    let children = images.each_ref().map(|(manifest, _)| hub.add_manifest(None, IMAGE, manifest.clone()));
    let entries: Vec<_> = (architectures.iter().zip(&children).zip(&images))
        .map(|((architecture, digest), (manifest, _))| {
            let platform = serde_json::json!({"os": "linux", "architecture": architecture});
            serde_json::json!({"mediaType": IMAGE, "digest": digest, "size": manifest.len(), "platform": platform})
        })
        .collect();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    hub.add_manifest(Some("v1"), INDEX, index.clone().into());
    let (child, [config, layer]) = (&children[0], &images[0].1);

    let pull = async |host: &Host| {
        for (kind, name) in [("manifests", "v1"), ("manifests", child), ("blobs", config), ("blobs", layer)] {
            let answer = host.client.fetch(request(kind, name)).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{kind} {name}: {answer:?}");
            assert!(name == "v1" || sha256(answer.body()) == name, "{kind} {name} has other content");
        }
    };
    pull(&host).await;
    let (requests, bytes) = hub.take();
    let expected = [
        format!("token {REPOSITORY}"),
        "GET manifest v1".to_owned(),
        format!("GET manifest {child}"),
        "GET blob".to_owned(),
        "GET content 0".to_owned(),
        "GET blob".to_owned(),
        "GET content 0".to_owned(),
    ];
    assert_eq!(requests, expected, "one architecture of six");
    let config_bytes = "{\"image\":\"amd64\"}".len();
    assert_eq!(bytes, (index.len() + images[0].0.len() + config_bytes + 5000) as u64);
    for _ in 0..50 {
        pull(&host).await;
    }
    assert_eq!(hub.take(), (vec![], 0), "50 pulls while the tag is fresh");
    // The token stays usable after a restart, from the key-value store.
    host.restart_with(&settings(kind, &hub, "fresh=0"));
    pull(&host).await;
    assert_eq!(hub.take(), (vec!["HEAD manifest v1".to_owned()], 0), "a tag that is not fresh");
    // Docker Hub answers 401 for a repository that does not exist.
    let absent = Request::get("/v2/docker.io/library/absent/manifests/v1").body(whole("")).unwrap();
    assert_eq!(host.client.fetch(absent).await.unwrap().status(), StatusCode::NOT_FOUND);
}

/// Bytes that differ in every row of 1 KiB, quickly made.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at >> 10) as u8 ^ at as u8).collect::<Vec<u8>>().into()
}

/// 100 clients pull a layer that is not here: 64 MiB, or 1 GiB with EYOT_BIG=1.
#[tokio::test]
async fn natively_many_clients_share_one_fetch() {
    let mebibytes = if std::env::var("EYOT_BIG").is_ok_and(|big| big == "1") { 1024 } else { 64 };
    let Setup { hub, host } = Setup::start(Kind::Native);
    let blob = pattern(mebibytes * MIB);
    let digest = hub.add_blob(blob.clone());
    hub.pause_ms(5);
    let memory = host.memory();
    memory.reset_peak();
    let idle_bytes = memory.now_bytes();
    let pulls = (0..100).map(|_| async {
        let mut body = host.client.open(request("blobs", &digest)).await.unwrap().into_body();
        let mut position = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(blob[position..].starts_with(&data), "other content at byte {position}");
            position += data.len();
        }
        position
    });
    assert!(join_all(pulls).await.iter().all(|length| *length == blob.len()), "some clients got less");
    let (requests, bytes) = hub.take();
    assert_eq!(requests.iter().filter(|request| request.starts_with("GET content")).count(), 1, "{requests:?}");
    assert_eq!(bytes, blob.len() as u64);
    let grown_bytes = memory.peak_bytes().saturating_sub(idle_bytes);
    assert!(grown_bytes < 60 * MIB as u64, "{grown_bytes} bytes above idle");
    let again = host.client.fetch(request("blobs", &digest)).await.unwrap();
    assert_eq!((again.status(), again.body().len()), (StatusCode::OK, blob.len()));
    assert_eq!(hub.take(), (vec![], 0));
}

/// The connection breaks in the middle of a layer, and the token is not valid any more.
async fn a_fill_logs_in_again_when_its_token_expires(kind: Kind) {
    let setup = Setup::start(kind);
    let blob = noise(6 * MIB, "token");
    let digest = setup.hub.add_blob(blob.clone());
    setup.hub.fail(Fault::HangsAfter(2 * MIB), 1);
    let mut body = setup.host.client.open(request("blobs", &digest)).await.unwrap().into_body();
    let (mut received, mut is_expired) = (Vec::new(), false);
    while let Some(frame) = body.frame().await {
        received.extend_from_slice(&frame.unwrap().into_data().unwrap());
        if received.len() >= MIB && !is_expired {
            is_expired = true;
            setup.hub.expire_tokens();
            setup.hub.heal();
        }
    }
    assert_eq!(sha256(&received), digest);
    let token = format!("token {REPOSITORY}");
    let second = format!("GET content {}", 2 * MIB);
    assert_eq!(setup.requests(), [&token, "GET blob", "GET content 0", &token, "GET blob", &second]);
}

async fn manifests_of_a_failing_upstream(kind: Kind) {
    let setup = Setup::start(kind);
    for (name, fault, status, retry_after) in [
        ("limited", Fault::Limited(Some("17")), StatusCode::TOO_MANY_REQUESTS, Some("17")),
        ("limited-without-a-time", Fault::Limited(None), StatusCode::TOO_MANY_REQUESTS, None),
        ("garbage", Fault::Garbage, StatusCode::BAD_GATEWAY, None),
        ("short", Fault::Short(20), StatusCode::BAD_GATEWAY, None),
        ("other", Fault::OtherContent, StatusCode::BAD_GATEWAY, None),
        ("silent", Fault::NoDigest, StatusCode::OK, None),
    ] {
        let manifest = tag(&setup.hub, name);
        setup.hub.fail(fault, ALWAYS);
        let answer = setup.manifest(name).await;
        assert_eq!(answer.status(), status, "{name}: {answer:?}");
        assert_eq!(answer.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap()), retry_after, "{name}");
        let names_the_upstream = String::from_utf8_lossy(answer.body()).contains("upstream docker.io");
        assert!(status == StatusCode::OK || names_the_upstream, "{name}: {answer:?}");
        setup.hub.heal();
        assert_eq!(*setup.manifest(name).await.body(), manifest, "{name}");
    }
}

async fn blobs_of_a_failing_upstream(kind: Kind) {
    let setup = Setup::start(kind);
    for (name, fault, times, expected) in [
        ("limited", Fault::Limited(Some("17")), 1, Some(StatusCode::TOO_MANY_REQUESTS)),
        ("garbage", Fault::Garbage, ALWAYS, Some(StatusCode::BAD_GATEWAY)),
        ("short once", Fault::Short(2 * MIB), 1, Some(StatusCode::OK)),
        ("short", Fault::Short(MIB), ALWAYS, None),
        ("other", Fault::OtherContent, 1, None),
    ] {
        let blob = noise(5 * MIB, name);
        let digest = setup.hub.add_blob(blob.clone());
        setup.hub.fail(fault, times);
        let answer = setup.blob(&digest).await;
        let (status, content) = match &answer {
            Ok(answer) => (Some(answer.status()), Some(answer.body())),
            Err(_) => (None, None),
        };
        assert_eq!(status, expected, "{name}: {answer:?}");
        assert!(status != Some(StatusCode::OK) || content == Some(&blob), "{name}: other content");
        setup.hub.heal();
        setup.requests();
        assert_eq!(*setup.blob(&digest).await.unwrap().body(), blob, "{name}");
        let requests = setup.requests();
        match name {
            "short once" => assert_eq!(requests, [""; 0]),
            "other" => assert!(requests.contains(&"GET content 0".to_owned()), "wrong bytes stayed: {requests:?}"),
            _ => assert_eq!(requests.len(), 2, "{name}: {requests:?}"),
        }
        setup.blob(&digest).await.unwrap();
        assert_eq!(setup.requests(), [""; 0], "{name}: not stored");
    }
}

/// Connections are refused. What is here is served, a tag with a warning.
async fn an_upstream_that_is_down(kind: Kind) {
    let Setup { hub, mut host } = Setup::start(kind);
    let manifest = tag(&hub, "v1");
    let digest = hub.add_blob(noise(MIB, "layer"));
    for (folder, name) in [("manifests", "v1"), ("blobs", &digest)] {
        assert_eq!(host.client.fetch(request(folder, name)).await.unwrap().status(), StatusCode::OK);
    }
    hub.stop();
    host.restart_with(&settings(kind, &hub, "fresh=0"));
    let setup = Setup { hub, host };
    let stale = setup.manifest("v1").await;
    assert_eq!((stale.status(), stale.body()), (StatusCode::OK, &manifest));
    let warning = stale.headers()[WARNING].to_str().unwrap();
    assert!(warning.starts_with("299 - \"stale: upstream docker.io:"), "{warning}");
    assert_eq!(setup.blob(&digest).await.unwrap().status(), StatusCode::OK);
    let absent = setup.manifest("v2").await;
    assert_eq!(absent.status(), StatusCode::BAD_GATEWAY, "{absent:?}");
    assert!(String::from_utf8_lossy(absent.body()).contains("upstream docker.io"), "{absent:?}");
    assert_eq!(setup.blob(&sha256(b"absent")).await.unwrap().status(), StatusCode::BAD_GATEWAY);
    setup.hub.start_again();
    tag(&setup.hub, "v2");
    assert_eq!(setup.manifest("v2").await.status(), StatusCode::OK);
}

/// An upstream that does not answer is given up after 5 s (a question) or 20 s (content), and a
/// body that stops after 60 s. Cached content does not wait for the upstream more than once.
async fn an_upstream_that_hangs(kind: Kind) {
    let Setup { hub, mut host } = Setup::start(kind);
    let (manifest, _) = (tag(&hub, "v1"), tag(&hub, "v2"));
    assert_eq!(host.client.fetch(request("manifests", "v1")).await.unwrap().status(), StatusCode::OK);
    host.restart_with(&settings(kind, &hub, "fresh=0"));
    let setup = Setup { hub, host };
    let blob = noise(3 * MIB, "layer");
    let digest = setup.hub.add_blob(blob.clone());
    setup.hub.fail(Fault::HangsAfter(2 * MIB), 1);
    let mut body = setup.host.client.open(request("blobs", &digest)).await.unwrap().into_body();
    let mut received = body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();

    setup.hub.fail(Fault::Hangs, ALWAYS);
    setup.requests();
    for _ in 0..3 {
        let stale = setup.manifest("v1").await;
        assert_eq!((stale.status(), stale.body()), (StatusCode::OK, &manifest));
        assert!(stale.headers()[WARNING].to_str().unwrap().contains("too slow"), "{stale:?}");
    }
    assert_eq!(setup.requests(), ["HEAD manifest v1"]);
    let absent = setup.manifest("v2").await;
    assert_eq!(absent.status(), StatusCode::GATEWAY_TIMEOUT, "{absent:?}");

    // The upstream answers again, and the first body still hangs.
    setup.hub.fail(Fault::Hangs, 0);
    while let Some(frame) = body.frame().await {
        received.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    assert_eq!(sha256(&received), digest);
    assert!(setup.requests().contains(&format!("GET content {}", 2 * MIB)));
}
