//! The S3 stores on real S3 servers: the contract of the stores, and faults that only S3 can have.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eyot::host::outbound::NativePlatform;
use eyot::oci::{Algorithm, Digest, Hasher};
use eyot::platform::{BodyError, Causes, Platform, SendError};
use eyot::registry::Limits;
use eyot::store::s3::{PART_BYTES_MIN, S3, S3Settings};
use eyot::store::{BlobStore, Error, KeyValue, When, contract};
use eyot::{Body, Handler, Registry};
use futures_util::stream;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;

use crate::content::{MIB, content, digest, header, streamed};
use crate::proxy::{Act, Proxy, Seen};
use crate::s3_server::{self, Kind, S3Server};
use crate::support::host::{self, Host};
use crate::support::runner;

fn on(kind: Kind, test: impl AsyncFnOnce(&S3Server)) {
    let server = S3Server::start(kind);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        server.ready().await;
        test(&server).await;
    });
}

async fn keep_contract(s3: &S3) {
    let keys: Arc<dyn KeyValue> = Arc::new(s3.key_value());
    for (name, clause) in contract::KEY_VALUE {
        eprintln!("key-value: {name}");
        clause(keys.clone()).await;
    }
    let blobs: Arc<dyn BlobStore> = Arc::new(s3.blob_store());
    for (name, clause) in contract::BLOB_STORE {
        let begin = Instant::now();
        clause(blobs.clone()).await;
        eprintln!("blob store: {name} in {} ms", begin.elapsed().as_millis());
    }
}

#[test]
fn seaweedfs_keeps_the_contract() {
    on(Kind::SeaweedFs, async |server| keep_contract(&server.open()).await);
}

/// Of R2's deviations from S3, the rule that all parts of an upload have one size is tested here.
#[test]
fn equal_parts_keep_the_contract() {
    on(Kind::SeaweedFs, async |server| {
        let mut settings = server.settings();
        (settings.equal_parts, settings.part_bytes) = (true, PART_BYTES_MIN);
        keep_contract(&s3_server::open(settings)).await;
    });
}

/// A registry with all its data in one bucket, which the registry reaches through a proxy.
struct World {
    handler: Handler,
    proxy: Proxy,
    settings: S3Settings,
}

impl World {
    async fn new(server: &S3Server) -> Self {
        let proxy = Proxy::start(server.address).await;
        let settings = S3Settings { endpoint: format!("http://{}", proxy.address), ..server.settings() };
        Self { handler: handler(settings.clone()), proxy, settings }
    }

    async fn send(&self, method: Method, uri: &str, body: Body) -> Response<Body> {
        let request = Request::builder().method(method).uri(uri).header("content-type", OCI_IMAGE);
        self.handler.handle(request.body(body).unwrap()).await
    }

    /// Pushes as docker does: POST, a PATCH without Content-Length, PUT.
    async fn push(&self, repository: &str, bytes: &Bytes) {
        let post = self.send(Method::POST, &format!("/v2/{repository}/blobs/uploads/"), Body::empty()).await;
        assert_eq!(post.status(), 202);
        let patch = self.send(Method::PATCH, header(&post, "location"), streamed(bytes)).await;
        assert_eq!(patch.status(), 202);
        let end = format!("{}?digest={}", header(&patch, "location"), digest(bytes));
        assert_eq!(self.send(Method::PUT, &end, Body::empty()).await.status(), 201);
    }

    async fn pull(&self, repository: &str, digest: &Digest) -> Bytes {
        let handler = self.handler.clone().with_redirects(eyot::http::Redirects::none());
        let uri = format!("/v2/{repository}/blobs/{digest}");
        let response = handler.handle(Request::get(uri).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200);
        response.into_body().collect_up_to(u64::MAX).await.unwrap()
    }
}

const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

