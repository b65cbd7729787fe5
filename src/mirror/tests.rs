mod counters;
mod evicting;
mod lists;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_executor::block_on;
use futures_util::stream;
use http::{Request, Response};

use super::filler::PIECE_BYTES;
use super::*;
use crate::oci::{Algorithm, Digest, Reference};
use crate::platform::{Body, BodyError, SendError};
use crate::registry::{self, Limits};
use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};
use crate::store::{self, BlobStore, Family, Location, Stage, Stored};
use crate::upstream::Kind;
use crate::upstream::scripted::Scripted;

const SECOND_MS: u64 = 1000;
/// How many bytes one read of a blob's answer gives.
const READ_BYTES: usize = 64 * 1024;

const DOCKER_AND_QUAY: &str =
    "docker.io https://docker.io fresh=60 stale=600 default; quay https://quay.io only=team/*";

/// The behaviour of the upstream.
#[derive(Default)]
struct Upstream {
    tags: HashMap<String, Bytes>,
    manifests: HashMap<String, Bytes>,
    blobs: HashMap<String, Bytes>,
    /// The answer to every request, in place of content.
    trouble: Option<(u16, Option<&'static str>)>,
    hangs: bool,
    /// After how many bytes of an answer the connection breaks.
    breaks_after: Option<usize>,
    /// How many bytes are missing at the regular end of an answer.
    short_by: usize,
    no_digests: bool,
    no_ranges: bool,
    /// The list of tags.
    tag_list: Vec<String>,
    /// The lists of referrers, by subject.
    referrers: HashMap<String, Vec<serde_json::Value>>,
    /// The most entries of a page of a list; 0: no limit.
    entries_per_page: usize,
    /// The host to which pulls of blobs are redirected.
    redirects_to: Option<&'static str>,
    rate_limit: Option<&'static str>,
}

struct Setup {
    upstream: Arc<Mutex<Upstream>>,
    platform: Arc<Scripted>,
    keys: Arc<dyn KeyValue>,
    registry: Registry,
    mirrors: Mirrors,
    /// How many bytes of blobs the upstream has sent.
    sent: Arc<AtomicU64>,
}

impl Setup {
    fn new() -> Self {
        Self::with(DOCKER_AND_QUAY)
    }

    fn with(settings: &str) -> Self {
        Self::with_settings(settings, Limits::default(), true)
    }

    fn with_limits(limits: Limits) -> Self {
        Self::with_settings("docker.io https://docker.io fresh=60", limits, true)
    }

    fn over(settings: &str, reads_stages: bool) -> Self {
        Self::with_settings(settings, Limits::default(), reads_stages)
    }

    fn with_settings(settings: &str, limits: Limits, reads_stages: bool) -> Self {
        let (upstream, sent) = (Arc::<Mutex<Upstream>>::default(), Arc::<AtomicU64>::default());
        let (script, counted) = (upstream.clone(), sent.clone());
        let scripted = Arc::new(Scripted::new(move |request| answer(&script.lock().unwrap(), request, &counted)));
        let platform: Arc<dyn Platform> = scripted.clone();
        let keys: Arc<dyn KeyValue> = Arc::new(MemoryKeyValue::default());
        let blobs: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::new(platform.clone()));
        let blobs = if reads_stages { blobs } else { Arc::new(WithoutReading(blobs)) };
        let settings: Mirroring = settings.parse().unwrap();
        let registry = Registry::new(keys.clone(), blobs, platform.clone(), limits).with_expiring(&EXPIRING);
        let registry = registry.with_mirrored_prefixes(settings.prefixes());
        let mirrors = Mirrors::new(settings, &registry, &Seal::new([1; 32]));
        Self { upstream, platform: scripted, keys, registry, mirrors, sent }
    }

    /// The same stores in another instance.
    fn another(&self) -> Mirrors {
        let settings = "docker.io https://docker.io fresh=60 stale=600".parse().unwrap();
        Mirrors::new(settings, &self.registry, &Seal::new([1; 32]))
    }

