//! S3 servers in trouble, and S3-like servers that deviate from S3. A server in memory with
//! configurable deviations runs behind the proxy.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use eyot::host::outbound::NativePlatform;
use eyot::platform::{Causes, Platform, SendError};
use eyot::registry::Limits;
use eyot::store::s3::{PART_BYTES_MIN, S3, S3BlobStore, S3KeyValue, S3Settings};
use eyot::store::{BlobStore, Error, KeyValue, Location, Result, When};
use eyot::{Body, Handler, Registry};
use futures_util::stream::{self, StreamExt as _};
use http::{Method, Request, Response};

use crate::content::{MIB, content, digest, header, streamed};
use crate::fake_s3::{self, Character, FakeS3};
use crate::proxy::{Act, Proxy, Seen};

const SECRET: &str = "a-secret-that-nobody-sees";

/// A platform that shortens waits: a pause takes a hundredth of its time, and `haste` divides
/// timeouts and speeds up the clock.
struct Hasty {
    haste: u32,
    platform: NativePlatform,
    begin: Instant,
    pauses: Arc<Mutex<Vec<Duration>>>,
    /// Whether the next answer is cut in the middle and reported as complete, as on hosts that hide
    /// the cut.
    halves: Arc<Mutex<bool>>,
}

const HASTE: u32 = 100;

#[async_trait::async_trait]
impl Platform for Hasty {
    fn now_ms(&self) -> u64 {
        self.platform.now_ms() + u64::from(self.haste - 1) * self.begin.elapsed().as_millis() as u64
    }

    fn random(&self) -> [u8; 16] {
        self.platform.random()
    }

    async fn send(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Body>, SendError> {
        let response = self.platform.send(request, timeout / self.haste).await?;
        if !std::mem::take(&mut *self.halves.lock().unwrap()) {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let bytes = body.collect_up_to(u64::MAX).await.map_err(|error| SendError::Failed(error.to_string()))?;
        Ok(Response::from_parts(head, bytes.slice(..bytes.len() / 2).into()))
    }

    async fn sleep(&self, duration: Duration) {
        self.pauses.lock().unwrap().push(duration);
        self.platform.sleep(duration / HASTE).await;
    }
}

/// A registry with all its data in one bucket.
struct World {
    server: FakeS3,
    proxy: Proxy,
    keys: S3KeyValue,
    blobs: S3BlobStore,
    handler: Handler,
    pauses: Arc<Mutex<Vec<Duration>>>,
    halves: Arc<Mutex<bool>>,
}

impl World {
    async fn new(character: Character) -> Self {
        Self::with(character, 1, |_| ()).await
    }

    async fn hasty() -> Self {
        Self::with(Character::default(), HASTE, |_| ()).await
    }

    async fn with(character: Character, haste: u32, set: impl FnOnce(&mut S3Settings)) -> Self {
        let server = FakeS3::start(character).await;
        let proxy = Proxy::start(server.address).await;
        let mut settings = S3Settings {
            endpoint: format!("http://{}", proxy.address),
            public_endpoint: None,
            region: "us-east-1".into(),
            bucket: "bucket".into(),
            prefix: "registry/".into(),
            path_style: true,
            access_key_id: "key".into(),
            secret_access_key: SECRET.into(),
            session_token: Some(SECRET.into()),
            part_bytes: PART_BYTES_MIN,
            equal_parts: false,
            conditional_puts: true,
            redirect_lifetime: Duration::from_secs(60),
        };
        set(&mut settings);
        let (pauses, halves) = (Arc::default(), Arc::default());
        let platform: Arc<dyn Platform> = Arc::new(Hasty {
            haste,
            platform: NativePlatform::default(),
            begin: Instant::now(),
            pauses: Arc::clone(&pauses),
            halves: Arc::clone(&halves),
        });
        let s3 = S3::new(settings, platform.clone()).unwrap();
        let limits = Limits { grace_ms: 0, ..Limits::default() };
        let registry = Registry::new(Arc::new(s3.key_value()), Arc::new(s3.blob_store()), platform, limits);
        let handler = Handler::new(registry, eyot::auth::Access::open());
        let handler = handler.with_redirects(eyot::http::Redirects::none());
        Self { server, proxy, keys: s3.key_value(), blobs: s3.blob_store(), handler, pauses, halves }
    }

    async fn send(&self, method: Method, uri: &str, body: Body) -> Response<Body> {
        let request = Request::builder().method(method).uri(uri).body(body).unwrap();
        self.handler.handle(request).await
    }

    /// Pushes as docker does. Returns the status of the last answer.
    async fn push(&self, bytes: &Bytes) -> u16 {
        let post = self.send(Method::POST, "/v2/a/blobs/uploads/", Body::empty()).await;
        let patch = self.send(Method::PATCH, header(&post, "location"), streamed(bytes)).await;
        if patch.status() != 202 {
            return patch.status().as_u16();
        }
        let end = format!("{}?digest={}", header(&patch, "location"), digest(bytes));
        self.send(Method::PUT, &end, Body::empty()).await.status().as_u16()
    }

    async fn pull(&self, bytes: &Bytes) -> Bytes {
        let response = self.send(Method::GET, &format!("/v2/a/blobs/{}", digest(bytes)), Body::empty()).await;
        assert_eq!(response.status(), 200);
        response.into_body().collect_up_to(u64::MAX).await.unwrap()
    }

    /// Runs one complete round of the collection.
    async fn collect(&self) {
        loop {
            let step = self.send(Method::POST, "/v2/_eyot/collect", Body::empty()).await;
            assert_eq!(step.status(), 200);
            let report = step.into_body().collect_up_to(1 << 20).await.unwrap();
            let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
            if report["done"] == true {
                return;
            }
        }
    }

    async fn stored(&self, bytes: &Bytes) -> Location {
        let stage = self.blobs.append(&self.blobs.stage().await.unwrap(), streamed(bytes)).await.unwrap();
        self.blobs.commit(&stage, &digest(bytes)).await.unwrap()
    }

    async fn read(&self, location: &Location, range: Range<usize>) -> Result<Bytes> {
        let body = self.blobs.read(location, range.start as u64..range.end as u64).await?;
        Ok(body.collect_up_to(u64::MAX).await?)
    }
}

/// Runs a test, which must end within 60 seconds.
fn run<F: Future<Output = ()>>(test: F) {
    // Only the first test in this process sets the subscriber.
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).without_time();
    let _ = subscriber.with_writer(|| Log).try_init();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("an end") });
}