fn handler(settings: S3Settings) -> Handler {
    let platform: Arc<dyn Platform> = Arc::new(NativePlatform::default());
    let s3 = S3::new(settings, platform.clone()).unwrap();
    let registry = Registry::new(Arc::new(s3.key_value()), Arc::new(s3.blob_store()), platform, Limits::default());
    Handler::new(registry, eyot::auth::Access::open())
}

fn image(layer: &Bytes) -> Bytes {
    let descriptor = serde_json::json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": layer.len(),
    });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": descriptor, "layers": [descriptor],
    });
    manifest.to_string().into()
}

fn is_part(seen: &Seen) -> bool {
    seen.path.contains("partNumber=")
}

#[test]
fn a_push_and_a_pull_cost_what_they_must() {
    on(Kind::SeaweedFs, async |server| {
        let world = World::new(server).await;
        let layer = content(1, 100 * MIB);
        world.push("a", &layer).await;
        let (seen, bytes) = world.proxy.take();
        let parts = seen.iter().filter(|seen| is_part(seen)).count();
        let others: Vec<_> = seen.iter().filter(|seen| !is_part(seen)).collect();
        eprintln!("{bytes} bytes for {}, {parts} parts and {} more: {others:#?}", layer.len(), others.len());
        assert!(bytes <= layer.len() as u64 * 101 / 100, "{bytes} bytes");
        assert!(others.len() <= 8, "{others:#?}");

        world.push("a", &content(11, 10 * MIB)).await;
        let (seen, bytes) = world.proxy.take();
        assert!(seen.len() == 7 && bytes <= 10 * MIB as u64 * 101 / 100, "{bytes} bytes, {seen:#?}");

        let manifest = image(&layer);
        assert_eq!(world.send(Method::PUT, "/v2/a/manifests/v1", manifest.into()).await.status(), 201);
        let (seen, _) = world.proxy.take();
        eprintln!("PUT manifest: {seen:#?}");
        assert_eq!(world.send(Method::GET, "/v2/a/manifests/v1", Body::empty()).await.status(), 200);
        assert_eq!(world.proxy.take().0.len(), 2);

        let uri = format!("/v2/a/blobs/{}", digest(&layer));
        let head = world.send(Method::HEAD, &uri, Body::empty()).await;
        assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, "104857600"));
        assert_eq!(world.proxy.take().0.len(), 1);
        let get = world.send(Method::GET, &uri, Body::empty()).await;
        assert_eq!((get.status().as_u16(), get.body().length()), (307, Some(0)));
        assert_eq!(header(&get, "docker-content-digest"), digest(&layer).as_str());
        assert_eq!(world.proxy.take().0.len(), 1);
        // A client that follows the redirect gets the whole layer or a range of the layer.
        let platform = NativePlatform::default();
        for (range, expected) in
            [("bytes=0-", layer.clone()), ("bytes=20000000-20000009", layer.slice(20_000_000..20_000_010))]
        {
            let request = Request::get(header(&get, "location")).header("range", range).body(Body::empty()).unwrap();
            let response = platform.send(request, Duration::from_secs(10)).await.unwrap();
            assert!(response.into_body().collect_up_to(u64::MAX).await.unwrap() == expected, "{range}");
        }
    });
}

/// The client breaks off an upload. Of bytes that the registry streams on, only whole segments
/// count. Of bytes that the registry gathers first, all count.
#[test]
fn the_arrived_bytes_of_a_broken_push_count() {
    on(Kind::SeaweedFs, async |server| {
        let world = World::new(server).await;
        let layer = content(12, 80 * MIB);
        let post = world.send(Method::POST, "/v2/a/blobs/uploads/", Body::empty()).await;
        let location = header(&post, "location").to_owned();
        let mut start = 0;
        for (sent, is_told, counted) in
            [(MIB, true, MIB), (40 * MIB, true, MIB), (70 * MIB, true, 70 * MIB), (73 * MIB, false, 73 * MIB)]
        {
            let pieces: Vec<_> = layer.slice(start..sent).chunks(100_000).map(Bytes::copy_from_slice).map(Ok).collect();
            let broken = Err(BodyError::Interrupted("on purpose".into()));
            let body = Body::from_stream(futures_util::stream::iter(pieces.into_iter().chain([broken])));
            let body = if is_told { body.with_length((layer.len() - start) as u64) } else { body };
            let cut = world.send(Method::PATCH, &location, body).await;
            assert_eq!(cut.status(), 400);
            let status = world.send(Method::GET, &location, Body::empty()).await;
            assert_eq!(header(&status, "range"), format!("0-{}", counted - 1));
            start = counted;
        }
        let end = format!("{location}?digest={}", digest(&layer));
        assert_eq!(world.send(Method::PUT, &end, layer.slice(start..).into()).await.status(), 201);
        assert!(world.pull("a", &digest(&layer)).await == layer);
    });
}

