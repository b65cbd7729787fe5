//! The port for the place that an export writes: a folder or a bucket. A file appears under its name
//! only when it is complete. Paths are relative, and their parts are joined by `/`.

use std::path::PathBuf;

use async_trait::async_trait;

use super::error::{Error, Result};
use super::summary::Summary;
use crate::oci::Digest;
use crate::platform::Body;
use crate::store;
use crate::store::Object;
use crate::store::s3::Head;

/// The file that marks a folder or a part of a bucket as an export, and names its kind.
pub(super) const MARK: &str = "eyot-export";
/// The longest mark, in bytes.
pub(super) const MARK_BYTES_MAX: usize = 64;

/// Content that the registry has, and where its store keeps the bytes.
pub(super) struct Content<'a> {
    pub digest: &'a Digest,
    /// The size in bytes.
    pub size: u64,
    /// The file with exactly the bytes.
    pub file: Option<PathBuf>,
    /// The object with exactly the bytes.
    pub object: Option<Object>,
}

/// An error while content is copied.
pub(super) enum CopyError {
    /// The store could not give the content.
    Source(store::Error),
    /// The target could not take the content.
    Target(Error),
}

/// A folder or a bucket. Methods that write add to the summary.
#[async_trait]
pub(super) trait Target: Send + Sync {
    /// Whether nothing is written.
    fn is_dry(&self) -> bool;

    /// Whether the content is at `path`. Files of content never change, so that the size tells
    /// whether the content is there.
    async fn has(&self, path: &str, digest: &Digest, size: u64) -> Result<bool>;

    /// Writes a file that consists of `parts`, unless the file has these bytes already. `head` is
    /// what a bucket keeps beside the bytes.
    async fn put(&self, path: &str, head: &Head<'_>, parts: &[&[u8]], summary: &mut Summary) -> Result<()>;

    /// Takes content without reading it: by a hard link, or by a copy inside the bucket's server.
    /// Returns whether that was possible.
    async fn adopt(&self, path: &str, head: &Head<'_>, content: &Content<'_>, summary: &mut Summary) -> Result<bool>;

    /// Copies content to a file, and checks the digest on the way. Returns `false`, and keeps
    /// nothing, if the content has another digest.
    async fn fill(
        &self,
        path: &str,
        head: &Head<'_>,
        body: Body,
        digest: &Digest,
        summary: &mut Summary,
    ) -> Result<bool, CopyError>;

    /// Makes a symbolic link that leads to `to`, which is relative to the folder of the link. A
    /// bucket has no links.
    async fn link(&self, path: &str, to: &str, summary: &mut Summary) -> Result<()>;

    /// Removes a file or a symbolic link, and the folders that become empty.
    async fn remove(&self, path: &str, summary: &mut Summary) -> Result<()>;

    /// The names in a folder, and whether each is a folder itself; empty if the folder does not
    /// exist. A symbolic link is not a folder.
    async fn names(&self, path: &str) -> Result<Vec<(String, bool)>>;

    /// Ends the export.
    async fn close(&self) -> Result<()>;
}