fn answer(status: u16, text: &str) -> Response<Body> {
    Response::builder().status(status).body(text.to_owned().into_bytes().into()).unwrap()
}

fn error(status: u16, code: &str) -> Response<Body> {
    answer(status, &format!("<Error><Code>{code}</Code><Message>Not now.</Message></Error>"))
}

/// Does `act` once, with the first request for which `is_meant` returns true.
fn once(is_meant: fn(&Seen) -> bool, act: impl Fn() -> Act + Send + 'static) -> impl FnMut(&Seen) -> Act + Send {
    let mut done = false;
    move |seen| {
        let now = !done && is_meant(seen);
        done |= now;
        if now { act() } else { Act::Pass }
    }
}

fn creates(seen: &Seen) -> bool {
    seen.method == "POST" && seen.path.contains("?uploads")
}

fn completes(seen: &Seen) -> bool {
    seen.method == "POST" && seen.path.contains("?uploadId=")
}

fn is_part(seen: &Seen) -> bool {
    seen.path.contains("partNumber=")
}

fn reads_content(seen: &Seen) -> bool {
    seen.method == "GET" && seen.path.contains("/blobs/")
}

#[test]
fn each_request_survives_any_temporary_failure() {
    run(async {
        let troubles: [fn() -> Response<Body>; 9] = [
            || error(503, "SlowDown"),
            || answer(500, "<html><body>Internal <b>Server Error</body>"),
            || answer(502, ""),
            || answer(504, "\0\u{1}"),
            || error(429, "TooManyRequests"),
            || error(408, ""),
            || error(400, "RequestTimeout"),
            || error(409, "OperationAborted"),
            || error(409, "ConditionalRequestConflict"),
        ];
        let layer = content(1, 11 * MIB);
        for troubles in troubles.chunks_exact(3).map(<[_]>::to_vec) {
            let world = World::new(Character::default()).await;
            let mut before: Vec<Seen> = Vec::new();
            world.proxy.script(move |seen| {
                let times = before.iter().filter(|before| *before == seen).count();
                before.push(seen.clone());
                troubles.get(times).map_or(Act::Pass, |trouble| Act::Respond(trouble()))
            });
            assert_eq!(world.push(&layer).await, 201);
            assert!(world.pull(&layer).await == layer);
        }
    });
}

