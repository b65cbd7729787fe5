//! S3 from the operator's side: https, host names and addresses, wrong settings, a server that
//! dies. The tests run the native program on a real S3 server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::authority::Authority;
use crate::s3_server::{self, BUCKET, Kind, S3Server, SECRET_ACCESS_KEY, free_port};
use crate::support::client::{Client, RequestBody, chunked, whole};
use crate::support::host::{self, Host};
use crate::support::random::Random;
use crate::support::repository::Repository;
use crate::support::runner;
use crate::support::value::{noise, sha256};
use bytes::Bytes;
use eyot::host::outbound::NativePlatform;
use eyot::http::Redirects;
use eyot::platform::{Platform, SendError};
use eyot::registry::Limits;
use eyot::store::Error;
use eyot::store::s3::{PART_BYTES_MIN, S3, S3Settings};
use eyot::{Body, Handler, Registry};
use futures_util::stream;
use http::header::{HOST, LOCATION, RANGE};
use http::{Request, Response, Uri};

const MIB: usize = 1024 * 1024;
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The timeout for every wait in this file. SeaweedFS may need half a minute after a kill until the
/// server takes writes again.
const PATIENCE: Duration = Duration::from_secs(180);

/// The settings of a program that uses this S3 server. Entries of `changes` override the defaults.
fn settings(server: &S3Server, changes: &[(&'static str, &str)]) -> Vec<(&'static str, &'static str)> {
    let mut settings: BTreeMap<_, String> = server.environment().into_iter().collect();
    settings.extend(changes.iter().map(|(name, value)| (*name, (*value).to_owned())));
    settings.into_iter().map(|(name, value)| (name, &*value.leak())).collect()
}

/// Starts `eyot check` with these settings. Only certificates that the settings name are trusted.
fn check(settings: &[(&'static str, &'static str)]) -> std::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eyot"));
    command.arg("check").env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").envs(settings.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program of ours")
}

/// Checks the output of `eyot check`. With `named`, the check must fail, and the last line must
/// contain every text of `named`. The output never contains the secret key.
fn checked(output: &Output, named: Option<&[&str]>) {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.success(), named.is_none(), "{text}");
    let last = text.lines().last().unwrap_or_default();
    for named in named.unwrap_or_default() {
        assert!(last.contains(named), "want {named}: {text}");
    }
    assert!(!text.contains(SECRET_ACCESS_KEY), "{text}");
}

