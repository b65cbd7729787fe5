//! Content in the blob store: committing, reading and checking the bytes that facts locate.

use std::ops::Range;
use std::sync::Arc;

use super::error::InvalidDigest;
use super::facts::BlobFact;
use super::{Error, Result};
use crate::oci::{Digest, Hasher};
use crate::platform::{Body, Causes};
use crate::store::{self, BlobStore, Location, Stage};

/// The content of a registry in the blob store.
#[derive(Clone)]
pub(super) struct Content {
    pub blobs: Arc<dyn BlobStore>,
}

impl Content {
    /// The bytes in `range` of the content that a fact locates.
    pub(super) async fn read(&self, fact: &BlobFact, range: Range<u64>) -> Result<Body> {
        Ok(self.blobs.read(&fact.location, range).await?)
    }

    /// Whether the content of a fact still exists in the blob store. If not, a push can bring the
    /// content back.
    pub(super) async fn is_readable(&self, fact: &BlobFact) -> Result<bool> {
        if fact.size == 0 {
            return Ok(true);
        }
        let last = match self.blobs.read(&fact.location, fact.size - 1..fact.size).await {
            Ok(mut body) => body.next().await.transpose().map_err(store::Error::from),
            Err(error) => Err(error),
        };
        match last {
            Ok(byte) => Ok(byte.is_some()),
            Err(store::Error::Corrupt(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Commits the `size` bytes of a stage, whose digest so far is `computed`, as content with the
    /// digest `digest`.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when the stage does not exist any more; [`Error::DigestInvalid`]
    /// when `digest` is of another algorithm than `computed` and the content has another digest.
    pub(super) async fn commit(
        &self,
        stage: &Stage,
        digest: &Digest,
        computed: &Digest,
        size: u64,
    ) -> Result<BlobFact> {
        let location = match self.blobs.commit(stage, computed).await {
            Ok(location) => location,
            Err(store::Error::Conflict(_)) => return Err(Error::UploadUnknown),
            Err(error) => return Err(error.into()),
        };
        if computed != digest {
            self.check_other_algorithm(&location, digest, size).await?;
        }
        Ok(BlobFact { size, location })
    }

    /// Reads the content again to hash it by the algorithm of `digest`, because the client named
    /// that algorithm only at the end, after chunks that were hashed with another. Content is read
    /// again in no other case.
    async fn check_other_algorithm(&self, location: &Location, digest: &Digest, size: u64) -> Result<()> {
        let mut hasher = Hasher::new(digest.algorithm());
        if size > 0 {
            let mut body = self.blobs.read(location, 0..size).await?;
            while let Some(data) = body.next().await {
                hasher.update(&data.map_err(store::Error::from)?);
            }
        }
        let computed = hasher.finish();
        if computed == *digest {
            return Ok(());
        }
        Err(InvalidDigest::Mismatch { computed, named: digest.clone() }.into())
    }

    /// Discards the bytes that an append brought, which made `stage` from the stage `before`. Best
    /// effort: bytes that remain are discarded with the upload.
    pub(super) async fn abandon(&self, stage: &Stage, before: Option<&Stage>) {
        if let Err(error) = self.blobs.abandon(stage, before).await {
            tracing::warn!("the bytes of a refused request stay until their upload ends: {}", Causes(&error));
        }
    }

    /// Removes the objects that hold the content of a fact.
    pub(super) async fn remove(&self, fact: &BlobFact) -> Result<()> {
        for name in self.blobs.names_of(&fact.location).await? {
            self.blobs.remove(&name).await?;
        }
        Ok(())
    }
}