    /// The mirrors of another instance over the same upstream, with these keys and no blobs.
    fn with_keys(&self, keys: Arc<dyn KeyValue>) -> Mirrors {
        let platform: Arc<dyn Platform> = self.platform.clone();
        let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
        let registry = Registry::new(keys, blobs, platform, Limits::default());
        let settings = "docker.io https://docker.io fresh=60".parse().unwrap();
        Mirrors::new(settings, &registry, &Seal::new([1; 32]))
    }

    fn repository(&self) -> MirroredRepository {
        self.mirrors.find(&"docker.io/library/app".parse().unwrap()).unwrap()
    }

    fn up(&self) -> std::sync::MutexGuard<'_, Upstream> {
        self.upstream.lock().unwrap()
    }

    fn pull(&self, reference: &str) -> Result<MirroredManifest> {
        block_on(self.repository().manifest(&reference.parse::<Reference>().unwrap()))
    }

    /// The requests since the last call, as method and end of the path.
    fn requests(&self) -> Vec<String> {
        let short = |line: String| {
            let (method, url) = line.split_once(' ').unwrap_or_default();
            format!(
                "{method} {}",
                url.rsplit('/')
                    .next()
                    .unwrap_or_default()
                    .replacen("sha256:", "", 1)
                    .chars()
                    .take(8)
                    .collect::<String>()
            )
        };
        self.platform.take_requests().into_iter().map(short).collect()
    }

    fn keys(&self, prefix: &str) -> Vec<String> {
        block_on(self.keys.list(prefix, None, 100)).unwrap()
    }

    fn sent(&self) -> u64 {
        self.sent.swap(0, Relaxed)
    }
}

/// A blob store that reads committed content only, as S3 does.
struct WithoutReading(Arc<dyn BlobStore>);

#[async_trait]
impl BlobStore for WithoutReading {
    async fn stage(&self) -> store::Result<Stage> {
        self.0.stage().await
    }

    async fn append(&self, stage: &Stage, body: Body) -> store::Result<Stage> {
        self.0.append(stage, body).await
    }

    async fn commit(&self, stage: &Stage, digest: &Digest) -> store::Result<Location> {
        self.0.commit(stage, digest).await
    }

    async fn discard(&self, stage: &Stage) -> store::Result<()> {
        self.0.discard(stage).await
    }

    async fn read(&self, location: &Location, range: Range<u64>) -> store::Result<Body> {
        self.0.read(location, range).await
    }

    async fn family(&self, stage: &Stage) -> store::Result<Family> {
        self.0.family(stage).await
    }

    async fn names_of(&self, location: &Location) -> store::Result<Vec<String>> {
        self.0.names_of(location).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> store::Result<Vec<Stored>> {
        self.0.list(after, limit).await
    }

    async fn remove(&self, name: &str) -> store::Result<()> {
        self.0.remove(name).await
    }
}

fn manifest(layer: &Digest) -> Bytes {
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let blob = |digest: &Digest| serde_json::json!({"mediaType": "x/y", "digest": digest, "size": 5});
    let config = blob(&Algorithm::Sha256.digest(b"{}"));
    let value =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [blob(layer)]});
    value.to_string().into_bytes().into()
}

fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

fn blob(length: usize) -> Bytes {
    (0..length).map(|at| (at >> 9) as u8 ^ at as u8).collect::<Vec<u8>>().into()
}

