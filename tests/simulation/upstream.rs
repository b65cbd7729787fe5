//! The upstream of a simulation, the clients that pull through the cache, and the invariants of
//! cached content.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use eyot::auth::Seal;
use eyot::mirror::{BlobSource, Error, Mirrors};
use eyot::oci::{Digest, Reference, RepositoryName, Tag};
use eyot::platform::{BodyError, Platform, SendError};
use eyot::registry::{self, Limits};
use eyot::store::faulty::Dice;
use eyot::{Body, Registry};
use futures_util::{FutureExt as _, stream};
use http::{Request, Response};
use sha2::{Digest as _, Sha256};

use crate::contents::contents;
use crate::executor::Scheduler;
use crate::world::World;

/// The number of the mirrored repository among the repositories of the simulation. Its tag number 0
/// is pushed before the simulation begins.
pub const MIRRORED: usize = 2;
/// The manifest that is pushed to the mirrored repository.
pub const PUSHED: usize = 0;
const SETTINGS: &str = "up http://up.example plain-http fresh=1 stale=5";
const TAGS: [&str; 2] = ["u1", "u2"];
/// The longest time after which keys of the cache expire, in milliseconds: fills are kept for seven
/// days.
pub const EXPIRED_MS: u64 = 8 * 24 * 60 * 60 * 1000;

/// The parameters of the cache that differ from seed to seed.
#[derive(Clone, Debug)]
pub struct Caching {
    lifetime_ms: Option<u64>,
    bytes_max: Option<u64>,
    use_noted_ms: u64,
    troubles_per_mille: u32,
    /// Whether the blob store can read content before its commit.
    pub reads_stages: bool,
}

impl Caching {
    /// The cache of a fifth of the seeds; other seeds have none, which keeps them fast.
    pub fn of_a_fifth(dice: &mut Dice) -> Option<Self> {
        let caching = Self {
            lifetime_ms: [None, Some(0), Some(1_000), Some(10_000)][dice.below(4)],
            bytes_max: [None, None, Some(1), Some(100), Some(20_000)][dice.below(5)],
            use_noted_ms: [0, 1_000, 10_000][dice.below(3)],
            troubles_per_mille: [0, 100, 300][dice.below(3)],
            reads_stages: dice.below(3) > 0,
        };
        (dice.below(5) == 0).then_some(caching)
    }

    pub fn limit(&self, limits: Limits) -> Limits {
        let Self { lifetime_ms, bytes_max, use_noted_ms, .. } = *self;
        Limits { mirror_lifetime_ms: lifetime_ms, mirror_bytes_max: bytes_max, use_noted_ms, ..limits }
    }
}

/// The tags of the upstream. The upstream has all manifests and blobs.
#[derive(Default)]
struct Offer {
    /// The manifest of each tag now, and all manifests that the tag has had.
    tags: [(usize, BTreeSet<usize>); TAGS.len()],
    is_well: bool,
}

/// The platform of the registries whose repositories mirror the upstream.
pub struct Outbound {
    scheduler: Scheduler,
    offer: Arc<Mutex<Offer>>,
    troubles_per_mille: u32,
}

/// The cache of a simulation.
#[derive(Clone)]
pub struct Cache {
    offer: Arc<Mutex<Offer>>,
    /// The mirrors of both instances, and those over the bare stores.
    mirrors: [Mirrors; 2],
    bare: Mirrors,
}

impl Cache {
    pub fn new(caching: &Caching, scheduler: &Scheduler, registries: &[Registry; 2], bare: &Registry) -> Self {
        let offer = Arc::<Mutex<Offer>>::default();
        offer.lock().unwrap().tags = [4, 1].map(|number| (number, BTreeSet::from([number])));
        let mirrors = |registry: &Registry| {
            let outbound: Arc<dyn Platform> = Arc::new(Outbound {
                scheduler: scheduler.clone(),
                offer: offer.clone(),
                troubles_per_mille: caching.troubles_per_mille,
            });
            Mirrors::over(SETTINGS.parse().unwrap(), registry, &outbound, &Seal::new([1; 32]))
        };
        Self { mirrors: registries.each_ref().map(mirrors), bare: mirrors(bare), offer }
    }
}

