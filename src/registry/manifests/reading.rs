//! Looking manifests up, and reading their bytes.

use bytes::Bytes;

use crate::oci::{self, Digest, Reference, RepositoryName};
use crate::platform::Body;
use crate::registry::content::Content;
use crate::registry::facts::{BlobFact, Facts, ManifestFact};
use crate::registry::layout::Key;
use crate::registry::tags::Tags;
use crate::registry::{Error, Result, layout};
use crate::store;

/// A manifest that a repository holds.
#[derive(Debug)]
#[non_exhaustive]
pub struct Manifest {
    /// The digest of the manifest.
    pub digest: Digest,
    /// The media type that the manifest was pushed with, without parameters.
    pub media_type: String,
    /// The size of the manifest in bytes.
    pub size: u64,
    /// When the manifest was fetched from an upstream, in milliseconds since the Unix epoch; `None`
    /// for a manifest that a client pushed.
    pub(in crate::registry) fetched_ms: Option<u64>,
    /// The key of the fact that says where the bytes are in the blob store; `None` for a manifest
    /// whose bytes are in `inline`.
    large: Option<Key>,
    inline: Bytes,
}

/// Reads the manifests of all repositories.
#[derive(Clone)]
pub(in crate::registry) struct ManifestReader {
    pub facts: Facts,
    pub content: Content,
    pub tags: Tags,
}

impl ManifestReader {
    /// Looks a manifest up: two key reads by tag, one by digest.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] when the repository does not have the manifest.
    pub(in crate::registry) async fn get(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Manifest> {
        let unknown = || Error::ManifestUnknown(reference.to_string());
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => self.tags.digest(repository, tag).await?.ok_or_else(unknown)?,
        };
        let found = self.facts.load_version(&layout::manifest(repository, &digest)).await?;
        let (fact, inline, _): (ManifestFact, _, _) = found.ok_or_else(unknown)?;
        let large = fact.large.then(|| layout::large(repository, &digest));
        let fetched_ms = fact.cached.then_some(fact.pushed_ms);
        Ok(Manifest { digest, media_type: fact.media_type, size: fact.size, fetched_ms, large, inline })
    }

    /// The manifest's bytes, as they were pushed.
    pub(in crate::registry) async fn read(&self, manifest: &Manifest) -> Result<Body> {
        match &manifest.large {
            Some(key) => self.read_large(key).await,
            None => Ok(manifest.inline.clone().into()),
        }
    }

    /// The bytes of a large manifest. The fact under `key` says where the bytes are.
    pub(in crate::registry) async fn read_large(&self, key: &str) -> Result<Body> {
        let missing = || store::Error::corrupt(format!("the value of key {key} is missing"));
        let fact: BlobFact = self.facts.load(key).await?.ok_or_else(missing)?;
        self.content.read(&fact, 0..fact.size).await
    }

    /// A manifest parsed from its bytes, with its media type; `None` if the bytes cannot be parsed.
    pub(super) async fn parse(&self, manifest: &Manifest) -> Result<Option<(oci::Manifest, String)>> {
        let body = self.read(manifest).await?;
        let bytes = body.collect_up_to(manifest.size).await.map_err(store::Error::from)?;
        Ok(oci::Manifest::parse(&bytes, Some(&manifest.media_type)).ok())
    }

    /// The digest that a name leads to; `None` if the name does not exist.
    pub(in crate::registry) async fn digest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<Digest>> {
        match reference {
            Reference::Tag(tag) => self.tags.digest(repository, tag).await,
            Reference::Digest(digest) => {
                let fact: Option<ManifestFact> = self.facts.load(&layout::manifest(repository, digest)).await?;
                Ok(fact.map(|_| digest.clone()))
            }
        }
    }
}