const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";

/// Each distinct request fails three times: with 503, with a cut before the server sees the
/// request, and with a cut after. The fourth attempt passes.
fn trouble_once(seen_before: &mut Vec<Seen>, seen: &Seen) -> Act {
    let times = seen_before.iter().filter(|before| *before == seen).count();
    seen_before.push(seen.clone());
    match times {
        0 => Act::Answer(503, SLOW_DOWN),
        1 => Act::CutBefore,
        2 => Act::CutAfter,
        _ => Act::Pass,
    }
}

#[test]
fn a_server_in_trouble_loses_nothing() {
    on(Kind::SeaweedFs, async |server| {
        let world = World::new(server).await;
        let layer = content(2, 30 * MIB);
        let mut before = Vec::new();
        world.proxy.script(move |seen| trouble_once(&mut before, seen));
        world.push("a", &layer).await;
        assert_eq!(world.send(Method::PUT, "/v2/a/manifests/v1", image(&layer).into()).await.status(), 201);
        world.proxy.script(|_| Act::Pass);
        assert_eq!(world.send(Method::GET, "/v2/a/manifests/v1", Body::empty()).await.status(), 200);
        assert!(world.pull("a", &digest(&layer)).await == layer);
    });
}

#[test]
fn a_download_that_breaks_off_is_gone_on_with() {
    on(Kind::SeaweedFs, async |server| {
        let world = World::new(server).await;
        let layer = content(3, 20 * MIB);
        world.push("a", &layer).await;
        world.proxy.script(|seen| if seen.path.contains("/blobs/") { Act::CutAnswer(3 * MIB) } else { Act::Pass });
        assert!(world.pull("a", &digest(&layer)).await == layer);
    });
}

#[test]
fn a_server_that_stays_down_is_no_absence() {
    on(Kind::SeaweedFs, async |server| {
        let world = World::new(server).await;
        let layer = content(4, 1000);
        world.push("a", &layer).await;
        let uri = format!("/v2/a/blobs/{}", digest(&layer));
        let page: &str = "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><IsTruncated>true</IsTruncated></ListBucketResult>";
        for (status, text) in [(503, SLOW_DOWN), (404, "<html>not here</html>"), (403, ""), (200, page)] {
            world.proxy.script(move |_| Act::Answer(status, text));
            assert_eq!(
                world.send(Method::GET, "/v2/a/tags/list", Body::empty()).await.status(),
                500,
                "{status} {text}"
            );
            if status != 200 {
                assert_eq!(world.send(Method::GET, &uri, Body::empty()).await.status(), 500, "{status} {text}");
            }
        }
        world.proxy.script(|_| Act::Pass);
        assert_eq!(world.send(Method::HEAD, &uri, Body::empty()).await.status(), 200);
    });
}