#[test]
fn a_lasting_failure_is_not_tried_again() {
    run(async {
        let world = World::new(Character::default()).await;
        world.proxy.script(|_| Act::Respond(error(501, "NotImplemented")));
        let refused = world.keys.get("a").await;
        assert!(
            matches!(&refused, Err(Error::Unavailable(why)) if Causes(why).to_string().contains("s3_conditional_puts")),
            "{refused:?}"
        );
        assert_eq!(world.proxy.take().0.len(), 1);
    });
}

#[test]
fn a_server_that_asks_for_patience_gets_some() {
    run(async {
        let world = World::new(Character::default()).await;
        let mut asked = ["2", "3600", "Sat, 21 Nov 2026 00:00:00 GMT"].into_iter();
        world.proxy.script(move |_| match asked.next() {
            Some(asked) => {
                let mut response = error(503, "SlowDown");
                response.headers_mut().insert("retry-after", asked.parse().unwrap());
                Act::Respond(response)
            }
            None => Act::Pass,
        });
        assert_eq!(world.keys.get("a").await, Ok(None));
        let pauses = world.pauses.lock().unwrap().clone();
        assert_eq!(pauses[..2], [2, 5].map(Duration::from_secs), "{pauses:?}");
    });
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    run(async {
        let world = World::hasty().await;
        world.proxy.script(|_| Act::Hang);
        for _ in 0..2 {
            let late = world.keys.get("a").await;
            assert!(
                matches!(&late, Err(Error::Unavailable(why)) if Causes(why).to_string().contains("no answer")),
                "{late:?}"
            );
            // The registry makes two attempts and then gives up, because the client that waits also
            // has a timeout.
            assert_eq!(world.proxy.take().0.len(), 2);
        }
    });
}

#[test]
fn an_answer_without_end_is_given_up() {
    run(async {
        let world = World::hasty().await;
        let bytes = content(2, 1000);
        let location = world.stored(&bytes).await;
        for status in [200, 403, 503] {
            world.proxy.script(move |_| {
                let drops = stream::unfold((), |()| async {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    Some((Ok::<_, Error>(Bytes::from_static(&[b'x'; 1000])), ()))
                });
                let mut response = Response::new(Body::from_stream(drops));
                *response.status_mut() = status.try_into().unwrap();
                Act::Respond(response)
            });
            assert!(matches!(world.keys.get("a").await, Err(Error::Unavailable(_))), "{status}");
            if status != 200 {
                assert!(matches!(world.read(&location, 0..10).await, Err(Error::Unavailable(_))), "{status}");
            }
        }
    });
}

#[test]
fn half_an_answer_is_tried_again() {
    run(async {
        let world = World::new(Character::default()).await;
        let value = content(24, 1000);
        world.keys.put("a", value.clone(), When::Always).await.unwrap();
        for _ in 0..2 {
            *world.halves.lock().unwrap() = true;
            assert_eq!(world.keys.get("a").await.unwrap().unwrap().value, value);
            *world.halves.lock().unwrap() = true;
            assert_eq!(world.keys.list("", None, 10).await, Ok(vec!["a".to_owned()]));
            *world.halves.lock().unwrap() = true;
            assert_eq!(world.keys.get("b").await, Ok(None), "half a refusal is none");
        }
        let location = world.stored(&value).await;
        *world.halves.lock().unwrap() = true;
        assert!(world.read(&location, 0..1000).await.unwrap() == value);
    });
}

#[test]
fn an_error_behind_a_200_is_tried_again() {
    run(async {
        let world = World::new(Character::default()).await;
        for (seed, code) in [(3, "InternalError"), (4, "SlowDown")] {
            world.proxy.script(once(completes, move || Act::Respond(error(200, code))));
            let layer = content(seed, 11 * MIB);
            assert_eq!(world.push(&layer).await, 201, "{code}");
            assert!(world.pull(&layer).await == layer);
        }
        // Content that has the form of an S3 error is served as content.
        let layer = Bytes::from_static(b"<Error><Code>InternalError</Code></Error>");
        assert_eq!(world.push(&layer).await, 201);
        assert_eq!(world.pull(&layer).await, layer);
    });
}

