//! The port for everything that images can come from.

use async_trait::async_trait;
use bytes::Bytes;

use super::error::Result;
use crate::oci::{Digest, Tag};
use crate::platform::Body;

/// A place that holds images: a folder, an archive, another registry.
///
/// A source names its repositories by texts. The empty text stands for the repository of a source
/// that names none, such as a folder of skopeo. No method trusts the source: the caller checks the
/// digests of all bytes.
#[async_trait]
pub trait Source: Send + Sync {
    /// The names of all repositories.
    async fn repositories(&self) -> Result<Vec<String>>;

    /// The tags of a repository.
    async fn tags(&self, repository: &str) -> Result<Vec<Tag>>;

    /// The manifests of a repository that the source lists, with or without tags. Empty where the
    /// source has no such list.
    async fn listed(&self, repository: &str) -> Result<Vec<Digest>>;

    /// The digest that a tag leads to.
    ///
    /// # Errors
    /// [`Error::Absent`](super::Error::Absent) when the tag leads nowhere.
    async fn resolve(&self, repository: &str, tag: &Tag) -> Result<Digest>;

    /// The bytes of a manifest, at most `limit_bytes`.
    ///
    /// # Errors
    /// [`Error::Absent`](super::Error::Absent); [`Error::Refused`](super::Error::Refused) for a
    /// larger manifest, of which no byte is read.
    async fn manifest(&self, repository: &str, digest: &Digest, limit_bytes: u64) -> Result<FoundManifest>;

    /// The manifests that refer to a manifest, where the source can be asked. A source with a
    /// complete list of manifests ([`Source::listed`]) returns none here.
    async fn referrers(&self, repository: &str, subject: &Digest) -> Result<Vec<Digest>>;

    /// A blob from byte `start` to its end. A source that cannot begin there gives the blob from
    /// its first byte.
    ///
    /// # Errors
    /// [`Error::Absent`](super::Error::Absent).
    async fn blob(&self, repository: &str, digest: &Digest, start: u64) -> Result<FoundBlob>;
}

/// A manifest of a source.
#[derive(Clone, Debug)]
pub struct FoundManifest {
    /// The manifest.
    pub bytes: Bytes,
    /// The media type that the source states beside the manifest.
    pub media_type: Option<String>,
}

/// The bytes of a blob of a source.
#[derive(Debug)]
pub struct FoundBlob {
    /// The first byte of the body within the blob.
    pub start: u64,
    /// The size of the whole blob, in bytes.
    pub size: u64,
    /// The bytes from `start` to the end.
    pub body: Body,
}
