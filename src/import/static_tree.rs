//! A registry as a tree of static files whose paths are those of the API, such as a site of
//! registrish.
//!
//! ```text
//! v2/<name>/manifests/<tag or digest>
//! v2/<name>/blobs/<digest>
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::error::{Error, Result};
use super::files::{Files, FolderWalk, join};
use super::limits::{LIST_BYTES_MAX, MANIFESTS_MAX};
use super::source::{FoundBlob, FoundManifest, Source};
use crate::oci::{Algorithm, Digest, Tag};

const TOP: &str = "v2";
const MANIFESTS: &str = "manifests";

/// A tree of static files.
pub(super) struct StaticTree {
    files: Box<dyn Files>,
    /// The files that hold manifests for which there is no file by digest: registrish writes one
    /// file by tag.
    by_tag: Mutex<HashMap<Digest, String>>,
}

impl StaticTree {
    /// Whether the files are such a tree.
    pub(super) async fn is_one(files: &dyn Files) -> Result<bool> {
        Ok(!files.list(TOP).await?.is_empty())
    }

    pub(super) fn open(files: Box<dyn Files>) -> Self {
        Self { files, by_tag: Mutex::default() }
    }

    fn manifests(repository: &str) -> String {
        format!("{TOP}/{repository}/{MANIFESTS}")
    }
}

#[async_trait]
impl Source for StaticTree {
    async fn repositories(&self) -> Result<Vec<String>> {
        let (mut repositories, mut walk) = (Vec::new(), FolderWalk::new(&*self.files, TOP));
        while let Some((folder, names)) = walk.next().await? {
            walk.enter(&folder, &names, |_| true);
            // A repository may itself be called `manifests`, so its files tell what a folder is.
            let manifests = self.files.list(&join(&join(TOP, &folder), MANIFESTS)).await?;
            if manifests.iter().any(|name| !name.is_folder && is_reference(&name.text)) && !folder.is_empty() {
                repositories.push(folder);
            }
        }
        repositories.sort();
        Ok(repositories)
    }

    async fn tags(&self, repository: &str) -> Result<Vec<Tag>> {
        let names = self.files.list(&Self::manifests(repository)).await?;
        Ok(names.iter().filter(|name| !name.is_folder).filter_map(|name| name.text.parse().ok()).collect())
    }

    async fn listed(&self, repository: &str) -> Result<Vec<Digest>> {
        let names = self.files.list(&Self::manifests(repository)).await?;
        let listed: Vec<Digest> = names.iter().filter_map(|name| name.text.parse().ok()).collect();
        match listed.len() {
            0..=MANIFESTS_MAX => Ok(listed),
            _ => Err(Error::refused(format!("{repository} has more than {MANIFESTS_MAX} manifests"))),
        }
    }

    /// The digest of the bytes under the tag, by the algorithm of the file that the tree has for the
    /// manifest.
    async fn resolve(&self, repository: &str, tag: &Tag) -> Result<Digest> {
        let (folder, missing) = (Self::manifests(repository), || Error::absent(format!("there is no file for {tag}")));
        let path = join(&folder, tag.as_str());
        let section = self.files.find(&path).await?.ok_or_else(missing)?;
        let bytes = section.read(&path, LIST_BYTES_MAX).await?;
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = algorithm.digest(&bytes);
            if self.files.find(&join(&folder, digest.as_str())).await?.is_some() {
                return Ok(digest);
            }
        }
        let digest = Algorithm::Sha256.digest(&bytes);
        self.by_tag.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone(), path);
        Ok(digest)
    }

    async fn manifest(&self, repository: &str, digest: &Digest, limit_bytes: u64) -> Result<FoundManifest> {
        let by_digest = join(&Self::manifests(repository), digest.as_str());
        let by_tag = self.by_tag.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned();
        let path = by_tag.unwrap_or(by_digest);
        let found = self.files.find(&path).await?;
        let section = found.ok_or_else(|| Error::absent(format!("{digest} is not there: there is no file {path}")))?;
        let bytes = section.read(&format!("the manifest {digest}"), limit_bytes).await?;
        // A bucket that serves the tree keeps the media type of each object. Other media types are
        // those that tools give to any file.
        Ok(FoundManifest {
            bytes,
            media_type: section.media_type.filter(|media_type| media_type.starts_with("application/vnd.")),
        })
    }

    async fn referrers(&self, _: &str, _: &Digest) -> Result<Vec<Digest>> {
        Ok(Vec::new())
    }

    async fn blob(&self, repository: &str, digest: &Digest, start: u64) -> Result<FoundBlob> {
        let path = format!("{TOP}/{repository}/blobs/{digest}");
        let found = self.files.find(&path).await?;
        let section = found.ok_or_else(|| Error::absent(format!("{digest} is not there: there is no file {path}")))?;
        section.blob(start).await
    }
}

fn is_reference(name: &str) -> bool {
    name.parse::<Tag>().is_ok() || name.parse::<Digest>().is_ok()
}
