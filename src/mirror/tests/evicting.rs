//! The eviction of cached content that nobody pulls, by collections.

use std::sync::Arc;

use bytes::Bytes;
use futures_executor::block_on;

use super::*;
use crate::oci::{Reference, RepositoryName};
use crate::registry::{CollectRequest, Report};
use crate::store::counting::Counting;

const DAY_MS: u64 = 24 * 60 * 60 * SECOND_MS;
/// The lifetime of cached manifests in these tests.
const LIFETIME_DAYS: u64 = 3;

fn limits() -> Limits {
    // Steps of one key: a round is resumed after every page.
    Limits { mirror_lifetime_ms: Some(LIFETIME_DAYS * DAY_MS), collect_step_keys_max: 1, ..Limits::default() }
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

/// An image with one layer, whose content and size follow from `seed` and `length`.
struct Image {
    manifest: Bytes,
    layer: Bytes,
}

impl Image {
    fn new(seed: u8, length: usize) -> Self {
        let layer = Bytes::from(vec![seed; length]);
        Self { manifest: manifest(&digest(&layer)), layer }
    }

    fn digest(&self) -> Digest {
        digest(&self.manifest)
    }
}

impl Setup {
    /// Makes the upstream offer an image, and pulls the image by tag with its layer.
    fn pull_image(&self, tag: &str, image: &Image) {
        {
            let mut up = self.up();
            up.tags.insert(tag.into(), image.manifest.clone());
            up.manifests.insert(image.digest().to_string(), image.manifest.clone());
            for content in [image.layer.clone(), Bytes::from_static(b"{}")] {
                up.blobs.insert(digest(&content).to_string(), content);
            }
        }
        assert_eq!(self.pull(tag).unwrap().manifest.digest, image.digest());
        for content in [&image.layer, &Bytes::from_static(b"{}")] {
            if !self.is_stored(&digest(content)) {
                assert!(read(self.fetch(&digest(content)).unwrap().body).unwrap() == *content);
            }
        }
    }

    /// Pushes an image as a client does.
    fn push_image(&self, repository: &RepositoryName, tag: &str, image: &Image) {
        for content in [image.layer.clone(), Bytes::from_static(b"{}")] {
            block_on(self.registry.push_blob(repository, &digest(&content), content.clone().into())).unwrap();
        }
        let (tag, body) = (tag.parse::<Reference>().unwrap(), image.manifest.clone().into());
        block_on(self.registry.push_manifest(repository, &tag, &[], None, body)).unwrap();
    }

    fn has(&self, repository: &RepositoryName, reference: &str) -> bool {
        block_on(self.registry.manifest(repository, &reference.parse::<Reference>().unwrap())).is_ok()
    }

    /// Runs rounds until nothing more is due, as `eyot prune` does.
    fn collect(&self) -> Vec<Report> {
        let request = CollectRequest { grace_ms: 0, ..self.registry.collect_request() };
        let mut reports = Vec::new();
        loop {
            reports.push(self.round(&request));
            if reports.last().unwrap().next_due_ms.is_none() {
                return reports;
            }
            assert!(reports.len() < 10, "the rounds do not end: {reports:?}");
        }
    }

    fn round(&self, request: &CollectRequest) -> Report {
        loop {
            let report = block_on(self.registry.collect_step(request)).unwrap();
            if report.done {
                return report;
            }
        }
    }
}

#[test]
fn cached_content_that_nobody_pulls_goes_and_everything_else_stays() {
    let setup = Setup::with_limits(limits());
    let (idle, busy) = (Image::new(1, 1000), Image::new(2, 2000));
    let (cached, own) = (name("docker.io/library/app"), name("team/app"));
    setup.push_image(&own, "v1", &idle);
    setup.pull_image("idle", &idle);
    setup.pull_image("busy", &busy);
    assert!(setup.pull("absent").is_err());
    for _ in 0..=LIFETIME_DAYS {
        setup.platform.pass_ms(DAY_MS + SECOND_MS);
        setup.pull("busy").unwrap();
    }
    let reports = setup.collect();
    assert_eq!(reports[0].cached_tags.removed, 1, "{reports:?}");
    assert!(!setup.has(&cached, "idle") && !setup.has(&cached, &idle.digest().to_string()));
    assert!(!setup.is_stored(&digest(&idle.layer)));
    assert!(setup.has(&cached, "busy") && setup.is_stored(&digest(&busy.layer)));
    // The pushed image has the same layer.
    let shared = block_on(setup.registry.blob(&own, &digest(&idle.layer))).unwrap();
    let body = block_on(setup.registry.read_blob(&shared, 0..shared.size)).unwrap();
    assert!(setup.has(&own, "v1") && read(body).unwrap() == idle.layer);
    assert_eq!(setup.keys("mirror/tag/"), ["mirror/tag/docker.io/library/app!busy"]);
    // The evicted image comes again, and goes with the whole repository.
    setup.pull_image("idle", &idle);
    setup.platform.pass_ms((LIFETIME_DAYS + 1) * DAY_MS + SECOND_MS);
    setup.collect();
    for prefix in ["mirror/", "used/", "tag/docker.io", "tagged/docker.io", "manifest/docker.io", "blob/docker.io"] {
        assert_eq!(setup.keys(prefix), [""; 0]);
    }
    assert_eq!(setup.keys("repository/"), ["repository/team/app!"]);
    assert!(setup.has(&own, "v1"));
}

#[test]
fn pulls_are_noted_once_a_day_for_each_manifest() {
    let setup = Setup::with_limits(limits());
    let image = Image::new(1, 10);
    setup.pull_image("v1", &image);
    setup.pull_image("v2", &image);
    let by_digest = image.digest().to_string();
    let used = || {
        let key = format!("used/docker.io/library/app!{by_digest}");
        block_on(setup.keys.get(&key)).unwrap().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
    };
    for reference in ["v1", "v2", &by_digest] {
        setup.pull(reference).unwrap();
    }
    assert_eq!(used(), None, "the fetch is the first use");
    let mut last = None;
    for reference in ["v1", &by_digest, "v2"] {
        setup.platform.pass_ms(DAY_MS);
        setup.pull(reference).unwrap();
        let noted = used();
        assert_ne!(noted, last, "{reference} notes the first pull of a day");
        setup.platform.pass_ms(SECOND_MS);
        for reference in ["v1", "v2", &by_digest] {
            setup.pull(reference).unwrap();
            assert_eq!(used(), noted, "{reference} is pulled again on the same day");
        }
        last = noted;
    }
}

#[test]
fn a_pull_of_a_later_day_costs_one_key_read_more_than_an_own_image() {
    let setup = Setup::with_limits(limits());
    let image = Image::new(1, 10);
    setup.pull_image("latest", &image);
    setup.platform.pass_ms(DAY_MS);
    setup.pull("latest").unwrap();
    let counting = Arc::new(Counting::new(setup.keys.clone()));
    let counted = setup.with_keys(counting.clone());
    let by_digest = image.digest().to_string();
    for reference in ["latest", &by_digest] {
        let reference: Reference = reference.parse().unwrap();
        let repository = counted.find(setup.repository().name()).unwrap();
        counting.counts.take();
        block_on(repository.mirror.registry.manifest(&repository.local, &reference)).unwrap();
        let [own_reads, ..] = counting.counts.take();
        block_on(repository.manifest(&reference)).unwrap();
        assert_eq!(counting.counts.take(), [own_reads + 1, 0, 0, 0], "{reference}");
    }
}

#[test]
fn an_index_in_use_keeps_the_images_that_it_lists() {
    let setup = Setup::with_limits(limits());
    let (child, other) = (Image::new(1, 10), Image::new(2, 10));
    let listed = |image: &Image| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.digest(),
            "size": image.manifest.len(),
        })
    };
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [listed(&child)]});
    setup.up().tags.insert("multi".into(), index.to_string().into_bytes().into());
    setup.pull("multi").unwrap();
    for image in [&child, &other] {
        setup.up().manifests.insert(image.digest().to_string(), image.manifest.clone());
        setup.pull(&image.digest().to_string()).unwrap();
    }
    for _ in 0..=LIFETIME_DAYS {
        setup.platform.pass_ms(DAY_MS);
        setup.pull("multi").unwrap();
    }
    setup.platform.pass_ms(SECOND_MS);
    setup.collect();
    let cached = name("docker.io/library/app");
    assert!(setup.has(&cached, "multi") && setup.has(&cached, &child.digest().to_string()));
    assert!(!setup.has(&cached, &other.digest().to_string()), "no tag and no index refers to the other image");
}

