//! Simulates a crash between any two storage calls, before or after the call has done its work. All
//! visible content is whole afterwards, and the client's next try succeeds. Also simulates a single
//! failed storage call: every change that the answer reports as done is done.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use eyot::auth::Access;
use eyot::oci::{Algorithm, Digest};
use eyot::platform::{Platform, SystemPlatform};
use eyot::registry::Limits;
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::store::{
    BlobStore, Entry, Error, Family, KeyValue, Location, Object, Stage, Stored, Tidied, TidyRequest, Version, When,
};
use eyot::{Body, Handler, Registry};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const SECRET: &str = "the plug was pulled";

/// Counts down to the crash. After the crash every call fails, because the process is gone.
pub struct Fuse {
    pub calls_left: AtomicI64,
    /// Whether only a single call fails, instead of a crash.
    pub recovers: bool,
    /// Whether the failing call does its work, so that only its answer is lost.
    pub works: bool,
}

pub enum Spark {
    Fine,
    DoAndFail,
    Fail,
}

impl Fuse {
    fn spark(&self) -> Spark {
        match self.calls_left.fetch_sub(1, Ordering::Relaxed) {
            1.. => Spark::Fine,
            0 if self.works => Spark::DoAndFail,
            0 => Spark::Fail,
            _ if self.recovers => Spark::Fine,
            _ => Spark::Fail,
        }
    }
}

/// The error of a failed call. The text and the cause are for the log, and no client may see them.
fn outage() -> Error {
    Error::unavailable(SECRET).because(std::io::Error::other(SECRET))
}

/// A store whose calls count down a fuse.
pub struct Fused<S: ?Sized> {
    pub fuse: Arc<Fuse>,
    pub inner: Arc<S>,
}

