//! Blobs of repositories: looking them up, reading, adding, deleting.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::content::Content;
use super::facts::{self, BlobFact, Facts};
use super::layout::Key;
use super::limits::ADD_UNCHECKED_MS;
use super::sharing::Sharing;
use super::{Error, Precondition, Result, layout};
use crate::oci::{Digest, RepositoryName};
use crate::platform::{Body, Platform};
use crate::store::{self, When};

/// A blob that a repository holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Blob {
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
    pub(super) fact: BlobFact,
}

/// The blobs of all repositories.
#[derive(Clone)]
pub(super) struct Blobs {
    pub facts: Facts,
    pub content: Content,
    pub sharing: Sharing,
    pub platform: Arc<dyn Platform>,
}

impl Blobs {
    /// Looks a blob up: one key read.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] when the repository does not hold the blob.
    pub(super) async fn get(&self, repository: &RepositoryName, digest: &Digest) -> Result<Blob> {
        let fact: Option<BlobFact> = self.facts.load(&layout::blob(repository, digest)).await?;
        let fact = fact.ok_or_else(|| Error::BlobUnknown(digest.clone()))?;
        Ok(Blob { digest: digest.clone(), size: fact.size, fact })
    }

    /// The blob's bytes in `range`.
    pub(super) async fn read(&self, blob: &Blob, range: Range<u64>) -> Result<Body> {
        if range.is_empty() {
            return Ok(Body::empty());
        }
        self.content.read(&blob.fact, range).await
    }

    /// A URL from which a client can read the blob's bytes, if the blob store offers such URLs.
    pub(super) async fn redirect(&self, blob: &Blob) -> Result<Option<String>> {
        // The bytes of an empty blob are never read from the blob store, where its object may be
        // missing.
        if blob.size == 0 {
            return Ok(None);
        }
        Ok(self.content.blobs.redirect(&blob.fact.location).await?)
    }

    /// The file that holds exactly the bytes of the blob, if the blob store keeps such a file.
    pub(super) fn file(&self, blob: &Blob) -> Option<PathBuf> {
        // The file of an empty blob may be missing.
        if blob.size == 0 { None } else { self.content.blobs.file(&blob.fact.location) }
    }

    /// Removes a blob from a repository, if the precondition holds.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] when the repository does not hold the blob, whatever the
    /// precondition; [`Error::PreconditionFailed`].
    pub(super) async fn delete(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        precondition: &Precondition,
    ) -> Result<()> {
        self.get(repository, digest).await?;
        precondition.check(Some(digest))?;
        Ok(self.facts.keys.delete(&layout::blob(repository, digest)).await?)
    }

    /// Whether a repository holds a blob and the blob's bytes exist in the blob store.
    pub(super) async fn is_held(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        match self.facts.load::<BlobFact>(&layout::blob(repository, digest)).await? {
            Some(fact) => self.content.is_readable(&fact).await,
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
        if self.is_held(repository, digest).await? {
            return Ok(true);
        }
        let target = layout::blob(repository, digest);
        let source = from.map_or_else(|| layout::content(digest), |from| layout::blob(from, digest));
        self.sharing.share(&target, &source, None).await
    }

    /// Adds committed content, which `fact` locates, to a repository as the blob `digest`.
    ///
    /// # Errors
    /// [`Error::Busy`] when collections have removed the content since its commit.
    pub(super) async fn add(&self, repository: &RepositoryName, digest: &Digest, fact: &BlobFact) -> Result<()> {
        let (key, content) = (layout::blob(repository, digest), layout::content(digest));
        let committed_ms = self.platform.now_ms();
        // Most content is new, so write the entry without looking it up first.
        match self.facts.keys.put(&content, facts::to_line(&content, fact, &[])?, When::Absent).await {
            Ok(_) => {
                self.facts.store(&key, fact, When::Always).await?;
                // The common case needs no further call: two rounds of the collection do not fit
                // into `ADD_UNCHECKED_MS`.
                if self.platform.now_ms().abs_diff(committed_ms) <= ADD_UNCHECKED_MS {
                    return Ok(());
                }
                return self.confirm(&key, fact).await;
            }
            Err(store::Error::Conflict(_) | store::Error::Unsupported(_)) => {}
            Err(error) => return Err(error.into()),
        }
        // The content may be known already: keep one copy for all repositories.
        if self.sharing.share(&key, &content, Some(fact.size)).await? {
            return self.remove_duplicate(&key, fact).await;
        }
        self.facts.store(&content, fact, When::Always).await?;
        self.facts.store(&key, fact, When::Always).await?;
        self.confirm(&key, fact).await
    }

    /// Confirms that the content under `key` still exists. Since the commit, another request may
    /// have cancelled the upload, and collections may have removed the content.
    pub(super) async fn confirm(&self, key: &Key, fact: &BlobFact) -> Result<()> {
        if self.sharing.share(key, key, Some(fact.size)).await? {
            return Ok(());
        }
        // Another push may already use this entry. Delete the entry only if its content is gone.
        if !self.content.is_readable(fact).await? && self.facts.load::<BlobFact>(key).await?.as_ref() == Some(fact) {
            self.facts.keys.delete(key).await?;
        }
        Err(Error::Busy)
    }

    /// Removes the content of `duplicate`, if the fact under `key` locates another copy of the
    /// content.
    async fn remove_duplicate(&self, key: &Key, duplicate: &BlobFact) -> Result<()> {
        let kept: Option<BlobFact> = self.facts.load(key).await?;
        // Keep the content if both facts name one location: another request may have ended the same
        // upload.
        if kept.is_none_or(|kept| kept.location == duplicate.location) {
            return Ok(());
        }
        self.content.remove(duplicate).await
    }
}
