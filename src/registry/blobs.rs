//! Blobs: looking them up, reading, deleting.

use std::ops::Range;

use super::facts::BlobFact;
use super::{Error, Precondition, Registry, Result, layout};
use crate::oci::{Digest, RepositoryName};
use crate::platform::Body;

/// A blob that a repository holds.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
    pub(super) fact: BlobFact,
}

impl Registry {
    /// Looks a blob up: one key read.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] when the repository does not hold the blob, even if another
    /// repository does.
    pub async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Blob> {
        let fact: Option<BlobFact> = self.load(&layout::blob(repository, digest)).await?;
        let fact = fact.ok_or_else(|| Error::BlobUnknown(digest.clone()))?;
        Ok(Blob { digest: digest.clone(), size: fact.size, fact })
    }

    /// The blob's bytes in `range`, which must lie within the blob.
    pub async fn read_blob(&self, blob: &Blob, range: Range<u64>) -> Result<Body> {
        if range.is_empty() {
            return Ok(Body::empty());
        }
        Ok(self.blobs.read(&blob.fact.location, range).await?)
    }

    /// A URL from which a client can read the blob's bytes without the registry, if the blob store
    /// offers such URLs.
    pub async fn redirect_blob(&self, blob: &Blob) -> Result<Option<String>> {
        // The bytes of an empty blob are never read from the blob store, where its object may be
        // missing.
        if blob.size == 0 {
            return Ok(None);
        }
        Ok(self.blobs.redirect(&blob.fact.location).await?)
    }

    /// Removes a blob from a repository. The bytes stay for other repositories until no repository
    /// holds the blob and a collection removes the bytes.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] when the repository does not hold the blob.
    pub async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.delete_blob_if(repository, digest, &Precondition::default()).await
    }

    /// As [`Registry::delete_blob`], if the precondition holds.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] when the repository does not hold the blob, whatever the
    /// precondition; [`Error::PreconditionFailed`] when the precondition does not hold.
    pub async fn delete_blob_if(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        precondition: &Precondition,
    ) -> Result<()> {
        self.blob(repository, digest).await?;
        precondition.check(Some(digest))?;
        Ok(self.keys.delete(&layout::blob(repository, digest)).await?)
    }

    /// Whether a repository holds a blob and the blob's bytes exist in the blob store.
    pub(super) async fn holds(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        match self.load::<BlobFact>(&layout::blob(repository, digest)).await? {
            Some(fact) => self.is_readable(&fact).await,
            None => Ok(false),
        }
    }

    /// Adds a blob whose bytes are stored already to a repository. `from` names the repository to
    /// take the blob from; without `from` any repository will do. Returns whether the repository
    /// has the blob.
    pub(super) async fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<bool> {
        if self.holds(repository, digest).await? {
            return Ok(true);
        }
        let target = layout::blob(repository, digest);
        let source = from.map_or_else(|| layout::content(digest), |from| layout::blob(from, digest));
        self.share(&target, &source, None).await
    }
}
