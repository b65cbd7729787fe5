//! A collection on file stores, with pulls in parallel: `cargo bench --bench collect`.
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `BLOBS` | the number of blobs | 10000 |
//! | `BLOBS_PER_REPOSITORY` | how many of the blobs are in each repository | 100 |
//! | `DELETED` | every how many-th tag is deleted before the rounds that remove | 1: every tag |
//! | `STORE` | `files`, or `memory`, which is measured without pulls | `files` |
//!
//! The output is the time and the storage calls of three rounds (one that keeps everything, two
//! that remove), the memory that the process needed in addition during each round, and the pulls
//! per second during each round and without a round.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use eyot::oci::manifest::OCI_IMAGE;
use eyot::oci::{Algorithm, Digest, Reference, RepositoryName};
use eyot::platform::{Platform, SystemPlatform};
use eyot::registry::{CollectRequest, Limits, Report};
use eyot::store::counting::Counting;
use eyot::store::file::{FileBlobStore, FileKeyValue};
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::store::{BlobStore, KeyValue};
use eyot::{Body, Handler, Registry};
use futures_executor::block_on;

const WRITERS: usize = 8;
const MEASURED: Duration = Duration::from_secs(5);
const TAGGED_BLOBS: usize = 10;

type Keys = Counting<dyn KeyValue>;
type Blobs = Counting<dyn BlobStore>;

struct Bench {
    registry: Registry,
    keys: Arc<Keys>,
    blobs: Arc<Blobs>,
    repositories: usize,
    blobs_per_repository: usize,
    deleted: usize,
    pulls: bool,
}

fn main() -> Result<()> {
    let number = |name: &str, default: usize| std::env::var(name).map_or(Ok(default), |text| text.parse());
    let total = number("BLOBS", 10_000).context("BLOBS")?;
    let blobs_per_repository = number("BLOBS_PER_REPOSITORY", 100).context("BLOBS_PER_REPOSITORY")?;
    let deleted = number("DELETED", 1).context("DELETED")?;
    let in_memory = std::env::var("STORE").is_ok_and(|store| store == "memory");
    let folder = tempfile::tempdir()?;
    let platform: Arc<dyn Platform> = Arc::new(SystemPlatform);
    let (keys, blobs): (Arc<dyn KeyValue>, Arc<dyn BlobStore>) = if in_memory {
        (Arc::new(MemoryKeyValue::default()), Arc::new(MemoryBlobStore::new(platform.clone())))
    } else {
        let keys = FileKeyValue::open(folder.path(), platform.clone())?;
        (Arc::new(keys), Arc::new(FileBlobStore::open(folder.path(), platform.clone())?))
    };
    let (keys, blobs) = (Arc::new(Keys::new(keys)), Arc::new(Blobs::new(blobs)));
    let registry = Registry::new(keys.clone(), blobs.clone(), platform, Limits::default());
    let repositories = (total / blobs_per_repository).max(1);
    let bench = Bench { registry, keys, blobs, repositories, blobs_per_repository, deleted, pulls: !in_memory };

    let began = Instant::now();
    bench.populate();
    println!("{total} blobs in {repositories} repositories written in {:.1?}", began.elapsed());
    let alone = if bench.pulls { bench.pulls_while(|| std::thread::sleep(MEASURED)) } else { 0.0 };
    println!("pulls without a collection: {alone:.0} a second; memory {} KiB", memory_kib("VmRSS"));
    for (what, removes) in [("keeps everything", false), ("removes keys", true), ("removes bytes", true)] {
        if what == "removes keys" {
            bench.delete_tags();
        }
        bench.keys.counts.take();
        bench.blobs.counts.take();
        let before_kib = reset_peak();
        let mut report = Report::default();
        let began = Instant::now();
        let beside = bench.pulls_while(|| report = bench.round(removes.then_some(0).or(Some(1 << 50))));
        let calls: u64 = bench.keys.counts.take().iter().chain(&bench.blobs.counts.take()).sum();
        println!(
            "a round that {what}: {:.1?}, {} looked at, {:.2} storage calls a blob, {} blobs and {} objects removed; \
             {} KiB more memory; pulls beside the round {beside:.0} a second ({:.2} of those without)",
            began.elapsed(),
            report.looked_at,
            calls as f64 / total as f64,
            report.blobs.removed,
            report.content.removed,
            memory_kib("VmHWM").saturating_sub(before_kib),
            beside / alone,
        );
    }
    Ok(())
}

