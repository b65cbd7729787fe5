//! Blobs: looking them up, reading, deleting.

use std::ops::Range;

use super::facts::BlobFact;
use super::{Error, Precondition, Registry, Result, layout};
use crate::oci::{Digest, RepositoryName};
use crate::store::Body;

/// A blob that a repository holds.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    pub(super) fact: BlobFact,
}

impl Registry {
    /// Looks a blob up: one key read.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] when the repository does not hold it, whoever else does.
    pub async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Blob> {
        let fact: Option<BlobFact> = self.load(&layout::blob(repository, digest)).await?;
        let fact = fact.ok_or_else(|| Error::BlobUnknown(digest.clone()))?;
        Ok(Blob { digest: digest.clone(), size: fact.size, fact })
    }

    /// The bytes of `range`, which lies within the blob.
    pub async fn read_blob(&self, blob: &Blob, range: Range<u64>) -> Result<Body> {
        if range.is_empty() {
            return Ok(Body::empty());
        }
        Ok(self.blobs.read(&blob.fact.location, range).await?)
    }

    /// A URL by which a client can read the blob's bytes from the store itself, where the store has such.
    pub async fn redirect_blob(&self, blob: &Blob) -> Result<Option<String>> {
        // Without bytes there is nothing to fetch, nor to lose.
        if blob.size == 0 {
            return Ok(None);
        }
        Ok(self.blobs.redirect(&blob.fact.location).await?)
    }

    /// Takes a blob out of a repository. Its bytes stay for the others that hold it, until they are collected.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] when the repository does not hold it.
    pub async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.delete_blob_if(repository, digest, &Precondition::default()).await
    }

    /// As [`Registry::delete_blob`], if the precondition holds.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] when the precondition does not hold; [`Error::BlobUnknown`] comes first.
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

    /// Whether a repository holds a blob and its bytes are there.
    pub(super) async fn holds(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        match self.load::<BlobFact>(&layout::blob(repository, digest)).await? {
            Some(fact) => self.is_readable(&fact).await,
            None => Ok(false),
        }
    }

    /// Puts a blob into a repository whose bytes are stored already. `from` names where to look; without it any repository
    /// will do.
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
