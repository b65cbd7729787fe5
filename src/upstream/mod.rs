//! Other registries: a client of the distribution API (pulls only) over
//! [`Platform::send`](crate::platform::Platform::send).
//!
//! An [`Upstream`] says where another registry is and how to log in there. A [`Client`] sends the
//! requests of pulls: it answers the login challenges of the upstream, follows its redirects
//! without credentials, and limits the time and the size of every answer. Every failure is an
//! [`Error`] that names the upstream and keeps the class of the trouble. The client checks the
//! digests of manifests. The caller checks the digest of a blob while the caller reads the blob.

mod address;
mod answer;
mod challenge;
mod client;
mod error;
mod lists;
mod login;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;
mod tokens;
mod traffic;

pub use address::{Login, Upstream, UpstreamError};
pub use client::{BlobPart, BlobPlace, Client, FetchedManifest, ManifestHead};
pub use error::{Error, Kind};
pub use lists::{TagPage, WholeList};
pub use traffic::{RateLimit, TrafficCounts};

use crate::store::Expiring;

/// The keys of this layer that a collection may remove when they have expired.
pub const EXPIRING: [Expiring; 1] = [tokens::TOKENS];

/// The result of a request to an upstream.
pub type Result<T, E = Error> = std::result::Result<T, E>;