/// Waits until `is_there` returns true, at most for `PATIENCE`. `what` names the event in the panic
/// message.
async fn until(what: &str, is_there: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_there() {
        assert!(begin.elapsed() < PATIENCE, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn location(reply: &Response<Bytes>) -> &str {
    reply.headers()[LOCATION].to_str().expect("text")
}

/// An S3 server that also listens for https, on a second port, with a certificate signed by
/// `authority`.
async fn https_server(authority: &Authority<'_>) -> (S3Server, SocketAddr) {
    let (certificate, key) = authority.sign("IP:127.0.0.1");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let arguments = [
        format!("-s3.port.https={}", address.port()),
        format!("-s3.cert.file={}", certificate.display()),
        format!("-s3.key.file={}", key.display()),
    ];
    let server = S3Server::start_with(Kind::SeaweedFs, &arguments);
    server.ready().await;
    (server, address)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

#[tokio::test(flavor = "multi_thread")]
async fn https_needs_an_authority_that_is_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    let stranger = tempfile::tempdir().expect("a folder");
    let (authority, stranger) = (Authority::new(folder.path(), "ours"), Authority::new(stranger.path(), "stranger"));
    let (server, address) = https_server(&authority).await;
    let (trusted, untrusted) = (authority.certificate(), stranger.certificate());
    let (missing, right) = (folder.path().join("missing.pem"), format!("https://{address}"));
    let (wrong_name, plain) = (format!("https://localhost:{}", address.port()), format!("http://{}", server.address));
    let no_tls = format!("https://{}", server.address);
    let cases: [(&str, &Path, Option<&[&str]>); 6] = [
        (&right, &trusted, None),
        (&right, &untrusted, Some(&[&right, "s3_endpoint", "UnknownIssuer", "SSL_CERT_FILE"])),
        (&right, &missing, Some(&[&right, "missing.pem", "No such file", "SSL_CERT_FILE"])),
        (&wrong_name, &trusted, Some(&[&wrong_name, "certificate not valid for name \"localhost\"", "127.0.0.1"])),
        (&no_tls, &trusted, Some(&[&no_tls, "s3_endpoint", "did not speak TLS"])),
        // An endpoint without TLS needs no certificates, and a small container has no certificate
        // file.
        (&plain, &missing, None),
    ];
    let checks = cases.map(|(endpoint, file, named)| {
        (check(&settings(&server, &[("S3_ENDPOINT", endpoint), ("SSL_CERT_FILE", text(file))])), named)
    });
    for (check, named) in checks {
        checked(&check.wait_with_output().expect("a child of ours"), named);
    }
}

/// The registry reaches S3 at a private https address. Clients get URLs that are signed for the
/// public address.
#[tokio::test(flavor = "multi_thread")]
async fn clients_are_sent_to_an_address_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new(folder.path(), "ours");
    let (server, private) = https_server(&authority).await;
    let (endpoint, public) = (format!("https://{private}"), format!("http://{}", server.address));
    let trusted = authority.certificate();
    let settings = settings(
        &server,
        &[
            ("S3_ENDPOINT", &endpoint),
            ("S3_PUBLIC_ENDPOINT", &public),
            ("SSL_CERT_FILE", text(&trusted)),
            ("SSL_CERT_DIR", ""),
        ],
    );
    let host = Host::start_with(host::Kind::Native, &settings);
    let repository = Repository { client: host.client, name: "team/app" };
    // Three ways to store a layer: gathered in memory, one streamed part, several parts.
    let layers = [30_000, 22 * MIB, 23 * MIB].map(|length| noise(length, "a layer"));
    repository.push(layers[0].clone()).await;
    repository.push(layers[1].clone()).await;
    let mut session = repository.start().await;
    let pieces: Vec<_> = runner::pieces(layers[2].clone()).collect();
    assert_eq!(session.patch(None, chunked(stream::iter(pieces))).await.status(), 202);
    session.finish(&sha256(&layers[2])).await;
    for layer in &layers {
        let request = Request::get(format!("/v2/team/app/blobs/{}", sha256(layer)));
        let reply = repository.send(request, whole("")).await;
        assert_eq!(reply.status(), 307);
        let uri: Uri = location(&reply).parse().expect("a URL");
        assert_eq!(format!("http://{}", uri.authority().expect("an address")), public);
        let path = uri.path_and_query().expect("a path").as_str();
        let clients = Client { address: server.address };
        for (range, expected) in [("bytes=0-", layer.clone()), ("bytes=20000-20009", layer.slice(20_000..20_010))] {
            let request = Request::get(path).header(RANGE, range).body(whole("")).expect("a request");
            assert!(clients.fetch(request).await.expect("a reply").body() == &expected, "{range}");
        }
        // The signed URL is valid only for the public address.
        let elsewhere = Request::get(uri.to_string()).header(HOST, private.to_string()).body(Body::empty());
        let refused = NativePlatform::default().send(elsewhere.expect("a request"), PATIENCE).await;
        assert_eq!(refused.expect("an answer").status(), 403);
    }
}

/// Sends each request to one address, whatever host the URL names. Bucket host names in this test
/// have no DNS entry.
struct OneAddress(NativePlatform, SocketAddr);

#[async_trait::async_trait]
impl Platform for OneAddress {
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    fn random(&self) -> [u8; 16] {
        self.0.random()
    }

    async fn send(&self, mut request: Request<Body>, timeout: Duration) -> Result<Response<Body>, SendError> {
        let uri = request.uri();
        let name = uri.authority().expect("a host").as_str().parse().expect("a header's value");
        *request.uri_mut() =
            format!("http://{}{}", self.1, uri.path_and_query().expect("a path")).parse().expect("a URL");
        request.headers_mut().entry(HOST).or_insert(name);
        self.0.send(request, timeout).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_can_be_named_by_the_host() {
    let server = S3Server::start_with(Kind::SeaweedFs, &["-s3.domainName=s3.test,s3.example".to_owned()]);
    server.ready().await;
    let platform: Arc<dyn Platform> = Arc::new(OneAddress(NativePlatform::default(), server.address));
    let port = server.address.port();
    let settings = S3Settings {
        endpoint: format!("http://s3.test:{port}"),
        public_endpoint: Some(format!("http://s3.example:{port}")),
        path_style: false,
        part_bytes: PART_BYTES_MIN,
        ..server.settings()
    };
    let s3 = S3::new(settings, platform.clone()).expect("settings that can be used");
    let (keys, blobs) = (Arc::new(s3.key_value()), Arc::new(s3.blob_store()));
    let registry = Registry::new(keys, blobs, platform.clone(), Limits::default());
    for finding in registry.check().await.expect("a server that answers") {
        assert_eq!(finding.verdict, eyot::store::check::Verdict::Holds, "{finding:?}");
    }
    let handler = Handler::new(registry, eyot::auth::Access::open());
    let send = async |handler: &Handler, request: http::request::Builder, body: Body| {
        let (head, body) = handler.handle(request.body(body).expect("a request")).await.into_parts();
        Response::from_parts(head, body.collect_up_to(u64::MAX).await.expect("a whole body"))
    };
    let layer = noise(12 * MIB, "a layer");
    let begun = send(&handler, Request::post("/v2/app/blobs/uploads/"), Body::empty()).await;
    let pieces: Vec<_> = runner::pieces(layer.clone()).map(Ok::<_, Error>).collect();
    let end = format!("{}?digest={}", location(&begun), sha256(&layer));
    let pushed = send(&handler, Request::put(end), Body::from_stream(stream::iter(pieces))).await;
    assert_eq!(pushed.status(), 201, "{pushed:?}");

    let uri = format!("/v2/app/blobs/{}", sha256(&layer));
    let streamed = send(&handler.clone().with_redirects(Redirects::none()), Request::get(&uri), Body::empty()).await;
    assert!(streamed.body() == &layer);
    let redirect = send(&handler, Request::get(&uri), Body::empty()).await;
    let start = format!("http://{BUCKET}.s3.example:{port}/registry/blobs/");
    assert!(location(&redirect).starts_with(&start), "{redirect:?}");
    for (host, range, expected) in [
        (format!("{BUCKET}.s3.example:{port}"), "bytes=0-", Some(&layer[..])),
        (format!("{BUCKET}.s3.example:{port}"), "bytes=7000000-7000009", Some(&layer[7_000_000..7_000_010])),
        // The URL was signed for another host name of the same bucket.
        (format!("{BUCKET}.s3.test:{port}"), "bytes=0-", None),
    ] {
        let request = Request::get(location(&redirect)).header(RANGE, range).header(HOST, &host).body(Body::empty());
        let reply = platform.send(request.expect("a request"), PATIENCE).await.expect("an answer");
        assert_eq!(reply.status().as_u16(), if expected.is_some() { 206 } else { 403 }, "{host} {range}");
        let body = reply.into_body().collect_up_to(u64::MAX).await.expect("a whole body");
        assert!(expected.is_none_or(|expected| body == expected), "{host} {range}");
    }
}

/// The operator reads the cause and the setting in the log. A client reads the kind of failure, and
/// no detail of the store.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_named_to_the_operator_alone() {
    let server = S3Server::start(Kind::SeaweedFs);
    server.ready().await;
    for (setting, value) in
        [("S3_ACCESS_KEY_ID", "nobody"), ("S3_SECRET_ACCESS_KEY", "not-the-secret"), ("S3_BUCKET", "nowhere")]
    {
        let named = setting.to_lowercase();
        let settings = settings(&server, &[(setting, value)]);
        checked(
            &check(&settings).wait_with_output().expect("a child of ours"),
            Some(&["cannot use the stores", &named]),
        );

        let host = Host::start_with(host::Kind::Native, &settings);
        until("a word at the start", || host.has_logged("cannot use the bucket") && host.has_logged(&named)).await;
        let repository = Repository { client: host.client, name: "team/app" };
        let uploads = "/v2/team/app/blobs/uploads/";
        for request in [Request::get("/v2/team/app/tags/list"), Request::post(uploads)] {
            let reply = repository.send(request, whole("")).await;
            let id = reply.headers()["x-request-id"].to_str().expect("text");
            is_trouble_of_the_store(&reply);
            until("a line about the request", || host.has_logged(&format!("[{id}]"))).await;
            assert!(String::from_utf8_lossy(reply.body()).contains(id), "{reply:?}");
        }
        for secret in [SECRET_ACCESS_KEY, "not-the-secret", "X-Amz-Signature"] {
            assert!(!host.has_logged(secret), "{secret}");
        }
    }
}

/// Checks that the refusal has the form of the specification and says that the store failed,
/// without the store's address or credentials.
fn is_trouble_of_the_store(reply: &Response<Bytes>) {
    let body: serde_json::Value = serde_json::from_slice(reply.body()).unwrap_or_else(|_| panic!("{reply:?}"));
    let (code, message) = (&body["errors"][0]["code"], body["errors"][0]["message"].as_str().expect("a message"));
    assert_eq!((reply.status().as_u16(), code.as_str()), (500, Some("UNKNOWN")), "{reply:?}");
    assert!(message.starts_with("the registry's store cannot be reached"), "{message}");
    let inner = ["127.0.0.1", "s3", "bucket", "nowhere", "keys", "nobody", "secret", s3_server::ACCESS_KEY_ID];
    assert!(inner.iter().all(|inner| !message.contains(inner)), "{message}");
}

/// How many times the S3 server is killed, unless `EYOT_ROUNDS` gives another number. Every other
/// time, the server restarts at once.
const DEATHS: usize = 3;
/// The longest time in milliseconds from the resumption of the pushes to the next kill.
const LIFE_MS_MAX: usize = 600;
const PUSHERS: usize = 5;
/// The sizes of the layers in turn. Small layers take one request to S3, large layers several
/// parts.
const LAYER_BYTES: [usize; 4] = [2000, MIB, 300_000, 23 * MIB];

/// Counts of acknowledged and refused requests of all pushers.
#[derive(Default)]
struct Tally {
    acknowledged: AtomicUsize,
    refused: AtomicUsize,
    is_over: AtomicBool,
}

/// Pushes images. Each image is pushed again until the registry acknowledges the image.
struct Pusher {
    name: usize,
    client: Client,
    tally: Arc<Tally>,
    /// The acknowledged content: digests of layers, and digests of manifests by tag.
    layers: Vec<String>,
    tags: BTreeMap<String, String>,
}

struct Refused;

impl Pusher {
    async fn work(mut self) -> Self {
        for number in 0.. {
            let layer =
                noise(LAYER_BYTES[(self.name + number) % LAYER_BYTES.len()], &format!("{} {number}", self.name));
            let begin = Instant::now();
            let tag = format!("tag-{}-{}", self.name, number % 5);
            while let Err(Refused) = self.push(&layer, &tag, number % 2 == 0).await {
                assert!(begin.elapsed() < PATIENCE, "client {}: refused all the time", self.name);
            }
            if self.tally.is_over.load(Ordering::Relaxed) {
                break;
            }
        }
        self
    }

    async fn send(&self, request: http::request::Builder, body: RequestBody) -> Result<Response<Bytes>, Refused> {
        let reply = self.client.fetch(request.body(body).expect("a request")).await;
        let reply = reply.unwrap_or_else(|why| panic!("client {}: {why}", self.name));
        if reply.status().is_success() {
            self.tally.acknowledged.fetch_add(1, Ordering::Relaxed);
            return Ok(reply);
        }
        is_trouble_of_the_store(&reply);
        self.tally.refused.fetch_add(1, Ordering::Relaxed);
        Err(Refused)
    }

    /// Pushes as docker does. With `streams`, the PATCH has no Content-Length.
    async fn push(&mut self, layer: &Bytes, tag: &str, streams: bool) -> Result<(), Refused> {
        let digest = sha256(layer);
        let begun = self.send(Request::post("/v2/team/app/blobs/uploads/"), whole("")).await?;
        let session = runner::local(location(&begun), "/");
        let pieces = runner::pieces(layer.clone());
        let body = if streams { chunked(stream::iter(pieces)) } else { whole(layer.clone()) };
        self.send(Request::patch(&session), body).await?;
        self.send(Request::put(format!("{session}?digest={digest}")), whole("")).await?;
        self.layers.push(digest.clone());
        let descriptor = serde_json::json!({ "mediaType": "application/x", "digest": digest, "size": layer.len() });
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": IMAGE, "config": descriptor, "layers": [descriptor],
        });
        let manifest = Bytes::from(manifest.to_string());
        let request = Request::put(format!("/v2/team/app/manifests/{tag}")).header("content-type", IMAGE);
        self.send(request, whole(manifest.clone())).await?;
        self.tags.insert(tag.to_owned(), sha256(&manifest));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_that_dies_loses_nothing_that_was_acknowledged() {
    let mut server = S3Server::start(Kind::SeaweedFs);
    server.ready().await;
    let host = Host::start_with(host::Kind::Native, &settings(&server, &[("REDIRECTS", "false")]));
    let (tally, mut random) = (Arc::new(Tally::default()), Random::from_environment());
    let pushers = (0..PUSHERS).map(|name| {
        let (client, tally) = (host.client, tally.clone());
        tokio::spawn(Pusher { name, client, tally, layers: Vec::new(), tags: BTreeMap::new() }.work())
    });
    let pushers: Vec<_> = pushers.collect();
    let acknowledged = || tally.acknowledged.load(Ordering::Relaxed);
    let refused = || tally.refused.load(Ordering::Relaxed);
    let deaths = std::env::var("EYOT_ROUNDS").map_or(DEATHS, |text| text.parse().expect("a number of deaths"));
    for death in 0..deaths {
        tokio::time::sleep(Duration::from_millis(random.below(LIFE_MS_MAX) as u64)).await;
        server.kill();
        let (begin, before) = (Instant::now(), refused());
        if death % 2 == 0 {
            until("a refusal", || refused() > before).await;
        }
        server.start_again();
        let goal = acknowledged() + 1;
        until("a push after the S3 server is back", || acknowledged() >= goal).await;
        eprintln!("{} refused, pushes go on after {} ms", refused() - before, begin.elapsed().as_millis());
    }
    tally.is_over.store(true, Ordering::Relaxed);
    let repository = Repository { client: host.client, name: "team/app" };
    let (mut layers, mut tags) = (0, Vec::new());
    for pusher in pushers {
        let pusher = pusher.await.expect("a client that is content");
        for digest in &pusher.layers {
            assert_eq!(repository.pull(digest).await.0, *digest);
            layers += 1;
        }
        for (tag, digest) in pusher.tags {
            assert_eq!(sha256(repository.manifest(&tag).await.body()), digest, "{tag}");
            tags.push(tag);
        }
    }
    assert_eq!(repository.tags().await["tags"], serde_json::json!(tags));
    eprintln!("{} requests acknowledged, {} refused; {layers} layers, {} tags", acknowledged(), refused(), tags.len());
}
