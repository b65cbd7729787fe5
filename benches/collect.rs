//! A collection on file stores, with pulls in parallel: `cargo bench --bench collect`.
//!
//! BLOBS sets the number of blobs (default 10000), a hundred in each repository. The output is the
//! time of three rounds (one that keeps everything, two that remove), the memory of the process,
//! and the pulls per second during each round and without a round.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use eyot::oci::manifest::OCI_IMAGE;
use eyot::oci::{Algorithm, Digest, Reference, RepositoryName};
use eyot::platform::{Platform, SystemPlatform};
use eyot::registry::{CollectRequest, Limits, Report};
use eyot::store::file::{FileBlobStore, FileKeyValue};
use eyot::{Body, Handler, Registry};
use futures_executor::block_on;

const BLOBS_PER_REPOSITORY: usize = 100;
const WRITERS: usize = 8;
const MEASURED: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    let blobs: usize = std::env::var("BLOBS").map_or(Ok(10_000), |text| text.parse()).context("BLOBS")?;
    let folder = tempfile::tempdir()?;
    let platform: Arc<dyn Platform> = Arc::new(SystemPlatform);
    let keys = Arc::new(FileKeyValue::open(folder.path(), platform.clone())?);
    let content = Arc::new(FileBlobStore::open(folder.path(), platform.clone())?);
    let registry = Registry::new(keys, content, platform, Limits::default());

    let repositories = (blobs / BLOBS_PER_REPOSITORY).max(1);
    let began = Instant::now();
    populate(&registry, repositories);
    println!("{blobs} blobs in {repositories} repositories written in {:.1?}", began.elapsed());

    let alone = pulls_while(&registry, repositories, || std::thread::sleep(MEASURED));
    println!("pulls without a collection: {alone:.0} a second; memory {} KiB", memory_kib());
    for (what, untagged) in
        [("keeps everything", Some(1 << 50)), ("removes everything", Some(0)), ("removes bytes", Some(0))]
    {
        if untagged == Some(0) {
            delete_tags(&registry, repositories);
        }
        let mut report = Report::default();
        let began = Instant::now();
        let beside = pulls_while(&registry, repositories, || report = round(&registry, untagged));
        println!(
            "a round that {what}: {:.1?}, {} looked at, {} blobs and {} objects removed; pulls beside it {beside:.0} a second \
             ({:.2} of those without); memory {} KiB",
            began.elapsed(),
            report.looked_at,
            report.blobs.removed,
            report.content.removed,
            beside / alone,
            memory_kib()
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

fn populate(registry: &Registry, repositories: usize) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                    if number >= repositories {
                        return;
                    }
                    block_on(populate_one(registry, number));
                }
            });
        }
    });
}

async fn populate_one(registry: &Registry, number: usize) {
    let repository = name(number);
    let mut layers = Vec::new();
    for blob in 0..BLOBS_PER_REPOSITORY {
        let (content, digest) = layer(number, blob);
        layers.push(serde_json::json!({ "mediaType": "application/x", "digest": digest, "size": content.len() }));
        registry.push_blob(&repository, &digest, content.into()).await.expect("a push");
    }
    for (tag, layers) in layers.chunks(10).enumerate() {
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": layers[0], "layers": layers[1..],
        });
        let reference: Reference = format!("v{tag}").parse().expect("a tag");
        let body = Bytes::from(manifest.to_string()).into();
        registry.push_manifest(&repository, &reference, &[], Some(OCI_IMAGE), body).await.expect("a push");
    }
}

fn delete_tags(registry: &Registry, repositories: usize) {
    for number in 0..repositories {
        for tag in 0..BLOBS_PER_REPOSITORY / 10 {
            let reference: Reference = format!("v{tag}").parse().expect("a tag");
            // In the second call the tags are already deleted, so an error is ignored.
            let _ = block_on(registry.delete_manifest(&name(number), &reference));
        }
    }
}

fn round(registry: &Registry, untagged_lifetime_ms: Option<u64>) -> Report {
    let request = CollectRequest { grace_ms: 0, untagged_lifetime_ms, dry_run: false };
    loop {
        let report = block_on(registry.collect_step(&request)).expect("a step");
        if report.done {
            return report;
        }
    }
}

/// Pulls blobs on another thread while `work` runs. Returns pulls per second.
fn pulls_while(registry: &Registry, repositories: usize, work: impl FnOnce()) -> f64 {
    let (handler, stop, pulls) =
        (Handler::new(registry.clone(), eyot::auth::Access::open()), AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let repository = number * 31 % repositories;
                let (_, digest) = layer(repository, number % BLOBS_PER_REPOSITORY);
                let uri = format!("/v2/{}/blobs/{digest}", name(repository));
                let request = http::Request::get(uri).body(Body::empty()).expect("a request");
                let response = block_on(handler.handle(request));
                // A blob under removal is served completely or answered with 404, never cut short.
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

/// The resident memory of the process in KiB, or 0 if the system does not report the value.
fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or_default()
}
