//! Kills the server (SIGKILL) at random moments while ten clients push, move tags, delete and pull,
//! and while garbage is collected. Then starts a new process on the same data. All acknowledged
//! content is there, and all visible content is whole. `EYOT_SEED` repeats the clients' random
//! choices, but not the moment at which the process dies. `EYOT_ROUNDS` sets the number of rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::client::{Client, RequestBody, chunked, whole};
use crate::support::host::{Host, Kind};
use crate::support::random::Random;
use crate::support::runner;
use crate::support::value::{noise, sha256};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use serde_json::{Value, json};

const ROUNDS: usize = 20;
/// On a busy machine, the most rounds as a multiple of the usual number.
const BUSY_FACTOR: usize = 10;
const PUSHERS: usize = 10;
/// The number of tags that each client has for itself.
const TAGS: usize = 3;
const REPOSITORIES: [&str; 2] = ["team/plug", "team/socket"];
/// The process is killed at most this many ms after the clients begin.
const LIFE_MS_MAX: usize = 900;
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Short periods of grace, so that the collection finds garbage to remove.
const SETTINGS: [(&str, &str); 3] =
    [("GRACE_SECONDS", "1"), ("UNTAGGED_LIFETIME_SECONDS", "1"), ("COLLECT_STEP_KEYS_MAX", "400")];

/// A client's knowledge of one of its tags. No other client changes the tag.
#[derive(Clone, Debug, Default)]
struct Knowledge {
    /// The digest that the tag points to according to the last acknowledged request; `None`: the
    /// tag is absent.
    settled: Option<String>,
    /// The digest that the tag points to if the unanswered last request was carried out.
    pending: Option<Option<String>>,
}

/// A client and the state that the client may rely on.
struct Pusher {
    name: usize,
    random: Random,
    client: Client,
    tags: BTreeMap<(&'static str, String), Knowledge>,
    /// The location of an upload session, the blob that is uploaded, and the number of acknowledged
    /// bytes.
    open: Option<(String, Bytes, usize)>,
    pushed: usize,
    acknowledged: usize,
}

/// `Dead`: the process is gone. `TryLater`: a concurrent collection may have caused the refusal of
/// this request.
enum Stop {
    Dead,
    TryLater,
}

type Step<T = ()> = Result<T, Stop>;

impl Pusher {
    fn new(name: usize, seed: u64, client: Client) -> Self {
        let random = Random::new(seed.wrapping_mul(1000).wrapping_add(name as u64));
        Self { name, random, client, tags: BTreeMap::new(), open: None, pushed: 0, acknowledged: 0 }
    }

    /// Sends requests until the process dies.
    async fn work(mut self) -> Self {
        loop {
            let step = match self.random.below(10) {
                0..=5 => self.push().await,
                6 => self.delete_tag().await,
                7 => self.delete_manifest().await,
                8 => self.upload_a_part().await,
                _ => self.pull().await,
            };
            if let Err(Stop::Dead) = step {
                return self;
            }
        }
    }

    async fn send(&mut self, request: http::request::Builder, body: RequestBody) -> Step<Response<Bytes>> {
        let request = request.body(body).expect("a request");
        let sent = format!("{} {}", request.method(), request.uri());
        let reply = self.client.fetch(request).await.map_err(|_| Stop::Dead)?;
        let text = String::from_utf8_lossy(reply.body());
        match reply.status().as_u16() {
            200..300 => {
                self.acknowledged += 1;
                Ok(reply)
            }
            503 => Err(Stop::TryLater),
            // The collection may have removed a freshly pushed blob that no manifest names yet.
            400 if text.contains("MANIFEST_BLOB_UNKNOWN") => Err(Stop::TryLater),
            404 if text.contains("UNKNOWN") => Err(Stop::TryLater),
            _ => panic!("client {}: {sent}: {reply:?}", self.name),
        }
    }

    /// A layer that several clients push, or a layer of this client: small, or large enough to be
    /// cut in the middle.
    fn layer(&mut self) -> Bytes {
        match self.random.below(6) {
            0..=1 => noise(2000 + self.random.below(4), &format!("shared {}", self.random.below(4))),
            2 => noise(1 << 20, &format!("large {} {}", self.name, self.random.below(100))),
            _ => noise(self.random.below(20_000), &format!("own {} {}", self.name, self.random.below(1000))),
        }
    }

