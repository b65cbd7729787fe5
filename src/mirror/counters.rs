//! Counters of the pull-through cache, for logs and metrics. An instance counts since it began.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Mirror, MirroredRepository, Mirrors};
use crate::platform::Body;
use crate::upstream::TrafficCounts;

/// The counters of one upstream.
#[derive(Debug, Default)]
pub(super) struct Counters {
    hits: AtomicU64,
    revalidated: AtomicU64,
    stale: AtomicU64,
    misses: AtomicU64,
    bytes_served: AtomicU64,
}

/// What an instance has done with one upstream since the instance began.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// The name of the upstream.
    pub upstream: String,
    /// Pulls of manifests, blobs and lists that were here and needed no request to the upstream.
    pub hits: u64,
    /// Pulls of tags that were here and, as a question to the upstream showed, had not moved.
    pub revalidated: u64,
    /// Pulls of tags and lists that were here and were served without a check, because the upstream
    /// failed.
    pub stale: u64,
    /// Pulls of content that was not here, or of tags that had moved.
    pub misses: u64,
    /// The bytes of blobs that clients got, from here or from the upstream.
    pub bytes_served: u64,
    /// The requests to the upstream, and the bytes from there.
    pub traffic: TrafficCounts,
}

impl Counters {
    pub(super) fn hit(&self) {
        self.hits.fetch_add(1, Relaxed);
    }

    pub(super) fn revalidated(&self) {
        self.revalidated.fetch_add(1, Relaxed);
    }

    pub(super) fn stale(&self) {
        self.stale.fetch_add(1, Relaxed);
    }

    pub(super) fn miss(&self) {
        self.misses.fetch_add(1, Relaxed);
    }
}

impl Mirrors {
    /// The counters of all upstreams, in the order of the settings.
    pub fn counts(&self) -> Vec<Counts> {
        self.mirrors.iter().map(Mirror::counts).collect()
    }
}

impl Mirror {
    fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        let counters = &self.counters;
        Counts {
            upstream: self.name().to_owned(),
            hits: read(&counters.hits),
            revalidated: read(&counters.revalidated),
            stale: read(&counters.stale),
            misses: read(&counters.misses),
            bytes_served: read(&counters.bytes_served),
            traffic: self.client.traffic(),
        }
    }

    /// The end of a line in the log: the rest of the upstream's rate limit, if there is one.
    pub(super) fn rate_limit(&self) -> String {
        self.client.traffic().rate_limit.map(|rest| format!("; {rest}")).unwrap_or_default()
    }
}

impl MirroredRepository {
    /// Counts a blob that was here.
    pub fn count_hit(&self) {
        self.mirror.counters.hit();
    }

    /// The same body, whose bytes count as served to a client.
    pub fn counted(&self, body: Body) -> Body {
        let counters: Arc<Counters> = self.mirror.counters.clone();
        body.inspected(move |read| {
            if let Ok(data) = read {
                counters.bytes_served.fetch_add(data.len() as u64, Relaxed);
            }
        })
    }
}
