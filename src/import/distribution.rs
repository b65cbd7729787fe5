//! The data folder of distribution (`docker-registry`), which Harbor, GitLab and others use too.
//!
//! ```text
//! docker/registry/v2/repositories/<name>/_manifests/tags/<tag>/current/link
//! docker/registry/v2/repositories/<name>/_manifests/revisions/<algorithm>/<hex>/link
//! docker/registry/v2/blobs/<algorithm>/<first two digits>/<hex>/data
//! ```
//!
//! The folder does not keep the media types of manifests: the bodies tell them.

use async_trait::async_trait;

use super::error::{Error, Result};
use super::files::{self, Files, Section, join};
use super::limits::{LINK_BYTES_MAX, MANIFESTS_MAX};
use super::source::{FoundBlob, FoundManifest, Source};
use crate::oci::{Algorithm, Digest, Tag};

/// Where the data may begin: below the folder that distribution is set to, or further down.
const ROOTS: [&str; 3] = ["docker/registry/v2", "registry/v2", ""];
const REPOSITORIES: &str = "repositories";
const MANIFESTS: &str = "_manifests";

/// The data folder of distribution.
pub(super) struct Distribution {
    files: Box<dyn Files>,
    /// The folder with `repositories` and `blobs`.
    root: String,
}

impl Distribution {
    /// The folder with the data below the top of the tree; `None` if there is none.
    pub(super) async fn find(files: &dyn Files) -> Result<Option<String>> {
        for root in ROOTS {
            let names = files.list(root).await?;
            let has = |wanted: &str| names.iter().any(|name| name.text == wanted);
            if has(REPOSITORIES) && has("blobs") {
                return Ok(Some(root.to_owned()));
            }
        }
        Ok(None)
    }

    /// The data in the folder that [`Distribution::find`] names.
    pub(super) fn open(files: Box<dyn Files>, root: String) -> Self {
        Self { files, root }
    }

    /// The folder with the manifests of a repository.
    fn manifests(&self, repository: &str) -> String {
        join(&self.root, &format!("{REPOSITORIES}/{repository}/{MANIFESTS}"))
    }

    async fn content(&self, digest: &Digest) -> Result<Section> {
        let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
        let path = join(&self.root, &format!("blobs/{algorithm}/{}/{hex}/data", &hex[..2]));
        let found = self.files.find(&path).await?;
        found.ok_or_else(|| Error::absent(format!("{digest} is not there: there is no file {path}")))
    }
}

#[async_trait]
impl Source for Distribution {
    async fn repositories(&self) -> Result<Vec<String>> {
        files::repositories_with(&*self.files, &join(&self.root, REPOSITORIES), MANIFESTS).await
    }

    async fn tags(&self, repository: &str) -> Result<Vec<Tag>> {
        let names = self.files.list(&format!("{}/tags", self.manifests(repository))).await?;
        Ok(names.iter().filter_map(|name| name.text.parse().ok()).collect())
    }

    /// The revisions: a manifest that was deleted has its folder still, but no link in the folder.
    async fn listed(&self, repository: &str) -> Result<Vec<Digest>> {
        let mut listed = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let folder = format!("{}/revisions/{}", self.manifests(repository), algorithm.as_str());
            for name in self.files.list(&folder).await? {
                let Ok(digest) = format!("{}:{}", algorithm.as_str(), name.text).parse::<Digest>() else { continue };
                if self.files.find(&format!("{folder}/{}/link", name.text)).await?.is_some() {
                    listed.push(digest);
                }
            }
        }
        match listed.len() {
            0..=MANIFESTS_MAX => Ok(listed),
            _ => Err(Error::refused(format!("{repository} has more than {MANIFESTS_MAX} manifests"))),
        }
    }

    async fn resolve(&self, repository: &str, tag: &Tag) -> Result<Digest> {
        let path = format!("{}/tags/{tag}/current/link", self.manifests(repository));
        let Some(link) = files::read(&*self.files, &path, LINK_BYTES_MAX).await? else {
            return Err(Error::absent(format!("the tag leads nowhere: there is no file {path}")));
        };
        let text = String::from_utf8_lossy(&link);
        text.trim().parse().map_err(|error| Error::refused(format!("{path} holds no digest: {error}")))
    }

    async fn manifest(&self, _: &str, digest: &Digest, limit_bytes: u64) -> Result<FoundManifest> {
        let bytes = self.content(digest).await?.read(&format!("the manifest {digest}"), limit_bytes).await?;
        Ok(FoundManifest { bytes, media_type: None })
    }

    async fn referrers(&self, _: &str, _: &Digest) -> Result<Vec<Digest>> {
        Ok(Vec::new())
    }

    async fn blob(&self, _: &str, digest: &Digest, start: u64) -> Result<FoundBlob> {
        self.content(digest).await?.blob(start).await
    }
}
