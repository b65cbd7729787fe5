//! The folder of one image that skopeo writes for `dir:`: the manifest, and all content beside it.

use async_trait::async_trait;
use bytes::Bytes;

use super::error::{Error, Result};
use super::files::{self, Files, Section};
use super::limits::LINK_BYTES_MAX;
use super::source::{FoundBlob, FoundManifest, Source};
use crate::oci::{Algorithm, Digest, Tag};

const MANIFEST: &str = "manifest.json";
/// The beginning of the file `version`.
const VERSION: &[u8] = b"Directory Transport Version";

/// A folder of skopeo.
pub(super) struct SkopeoFolder {
    files: Box<dyn Files>,
    digest: Digest,
    manifest: Bytes,
}

impl SkopeoFolder {
    /// Whether the files are a folder of skopeo.
    pub(super) async fn is_one(files: &dyn Files) -> Result<bool> {
        let Some(version) = files.find("version").await? else { return Ok(false) };
        Ok(version.length <= LINK_BYTES_MAX && version.read("version", LINK_BYTES_MAX).await?.starts_with(VERSION))
    }

    /// Reads the manifest of the image, of at most `limit_bytes`.
    pub(super) async fn open(files: Box<dyn Files>, limit_bytes: u64) -> Result<Self> {
        let manifest = files::read(&*files, MANIFEST, limit_bytes).await?;
        let manifest = manifest.ok_or_else(|| Error::absent(format!("there is no file {MANIFEST}")))?;
        Ok(Self { files, digest: Algorithm::Sha256.digest(&manifest), manifest })
    }

    /// The file of content: the digits of the digest, behind the algorithm if it is not SHA-256.
    async fn content(&self, digest: &Digest, ending: &str) -> Result<Section> {
        let name = match digest.algorithm() {
            Algorithm::Sha256 => format!("{}{ending}", digest.hex()),
            other => format!("{}-{}{ending}", other.as_str(), digest.hex()),
        };
        let found = self.files.find(&name).await?;
        found.ok_or_else(|| Error::absent(format!("{digest} is not there: there is no file {name}")))
    }
}

#[async_trait]
impl Source for SkopeoFolder {
    async fn repositories(&self) -> Result<Vec<String>> {
        Ok(vec![String::new()])
    }

    async fn tags(&self, _: &str) -> Result<Vec<Tag>> {
        Ok(Vec::new())
    }

    async fn listed(&self, _: &str) -> Result<Vec<Digest>> {
        Ok(vec![self.digest.clone()])
    }

    async fn resolve(&self, _: &str, tag: &Tag) -> Result<Digest> {
        Err(Error::absent(format!("a folder of skopeo has no tag {tag}")))
    }

    async fn manifest(&self, _: &str, digest: &Digest, limit_bytes: u64) -> Result<FoundManifest> {
        if *digest == self.digest {
            return Ok(FoundManifest { bytes: self.manifest.clone(), media_type: None });
        }
        // A manifest of another architecture.
        let section = self.content(digest, ".manifest.json").await?;
        let bytes = section.read(&format!("the manifest {digest}"), limit_bytes).await?;
        Ok(FoundManifest { bytes, media_type: None })
    }

    async fn referrers(&self, _: &str, _: &Digest) -> Result<Vec<Digest>> {
        Ok(Vec::new())
    }

    async fn blob(&self, _: &str, digest: &Digest, start: u64) -> Result<FoundBlob> {
        self.content(digest, "").await?.blob(start).await
    }
}