#[test]
fn beyond_the_size_the_least_recently_pulled_images_go() {
    let limits = Limits { mirror_lifetime_ms: None, mirror_bytes_max: Some(5000), ..limits() };
    let setup = Setup::with_limits(limits);
    let images: Vec<Image> = (0..5).map(|seed| Image::new(seed, 2000)).collect();
    let cached = name("docker.io/library/app");
    let pushed = Image::new(9, 50_000);
    setup.push_image(&name("team/app"), "v1", &pushed);
    for (number, image) in images.iter().enumerate() {
        setup.pull_image(&format!("v{number}"), image);
        setup.platform.pass_ms(SECOND_MS);
    }
    // The oldest image is pulled again, so the next two go.
    setup.platform.pass_ms(DAY_MS);
    setup.pull("v0").unwrap();
    let reports = setup.collect();
    assert_eq!(reports[0].cached_bytes, 5 * 2000 + 2, "all layers and one config: {reports:?}");
    let left: Vec<&str> = ["v0", "v1", "v2", "v3", "v4"].into_iter().filter(|tag| setup.has(&cached, tag)).collect();
    assert_eq!(left, ["v0", "v4"]);
    assert_eq!(reports.last().unwrap().cached_bytes, 2 * 2000 + 2);
    assert!(setup.has(&name("team/app"), "v1"), "pushed images do not count");
    // Within the limit nothing goes.
    assert_eq!(setup.collect().len(), 1);
}

#[test]
fn an_image_that_was_pushed_before_its_prefix_became_a_mirror_stays() {
    let setup = Setup::with_limits(Limits { mirror_bytes_max: Some(1), ..limits() });
    let (image, cached) = (Image::new(1, 100), name("docker.io/library/app"));
    setup.push_image(&cached, "own", &image);
    // The upstream has the same image under another tag.
    setup.pull_image("v1", &image);
    setup.platform.pass_ms(100 * DAY_MS);
    setup.collect();
    assert!(setup.has(&cached, "own") && setup.is_stored(&digest(&image.layer)));
}

#[test]
fn a_dry_run_reports_what_goes_and_changes_nothing() {
    let setup = Setup::with_limits(limits());
    setup.pull_image("v1", &Image::new(1, 100));
    setup.platform.pass_ms((LIFETIME_DAYS + 1) * DAY_MS + SECOND_MS);
    let before = setup.keys("");
    let report = setup.round(&CollectRequest { dry_run: true, ..setup.registry.collect_request() });
    assert_eq!((report.cached_tags.removed, report.manifests.removed), (1, 1));
    assert_eq!(setup.keys(""), before);
    // The grace period of pushed content does not delay an eviction.
    let report = setup.round(&setup.registry.collect_request());
    assert_eq!((report.cached_tags.removed, report.manifests.removed, report.blobs.removed), (1, 1, 2));
}