/// A registry whose repositories below `up` mirror the upstream.
pub fn mirroring(registry: Registry) -> Registry {
    registry.with_expiring(&eyot::mirror::EXPIRING).with_mirrored_prefixes(vec!["up".to_owned()])
}

#[async_trait]
impl Platform for Outbound {
    fn now_ms(&self) -> u64 {
        self.scheduler.platform.now_ms()
    }

    fn random(&self) -> [u8; 16] {
        self.scheduler.platform.random()
    }

    async fn send(&self, request: Request<Body>, _: Duration) -> Result<Response<Body>, SendError> {
        if self.offer.lock().unwrap().is_well {
            return Ok(self.answer(&request, 0));
        }
        self.scheduler.sleep(0).await;
        let trouble = if self.scheduler.dice(|dice| dice.per_mille(self.troubles_per_mille)) {
            1 + self.scheduler.below(4)
        } else {
            0
        };
        match trouble {
            1 => Err(SendError::TimedOut("the upstream hangs".into())),
            2 => Ok(Response::builder().status(503).body(Body::empty()).unwrap()),
            trouble => Ok(self.answer(&request, trouble)),
        }
    }

    async fn sleep(&self, duration: Duration) {
        self.scheduler.sleep(duration.as_millis() as u64).await;
    }
}

impl Outbound {
    /// The answer to a request. `trouble` 3 breaks the body off, and 4 makes one byte wrong.
    fn answer(&self, request: &Request<Body>, trouble: usize) -> Response<Body> {
        let mut path = request.uri().path().rsplit('/');
        let (name, kind) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let response = Response::builder();
        let (content, response) = match kind {
            "manifests" => {
                let tag = TAGS.iter().position(|tag| *tag == name);
                let number = tag.map(|tag| self.offer.lock().unwrap().tags[tag].0);
                let number = number.or_else(|| contents().manifest_of(&name.parse::<Digest>().ok()?));
                let Some(manifest) = number.map(|number| &contents().manifests[number]) else {
                    return response.status(404).body(Body::empty()).unwrap();
                };
                let digest = manifest.digest.to_string();
                if header("if-none-match").is_some_and(|known| known.trim_matches('"') == digest) {
                    return response.status(304).body(Body::empty()).unwrap();
                }
                let response = response.header("content-type", manifest.media_type);
                let response = response.header("etag", format!("\"{digest}\""));
                (manifest.bytes.clone(), response.header("docker-content-digest", digest))
            }
            _ => {
                let blob = contents().blobs.iter().find(|blob| blob.digest.as_str() == name);
                let Some(blob) = blob else { return response.status(404).body(Body::empty()).unwrap() };
                (blob.bytes.clone(), response)
            }
        };
        let size = content.len();
        let range = header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let start: usize = range.unwrap_or(0);
        if range.is_some() && start >= size {
            return response.status(416).body(Body::empty()).unwrap();
        }
        let response = match range {
            Some(_) => response.status(206).header("content-range", format!("bytes {start}-{}/{size}", size - 1)),
            None => response,
        };
        let response = response.header("content-length", size - start);
        if request.method() == "HEAD" {
            return response.body(Body::empty()).unwrap();
        }
        let mut sent = content[start..].to_vec();
        if let Some(last) = sent.last_mut().filter(|_| trouble == 4) {
            *last ^= 1;
        }
        response.body(self.body(sent.into(), trouble == 3)).unwrap()
    }

    /// A body in several pieces, between which other tasks may run and time may pass.
    fn body(&self, content: Bytes, breaks_off: bool) -> Body {
        let piece = content.len().div_ceil(3).max(1);
        let mut pieces: Vec<Result<Bytes, BodyError>> =
            content.chunks(piece).map(Bytes::copy_from_slice).map(Ok).collect();
        if breaks_off {
            pieces.pop();
            pieces.push(Err(BodyError::Interrupted("the connection breaks".into())));
        }
        let waits = (!self.offer.lock().unwrap().is_well).then(|| self.scheduler.clone());
        Body::from_stream(stream::unfold((pieces.into_iter(), waits), |(mut pieces, waits)| async move {
            let next = pieces.next()?;
            if let Some(scheduler) = &waits {
                let ms = scheduler.dice(|dice| [0, 0, 0, 1_500, 5_000][dice.below(5)]);
                scheduler.sleep(ms).await;
            }
            Some((next, (pieces, waits)))
        }))
    }
}