fn name(number: usize) -> RepositoryName {
    format!("team{}/app{number}", number % 7).parse().expect("a name")
}

fn layer(repository: usize, blob: usize) -> (Bytes, Digest) {
    let content = Bytes::from(format!("layer {blob} of {repository}"));
    let digest = Algorithm::Sha256.digest(&content);
    (content, digest)
}

impl Bench {
    fn populate(&self) {
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                        if number >= self.repositories {
                            return;
                        }
                        block_on(self.populate_one(number));
                    }
                });
            }
        });
    }

    async fn populate_one(&self, number: usize) {
        let repository = name(number);
        for tag in 0..self.blobs_per_repository / TAGGED_BLOBS {
            let mut layers = Vec::new();
            for blob in tag * TAGGED_BLOBS..(tag + 1) * TAGGED_BLOBS {
                let (content, digest) = layer(number, blob);
                let size = content.len();
                layers.push(serde_json::json!({ "mediaType": "application/x", "digest": digest, "size": size }));
                self.registry.push_blob(&repository, &digest, content.into()).await.expect("a push");
            }
            let manifest = serde_json::json!({
                "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": layers[0], "layers": layers[1..],
            });
            let reference: Reference = format!("v{tag}").parse().expect("a tag");
            let body = Bytes::from(manifest.to_string()).into();
            self.registry.push_manifest(&repository, &reference, &[], Some(OCI_IMAGE), body).await.expect("a push");
        }
    }

    fn delete_tags(&self) {
        let tags = self.blobs_per_repository / TAGGED_BLOBS;
        for number in (0..self.repositories * tags).step_by(self.deleted) {
            let reference: Reference = format!("v{}", number % tags).parse().expect("a tag");
            block_on(self.registry.delete_manifest(&name(number / tags), &reference)).expect("a deletion");
        }
    }

    fn round(&self, untagged_lifetime_ms: Option<u64>) -> Report {
        let request = CollectRequest { grace_ms: 0, untagged_lifetime_ms, dry_run: false };
        loop {
            let report = block_on(self.registry.collect_step(&request)).expect("a step");
            if report.done {
                return report;
            }
        }
    }

    /// Pulls blobs on another thread while `work` runs, if pulls are wanted. Returns pulls per
    /// second.
    fn pulls_while(&self, work: impl FnOnce()) -> f64 {
        let handler = Handler::new(self.registry.clone(), eyot::auth::Access::open());
        let (stop, pulls) = (AtomicBool::new(!self.pulls), AtomicU64::new(0));
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let repository = number * 31 % self.repositories;
                    let (_, digest) = layer(repository, number % self.blobs_per_repository);
                    let uri = format!("/v2/{}/blobs/{digest}", name(repository));
                    let request = http::Request::get(uri).body(Body::empty()).expect("a request");
                    let response = block_on(handler.handle(request));
                    // A blob under removal is served completely or answered with 404, never cut
                    // short.
                    assert!(matches!(response.status().as_u16(), 200 | 404));
                    block_on(response.into_body().collect_up_to(1000)).expect("a body");
                    pulls.fetch_add(1, Ordering::Relaxed);
                }
            });
            work();
            stop.store(true, Ordering::Relaxed);
        });
        pulls.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
    }
}

/// Forgets the peak of the resident memory, where the system can. Returns the memory at present, in
/// KiB.
fn reset_peak() -> u64 {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    memory_kib("VmRSS")
}

/// A value of the process's memory in KiB, or 0 if the system does not report the value.
fn memory_kib(value: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(value)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or_default()
}