/// A conditional write whose own earlier attempt succeeded, but whose answer was lost, is no
/// conflict. A write by another client is a conflict.
#[test]
fn a_write_whose_answer_was_lost_is_known_again() {
    on(Kind::SeaweedFs, async |server| {
        let world = World::new(server).await;
        let keys = s3_server::open(world.settings.clone()).key_value();
        let mut cuts = 2;
        world.proxy.script(move |seen| {
            let cut = seen.method == "PUT" && cuts > 0;
            cuts -= i32::from(cut);
            if cut { Act::CutAfter } else { Act::Pass }
        });
        keys.put("lost!a", Bytes::from_static(b"1"), When::Absent).await.unwrap();
        assert!(matches!(keys.put("lost!a", Bytes::from_static(b"2"), When::Absent).await, Err(Error::Conflict(_))));
        let version = keys.get("lost!a").await.unwrap().unwrap().version;
        world.proxy.script(|seen| if seen.method == "PUT" { Act::CutAfter } else { Act::Pass });
        let lost = keys.put("lost!a", Bytes::from_static(b"3"), When::Unchanged(version)).await;
        assert!(matches!(lost, Err(Error::Unavailable(_))), "{lost:?}");
        assert_eq!(keys.get("lost!a").await.unwrap().unwrap().value, "3");
    });
}

#[test]
fn exactly_one_of_two_uploads_with_parts_wins() {
    on(Kind::SeaweedFs, async |server| {
        let mut settings = server.settings();
        settings.part_bytes = PART_BYTES_MIN;
        let blobs = s3_server::open(settings).blob_store();
        let start = content(5, 12 * MIB);
        let stage = blobs.append(&blobs.stage().await.unwrap(), start.clone().into()).await.unwrap();
        let more = [content(6, 11 * MIB), content(7, 11 * MIB)];
        let (one, two) =
            tokio::join!(blobs.append(&stage, streamed(&more[0])), blobs.append(&stage, streamed(&more[1])),);
        let mut committed = 0;
        for (fork, more) in [one.unwrap(), two.unwrap()].iter().zip(&more) {
            let all = Bytes::from([&start[..], more].concat());
            match blobs.commit(fork, &digest(&all)).await {
                Ok(location) => {
                    committed += 1;
                    let body = blobs.read(&location, 0..all.len() as u64).await.unwrap();
                    assert!(body.collect_up_to(u64::MAX).await.unwrap() == all);
                    assert_eq!(blobs.commit(fork, &digest(&all)).await, Ok(location), "a commit can be repeated");
                }
                Err(error) => assert!(matches!(error, Error::Conflict(_)), "{error}"),
            }
        }
        // Both uploads may lose, if each replaced a part of the other. At most one upload wins.
        assert!(committed <= 1);
        let late = blobs.append(&stage, streamed(&more[0])).await;
        assert!(committed == 0 || matches!(late, Err(Error::Conflict(_))), "{late:?}");
    });
}

/// The listing names all stored blobs, and the parts of unfinished uploads. Each listed name can be
/// removed.
#[test]
fn stored_objects_are_listed_and_removed() {
    on(Kind::SeaweedFs, async |server| {
        let blobs = server.open().blob_store();
        let mut expected = Vec::new();
        for (seed, length, commits) in [(1, 1000, true), (2, 100_000, true), (3, 6 * MIB, true), (4, 7 * MIB, false)] {
            let bytes = content(seed, length);
            let stage = blobs.append(&blobs.stage().await.unwrap(), streamed(&bytes)).await.unwrap();
            let stage = blobs.append(&stage, streamed(&content(seed, 20_000))).await.unwrap();
            expected.push(match commits {
                true => {
                    let all = [bytes, content(seed, 20_000)].concat();
                    let location = blobs.commit(&stage, &digest(&all)).await.unwrap();
                    (blobs.names_of(&location).await.unwrap().remove(0), Some(all.len() as u64))
                }
                false => (blobs.family(&stage).await.unwrap().prefix().to_owned(), None),
            });
        }
        expected.sort();
        let listed = |limit| {
            let blobs = &blobs;
            async move {
                let mut all: Vec<(String, Option<u64>)> = Vec::new();
                loop {
                    let page = blobs.list(all.last().map(|(name, _)| name.as_str()), limit).await.unwrap();
                    let is_last = page.len() < limit;
                    all.extend(page.into_iter().map(|stored| (stored.name, stored.bytes)));
                    if is_last {
                        return all;
                    }
                }
            }
        };
        for limit in [1, 2, 100] {
            // The second append rewrote the first two blobs, and the listing still contains the
            // versions before the append.
            let all = listed(limit).await;
            let is_there = |(name, bytes): &(String, Option<u64>)| {
                all.iter().any(|(listed, has)| {
                    (listed == name || name.ends_with('!') && listed.starts_with(name)) && has == bytes
                })
            };
            assert!(expected.iter().all(is_there), "{expected:?} {all:?}");
        }
        for (name, _) in listed(100).await {
            blobs.remove(&name).await.unwrap();
            blobs.remove(&name).await.unwrap();
        }
        assert_eq!(listed(100).await, []);
    });
}