/// The digest of bytes, computed without the registry's code.
fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A client that pulls through the cache, deletes cached content, or moves a tag of the upstream.
pub async fn operation(world: &World, cache: &Cache) -> Option<()> {
    let (tag, number) = (world.scheduler.below(TAGS.len()), world.scheduler.below(contents().manifests.len()));
    let name = world.repository(MIRRORED);
    match world.scheduler.below(8) {
        0..=3 => pull(world, cache, &TAGS[tag].parse().unwrap()).await,
        4 => pull(world, cache, &Reference::Digest(contents().manifests[number].digest.clone())).await,
        5 => {
            let mut offer = cache.offer.lock().unwrap();
            offer.tags[tag].0 = number;
            offer.tags[tag].1.insert(number);
            world.scheduler.note("the upstream moves a tag", &format!("{tag} {number}"));
            Some(())
        }
        6 if world.setting.deletes => {
            let deleted = world.registry().delete_manifest(&name, &TAGS[tag].parse().unwrap()).await;
            check_deleted(world, deleted)
        }
        7 if world.setting.deletes && number != PUSHED => {
            let by_digest = Reference::Digest(contents().manifests[number].digest.clone());
            check_deleted(world, world.registry().delete_manifest(&name, &by_digest).await)
        }
        _ => blob(world, cache, world.scheduler.below(contents().blobs.len())).await,
    }
}

fn check_deleted(world: &World, deleted: registry::Result<()>) -> Option<()> {
    match deleted {
        Ok(()) | Err(registry::Error::ManifestUnknown(_)) => {}
        Err(error) => check_error(world, "deletion of cached content", &error.into()),
    }
    Some(())
}

/// Reports an error that neither the stores nor the upstream explain.
fn check_error(world: &World, what: &str, error: &Error) {
    world.scheduler.note(what, &error.to_string());
    let setting = &world.setting;
    let is_explained = match error {
        Error::Upstream(_) => setting.caching.as_ref().is_some_and(|caching| caching.troubles_per_mille > 0),
        Error::Registry(registry::Error::Store(_)) => setting.faults_per_mille > 0,
        // The collector is at the content, or another client or a collection removes the content
        // while this client pulls.
        Error::Registry(registry::Error::Busy | registry::Error::ManifestUnknown(_)) => true,
        Error::Registry(_) => false,
    };
    if !is_explained {
        world.fail(format!("{what}: {error}, and nothing explains the error"));
    }
}

async fn pull(world: &World, cache: &Cache, reference: &Reference) -> Option<()> {
    let mirrored = cache.mirrors[world.scheduler.below(2)].find(&world.repository(MIRRORED))?;
    let found = match mirrored.manifest(reference).await {
        Ok(found) => found.manifest,
        Err(error) => {
            check_error(world, "pull through the cache", &error);
            return None;
        }
    };
    let body = world.registry().read_manifest(&found).await.ok()?;
    // A manifest in the blob store may be removed while this client reads.
    let bytes = body.collect_up_to(1 << 20).await.ok()?;
    check_served(world, cache, reference, found.digest.as_str(), &bytes);
    let number = contents().manifest_of(&found.digest)?;
    for number in contents().manifests[number].blobs.clone() {
        blob(world, cache, number).await?;
    }
    for child in contents().manifests[number].children.clone() {
        Box::pin(pull(world, cache, &Reference::Digest(contents().manifests[child].digest.clone()))).await?;
    }
    Some(())
}

/// Asserts that served bytes have the digest under which they are served, and that a tag has led to
/// the manifest at some time.
fn check_served(world: &World, cache: &Cache, reference: &Reference, digest: &str, bytes: &[u8]) {
    if digest_of(bytes) != digest {
        world.fail(format!("{reference} is served as {digest}, and its bytes have another digest: {bytes:?}"));
    }
    let is_right = match reference {
        Reference::Digest(wanted) => wanted.as_str() == digest,
        Reference::Tag(tag) => {
            let offer = cache.offer.lock().unwrap();
            let had = TAGS.iter().position(|name| *name == tag.as_str()).map(|tag| &offer.tags[tag].1);
            had.is_some_and(|had| had.iter().any(|number| contents().manifests[*number].digest.as_str() == digest))
        }
    };
    if !is_right {
        world.fail(format!("{reference} is served as {digest}, to which the upstream never led"));
    }
}