#[test]
fn a_completion_without_an_answer_is_checked() {
    run(async {
        let world = World::new(Character::default()).await;
        world.proxy.script(once(completes, || Act::RespondAfter(answer(200, ""))));
        let layer = content(5, 11 * MIB);
        assert_eq!(world.push(&layer).await, 201);
        assert!(world.pull(&layer).await == layer);
        world.proxy.script(once(completes, || Act::Respond(answer(200, "<html>what?</html>"))));
        assert_eq!(world.push(&content(6, 11 * MIB)).await, 500);
    });
}

/// The ETag of an upload is not always computed from the ETags of its parts: AWS uses other ETags
/// with a customer's keys, and some servers always do.
#[test]
fn etags_of_any_kind_are_accepted() {
    run(async {
        let world = World::new(Character { own_etags: true, ..Character::default() }).await;
        let layer = content(7, 11 * MIB);
        assert_eq!(world.push(&layer).await, 201);
        assert!(world.pull(&layer).await == layer);
        let layer = content(8, 11 * MIB);
        world.proxy.script(once(completes, || Act::CutAfter));
        assert_eq!(world.push(&layer).await, 201, "its answer was lost");
        assert!(world.pull(&layer).await == layer);

        let world = World::new(Character { own_etags: true, kms: true, ..Character::default() }).await;
        assert_eq!(world.push(&layer).await, 201);
        let (seen, _) = world.proxy.take();
        assert!(!seen.iter().any(reads_content), "AWS says that ETags tell nothing: {seen:?}");
    });
}

#[test]
fn a_late_fork_is_not_mistaken_for_the_completed_upload() {
    run(async {
        for own_etags in [false, true] {
            let world = World::new(Character { own_etags, ..Character::default() }).await;
            let start = content(9, 11 * MIB);
            let stage = world.blobs.append(&world.blobs.stage().await.unwrap(), streamed(&start)).await.unwrap();
            let forks = [content(10, 1000), content(11, 1000)];
            let mut results = Vec::new();
            for more in &forks {
                let fork = world.blobs.append(&stage, more.clone().into()).await.unwrap();
                let all = Bytes::from([&start[..], more].concat());
                results.push(world.blobs.commit(&fork, &digest(&all)).await);
            }
            assert!(matches!(results[..], [Ok(_), Err(Error::Conflict(_))]), "{results:?}");
        }
    });
}

#[test]
fn an_upload_begun_twice_leaves_no_second_upload() {
    run(async {
        let world = World::new(Character::default()).await;
        world.proxy.script(once(creates, || Act::CutAfter));
        assert_eq!(world.push(&content(12, 11 * MIB)).await, 201);
        assert_eq!(world.server.state().uploads.len(), 0);
        let (seen, _) = world.proxy.take();
        assert_eq!(seen.iter().filter(|seen| creates(seen)).count(), 2);
    });
}

/// A body of known length is streamed. The part can be sent again as long as only a small beginning
/// of the body was sent.
#[test]
fn a_streamed_part_is_sent_again_while_its_beginning_is_there() {
    run(async {
        let world = World::new(Character::default()).await;
        let early: [fn() -> Act; 3] =
            [|| Act::RespondEarly(error(503, "SlowDown")), || Act::CutBefore, || Act::Respond(error(503, "SlowDown"))];
        for (seed, early) in early.into_iter().enumerate() {
            let layer = content(13 + seed as u8, 16 * MIB);
            world.proxy.script(once(is_part, early));
            let post = world.send(Method::POST, "/v2/a/blobs/uploads/", Body::empty()).await;
            let location = header(&post, "location").to_owned();
            let body = || streamed(&layer).with_length(layer.len() as u64);
            let patch = world.send(Method::PATCH, &location, body()).await;
            if seed == 2 {
                // The whole body was consumed, so the registry cannot repeat the part. The client
                // must send the bytes again, and the session accepts the repeated bytes.
                assert_eq!(patch.status(), 500);
                let status = world.send(Method::GET, &location, Body::empty()).await;
                assert_eq!((status.status().as_u16(), header(&status, "range")), (204, "0-0"));
                assert_eq!(world.send(Method::PATCH, &location, body()).await.status(), 202);
            } else {
                assert_eq!(patch.status(), 202, "{seed}");
            }
            let end = format!("{location}?digest={}", digest(&layer));
            assert_eq!(world.send(Method::PUT, &end, Body::empty()).await.status(), 201);
            assert!(world.pull(&layer).await == layer, "{seed}");
        }
        assert_eq!(world.server.state().uploads.len(), 0);
    });
}