/// A clock that is off by the given number of milliseconds.
struct OffClock(NativePlatform, i64);

#[async_trait::async_trait]
impl Platform for OffClock {
    fn now_ms(&self) -> u64 {
        self.0.now_ms().saturating_add_signed(self.1)
    }

    fn random(&self) -> [u8; 16] {
        self.0.random()
    }

    async fn send(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Body>, SendError> {
        self.0.send(request, timeout).await
    }

    async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration).await;
    }
}

async fn refusals(server: &S3Server, refuses_the_future: bool) {
    let (wrong_key, wrong_secret, wrong_bucket) = (server.settings(), server.settings(), server.settings());
    let wrong_key = S3Settings { access_key_id: "nobody".into(), ..wrong_key };
    let wrong_secret = S3Settings { secret_access_key: "wrong".into(), ..wrong_secret };
    let wrong_bucket = S3Settings { bucket: "nowhere".into(), ..wrong_bucket };
    for (settings, clock_ms, named) in [
        (wrong_key, 0, "s3_access_key_id"),
        (wrong_secret, 0, "s3_secret_access_key"),
        (wrong_bucket, 0, "s3_bucket"),
        (server.settings(), -20 * 60_000, "the clock here is 20 minutes off"),
        (server.settings(), 20 * 60_000, "the clock here is 20 minutes off"),
    ] {
        if clock_ms > 0 && !refuses_the_future {
            continue;
        }
        let s3 = S3::new(settings, Arc::new(OffClock(NativePlatform::default(), clock_ms))).unwrap();
        let keys = s3.key_value();
        for error in [
            keys.get("a").await.map(|_| ()).unwrap_err(),
            keys.put("a", Bytes::new(), When::Always).await.unwrap_err(),
            keys.list("", None, 1).await.map(|_| ()).unwrap_err(),
        ] {
            assert!(
                matches!(&error, Error::Unavailable(why) if Causes(why).to_string().contains(named)),
                "want {named}: {error:?}"
            );
        }
    }
}

#[test]
fn refusals_of_seaweedfs_name_their_cause() {
    on(Kind::SeaweedFs, async |server| refusals(server, false).await);
}

#[test]
fn refusals_of_juicefs_name_their_cause() {
    on(Kind::JuiceFs, async |server| refusals(server, true).await);
}

/// JuiceFS checks signatures strictly and ignores conditional headers, so `conditional_puts` is
/// off.
#[test]
fn juicefs_keeps_the_contract() {
    on(Kind::JuiceFs, async |server| keep_contract(&server.open()).await);
}

#[test]
fn the_check_finds_what_a_server_lacks() {
    use eyot::store::check::Verdict::{Broken, Holds, Missing};
    for (kind, conditional_puts, expected) in [
        (Kind::SeaweedFs, true, [Holds; 6]),
        (Kind::JuiceFs, false, [Holds, Holds, Missing, Missing, Holds, Holds]),
        (Kind::JuiceFs, true, [Holds, Holds, Broken, Broken, Holds, Holds]),
    ] {
        on(kind, async |server| {
            let s3 = s3_server::open(S3Settings { conditional_puts, ..server.settings() });
            let platform: Arc<dyn Platform> = Arc::new(NativePlatform::default());
            let (keys, blobs): (Arc<dyn KeyValue>, Arc<dyn BlobStore>) =
                (Arc::new(s3.key_value()), Arc::new(s3.blob_store()));
            let findings = eyot::store::check::check(&keys, &blobs, &platform).await.unwrap();
            let verdicts: Vec<_> = findings.iter().map(|finding| finding.verdict).collect();
            assert_eq!(verdicts, expected, "{findings:#?}");
            assert_eq!(s3.blob_store().list(None, 10).await, Ok(vec![]), "the check leaves nothing behind");
        });
    }
}