/// Pulls a blob, from the cache or through it.
async fn blob(world: &World, cache: &Cache, number: usize) -> Option<()> {
    let (wanted, name) = (&contents().blobs[number], world.repository(MIRRORED));
    let instance = world.scheduler.below(2);
    let body = match world.registries[instance].blob(&name, &wanted.digest).await {
        Ok(blob) => world.registries[instance].read_blob(&blob, 0..blob.size).await.ok()?,
        Err(registry::Error::BlobUnknown(_)) => match cache.mirrors[instance].find(&name)?.blob(&wanted.digest).await {
            Ok(source) => content(source)?,
            Err(error) => {
                check_error(world, "pull of a blob through the cache", &error);
                return None;
            }
        },
        Err(error) => {
            check_error(world, "lookup of a cached blob", &error.into());
            return None;
        }
    };
    let (length, bytes) = (body.length(), body.collect_up_to(1 << 20).await);
    let bytes = bytes.map_err(|error| world.scheduler.note("a blob breaks off", &error.to_string())).ok()?;
    if length.is_some_and(|length| length != bytes.len() as u64) || digest_of(&bytes) != wanted.digest.as_str() {
        world.fail(format!("blob {} looks complete and has the wrong bytes: {bytes:?}", wanted.digest));
    }
    Some(())
}

/// The bytes of a pulled blob. The upstream of the simulation does not redirect.
fn content(source: BlobSource) -> Option<Body> {
    match source {
        BlobSource::Stream(blob) => Some(blob.body),
        BlobSource::Redirect(_) => None,
    }
}

/// Pushes an image to the repository that becomes a mirror, before the simulation begins.
pub fn push_before(world: &World) {
    let name = world.repository(MIRRORED);
    let image = &contents().manifests[PUSHED];
    for blob in image.blobs.iter().map(|number| &contents().blobs[*number]) {
        now(world.bare.push_blob(&name, &blob.digest, blob.bytes.clone().into())).unwrap();
    }
    let tag = Reference::Tag(world.tag(0));
    now(world.bare.push_manifest(&name, &tag, &[], Some(image.media_type), image.bytes.clone().into())).unwrap();
    crate::model::Writing::tag(&world.model, (MIRRORED, 0), Some(PUSHED)).acknowledged();
    crate::check::promise(world, (MIRRORED, PUSHED));
}

/// Checks, when all faults and clients have ended, that all content of the upstream comes through
/// the cache, and that the cache keeps the content.
pub fn comes_through(world: &World, cache: &Cache) -> Result<(), String> {
    cache.offer.lock().unwrap().is_well = true;
    // Upstreams in trouble are left out for a while, fills of crashed clients must be idle, and
    // announcements of crashed collectors must be over.
    world.scheduler.pass_ms(130_000);
    let name: RepositoryName = world.repository(MIRRORED);
    let mirrored = cache.bare.find(&name).ok_or("no upstream mirrors the repository")?;
    for blob in &contents().blobs {
        if now(world.bare.blob(&name, &blob.digest)).is_ok() {
            continue;
        }
        let pulled = now(mirrored.blob(&blob.digest)).map_err(|error| format!("{}: {error}", blob.digest))?;
        let body = content(pulled).ok_or("the upstream redirects, which is not set")?;
        let bytes = now(body.collect_up_to(1 << 20)).map_err(|error| format!("{}: {error}", blob.digest))?;
        if bytes != blob.bytes {
            return Err(format!("{} comes with wrong bytes through the cache", blob.digest));
        }
        now(world.bare.blob(&name, &blob.digest)).map_err(|error| format!("{} is not kept: {error}", blob.digest))?;
    }
    for (at, tag) in TAGS.iter().enumerate() {
        let tag: Tag = tag.parse().unwrap();
        let pulled = now(mirrored.manifest(&Reference::Tag(tag.clone())));
        let digest = pulled.map_err(|error| format!("{tag}: {error}"))?.manifest.digest;
        let expected = &contents().manifests[cache.offer.lock().unwrap().tags[at].0].digest;
        if digest != *expected {
            return Err(format!("the upstream's tag {tag} leads to {digest} through the cache, and not to {expected}"));
        }
    }
    Ok(())
}

/// The result of a future over the bare stores, which answer at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("bare stores answer at once")
}