/// Time that the client takes to send does not count towards the timeout of the S3 server.
#[test]
fn a_slow_client_may_take_its_time() {
    run(async {
        let world = World::hasty().await;
        let layer = content(21, 11 * MIB);
        let (first, rest) = (layer.slice(..10 * MIB + 1), layer.slice(10 * MIB + 1..));
        let pieces = stream::once(async { Ok::<_, Error>(first) }).chain(stream::once(async {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            Ok(rest)
        }));
        let post = world.send(Method::POST, "/v2/a/blobs/uploads/", Body::empty()).await;
        let body = Body::from_stream(pieces).with_length(layer.len() as u64);
        assert_eq!(world.send(Method::PATCH, header(&post, "location"), body).await.status(), 202);
    });
}

/// The collection aborts interrupted uploads, removes the bytes that were parked for cancelled
/// sessions, and leaves active uploads alone.
#[test]
fn abandoned_uploads_are_collected_and_live_ones_are_not() {
    run(async {
        let world = Arc::new(World::new(Character::default()).await);
        let layer = content(22, 22 * MIB);
        let mut pushes = Vec::new();
        for uploads in 1..=2 {
            let (pieces, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
            let body = stream::unfold(receiver, |mut receiver| async {
                Some((Ok::<_, Error>(receiver.recv().await?), receiver))
            });
            let post = world.send(Method::POST, "/v2/a/blobs/uploads/", Body::empty()).await;
            let location = header(&post, "location").to_owned();
            let (there, uri) = (world.clone(), location.clone());
            let patch = tokio::spawn(async move { there.send(Method::PATCH, &uri, Body::from_stream(body)).await });
            pieces.send(layer.slice(..12 * MIB)).await.unwrap();
            while world.server.state().uploads.len() < uploads {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            pushes.push((pieces, patch, location));
        }
        let parked = world.send(Method::POST, "/v2/a/blobs/uploads/", Body::empty()).await;
        let parked = header(&parked, "location").to_owned();
        assert_eq!(world.send(Method::PATCH, &parked, content(23, 100_000).into()).await.status(), 202);
        assert_eq!(world.send(Method::DELETE, &parked, Body::empty()).await.status(), 204);
        // The first push is interrupted as by a kill, and its session is cancelled.
        let (pieces, cut_off, location) = pushes.remove(0);
        cut_off.abort();
        assert!(cut_off.await.unwrap_err().is_cancelled());
        drop(pieces);
        assert_eq!(world.send(Method::DELETE, &location, Body::empty()).await.status(), 204);
        for _ in 0..2 {
            world.collect().await;
        }
        assert_eq!(world.server.state().uploads.len(), 1);
        let (pieces, patch, location) = pushes.remove(0);
        pieces.send(layer.slice(12 * MIB..)).await.unwrap();
        drop(pieces);
        assert_eq!(patch.await.unwrap().status(), 202);
        let end = format!("{location}?digest={}", digest(&layer));
        assert_eq!(world.send(Method::PUT, &end, Body::empty()).await.status(), 201);
        assert!(world.pull(&layer).await == layer);
        let state = world.server.state();
        let left = state.objects.keys().filter(|name| name.starts_with("registry/blobs/"));
        assert_eq!((left.count(), state.uploads.len()), (1, 0));
    });
}

#[test]
fn a_download_has_the_bytes_that_were_asked_for_or_breaks_off() {
    run(async {
        let bytes = content(16, 3 * MIB);
        let range = 100_000..2_000_000;
        let world = World::new(Character::default()).await;
        let location = world.stored(&bytes).await;
        world.proxy.script(|seen| match reads_content(seen) {
            true => Act::Change(|mut response| {
                response.headers_mut().insert("content-range", "bytes 0-1899999/3145728".parse().unwrap());
                response
            }),
            false => Act::Pass,
        });
        let elsewhere = world.read(&location, range.clone()).await;
        assert!(matches!(elsewhere, Err(Error::Unavailable(_))), "{elsewhere:?}");
        // Three faults: a body shorter than the requested range, a server that ignores ranges and
        // sends more, and a refusal whose own body is cut off.
        world.proxy.script(once(reads_content, || Act::Respond(short_206())));
        assert!(
            world.read(&location, range.clone()).await.unwrap()
                == [&[b'x'; 10][..], &bytes[100_010..2_000_000]].concat()
        );
        world.proxy.script(once(reads_content, || Act::Respond(broken(503))));
        assert!(world.read(&location, range.clone()).await.unwrap() == bytes[range.clone()]);

        let world = World::new(Character { ignores_ranges: true, ..Character::default() }).await;
        let location = world.stored(&bytes).await;
        for range in [range.clone(), 0..10, 3 * MIB - 1..3 * MIB] {
            world.proxy.script(once(reads_content, || Act::CutAnswer(150_000)));
            assert!(world.read(&location, range.clone()).await.unwrap() == bytes[range.clone()], "{range:?}");
        }
    });
}

fn short_206() -> Response<Body> {
    let response = Response::builder().status(206).header("content-range", "bytes 100000-100009/3145728");
    response.body(Body::from("xxxxxxxxxx")).unwrap()
}

fn broken(status: u16) -> Response<Body> {
    let pieces = [Ok(Bytes::from_static(b"<Error>")), Err(Error::unavailable("on purpose"))];
    let body = Body::from_stream(stream::iter(pieces)).with_length(100);
    Response::builder().status(status).body(body).unwrap()
}

fn page(names: &[&str], token: Option<&str>) -> Response<Body> {
    let contents = names.iter().map(|name| format!("<Contents><Key>registry/keys/{name}</Key></Contents>"));
    let contents: String = contents.collect();
    let token = match token {
        Some(token) => format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"),
        None => "<IsTruncated>false</IsTruncated>".into(),
    };
    let namespace = fake_s3::NAMESPACE;
    answer(200, &format!("<ListBucketResult xmlns=\"{namespace}\">{contents}{token}</ListBucketResult>"))
}

#[test]
fn lists_continue_behind_empty_pages() {
    run(async {
        let world = World::new(Character::default()).await;
        world.proxy.script(|seen| {
            let token = seen.path.split(['?', '&']).find_map(|pair| pair.strip_prefix("continuation-token="));
            Act::Respond(match (token, seen.path.contains("start-after=registry%2Fkeys%2Fb")) {
                (None, false) => page(&[], Some("1")),
                (Some("1"), _) => page(&["a", "b"], Some("2")),
                (None, true) => page(&[], Some("3")),
                (Some("3"), _) => page(&[], Some("4")),
                _ => page(&["c"], None),
            })
        });
        assert_eq!(world.keys.list("", None, 10).await, Ok(["a", "b", "c"].map(str::to_owned).to_vec()));
    });
}

#[test]
fn lists_that_would_skip_or_repeat_keys_are_refused() {
    run(async {
        let world = World::new(Character::default()).await;
        let pages: [fn() -> Response<Body>; 5] = [
            || page(&[], Some("same")),
            || page(&["c", "b"], None),
            || page(&["b", "b"], None),
            || page(&["a", "b"], None), // as if the server ignored start-after
            || answer(200, "<ListBucketResult>"),
        ];
        for (number, page) in pages.into_iter().enumerate() {
            world.proxy.script(move |_| Act::Respond(page()));
            let listed = world.keys.list("", Some("a"), 10).await;
            assert!(matches!(listed, Err(Error::Unavailable(_))), "{number}: {listed:?}");
        }
        world.proxy.script(|_| Act::Respond(page(&["b", "c", "d"], None)));
        assert_eq!(world.keys.list("", Some("a"), 2).await.unwrap(), ["b", "c"], "more than was asked for");
        assert!(world.keys.list("c", None, 2).await.is_err());
    });
}

/// A page that lists only uploads outside the registry's prefix does not end the listing. A page
/// that does not advance ends the listing with an error.
#[test]
fn lists_of_uploads_continue_or_are_refused() {
    run(async {
        let world = World::new(Character::default()).await;
        let uploads = |key: &str, next: &str| {
            let upload = format!("<Upload><Key>{key}</Key><UploadId>1</UploadId></Upload>");
            let next = format!("<IsTruncated>{}</IsTruncated>{next}", !next.is_empty());
            answer(200, &format!("<ListMultipartUploadsResult>{next}{upload}</ListMultipartUploadsResult>"))
        };
        world.proxy.script(move |seen| {
            Act::Respond(match (seen.path.contains("uploads"), seen.path.contains("key-marker")) {
                (false, _) => page(&[], None),
                (true, false) => uploads("other/a", "<NextKeyMarker>other/a</NextKeyMarker>"),
                (true, true) => uploads("registry/blobs/family.token", ""),
            })
        });
        let listed = world.blobs.list(None, 10).await.unwrap();
        assert_eq!(listed.iter().map(|stored| stored.name.as_str()).collect::<Vec<_>>(), ["family!token"]);
        for next in ["<NextKeyMarker>other/a</NextKeyMarker>", "<IsTruncated>true</IsTruncated>"] {
            world.proxy.script(move |seen| {
                Act::Respond(if seen.path.contains("uploads") { uploads("other/a", next) } else { page(&[], None) })
            });
            assert!(matches!(world.blobs.list(None, 10).await, Err(Error::Unavailable(_))), "{next}");
        }
    });
}

#[test]
fn namespaces_of_answers_do_not_matter() {
    run(async {
        for namespace in ["", fake_s3::NAMESPACE, "http://doc.s3.amazonaws.com/2006-03-01"] {
            let world = World::new(Character { namespace: Some(namespace), ..Character::default() }).await;
            let layer = content(17, 11 * MIB);
            assert_eq!(world.push(&layer).await, 201, "{namespace}");
            assert!(world.pull(&layer).await == layer);
            assert_eq!(world.keys.get("nothing").await, Ok(None));
            assert_eq!(world.keys.list("blob/", None, 10).await.unwrap().len(), 1);
            assert!(!world.blobs.list(None, 10).await.unwrap().is_empty());
        }
    });
}

#[test]
fn a_weak_etag_of_a_proxy_is_accepted() {
    run(async {
        let world = World::new(Character::default()).await;
        world.keys.put("a", "1".into(), When::Always).await.unwrap();
        world.proxy.script(|_| {
            Act::Change(|mut response| {
                if let Some(etag) = response.headers_mut().get_mut("etag") {
                    *etag = format!("W/{}", etag.to_str().unwrap()).parse().unwrap();
                }
                response
            })
        });
        let version = world.keys.get("a").await.unwrap().unwrap().version;
        assert!(world.keys.put("a", "2".into(), When::Unchanged(version)).await.is_ok());
        let layer = content(18, 11 * MIB);
        assert_eq!(world.push(&layer).await, 201);

        let world = World::with(Character::default(), 1, |settings| settings.conditional_puts = false).await;
        world.keys.put("a", "1".into(), When::Always).await.unwrap();
        world.proxy.script(|_| {
            Act::Change(|mut response| {
                response.headers_mut().remove("etag");
                response
            })
        });
        assert_eq!(
            world.keys.get("a").await.unwrap().unwrap().value,
            "1",
            "no version is needed where no put has conditions"
        );
    });
}

/// All lines that were logged in this process.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Copies each line of the log to standard error and to [`LINES`].
struct Log;

impl std::io::Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        eprint!("{text}");
        LINES.lock().unwrap().push(text.into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn every_request_is_logged_without_secrets() {
    run(async {
        let world = World::new(Character::default()).await;
        world.proxy.script(once(completes, || Act::CutAfter));
        assert_eq!(world.push(&content(19, 11 * MIB)).await, 201);
        world.proxy.script(|_| Act::Respond(error(403, "SignatureDoesNotMatch")));
        let refused = world.keys.put("a", "1".into(), When::Always).await.unwrap_err().to_string();
        assert!(refused.contains("s3_secret_access_key") && !refused.contains(SECRET), "{refused}");
    });
    let lines = LINES.lock().unwrap().clone();
    for method in ["GET", "PUT", "POST", "DELETE"] {
        let line = |line: &String| line.contains(&format!(" S3: {method} ")) && line.contains(" ms, ");
        assert!(lines.iter().any(line), "{method}");
    }
    for secret in [SECRET, "X-Amz-", "Signature="] {
        assert!(!lines.iter().any(|line| line.contains(secret)), "{secret}");
    }
}