struct InProcess(Handler);

impl runner::Target for InProcess {
    async fn send(&self, request: Request<Bytes>, streams: bool) -> Result<Response<Bytes>, String> {
        let request = request.map(|body| match streams {
            true => Body::from_stream(stream::iter(runner::pieces(body).map(Ok::<_, Error>))),
            false => body.into(),
        });
        let (head, body) = self.0.handle(request).await.into_parts();
        let body = body.collect_up_to(u64::MAX).await.map_err(|why| why.to_string())?;
        Ok(Response::from_parts(head, body))
    }
}

#[test]
fn transcripts_on_every_mix_of_stores() {
    on(Kind::SeaweedFs, async |server| {
        let platform: Arc<dyn Platform> = Arc::new(NativePlatform::default());
        let folder = tempfile::tempdir().unwrap();
        let files = eyot::store::file::FileKeyValue::open(folder.path(), platform.clone()).unwrap();
        let s3 = server.open();
        let equal = S3Settings { equal_parts: true, prefix: "mixed/".into(), ..server.settings() };
        let mixes: [(Arc<dyn KeyValue>, S3); 2] =
            [(Arc::new(s3.key_value()), s3.clone()), (Arc::new(files), s3_server::open(equal))];
        for (keys, s3) in mixes {
            let registry = Registry::new(keys, Arc::new(s3.blob_store()), platform.clone(), Limits::default());
            let handler =
                Handler::new(registry, eyot::auth::Access::open()).with_redirects(eyot::http::Redirects::none());
            runner::run_all(&InProcess(handler)).await;
        }
    });
}

/// A registry in its own process, with all its data in the bucket.
struct Instance(Host);

impl Instance {
    fn start(kind: host::Kind, server: &S3Server) -> Self {
        Self(Host::start_with(kind, &server.environment()))
    }

    fn native(server: &S3Server) -> Self {
        Self::start(host::Kind::Native, server)
    }

    async fn send(&self, method: Method, uri: &str, body: Body) -> Result<Response<Body>, SendError> {
        self.send_within(Duration::from_secs(60), method, uri, body).await
    }

    async fn send_within(
        &self,
        timeout: Duration,
        method: Method,
        uri: &str,
        body: Body,
    ) -> Result<Response<Body>, SendError> {
        let uri = format!("http://{}{uri}", self.0.client.address);
        let request = Request::builder().method(method).uri(uri).header("content-type", OCI_IMAGE);
        // Each request uses a new client, because a connection does not outlive the runtime whose
        // task opened the connection.
        NativePlatform::default().send(request.body(body).unwrap(), timeout).await
    }

    async fn begin(&self, repository: &str) -> Result<String, Error> {
        let post = self.send(Method::POST, &format!("/v2/{repository}/blobs/uploads/"), Body::empty()).await?;
        Ok(header(&post, "location").to_owned())
    }

    async fn push(&self, repository: &str, tag: &str, layer: &Bytes) -> Result<bool, Error> {
        Self::push_through([self; 4], repository, tag, layer).await
    }

    /// Pushes as docker does, with each request sent to another instance. Returns whether every
    /// request succeeded.
    async fn push_through(through: [&Self; 4], repository: &str, tag: &str, layer: &Bytes) -> Result<bool, Error> {
        let location = through[0].begin(repository).await?;
        let patch = through[1].send(Method::PATCH, &location, streamed(layer)).await?;
        let end = format!("{location}?digest={}", digest(layer));
        let put = through[2].send(Method::PUT, &end, Body::empty()).await?;
        let manifest = format!("/v2/{repository}/manifests/{tag}");
        let tagged = through[3].send(Method::PUT, &manifest, image(layer).into()).await?;
        Ok([patch.status().as_u16(), put.status().as_u16(), tagged.status().as_u16()] == [202, 201, 201])
    }

