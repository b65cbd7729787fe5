//! Counts of the requests to an upstream, and the rest of the upstream's rate limit.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderName, Response};

use super::answer;
use super::error::{Error, Kind};
use crate::platform::Body;

const RATE_LIMIT_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");

/// The counters of one upstream.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    requests: AtomicU64,
    errors: AtomicU64,
    bytes_received: AtomicU64,
    rate_limit: Mutex<Option<RateLimit>>,
}

/// What went between this instance and an upstream since the instance began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrafficCounts {
    /// HTTP requests, with those for tokens and those that follow redirects.
    pub requests: u64,
    /// Requests that failed, also in the middle of the body. Absent content is no failure.
    pub errors: u64,
    /// The bytes of all bodies of answers.
    pub bytes_received: u64,
    /// The rest of the rate limit, if the upstream's last answer with a manifest stated a rest.
    pub rate_limit: Option<RateLimit>,
}

/// The rest of an upstream's rate limit, as Docker Hub states it: `RateLimit-Remaining: 97;w=21600`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimit {
    /// How many requests are left.
    pub remaining: u64,
    /// The length of the time window to which the limit applies, in seconds.
    pub window_seconds: Option<u64>,
}

impl RateLimit {
    fn read(headers: &HeaderMap) -> Option<Self> {
        let mut parts = answer::text(headers, &RATE_LIMIT_REMAINING)?.split(';').map(str::trim);
        let remaining = parts.next()?.parse().ok()?;
        let window_seconds = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
        Some(Self { remaining, window_seconds })
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests are left of the upstream's rate limit", self.remaining)?;
        self.window_seconds.map_or(Ok(()), |seconds| write!(f, " for {seconds} s"))
    }
}

impl Traffic {
    /// Counts a request, and returns the answer with a body that counts its bytes.
    pub(super) fn answered(self: &Arc<Self>, response: Response<Body>) -> Response<Body> {
        if let Some(rate_limit) = RateLimit::read(response.headers()) {
            *self.rate_limit.lock().unwrap_or_else(PoisonError::into_inner) = Some(rate_limit);
        }
        let traffic = self.clone();
        response.map(|body| {
            body.inspected(move |read| match read {
                Ok(data) => _ = traffic.bytes_received.fetch_add(data.len() as u64, Relaxed),
                Err(_) => _ = traffic.errors.fetch_add(1, Relaxed),
            })
        })
    }

    pub(super) fn requested(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn failed(&self, error: &Error) {
        if !error.kind.is_absence() && error.kind != Kind::Range {
            self.errors.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn counts(&self) -> TrafficCounts {
        TrafficCounts {
            requests: self.requests.load(Relaxed),
            errors: self.errors.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            rate_limit: *self.rate_limit.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}