macro_rules! fused {
    ($self:ident, $call:expr) => {
        match $self.fuse.spark() {
            Spark::Fine => $call.await,
            Spark::DoAndFail => {
                let _ = $call.await;
                Err(outage())
            }
            Spark::Fail => Err(outage()),
        }
    };
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a decorator forwards every method")]
impl KeyValue for Fused<dyn KeyValue> {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        fused!(self, self.inner.get(key))
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>, Error> {
        fused!(self, self.inner.put(key, value, when))
    }

    async fn delete(&self, key: &str) -> Result<(), Error> {
        fused!(self, self.inner.delete(key))
    }

    async fn delete_unchanged(&self, key: &str, version: &Version) -> Result<(), Error> {
        fused!(self, self.inner.delete_unchanged(key, version))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Error> {
        fused!(self, self.inner.list(prefix, after, limit))
    }

    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied, Error> {
        fused!(self, self.inner.tidy(request))
    }

    fn for_upkeep(&self) -> Option<Arc<dyn KeyValue>> {
        let inner = self.inner.for_upkeep()?;
        Some(Arc::new(Fused { fuse: self.fuse.clone(), inner }))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a decorator forwards every method")]
impl BlobStore for Fused<dyn BlobStore> {
    async fn stage(&self) -> Result<Stage, Error> {
        fused!(self, self.inner.stage())
    }

    async fn append(&self, stage: &Stage, body: Body) -> Result<Stage, Error> {
        fused!(self, self.inner.append(stage, body))
    }

    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location, Error> {
        fused!(self, self.inner.commit(stage, digest))
    }

    async fn discard(&self, stage: &Stage) -> Result<(), Error> {
        fused!(self, self.inner.discard(stage))
    }

    fn kept_append_bytes(&self) -> Option<u64> {
        self.inner.kept_append_bytes()
    }

    async fn abandon(&self, stage: &Stage, before: Option<&Stage>) -> Result<(), Error> {
        fused!(self, self.inner.abandon(stage, before))
    }

    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body, Error> {
        fused!(self, self.inner.read(location, range))
    }

    async fn read_stage(&self, stage: &Stage, range: Range<u64>) -> Result<Option<Body>, Error> {
        fused!(self, self.inner.read_stage(stage, range))
    }

    async fn redirect(&self, location: &Location) -> Result<Option<String>, Error> {
        fused!(self, self.inner.redirect(location))
    }

    fn file(&self, location: &Location) -> Option<PathBuf> {
        self.inner.file(location)
    }

    fn object(&self, location: &Location) -> Option<Object> {
        self.inner.object(location)
    }

    async fn family(&self, stage: &Stage) -> Result<Family, Error> {
        self.inner.family(stage).await
    }

    async fn names_of(&self, location: &Location) -> Result<Vec<String>, Error> {
        fused!(self, self.inner.names_of(location))
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>, Error> {
        fused!(self, self.inner.list(after, limit))
    }

    async fn probe(&self) -> Result<(), Error> {
        fused!(self, self.inner.probe())
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        fused!(self, self.inner.remove(name))
    }

    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied, Error> {
        fused!(self, self.inner.tidy(request))
    }
}

struct World {
    keys: Arc<dyn KeyValue>,
    blobs: Arc<dyn BlobStore>,
}

impl World {
    fn new() -> Self {
        let blobs = Arc::new(MemoryBlobStore::new(Arc::new(SystemPlatform)));
        Self { keys: Arc::new(MemoryKeyValue::default()), blobs }
    }

    /// A process that crashes at its storage call number `at`, or never if `at` is `None` or beyond
    /// the last call.
    fn process(&self, at: Option<i64>, works: bool) -> Client {
        self.client(Fuse { calls_left: AtomicI64::new(at.unwrap_or(i64::MAX)), works, recovers: false })
    }

    /// A process of which only the storage call number `at` fails.
    fn hiccup(&self, at: i64, works: bool) -> Client {
        self.client(Fuse { calls_left: AtomicI64::new(at), works, recovers: true })
    }

    fn client(&self, fuse: Fuse) -> Client {
        let fuse = Arc::new(fuse);
        let platform: Arc<dyn Platform> = Arc::new(SystemPlatform);
        let keys = Arc::new(Fused { fuse: fuse.clone(), inner: self.keys.clone() });
        let blobs = Arc::new(Fused { fuse: fuse.clone(), inner: self.blobs.clone() });
        // With this limit, manifests are stored inline and as large manifests, so that both kinds
        // of calls are among the failing calls.
        let limits = Limits { manifest_inline_bytes_max: 500, ..Limits::default() };
        Client { handler: Handler::new(Registry::new(keys, blobs, platform, limits), Access::open()), fuse }
    }
}

struct Client {
    handler: Handler,
    fuse: Arc<Fuse>,
}

struct Reply {
    status: StatusCode,
    location: String,
    range: String,
    /// The pushed tags according to the answer.
    tags: String,
    body: Bytes,
}

impl Client {
    fn send(&self, method: Method, uri: &str, body: &[u8]) -> Reply {
        let request = Request::builder().method(method).uri(uri).header("content-type", OCI_IMAGE);
        let response = futures_executor::block_on(self.handler.handle(request.body(body.to_vec().into()).unwrap()));
        let header = |response: &Response<Body>, name| {
            let value = response.headers().get(name);
            value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let (location, range, status) = (header(&response, "location"), header(&response, "range"), response.status());
        let tags = header(&response, "oci-tag");
        let body = futures_executor::block_on(response.into_body().collect_up_to(1 << 20)).unwrap();
        if self.has_crashed() {
            // Never "not found": an outage must not look like absence.
            assert!(status.is_success() || status == StatusCode::INTERNAL_SERVER_ERROR, "{status}");
        }
        if status.is_server_error() {
            let text = std::str::from_utf8(&body).unwrap();
            assert!(text.contains("UNKNOWN") && !text.contains(SECRET), "{text}");
        }
        Reply { status, location, range, tags, body }
    }

    fn has_crashed(&self) -> bool {
        self.fuse.calls_left.load(Ordering::Relaxed) < 0
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

fn image(layer: &[u8], subject: Option<&[u8]>) -> Vec<u8> {
    let of = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() });
    let blob = of("application/vnd.oci.image.layer.v1.tar", layer);
    let mut manifest = json!({ "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": blob, "layers": [blob] });
    if let Some(subject) = subject {
        manifest["subject"] = of(OCI_IMAGE, subject);
        manifest["annotations"] = json!({ "padding": "x".repeat(300) });
    }
    manifest.to_string().into_bytes()
}

const CHUNKS: [&[u8]; 3] = [b"one ", b"two ", b"three"];

/// The requests of one client, which gives up at the first unexpected answer. Writes the location
/// of the upload session, once known, into `session`.
fn push_and_delete(client: &Client, session: &mut String) -> Option<()> {
    let layer = CHUNKS.concat();
    let expect = |reply: Reply, status| (reply.status == status).then_some(reply);
    let begun = expect(client.send(Method::POST, "/v2/a/blobs/uploads/", b""), StatusCode::ACCEPTED)?;
    session.clone_from(&begun.location);
    for chunk in &CHUNKS[..2] {
        expect(client.send(Method::PATCH, &begun.location, chunk), StatusCode::ACCEPTED)?;
    }
    let end = format!("{}?digest={}", begun.location, digest(&layer));
    expect(client.send(Method::PUT, &end, CHUNKS[2]), StatusCode::CREATED)?;
    session.clear();
    let single = format!("/v2/a/blobs/uploads/?digest={}", digest(b"single"));
    expect(client.send(Method::POST, &single, b"single"), StatusCode::CREATED)?;

    let (old, new) = (image(&layer, None), image(b"single", Some(&image(&layer, None))));
    expect(client.send(Method::PUT, "/v2/a/manifests/v1", &old), StatusCode::CREATED)?;
    expect(client.send(Method::PUT, "/v2/a/manifests/v2", &old), StatusCode::CREATED)?;
    let tagged = format!("/v2/a/manifests/{}?tag=v1&tag=v3", digest(&new));
    expect(client.send(Method::PUT, &tagged, &new), StatusCode::CREATED)?;
    expect(client.send(Method::DELETE, &format!("/v2/a/manifests/{}", digest(&old)), b""), StatusCode::ACCEPTED)?;
    expect(client.send(Method::DELETE, "/v2/a/manifests/v3", b""), StatusCode::ACCEPTED)?;
    // The referrer is small enough to be listed without reading its manifest.
    let mut referrer: Value = serde_json::from_slice(&image(&layer, Some(&old))).unwrap();
    referrer.as_object_mut().unwrap().remove("annotations");
    let referrer = referrer.to_string().into_bytes();
    let by_digest = format!("/v2/a/manifests/{}", digest(&referrer));
    expect(client.send(Method::PUT, &by_digest, &referrer), StatusCode::CREATED)?;
    expect(client.send(Method::DELETE, &by_digest, b""), StatusCode::ACCEPTED)?;
    Some(())
}

fn read_json(client: &Client, uri: &str) -> Option<Value> {
    let reply = client.send(Method::GET, uri, b"");
    assert!(reply.status == StatusCode::OK || reply.status == StatusCode::NOT_FOUND, "GET {uri}: {}", reply.status);
    (reply.status == StatusCode::OK).then(|| serde_json::from_slice(&reply.body).unwrap())
}

/// Checks that all listed manifests can be pulled whole.
fn check(client: &Client) {
    let tags = read_json(client, "/v2/a/tags/list").map(|list| list["tags"].clone());
    let subject = digest(&image(&CHUNKS.concat(), None));
    let referrers = read_json(client, &format!("/v2/a/referrers/{subject}")).unwrap()["manifests"].clone();
    let references = tags.iter().flat_map(|tags| tags.as_array().unwrap()).cloned();
    let references = references.chain(referrers.as_array().unwrap().iter().map(|referrer| referrer["digest"].clone()));
    for reference in references {
        let uri = format!("/v2/a/manifests/{}", reference.as_str().unwrap());
        let manifest = read_json(client, &uri).unwrap_or_else(|| panic!("{reference} is listed and leads nowhere"));
        for layer in manifest["layers"].as_array().unwrap() {
            let named: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
            let blob = client.send(Method::GET, &format!("/v2/a/blobs/{named}"), b"");
            assert_eq!((blob.status, digest(&blob.body)), (StatusCode::OK, named));
        }
    }
}

/// Checks that an upload can be resumed from the offset that its session reports.
fn resume(client: &Client, session: &str) {
    if session.is_empty() {
        return;
    }
    let status = client.send(Method::GET, session, b"");
    if status.status == StatusCode::NOT_FOUND {
        return;
    }
    let last: usize = status.range.strip_prefix("0-").unwrap().parse().unwrap();
    let layer = CHUNKS.concat();
    // `0-0` means one byte or none. No chunk of this test is a single byte.
    let offset = if last == 0 { 0 } else { last + 1 };
    let end = format!("{session}?digest={}", digest(&layer));
    let completed = client.send(Method::PUT, &end, &layer[offset..]);
    assert_eq!(completed.status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&completed.body));
    let blob = client.send(Method::GET, &format!("/v2/a/blobs/{}", digest(&layer)), b"");
    assert_eq!(blob.body, layer);
}

#[test]
fn a_crash_at_any_storage_call_leaves_nothing_half() {
    let mut crashes = 0;
    for works in [false, true] {
        for at in 0.. {
            let world = World::new();
            let mut session = String::new();
            let dying = world.process(Some(at), works);
            let done = push_and_delete(&dying, &mut session);
            if !dying.has_crashed() {
                assert!(done.is_some(), "without a crash all goes well");
                break;
            }
            crashes += 1;
            let next = world.process(None, false);
            check(&next);
            resume(&next, &session);
            push_and_delete(&next, &mut String::new()).unwrap_or_else(|| panic!("the next try fails, crash at {at}"));
            check(&next);
            let tags = read_json(&next, "/v2/a/tags/list").unwrap();
            assert_eq!(tags["tags"], json!(["v1"]), "crash at {at}");
        }
    }
    println!("{crashes} crashes");
    assert!(crashes > 80, "only {crashes} crashes");
}

/// A push by digest with several tags of which one write fails: the answer names exactly the tags
/// that were written.
#[test]
fn the_tags_that_an_answer_names_are_there() {
    let manifest = image(b"single", None);
    let uri = format!("/v2/a/manifests/{}?tag=t1&tag=t2&tag=t2&tag=t3&tag=t4", digest(&manifest));
    let (mut refused, mut partial) = (0, 0);
    for works in [false, true] {
        for at in 0.. {
            let world = World::new();
            let healthy = world.process(None, false);
            let blob = format!("/v2/a/blobs/uploads/?digest={}", digest(b"single"));
            assert_eq!(healthy.send(Method::POST, &blob, b"single").status, StatusCode::CREATED);
            let ailing = world.hiccup(at, works);
            let reply = ailing.send(Method::PUT, &uri, &manifest);
            if !ailing.has_crashed() {
                assert_eq!((reply.status, reply.tags.as_str()), (StatusCode::CREATED, "t1, t2, t3, t4"));
                break;
            }
            let listed = read_json(&healthy, "/v2/a/tags/list").map_or(json!([]), |list| list["tags"].clone());
            check(&healthy);
            if reply.status == StatusCode::CREATED {
                let named: Vec<&str> = reply.tags.split(", ").collect();
                partial += usize::from(named.len() < 4);
                if works {
                    // The list may have one more tag: only the answer to that tag's write was lost.
                    assert!(named.iter().all(|tag| listed.as_array().unwrap().contains(&json!(tag))), "{listed}");
                } else {
                    assert_eq!(json!(named), listed, "the call {at} failed");
                }
            } else {
                refused += 1;
            }
            let again = healthy.send(Method::PUT, &uri, &manifest);
            assert_eq!((again.status, again.tags.as_str()), (StatusCode::CREATED, "t1, t2, t3, t4"));
        }
    }
    println!("{refused} refused, {partial} done in part");
    assert!(refused > 5 && partial == 6, "{refused} refused, {partial} done in part");
}
