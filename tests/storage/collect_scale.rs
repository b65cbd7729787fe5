//! The cost of a collection: the number of storage calls grows at most linearly with the content,
//! and marks in memory stay within their limit.

use std::sync::Arc;

use bytes::Bytes;
use eyot::Registry;
use eyot::oci::manifest::OCI_IMAGE;
use eyot::oci::{Algorithm, Reference, RepositoryName};
use eyot::platform::{Platform, SystemPlatform};
use eyot::registry::{CollectRequest, Limits, Report};
use eyot::store::counting::Counting;
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use futures_executor::block_on;
use serde_json::json;

/// Ten images with ten blobs each in every repository.
const BLOBS_PER_REPOSITORY: usize = 100;

struct Populated {
    registry: Registry,
    keys: Arc<Counting<MemoryKeyValue>>,
    blobs: Arc<Counting<MemoryBlobStore>>,
}

fn populate(repositories: usize) -> Populated {
    populate_with(repositories, BLOBS_PER_REPOSITORY, Limits::default())
}

fn populate_with(repositories: usize, blobs_per_repository: usize, limits: Limits) -> Populated {
    let platform: Arc<dyn Platform> = Arc::new(SystemPlatform);
    let keys = Arc::new(Counting::new(Arc::new(MemoryKeyValue::default())));
    let blobs = Arc::new(Counting::new(Arc::new(MemoryBlobStore::new(platform.clone()))));
    let registry = Registry::new(keys.clone(), blobs.clone(), platform, limits);
    for number in 0..repositories {
        let repository: RepositoryName = format!("team{}/app{number}", number % 7).parse().unwrap();
        let blob = |blob: usize| {
            let content = Bytes::from(format!("{number} {blob}"));
            let digest = Algorithm::Sha256.digest(&content);
            let descriptor =
                json!({ "mediaType": "application/octet-stream", "digest": digest, "size": content.len() });
            block_on(registry.push_blob(&repository, &digest, content.into())).unwrap();
            descriptor
        };
        let layers: Vec<_> = (0..blobs_per_repository).map(blob).collect();
        for (tag, layers) in layers.chunks(10).enumerate() {
            let manifest =
                json!({ "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": layers[0], "layers": layers[1..] });
            let reference: Reference = format!("v{tag}").parse().unwrap();
            let body = Bytes::from(manifest.to_string()).into();
            block_on(registry.push_manifest(&repository, &reference, &[], Some(OCI_IMAGE), body)).unwrap();
        }
    }
    keys.counts.take();
    blobs.counts.take();
    Populated { registry, keys, blobs }
}

/// Runs a round; returns its report and the number of storage calls.
fn round(populated: &Populated) -> (Report, u64) {
    let request = CollectRequest { grace_ms: 0, untagged_lifetime_ms: Some(0), dry_run: false };
    loop {
        let report = block_on(populated.registry.collect_step(&request)).unwrap();
        if report.done {
            let calls = populated.keys.counts.take().iter().chain(&populated.blobs.counts.take()).sum();
            return (report, calls);
        }
    }
}

#[test]
fn a_round_costs_storage_calls_in_proportion() {
    let mut costs = Vec::new();
    for repositories in [10, 20, 40] {
        let populated = populate(repositories);
        let blobs = (repositories * BLOBS_PER_REPOSITORY) as u64;
        let (kept, calls) = round(&populated);
        assert_eq!((kept.blobs.kept, kept.content.kept), (blobs, blobs));
        for number in 0..repositories {
            let repository: RepositoryName = format!("team{}/app{number}", number % 7).parse().unwrap();
            for tag in 0..BLOBS_PER_REPOSITORY / 10 {
                let reference: Reference = format!("v{tag}").parse().unwrap();
                block_on(populated.registry.delete_manifest(&repository, &reference)).unwrap();
            }
        }
        populated.keys.counts.take();
        let (first, first_calls) = round(&populated);
        let (second, second_calls) = round(&populated);
        assert_eq!((first.blobs.removed, second.content.removed), (blobs, blobs));
        let per_blob = |calls: u64| calls as f64 / blobs as f64;
        println!(
            "{blobs} blobs in {repositories} repositories: {:.2} storage calls a blob when all is kept, {:.2} when all goes",
            per_blob(calls),
            per_blob(first_calls + second_calls)
        );
        costs.push((per_blob(calls), per_blob(first_calls + second_calls)));
    }
    for (kept, removed) in &costs {
        assert!(*kept < 1.7 && *removed < 12.0, "{costs:?}");
    }
    assert!(costs[2].0 <= costs[0].0 * 1.02 && costs[2].1 <= costs[0].1 * 1.02, "{costs:?}");
}

/// A repository with up to 16 times as many blobs as the collection marks in memory.
#[test]
fn a_repository_that_does_not_fit_into_memory_costs_no_more_calls_a_blob() {
    const MARKS_MAX: usize = 256;
    let mut costs = Vec::new();
    for times in [1, 4, 16] {
        let blobs = MARKS_MAX * times;
        let populated = populate_with(1, blobs, Limits { marks_max: MARKS_MAX, ..Limits::default() });
        let (kept, kept_calls) = round(&populated);
        assert_eq!((kept.blobs.kept, kept.content.kept, kept.missing_blobs.count), (blobs as u64, blobs as u64, 0));
        // The images of a twentieth of the blobs are collected. All other content stays, although
        // the marks do not fit into memory.
        let repository: RepositoryName = "team0/app0".parse().unwrap();
        let removed = blobs / 20 / 10 * 10;
        for tag in 0..removed / 10 {
            let reference: Reference = format!("v{tag}").parse().unwrap();
            block_on(populated.registry.delete_manifest(&repository, &reference)).unwrap();
        }
        populated.keys.counts.take();
        let ((first, first_calls), (second, second_calls)) = (round(&populated), round(&populated));
        assert_eq!((first.blobs.removed, second.content.removed), (removed as u64, removed as u64));
        assert_eq!((first.manifests.removed, second.blobs.kept), (removed as u64 / 10, (blobs - removed) as u64));
        assert_eq!(second.content.kept, (blobs - removed) as u64);
        let per_blob = |calls: u64| calls as f64 / blobs as f64;
        let cost = (per_blob(kept_calls), per_blob(first_calls + second_calls));
        println!(
            "{blobs} blobs: {:.2} storage calls a blob when all is kept, {:.2} for a twentieth to go",
            cost.0, cost.1
        );
        assert!(cost.0 < 2.0, "{cost:?}");
        costs.push(cost);
    }
    assert!(costs[2].0 <= costs[0].0 * 1.02 && costs[2].1 <= costs[0].1 * 1.02, "{costs:?}");
}