    async fn push_blob(&mut self, repository: &str, blob: &Bytes) -> Step {
        let digest = sha256(blob);
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        match self.random.below(4) {
            0 => {
                let request = Request::post(format!("{uploads}?digest={digest}"));
                self.send(request, whole(blob.clone())).await?;
            }
            1 => {
                let from = *self.random.choose(&REPOSITORIES);
                let mount = Request::post(format!("{uploads}?mount={digest}&from={from}"));
                let reply = self.send(mount, whole("")).await?;
                if reply.status() == 202 {
                    let request = Request::put(format!("{}?digest={digest}", location(&reply)));
                    self.send(request, whole(blob.clone())).await?;
                }
            }
            _ => {
                let location = location(&self.send(Request::post(uploads), whole("")).await?);
                let cut = self.random.below(blob.len() + 1);
                let first: Vec<Bytes> = runner::pieces(blob.slice(..cut)).collect();
                self.send(Request::patch(&location), chunked(stream::iter(first))).await?;
                let request = Request::put(format!("{location}?digest={digest}"));
                self.send(request, whole(blob.slice(cut..))).await?;
            }
        }
        Ok(())
    }

    /// Pushes a new image under one of the client's tags. The tag may have pointed to another
    /// image.
    async fn push(&mut self) -> Step {
        let repository = *self.random.choose(&REPOSITORIES);
        let tag = self.tag();
        let layers: Vec<Bytes> = (0..=self.random.below(2)).map(|_| self.layer()).collect();
        for layer in &layers {
            self.push_blob(repository, layer).await?;
        }
        self.pushed += 1;
        let of = |blob: &Bytes| json!({ "mediaType": "application/octet-stream", "digest": sha256(blob), "size": blob.len() });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": IMAGE, "config": of(&layers[0]), "layers": layers.iter().map(of).collect::<Vec<_>>(),
            // The annotation makes the image unique, so that a delete by digest removes only tags
            // of this client.
            "annotations": { "of": format!("{} {}", self.name, self.pushed) },
        });
        let manifest = Bytes::from(manifest.to_string());
        let digest = sha256(&manifest);
        let request = Request::put(format!("/v2/{repository}/manifests/{tag}")).header("content-type", IMAGE);
        self.change(repository, tag, Some(digest));
        let pushed = self.send(request, whole(manifest)).await;
        self.settle(pushed.map(drop))
    }

    async fn delete_tag(&mut self) -> Step {
        let repository = *self.random.choose(&REPOSITORIES);
        let tag = self.tag();
        let request = Request::delete(format!("/v2/{repository}/manifests/{tag}"));
        self.change(repository, tag, None);
        let deleted = self.send(request, whole("")).await;
        self.settle(deleted.map(drop))
    }

    /// Deletes a manifest by digest, which also removes all tags on the manifest.
    async fn delete_manifest(&mut self) -> Step {
        let repository = *self.random.choose(&REPOSITORIES);
        let tag = self.tag();
        let known = self.tags.get(&(repository, tag.clone())).and_then(|known| known.settled.clone());
        let Some(digest) = known else { return Ok(()) };
        self.change(repository, tag, None);
        let deleted = self.send(Request::delete(format!("/v2/{repository}/manifests/{digest}")), whole("")).await;
        self.settle(deleted.map(drop))
    }

    /// Uploads a part of a blob. The upload continues in the next round at the server's offset.
    async fn upload_a_part(&mut self) -> Step {
        let (location, blob, offset) = match self.open.take() {
            Some(open) => open,
            None => {
                let begin = Request::post(format!("/v2/{}/blobs/uploads/", REPOSITORIES[0]));
                let location = location(&self.send(begin, whole("")).await?);
                (location, noise(3 << 20, &format!("parts {} {}", self.name, self.pushed)), 0)
            }
        };
        let end = (offset + 1 + self.random.below(1 << 20)).min(blob.len());
        self.open = Some((location.clone(), blob.clone(), offset));
        let part = chunked(stream::iter(runner::pieces(blob.slice(offset..end)).collect::<Vec<_>>()));
        self.send(Request::patch(&location), part).await?;
        self.open = Some((location, blob, end)).filter(|(_, blob, end)| *end < blob.len());
        Ok(())
    }

    async fn pull(&mut self) -> Step {
        let repository = *self.random.choose(&REPOSITORIES);
        let tag = self.tag();
        let known = self.tags.get(&(repository, tag.clone())).cloned().unwrap_or_default();
        let Some(settled) = known.settled.filter(|_| known.pending.is_none()) else { return Ok(()) };
        let request = Request::get(format!("/v2/{repository}/manifests/{tag}"));
        let reply = self.client.fetch(request.body(whole("")).expect("a request")).await.map_err(|_| Stop::Dead)?;
        assert_eq!((reply.status().as_u16(), sha256(reply.body())), (200, settled), "{repository}:{tag}");
        Ok(())
    }

    fn tag(&mut self) -> String {
        format!("client-{}-{}", self.name, self.random.below(TAGS))
    }

    fn change(&mut self, repository: &'static str, tag: String, to: Option<String>) {
        self.tags.entry((repository, tag)).or_default().pending = Some(to);
    }

    /// Records the outcome of the pending change: acknowledged, refused, or unanswered and
    /// therefore possibly done.
    fn settle(&mut self, outcome: Step) -> Step {
        for known in self.tags.values_mut() {
            match (&outcome, known.pending.take()) {
                (Ok(()), Some(pending)) => known.settled = pending,
                (Err(Stop::Dead), pending) => known.pending = pending,
                _ => {}
            }
        }
        outcome
    }

    /// Checks that acknowledged tags are served. Afterwards the outcome of every unanswered change
    /// is known.
    fn compare(&mut self, served: &BTreeMap<(&'static str, String), String>) {
        for (place, known) in &mut self.tags {
            let found = served.get(place).cloned();
            let pending = known.pending.take();
            assert!(
                found == known.settled || pending.as_ref() == Some(&found),
                "client {}: {place:?} leads to {found:?}, was acknowledged as {:?}, and then asked to be {pending:?}",
                self.name,
                known.settled
            );
            known.settled = found;
        }
    }

    /// Checks that the server has at least the acknowledged bytes of an upload, and continues the
    /// upload.
    async fn resume(&mut self) {
        let Some((location, blob, acknowledged)) = self.open.take() else { return };
        let status = Request::get(&location).body(whole("")).expect("a request");
        let reply = self.client.fetch(status).await.expect("a reply");
        let range = reply.headers().get("range").map(|range| range.to_str().expect("text").to_owned());
        assert_eq!(reply.status(), 204, "client {}: an upload of {acknowledged} bytes is gone: {reply:?}", self.name);
        let last: usize = range.expect("a Range")[2..].parse().expect("a number");
        let offset = if last == 0 { 0 } else { last + 1 };
        assert!((acknowledged..=blob.len()).contains(&offset), "client {}: {offset} of {acknowledged}", self.name);
        let request = Request::put(format!("{location}?digest={}", sha256(&blob)));
        let request = request.body(whole(blob.slice(offset..))).expect("a request");
        let reply = self.client.fetch(request).await.expect("a reply");
        assert_eq!(reply.status(), 201, "client {}: {reply:?}", self.name);
    }
}

