//! A site that `eyot export` wrote for a web server.
//!
//! ```text
//! repositories/<name>/_manifests/<tag or digest>          nginx, Caddy: a link to a folder
//! manifests/<entry>/<entry>                               the folder, with the manifest
//! repositories/<name>/_manifests/<tag or digest>/headed   Apache: HTTP headers and the manifest
//! blobs/<algorithm>/<hex>
//! ```
//!
//! An `<entry>` is `<digest>,<type>,<subtype>`, with the two halves of the media type.

use async_trait::async_trait;

use super::error::{Error, Result};
use super::files::{self, Files, join};
use super::limits::{LIST_BYTES_MAX, MANIFESTS_MAX};
use super::source::{FoundBlob, FoundManifest, Source};
use crate::oci::{Digest, Tag};

const REPOSITORIES: &str = "repositories";
const MANIFESTS: &str = "_manifests";
const HEADED: &str = "headed";
/// The most bytes of the headers in front of a manifest.
const HEADERS_BYTES_MAX: u64 = 4096;

/// A site that `eyot export` wrote.
pub(super) struct ExportedSite {
    files: Box<dyn Files>,
}

/// A manifest of a site.
struct Entry {
    digest: Digest,
    media_type: String,
    manifest: FoundManifest,
}

impl ExportedSite {
    /// Whether the files are such a site.
    pub(super) async fn is_one(files: &dyn Files) -> Result<bool> {
        let names = files.list("").await?;
        Ok([REPOSITORIES, "blobs", "catalog"].iter().all(|wanted| names.iter().any(|name| name.text == *wanted)))
    }

    pub(super) fn open(files: Box<dyn Files>) -> Self {
        Self { files }
    }

    /// The names in the folder with the manifests of a repository.
    async fn references(&self, repository: &str) -> Result<Vec<String>> {
        let names = self.files.list(&format!("{REPOSITORIES}/{repository}/{MANIFESTS}")).await?;
        if names.len() > MANIFESTS_MAX {
            return Err(Error::refused(format!("{repository} has more than {MANIFESTS_MAX} tags and manifests")));
        }
        Ok(names.into_iter().map(|name| name.text).collect())
    }

    /// The manifest of a tag or digest.
    async fn entry(&self, repository: &str, reference: &str, limit_bytes: u64) -> Result<Entry> {
        let folder = format!("{REPOSITORIES}/{repository}/{MANIFESTS}/{reference}");
        let wrong = |why: &str| Error::refused(format!("{folder}: {why}"));
        if let Some(bytes) = files::read(&*self.files, &join(&folder, HEADED), limit_bytes + HEADERS_BYTES_MAX).await? {
            let end =
                bytes.windows(2).position(|pair| pair == b"\n\n").ok_or_else(|| wrong("headers without an end"))?;
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let header = |wanted: &str| {
                let mut lines = head.lines().filter_map(|line| line.split_once(": "));
                lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
            };
            let digest = header("Docker-Content-Digest").and_then(|digest| digest.parse().ok());
            let digest = digest.ok_or_else(|| wrong("the headers name no digest"))?;
            let media_type = header("Content-Type").unwrap_or_default();
            let manifest = FoundManifest { bytes: bytes.slice(end + 2..), media_type: None };
            return Ok(Entry { digest, media_type, manifest });
        }
        for name in self.files.list(&folder).await? {
            let mut parts = name.text.splitn(2, ',');
            let digest = parts.next().and_then(|digest| digest.parse().ok());
            let (Some(digest), Some(media_type)) = (digest, parts.next()) else { continue };
            let path = join(&folder, &name.text);
            let Some(bytes) = files::read(&*self.files, &path, limit_bytes).await? else { continue };
            let manifest = FoundManifest { bytes, media_type: None };
            return Ok(Entry { digest, media_type: media_type.replacen(',', "/", 1), manifest });
        }
        Err(Error::absent(format!("{reference} is not there: there is no manifest in {folder}")))
    }
}

#[async_trait]
impl Source for ExportedSite {
    async fn repositories(&self) -> Result<Vec<String>> {
        files::repositories_with(&*self.files, REPOSITORIES, MANIFESTS).await
    }

    async fn tags(&self, repository: &str) -> Result<Vec<Tag>> {
        Ok(self.references(repository).await?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    async fn listed(&self, repository: &str) -> Result<Vec<Digest>> {
        Ok(self.references(repository).await?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    async fn resolve(&self, repository: &str, tag: &Tag) -> Result<Digest> {
        Ok(self.entry(repository, tag.as_str(), LIST_BYTES_MAX).await?.digest)
    }

    async fn manifest(&self, repository: &str, digest: &Digest, limit_bytes: u64) -> Result<FoundManifest> {
        let Entry { media_type, manifest, .. } = self.entry(repository, digest.as_str(), limit_bytes).await?;
        Ok(FoundManifest { media_type: Some(media_type), ..manifest })
    }

    async fn referrers(&self, _: &str, _: &Digest) -> Result<Vec<Digest>> {
        Ok(Vec::new())
    }

    async fn blob(&self, _: &str, digest: &Digest, start: u64) -> Result<FoundBlob> {
        let path = format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex());
        let found = self.files.find(&path).await?;
        let section = found.ok_or_else(|| Error::absent(format!("{digest} is not there: there is no file {path}")))?;
        section.blob(start).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use futures_executor::block_on;

    use super::*;
    use crate::import::folder::Folder;
    use crate::oci::Algorithm;

    #[test]
    fn both_forms_of_manifests_are_read() {
        let (text, media_type) = ("a manifest\n\n", "application/vnd.oci.image.index.v1+json");
        let digest = Algorithm::Sha512.digest(text.as_bytes());
        let entry = format!("{digest},{}", media_type.replace('/', ","));
        let folder = tempfile::tempdir().unwrap();
        let write = |path: String, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("catalog".into(), "{}");
        write("blobs/sha256/x".into(), "");
        write(format!("manifests/{entry}/{entry}"), text);
        let length = text.len();
        let head = format!("Content-Type: {media_type}\nDocker-Content-Digest: {digest}\nContent-Length: {length}\n\n");
        for reference in ["v1", digest.as_str()] {
            write(format!("repositories/apache/_manifests/{reference}/headed"), &format!("{head}{text}"));
            fs::create_dir_all(folder.path().join("repositories/team/nginx/_manifests")).unwrap();
            let target = format!("../../../../manifests/{entry}");
            symlink(target, folder.path().join(format!("repositories/team/nginx/_manifests/{reference}"))).unwrap();
        }
        let files: Box<dyn Files> = Box::new(Folder::open(folder.path()).unwrap());
        assert!(block_on(ExportedSite::is_one(&*files)).unwrap());
        let site = ExportedSite::open(files);
        assert_eq!(block_on(site.repositories()).unwrap(), ["apache", "team/nginx"]);
        for repository in ["apache", "team/nginx"] {
            let tag: Tag = "v1".parse().unwrap();
            assert_eq!(block_on(site.tags(repository)).unwrap()[..], *std::slice::from_ref(&tag));
            assert_eq!(block_on(site.listed(repository)).unwrap()[..], *std::slice::from_ref(&digest));
            assert_eq!(block_on(site.resolve(repository, &tag)).unwrap(), digest);
            let found = block_on(site.manifest(repository, &digest, 1000)).unwrap();
            assert_eq!(
                (&*found.bytes, found.media_type.as_deref()),
                (text.as_bytes(), Some(media_type)),
                "{repository}"
            );
            assert!(matches!(block_on(site.resolve(repository, &"v2".parse().unwrap())), Err(Error::Absent(_))));
        }
    }
}