fn answer(upstream: &Upstream, request: &Request<Body>, sent: &Arc<AtomicU64>) -> Result<Response<Body>, SendError> {
    if upstream.hangs {
        return Err(SendError::TimedOut("no answer within 5 s".into()));
    }
    let status = |status: u16| Response::builder().status(status);
    if let Some((code, retry_after)) = upstream.trouble {
        let response =
            retry_after.into_iter().fold(status(code), |response, value| response.header("retry-after", value));
        return Ok(response.body(Body::empty()).unwrap());
    }
    let host = request.uri().host().unwrap_or_default();
    let mut path = request.uri().path().rsplit('/');
    let (name, kind) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
    if name == "list" || kind == "referrers" {
        return Ok(lists::answer(upstream, request, name).unwrap_or_else(|| status(404).body(Body::empty()).unwrap()));
    }
    if let Some(target) = upstream.redirects_to.filter(|target| kind == "blobs" && *target != host) {
        let target = format!("https://{target}{}", request.uri().path());
        return Ok(status(307).header("location", target).body(Body::empty()).unwrap());
    }
    if kind == "manifests" {
        let Some(bytes) = upstream.tags.get(name).or_else(|| upstream.manifests.get(name)) else {
            return Ok(status(404).body(Body::empty()).unwrap());
        };
        let (digest, body) =
            (digest(bytes).to_string(), if request.method() == "HEAD" { Bytes::new() } else { bytes.clone() });
        let tag = format!("\"{digest}\"");
        if !upstream.no_digests && request.headers().get("if-none-match").is_some_and(|known| known == tag.as_str()) {
            return Ok(status(304).body(Body::empty()).unwrap());
        }
        let response = match upstream.no_digests {
            true => status(200),
            false => status(200).header("docker-content-digest", digest).header("etag", tag),
        };
        let response =
            upstream.rate_limit.iter().fold(response, |response, rest| response.header("ratelimit-remaining", *rest));
        return Ok(response.body(body.into()).unwrap());
    }
    let Some(bytes) = upstream.blobs.get(name) else { return Ok(status(404).body(Body::empty()).unwrap()) };
    let size = bytes.len();
    if request.method() == "HEAD" {
        return Ok(status(200).header("content-length", size).body(Body::empty()).unwrap());
    }
    let range = request.headers().get("range").filter(|_| !upstream.no_ranges);
    let start: usize = range
        .map_or(0, |range| range.to_str().unwrap().trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
    let response = match range {
        Some(_) => status(206).header("content-range", format!("bytes {start}-{}/{size}", size - 1)),
        None => status(200),
    };
    let mut pieces: Vec<Result<Bytes, BodyError>> = Vec::new();
    let end = size - upstream.short_by;
    for at in (start..end).step_by(READ_BYTES) {
        if upstream.breaks_after.is_some_and(|most| at - start >= most) {
            pieces.push(Err(BodyError::Interrupted("connection reset".into())));
            break;
        }
        pieces.push(Ok(bytes.slice(at..end.min(at + READ_BYTES))));
    }
    let sent = sent.clone();
    let counted = stream::iter(pieces.into_iter().inspect(move |piece| {
        if let Ok(piece) = piece {
            sent.fetch_add(piece.len() as u64, Relaxed);
        }
    }));
    Ok(response.header("content-length", size - start).body(Body::from_stream(counted)).unwrap())
}

#[test]
fn a_tag_costs_nothing_while_fresh_and_then_one_question() {
    let setup = Setup::new();
    let (first, second) = (manifest(&digest(b"1")), manifest(&digest(b"2")));
    setup.up().tags.insert("latest".into(), first.clone());
    assert_eq!(setup.pull("latest").unwrap().manifest.digest, digest(&first));
    assert_eq!(setup.requests(), ["GET latest"]);
    setup.platform.pass_ms(59 * SECOND_MS);
    assert_eq!(setup.pull("latest").unwrap().warning, None);
    assert_eq!(setup.requests(), [""; 0]);
    setup.platform.pass_ms(2 * SECOND_MS);
    assert_eq!(setup.pull("latest").unwrap().manifest.digest, digest(&first));
    assert_eq!(setup.pull("latest").unwrap().warning, None);
    assert_eq!(setup.requests(), ["HEAD latest"]);
    // The tag moves to a new manifest, and back to a manifest that is known here.
    for (bytes, expected) in [(&second, vec!["HEAD latest", "GET latest"]), (&first, vec!["HEAD latest"])] {
        setup.platform.pass_ms(61 * SECOND_MS);
        setup.up().tags.insert("latest".into(), bytes.clone());
        assert_eq!(setup.pull("latest").unwrap().manifest.digest, digest(bytes));
        assert_eq!(setup.requests(), expected);
    }
    // An upstream that states neither a digest nor an entity tag is asked for the manifest.
    setup.up().no_digests = true;
    setup.platform.pass_ms(61 * SECOND_MS);
    assert_eq!(setup.pull("latest").unwrap().manifest.digest, digest(&first));
    assert_eq!(setup.requests(), ["HEAD latest", "GET latest"]);
}

#[test]
fn a_cached_pull_costs_one_key_read_more_than_an_own_image() {
    let setup = Setup::new();
    setup.up().tags.insert("latest".into(), manifest(&digest(b"1")));
    setup.pull("latest").unwrap();
    let counting = Arc::new(crate::store::counting::Counting::new(setup.keys.clone()));
    let repository = setup.with_keys(counting.clone()).find(setup.repository().name()).unwrap();
    let tag: Reference = "latest".parse().unwrap();
    counting.counts.take();
    block_on(repository.mirror.registry.manifest(&repository.local, &tag)).unwrap();
    let [own_reads, ..] = counting.counts.take();
    block_on(repository.manifest(&tag)).unwrap();
    let [reads, writes, deletes, lists] = counting.counts.take();
    assert_eq!((reads, writes, deletes, lists), (own_reads + 1, 0, 0, 0));
}

#[test]
fn absence_is_remembered_for_tags_and_never_for_digests() {
    let setup = Setup::new();
    let bytes = manifest(&digest(b"1"));
    let by_digest = digest(&bytes).to_string();
    for reference in ["latest", by_digest.as_str()] {
        let error = setup.pull(reference).unwrap_err();
        assert_eq!(error, registry::Error::ManifestUnknown(reference.into()).into());
    }
    setup.requests();
    setup.up().tags.insert("latest".into(), bytes.clone());
    setup.up().manifests.insert(by_digest.clone(), bytes.clone());
    setup.platform.pass_ms(59 * SECOND_MS);
    assert!(setup.pull("latest").is_err());
    assert_eq!(setup.requests(), [""; 0]);
    setup.pull(&by_digest).unwrap();
    setup.platform.pass_ms(2 * SECOND_MS);
    setup.pull("latest").unwrap();
    assert_eq!(setup.requests().len(), 2);
}

#[test]
fn a_tag_is_served_stale_while_its_upstream_fails() {
    let setup = Setup::new();
    let bytes = manifest(&digest(b"1"));
    setup.up().tags.insert("latest".into(), bytes.clone());
    setup.pull("latest").unwrap();
    setup.requests();
    setup.platform.pass_ms(61 * SECOND_MS);
    setup.up().hangs = true;
    let stale = setup.pull("latest").unwrap();
    assert_eq!(stale.manifest.digest, digest(&bytes));
    assert_eq!(
        stale.warning.as_deref(),
        Some("stale: upstream docker.io: the upstream is too slow: registry-1.docker.io: no answer within 5 s")
    );
    // For a while the upstream is not asked again, by other instances neither.
    assert!(setup.pull("latest").unwrap().warning.is_some());
    let other = setup.another().find(setup.repository().name()).unwrap();
    assert!(block_on(other.manifest(&"latest".parse().unwrap())).unwrap().warning.is_some());
    assert_eq!(setup.requests(), ["HEAD latest"]);
    setup.platform.pass_ms(31 * SECOND_MS);
    setup.up().hangs = false;
    setup.up().trouble = Some((429, Some("120")));
    assert!(setup.pull("latest").unwrap().warning.unwrap().contains("429"));
    setup.platform.pass_ms(119 * SECOND_MS);
    setup.pull("latest").unwrap();
    assert_eq!(setup.requests(), ["HEAD latest"]);
    // The time of stale tags ends.
    setup.platform.pass_ms(600 * SECOND_MS);
    let error = setup.pull("latest").unwrap_err();
    assert!(matches!(error, Error::Upstream(error) if error.kind == Kind::Limited { retry_after: Some("120".into()) }));
    // What is not here has the class of the trouble.
    setup.up().trouble = Some((503, None));
    assert!(matches!(setup.pull("other").unwrap_err(), Error::Upstream(error) if matches!(error.kind, Kind::Down(_))));
    // The upstream is well again.
    setup.up().trouble = None;
    assert_eq!(setup.pull("latest").unwrap().warning, None);
}

#[test]
fn a_tag_that_the_upstream_removes_is_removed() {
    let setup = Setup::new();
    setup.up().tags.insert("latest".into(), manifest(&digest(b"1")));
    setup.pull("latest").unwrap();
    setup.platform.pass_ms(61 * SECOND_MS);
    setup.up().tags.clear();
    assert!(setup.pull("latest").is_err());
    setup.up().hangs = true;
    setup.platform.pass_ms(61 * SECOND_MS);
    assert!(matches!(setup.pull("latest").unwrap_err(), Error::Upstream(_)), "nothing is left to be served stale");
}

#[test]
fn garbage_is_no_manifest() {
    let setup = Setup::new();
    setup.up().tags.insert("latest".into(), Bytes::from_static(b"<html>"));
    let error = setup.pull("latest").unwrap_err();
    assert!(matches!(error, Error::Upstream(error) if matches!(error.kind, Kind::Invalid(_))));
    assert_eq!(setup.keys("manifest/"), [""; 0]);
}

#[test]
fn names_lead_to_upstreams() {
    let setup = Setup::new();
    let name = |text: &str| text.parse().unwrap();
    let found = |found: Option<MirroredRepository>| found.map(|found| found.name().to_string());
    for (text, expected) in [
        ("docker.io/app", Some("docker.io/library/app")),
        ("docker.io/team/app", Some("docker.io/team/app")),
        ("quay/team/app", Some("quay/team/app")),
        ("docker.io", None),
        ("docker.iox/app", None),
        ("app", None),
    ] {
        assert_eq!(found(setup.mirrors.find(&name(text))).as_deref(), expected, "{text}");
    }
    for (namespace, expected) in [
        ("docker.io", Some("docker.io/library/app")),
        ("index.docker.io", Some("docker.io/library/app")),
        ("quay.io", Some("quay/app")),
        ("evil.example", None),
    ] {
        assert_eq!(found(setup.mirrors.in_namespace(namespace, &name("app"))).as_deref(), expected, "{namespace}");
    }
    let both = setup.mirrors.in_namespace("docker.io", &name("docker.io/library/app"));
    assert_eq!(found(both).as_deref(), Some("docker.io/library/app"));
    assert_eq!(found(setup.mirrors.by_default(&name("a/b"))).as_deref(), Some("docker.io/a/b"));
    // Nothing is asked about repositories that are not mirrored.
    let other = setup.mirrors.find(&name("quay/other/app")).unwrap();
    assert!(block_on(other.manifest(&"latest".parse().unwrap())).is_err());
    assert!(block_on(other.blob(&digest(b"1"))).is_err());
    assert_eq!(setup.requests(), [""; 0]);
}

/// Reads a body to its end, or to the error.
fn read(body: Body) -> Result<Bytes, BodyError> {
    block_on(body.collect_up_to(u64::MAX))
}

impl Setup {
    fn with_blob(length: usize) -> (Self, Digest, Bytes) {
        Self::with_blob_in(length, true)
    }

    /// A blob at the upstream, and a registry whose store may be unable to read staged bytes.
    fn with_blob_in(length: usize, reads_stages: bool) -> (Self, Digest, Bytes) {
        let (setup, bytes) = (Self::over(DOCKER_AND_QUAY, reads_stages), blob(length));
        let digest = digest(&bytes);
        setup.up().blobs.insert(digest.to_string(), bytes.clone());
        (setup, digest, bytes)
    }

    fn fetch(&self, digest: &Digest) -> Result<MirroredBlob> {
        match block_on(self.repository().blob(digest))? {
            BlobSource::Stream(blob) => Ok(blob),
            BlobSource::Redirect(url) => panic!("a redirect to {url}"),
        }
    }

    fn is_stored(&self, digest: &Digest) -> bool {
        block_on(self.registry.blob(self.repository().name(), digest)).is_ok()
    }
}

#[test]
fn a_blob_is_read_once_and_stored_meanwhile() {
    for length in [0, 1, READ_BYTES, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + 77] {
        let (setup, digest, bytes) = Setup::with_blob(length);
        let fetched = setup.fetch(&digest).unwrap();
        assert_eq!((fetched.size, fetched.body.length()), (length as u64, Some(length as u64)));
        assert!(read(fetched.body).unwrap() == bytes, "{length}");
        let stored = block_on(setup.registry.blob(setup.repository().name(), &digest)).unwrap();
        assert!(read(block_on(setup.registry.read_blob(&stored, 0..stored.size)).unwrap()).unwrap() == bytes);
        assert_eq!(setup.sent(), length as u64);
        assert_eq!((setup.keys("upload/"), setup.keys("mirror/fill/")), (vec![], vec![]));
    }
}

#[test]
fn wrong_bytes_are_never_stored_and_never_look_complete() {
    let (setup, digest, bytes) = Setup::with_blob(PIECE_BYTES + 100_000);
    let mut wrong = bytes.to_vec();
    *wrong.last_mut().unwrap() ^= 1;
    for (right, short_by) in [(false, 0), (true, 1), (true, 100_001)] {
        let sent = if right { bytes.clone() } else { wrong.clone().into() };
        setup.up().blobs.insert(digest.to_string(), sent);
        setup.up().short_by = short_by;
        let mut body = setup.fetch(&digest).unwrap().body;
        let (mut received, mut failed) = (0, false);
        while let Some(data) = block_on(body.next()) {
            match data {
                Ok(data) => received += data.len(),
                Err(_) => failed = true,
            }
            if failed {
                break;
            }
        }
        assert!(failed && received < bytes.len(), "{received}");
        assert!(!setup.is_stored(&digest));
        assert_eq!((setup.keys("upload/"), setup.keys("mirror/fill/")), (vec![], vec![]));
    }
}

#[test]
fn a_fill_that_broke_off_goes_on_where_it_stopped() {
    let length = 3 * PIECE_BYTES + 12_345;
    for left_after in [1, READ_BYTES, PIECE_BYTES - 1, PIECE_BYTES + 200_000, 3 * PIECE_BYTES + 12_344] {
        goes_on_after(length, left_after);
    }
    // All bytes have arrived, and they are a whole number of pieces.
    goes_on_after(3 * PIECE_BYTES, 3 * PIECE_BYTES);
}

/// Pulls a blob again whose client left, or whose host was killed, after so many bytes.
fn goes_on_after(length: usize, left_after: usize) {
    let (setup, digest, bytes) = Setup::with_blob(length);
    let mut body = setup.fetch(&digest).unwrap().body;
    let mut received = 0;
    while received < left_after.min(length - READ_BYTES) {
        received += block_on(body.next()).unwrap().unwrap().len();
    }
    drop(body);
    setup.platform.pass_ms(4 * SECOND_MS);
    assert!(read(setup.fetch(&digest).unwrap().body).unwrap() == bytes, "{left_after}");
    assert!(setup.is_stored(&digest));
    let sent = setup.sent();
    assert!(sent <= (length + PIECE_BYTES + READ_BYTES) as u64, "{left_after}: {sent}");
    assert_eq!((setup.keys("upload/"), setup.keys("mirror/fill/")), (vec![], vec![]));
}

#[test]
fn an_upstream_without_ranges_is_read_from_the_start() {
    let (setup, digest, bytes) = Setup::with_blob(2 * PIECE_BYTES + 9);
    let mut body = setup.fetch(&digest).unwrap().body;
    for _ in 0..PIECE_BYTES / READ_BYTES + 5 {
        block_on(body.next()).unwrap().unwrap();
    }
    drop(body);
    setup.platform.pass_ms(4 * SECOND_MS);
    setup.up().no_ranges = true;
    assert!(read(setup.fetch(&digest).unwrap().body).unwrap() == bytes);
    assert!(setup.is_stored(&digest));
    assert_eq!(setup.keys("upload/"), [""; 0]);
}

#[test]
fn a_connection_that_breaks_is_made_again_a_few_times() {
    let (setup, digest, bytes) = Setup::with_blob(PIECE_BYTES);
    setup.up().breaks_after = Some(PIECE_BYTES / 2);
    assert!(read(setup.fetch(&digest).unwrap().body).unwrap() == bytes);
    assert_eq!(setup.sent(), PIECE_BYTES as u64);
    let (setup, digest, _) = Setup::with_blob(PIECE_BYTES);
    setup.up().breaks_after = Some(READ_BYTES);
    assert!(read(setup.fetch(&digest).unwrap().body).is_err());
    assert!(!setup.is_stored(&digest));
    assert_eq!(setup.requests().len(), 3);
}

#[test]
fn what_arrived_before_a_connection_broke_stays_only_if_a_fill_can_continue() {
    for (no_ranges, reads_stages, kept) in [(false, true, true), (true, true, false), (false, false, true)] {
        let case = format!("ranges: {}, stages: {reads_stages}", !no_ranges);
        let (setup, digest, bytes) = Setup::with_blob_in(3 * PIECE_BYTES, reads_stages);
        // Each connection breaks after more than a piece. An upstream with ranges breaks three times.
        setup.up().breaks_after = Some(if no_ranges { PIECE_BYTES + READ_BYTES } else { PIECE_BYTES / 2 });
        setup.up().no_ranges = no_ranges;
        assert!(read(setup.fetch(&digest).unwrap().body).is_err(), "{case}");
        assert!(!setup.is_stored(&digest), "{case}");
        let left = (setup.keys("upload/").is_empty(), setup.keys("mirror/fill/").is_empty());
        assert_eq!(left, (!kept, !kept), "{case}");
        setup.sent();
        setup.up().breaks_after = None;
        setup.platform.pass_ms(4 * SECOND_MS);
        assert!(read(setup.fetch(&digest).unwrap().body).unwrap() == bytes, "{case}");
        let expected = if kept { bytes.len() - PIECE_BYTES } else { bytes.len() };
        assert_eq!(setup.sent(), expected as u64, "{case}");
        assert!(setup.is_stored(&digest), "{case}");
    }
}

#[test]
fn acknowledged_bytes_that_were_wrong_go_with_the_next_fill() {
    let (setup, digest, bytes) = Setup::with_blob(2 * PIECE_BYTES);
    let mut wrong = bytes.to_vec();
    wrong[0] ^= 1;
    setup.up().blobs.insert(digest.to_string(), wrong.into());
    setup.up().breaks_after = Some(PIECE_BYTES / 2);
    assert!(read(setup.fetch(&digest).unwrap().body).is_err());
    assert_eq!(setup.keys("upload/").len(), 1, "the bytes before the broken connection may be right");
    // The rest is right, but the whole is not.
    setup.up().breaks_after = None;
    setup.up().blobs.insert(digest.to_string(), bytes.clone());
    setup.platform.pass_ms(4 * SECOND_MS);
    assert!(read(setup.fetch(&digest).unwrap().body).is_err());
    assert!(!setup.is_stored(&digest));
    assert_eq!((setup.keys("upload/"), setup.keys("mirror/fill/")), (vec![], vec![]));
    assert!(read(setup.fetch(&digest).unwrap().body).unwrap() == bytes);
}

#[test]
fn a_redirect_of_the_upstream_is_passed_on_if_the_option_says_so() {
    let setup = Setup::with("docker.io https://docker.io redirect");
    let bytes = blob(100);
    let digest = digest(&bytes);
    setup.up().blobs.insert(digest.to_string(), bytes.clone());
    setup.up().redirects_to = Some("cdn.example");
    let BlobSource::Redirect(url) = block_on(setup.repository().blob(&digest)).unwrap() else { panic!("no redirect") };
    assert_eq!(url, format!("https://cdn.example/v2/library/app/blobs/{digest}"));
    assert_eq!(setup.requests().len(), 1);
    // The upstream serves the blob itself: the blob streams through, with its digest checked.
    setup.up().redirects_to = None;
    assert_eq!(read(setup.fetch(&digest).unwrap().body).unwrap(), bytes);
    setup.up().blobs.insert(digest.to_string(), blob(99));
    assert!(read(setup.fetch(&digest).unwrap().body).is_err());
    assert_eq!((setup.is_stored(&digest), setup.keys("upload/").len()), (false, 0));
    let absent = super::tests::digest(b"other");
    assert_eq!(setup.fetch(&absent).unwrap_err(), registry::Error::BlobUnknown(absent.clone()).into());
}

#[test]
fn a_second_request_in_a_component_streams_through_without_storing() {
    let (setup, digest, bytes) = Setup::with_blob(PIECE_BYTES + READ_BYTES);
    let mut first = setup.fetch(&digest).unwrap().body;
    block_on(first.next()).unwrap().unwrap();
    let second = setup.fetch(&digest).unwrap();
    assert!(read(second.body).unwrap() == bytes);
    assert!(!setup.is_stored(&digest));
    assert_eq!(setup.keys("upload/").len(), 1);
    assert_eq!(read(first).unwrap().len(), bytes.len() - READ_BYTES);
    assert!(setup.is_stored(&digest));
}

#[test]
fn a_fill_that_is_overtaken_still_gives_its_client_the_blob() {
    let (setup, digest, bytes) = Setup::with_blob(2 * PIECE_BYTES);
    let mut slow = setup.fetch(&digest).unwrap().body;
    block_on(slow.next()).unwrap().unwrap();
    setup.platform.pass_ms(4 * SECOND_MS);
    assert!(read(setup.fetch(&digest).unwrap().body).unwrap() == bytes);
    assert!(setup.is_stored(&digest));
    assert_eq!(read(slow).unwrap().len(), bytes.len() - READ_BYTES);
    assert_eq!((setup.keys("upload/"), setup.keys("mirror/fill/")), (vec![], vec![]));
}

#[test]
fn questions_about_absent_blobs_go_through_without_filling() {
    let (setup, digest, bytes) = Setup::with_blob(100);
    assert_eq!(block_on(setup.repository().blob_size(&digest)), Ok(100));
    let range = http::HeaderValue::from_static("bytes=40-");
    let answer = block_on(setup.repository().blob_range(&digest, &range)).unwrap();
    assert_eq!(answer.served, ServedRange::Part("bytes 40-99/100".into()));
    assert_eq!(read(answer.body).unwrap(), bytes.slice(40..));
    assert!(!setup.is_stored(&digest));
    let unknown = super::Error::from(registry::Error::BlobUnknown(super::tests::digest(b"other")));
    assert_eq!(setup.fetch(&super::tests::digest(b"other")).unwrap_err(), unknown);
    assert_eq!(setup.keys("upload/"), [""; 0]);
}

#[test]
fn natively_one_fetch_serves_all_readers_at_their_own_speed() {
    let (setup, digest, bytes) = Setup::with_blob(4 * PIECE_BYTES + 5);
    setup.platform.runs_tasks.store(true, Relaxed);
    let bodies: Vec<Body> = (0..20).map(|_| setup.fetch(&digest).unwrap().body).collect();
    std::thread::scope(|scope| {
        for body in bodies {
            scope.spawn(|| assert!(read(body).unwrap() == bytes));
        }
    });
    assert!(setup.is_stored(&digest));
    assert_eq!(setup.sent(), bytes.len() as u64);
    assert_eq!(setup.requests().len(), 1);
}

#[test]
fn natively_a_fill_goes_on_when_its_clients_leave() {
    let (setup, digest, _) = Setup::with_blob(PIECE_BYTES + 5);
    setup.platform.runs_tasks.store(true, Relaxed);
    drop(setup.fetch(&digest).unwrap());
    // A second client follows the same fill, or finds the blob.
    while !setup.is_stored(&digest) {
        std::thread::yield_now();
    }
    assert_eq!(setup.sent(), (PIECE_BYTES + 5) as u64);
}

#[test]
fn natively_the_upstreams_trouble_reaches_every_reader() {
    let (setup, digest, bytes) = Setup::with_blob(PIECE_BYTES);
    setup.platform.runs_tasks.store(true, Relaxed);
    setup.up().trouble = Some((429, Some("9")));
    let error = setup.fetch(&digest).unwrap_err();
    assert!(matches!(error, Error::Upstream(error) if error.kind == Kind::Limited { retry_after: Some("9".into()) }));
    setup.up().trouble = None;
    let mut wrong = bytes.to_vec();
    wrong[0] ^= 1;
    setup.up().blobs.insert(digest.to_string(), wrong.into());
    assert!(read(setup.fetch(&digest).unwrap().body).is_err());
    assert!(!setup.is_stored(&digest));
    assert_eq!(setup.keys("upload/"), [""; 0]);
}