fn location(reply: &Response<Bytes>) -> String {
    let location = reply.headers()["location"].to_str().expect("text");
    runner::local(location, "/")
}

/// Runs steps of the collection until the process dies. Returns the number of steps.
async fn collect(client: Client) -> usize {
    let mut steps = 0;
    loop {
        let request = Request::post("/v2/_eyot/collect").body(whole("")).expect("a request");
        match client.fetch(request).await {
            Ok(reply) if reply.status() == 200 => steps += 1,
            // A collection step that was killed still holds its lease for a while.
            Ok(reply) => assert_eq!(reply.status(), 503, "{reply:?}"),
            Err(_) => return steps,
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

async fn get(client: Client, uri: &str) -> Response<Bytes> {
    client
        .fetch(Request::get(uri).body(whole("")).expect("a request"))
        .await
        .unwrap_or_else(|why| panic!("{uri}: {why}"))
}

/// Checks that every listed tag is served and that all blobs of its image exist and match their
/// digests. Returns the digest of each tag by repository and tag.
async fn served(
    client: Client,
    tags: impl Iterator<Item = (&'static str, String)>,
) -> BTreeMap<(&'static str, String), String> {
    let (mut served, mut blobs) = (BTreeMap::new(), BTreeSet::new());
    for repository in REPOSITORIES {
        let list = get(client, &format!("/v2/{repository}/tags/list")).await;
        if list.status() == 404 {
            continue;
        }
        let list: Value = serde_json::from_slice(list.body()).expect("JSON");
        for tag in list["tags"].as_array().expect("tags") {
            let tag = tag.as_str().expect("a tag");
            let reply = get(client, &format!("/v2/{repository}/manifests/{tag}")).await;
            assert_eq!(reply.status(), 200, "{repository}:{tag} is listed and leads nowhere: {reply:?}");
            let digest = sha256(reply.body());
            assert_eq!(reply.headers()["docker-content-digest"], digest.as_str(), "{repository}:{tag}");
            let manifest: Value = serde_json::from_slice(reply.body()).expect("JSON");
            for layer in manifest["layers"].as_array().expect("layers") {
                blobs.insert((repository, layer["digest"].as_str().expect("a digest").to_owned()));
            }
            served.insert((repository, tag.to_owned()), digest);
        }
    }
    for (repository, digest) in blobs {
        let reply = get(client, &format!("/v2/{repository}/blobs/{digest}")).await;
        assert_eq!((reply.status().as_u16(), sha256(reply.body())), (200, digest.clone()), "{repository}: {digest}");
    }
    // A tag that is not listed must not be served.
    for (repository, tag) in tags.filter(|place| !served.contains_key(place)) {
        let reply = get(client, &format!("/v2/{repository}/manifests/{tag}")).await;
        assert_eq!(reply.status(), 404, "{repository}:{tag} is not listed and yet served");
    }
    served
}

async fn rounds(mut host: Host, mut random: Random) {
    let rounds = std::env::var("EYOT_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number of rounds"));
    let (mut steps, began) = (0, Instant::now());
    let mut pushers: Vec<Pusher> = (0..PUSHERS).map(|name| Pusher::new(name, random.seed(), host.client)).collect();
    let acknowledged = |pushers: &[Pusher]| pushers.iter().map(|pusher| pusher.acknowledged).sum::<usize>();
    for round in 0..rounds * BUSY_FACTOR {
        // A busy machine needs more rounds until clients and the collector have done enough work.
        if round >= rounds && acknowledged(&pushers) > 10 * rounds && steps > 0 {
            break;
        }
        let collector = tokio::spawn(collect(host.client));
        let work: Vec<_> = pushers.drain(..).map(|pusher| tokio::spawn(pusher.work())).collect();
        tokio::time::sleep(Duration::from_millis(random.below(LIFE_MS_MAX) as u64)).await;
        host.kill_and_restart();
        let_leases_run_out(host.data());
        steps += collector.await.expect("a collector that ends");
        for pusher in work {
            pushers.push(pusher.await.expect("a client that ends"));
        }
        let tags = pushers.iter().flat_map(|pusher| pusher.tags.keys().cloned());
        let served = served(host.client, tags).await;
        for pusher in &mut pushers {
            pusher.compare(&served);
            pusher.client = host.client;
            pusher.resume().await;
        }
        eprintln!(
            "round {round}: {} tags, {} requests acknowledged, {steps} steps of collection, {:.1} s",
            served.len(),
            acknowledged(&pushers),
            began.elapsed().as_secs_f32()
        );
    }
    let acknowledged = acknowledged(&pushers);
    assert!(
        acknowledged > 10 * rounds && steps > 0,
        "{acknowledged} requests, {steps} steps: too little to prove anything"
    );
}

/// Removes the collection lease. A killed step would block other collectors for two minutes,
/// although its process is gone.
fn let_leases_run_out(data: &Path) {
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().is_some_and(|path| path.contains("/collection/lease!/")) {
                std::fs::remove_file(path).expect("a file of ours");
            }
        }
    }
}

fn pull_the_plug(kind: Kind) {
    let random = Random::from_environment();
    eprintln!("EYOT_SEED={}", random.seed());
    let host = Host::start_with(kind, &SETTINGS);
    tokio::runtime::Runtime::new().expect("a runtime").block_on(rounds(host, random));
}

#[test]
fn native() {
    pull_the_plug(Kind::Native);
}

#[test]
fn wasmtime() {
    pull_the_plug(Kind::Wasi);
}