    /// Pulls by tag, following the redirect.
    async fn pull(&self, repository: &str, tag: &str) -> Result<Bytes, Error> {
        let manifest = self.send(Method::GET, &format!("/v2/{repository}/manifests/{tag}"), Body::empty()).await?;
        let manifest = manifest.into_body().collect_up_to(1 << 20).await?;
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let digest = manifest["layers"][0]["digest"].as_str().unwrap();
        let blob = self.send(Method::GET, &format!("/v2/{repository}/blobs/{digest}"), Body::empty()).await?;
        assert_eq!(blob.status(), 307);
        let request = Request::get(header(&blob, "location")).body(Body::empty()).unwrap();
        let followed = NativePlatform::default().send(request, Duration::from_secs(60)).await?;
        Ok(followed.into_body().collect_up_to(u64::MAX).await?)
    }
}

#[test]
fn instances_over_one_bucket_see_each_others_pushes() {
    on(Kind::SeaweedFs, async |server| {
        let kinds = [host::Kind::Native, host::Kind::Native, host::Kind::Wasi];
        let instances = Arc::new(kinds.map(|kind| Instance::start(kind, server)));
        let clients = (0..10).map(|client| {
            let instances = instances.clone();
            tokio::spawn(async move {
                for round in 0..3 {
                    let layer = content((client * 3 + round) as u8, 100_000 + client * 700_000);
                    let through = std::array::from_fn(|step| &instances[(client + round * step) % instances.len()]);
                    assert!(
                        Instance::push_through(through, "team/app", &format!("own-{client}"), &layer).await.unwrap()
                    );
                    for there in instances.iter() {
                        assert!(there.pull("team/app", &format!("own-{client}")).await.unwrap() == layer);
                    }
                    let shared = content(100 + round as u8, 300_000);
                    assert!(through[1].push("team/app", "shared", &shared).await.unwrap());
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.expect("a client that is content");
        }
        for instance in instances.iter() {
            let tags = instance.send(Method::GET, "/v2/team/app/tags/list", Body::empty()).await.unwrap();
            let tags = tags.into_body().collect_up_to(1 << 20).await.unwrap();
            let tags: serde_json::Value = serde_json::from_slice(&tags).unwrap();
            assert_eq!(tags["tags"].as_array().unwrap().len(), 11, "{tags}");
            assert_eq!(instance.pull("team/app", "shared").await.unwrap().len(), 300_000);
        }
    });
}

/// How many bytes more than in the idle state the native program may use.
const MEMORY_LIMIT_BYTES: u64 = 100 << 20;

/// `count` pieces of 1 MiB. The pieces differ, so that the digest shows when two pieces are
/// swapped.
fn mebibytes(count: u64) -> impl Iterator<Item = Bytes> {
    let block = content(20, MIB);
    (0..count).map(move |index| {
        let mut piece = block.to_vec();
        piece[..8].copy_from_slice(&index.to_le_bytes());
        piece.into()
    })
}

/// Pushes a layer as docker does, with one PATCH without Content-Length, and pulls the layer by the
/// redirect. The layer has 150 MiB, or 6 GiB with EYOT_BIG=1.
#[test]
fn a_large_layer_needs_little_memory() {
    let count = if std::env::var("EYOT_BIG").is_ok_and(|big| big == "1") { 6 * 1024 } else { 150 };
    let patience = Duration::from_secs(3600);
    on(Kind::SeaweedFs, async |server| {
        let instance = Instance::native(server);
        assert!(instance.push("a", "to-warm-up", &content(21, 2 * MIB)).await.unwrap());
        let memory = instance.0.memory();
        memory.reset_peak();
        let idle_bytes = memory.now_bytes();

        let mut hasher = Hasher::new(Algorithm::Sha256);
        mebibytes(count).for_each(|piece| hasher.update(&piece));
        let digest = hasher.finish();
        let begin = Instant::now();
        let location = instance.begin("a").await.unwrap();
        let body = Body::from_stream(stream::iter(mebibytes(count).map(Ok::<_, Error>)));
        let patch = instance.send_within(patience, Method::PATCH, &location, body).await.unwrap();
        assert_eq!(patch.status(), 202);
        let end = format!("{}?digest={digest}", header(&patch, "location"));
        let put = instance.send_within(patience, Method::PUT, &end, Body::empty()).await.unwrap();
        assert_eq!(put.status(), 201);
        let pushed = begin.elapsed();

        let blob = instance.send(Method::GET, &format!("/v2/a/blobs/{digest}"), Body::empty()).await.unwrap();
        assert_eq!(blob.status(), 307);
        let request = Request::get(header(&blob, "location")).body(Body::empty()).unwrap();
        let mut body = NativePlatform::default().send(request, patience).await.unwrap().into_body();
        let (mut hasher, mut bytes) = (Hasher::new(Algorithm::Sha256), 0);
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            hasher.update(&data);
            bytes += data.len();
        }
        assert_eq!((hasher.finish(), bytes as u64), (digest, count * MIB as u64));

        let growth_bytes = memory.peak_bytes().saturating_sub(idle_bytes);
        eprintln!(
            "{count} MiB pushed in {pushed:?}, pulled in {:?}; {growth_bytes} bytes more than the {idle_bytes} of the idle program",
            begin.elapsed() - pushed
        );
        assert!(growth_bytes < MEMORY_LIMIT_BYTES, "{growth_bytes} bytes");
    });
}

/// SIGKILL hits the server at varying times during a push. Another process continues the session,
/// and all acknowledged bytes are still stored.
#[test]
fn a_killed_server_loses_nothing_that_it_acknowledged() {
    on(Kind::SeaweedFs, async |server| {
        let mut before: Option<Bytes> = None;
        for round in 0..12_u64 {
            let instance = Arc::new(Instance::native(server));
            if let Some(layer) = &before {
                assert!(instance.pull("a", "last").await.unwrap() == *layer, "round {round}");
            }
            let layer = content(round as u8, 25 * MIB);
            let location = instance.begin("a").await.unwrap();
            let first = instance.send(Method::PATCH, &location, streamed(&layer.slice(..7 * MIB))).await.unwrap();
            assert_eq!(first.status(), 202);
            let pushing = {
                let (instance, location, rest) = (instance.clone(), location.clone(), layer.slice(7 * MIB..));
                tokio::spawn(async move {
                    instance
                        .send(Method::PATCH, &location, streamed(&rest))
                        .await
                        .is_ok_and(|reply| reply.status() == 202)
                })
            };
            tokio::time::sleep(Duration::from_millis(20 + round * 40)).await;
            instance.0.signal("KILL");
            let acknowledged = pushing.await.unwrap();

            let next = Instance::native(server);
            let status = next.send(Method::GET, &location, Body::empty()).await.unwrap();
            let range = header(&status, "range").to_owned();
            let offset = range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1;
            assert!(offset == layer.len() || (offset == 7 * MIB && !acknowledged), "{range} {acknowledged}");
            if offset < layer.len() {
                let patch = next.send(Method::PATCH, &location, streamed(&layer.slice(offset..))).await.unwrap();
                assert_eq!(patch.status(), 202);
            }
            let end = format!("{location}?digest={}", digest(&layer));
            assert_eq!(next.send(Method::PUT, &end, Body::empty()).await.unwrap().status(), 201);
            let tagged = next.send(Method::PUT, "/v2/a/manifests/last", image(&layer).into()).await.unwrap();
            assert_eq!(tagged.status(), 201);
            before = Some(layer);
        }
    });
}
