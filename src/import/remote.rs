//! A repository of another registry.

use std::str::FromStr;

use async_trait::async_trait;

use super::error::{Error, Result};
use super::limits::{MANIFESTS_MAX, TAGS_PER_REQUEST};
use super::source::{FoundBlob, FoundManifest, Source};
use crate::oci::{Digest, Reference, RepositoryName, Tag};
use crate::upstream::{Client, Kind, ManifestHead};

/// The address of a repository in another registry: `docker://quay.io/team/app`, with `:TAG` for one
/// image alone. `http://` and `https://` name the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteAddress {
    /// The protocol: `https`, or `http` where the address says so.
    pub scheme: &'static str,
    /// The host, with the port if the address has one.
    pub host: String,
    /// The repository's name, as the address writes it.
    pub repository: String,
    /// The only tag to take.
    pub tag: Option<Tag>,
}

/// A repository of another registry. Manifests are pulled as every client pulls them.
pub struct Remote {
    client: Client,
    repository: RepositoryName,
    tag: Option<Tag>,
}

impl RemoteAddress {
    /// Whether a text is meant as an address, and not as the path of a file.
    pub fn is_one(text: &str) -> bool {
        ["docker://", "https://", "http://"].iter().any(|scheme| text.starts_with(scheme))
    }
}

impl FromStr for RemoteAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::refused(format!("{text}: want docker://HOST/REPOSITORY or docker://HOST/REPOSITORY:TAG"));
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let scheme = match scheme {
            "docker" | "https" => "https",
            "http" => "http",
            _ => return Err(wrong()),
        };
        let (host, name) = rest.split_once('/').ok_or_else(wrong)?;
        let (repository, tag) = match name.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag.parse().map_err(|_| wrong())?)),
            None => (name, None),
        };
        repository.parse::<RepositoryName>().map_err(|_| wrong())?;
        if host.is_empty() || host.contains('@') {
            return Err(wrong());
        }
        Ok(Self { scheme, host: host.to_owned(), repository: repository.to_owned(), tag })
    }
}

impl Remote {
    /// The repository with this name in the registry of `client`; with `tag`, only the image with
    /// that tag.
    ///
    /// # Errors
    /// [`Error::Refused`] when the registry cannot have a repository with the name.
    pub fn new(client: Client, repository: &str, tag: Option<Tag>) -> Result<Self> {
        let found = client.upstream().repository(repository);
        let repository =
            found.ok_or_else(|| Error::refused(format!("{repository} is not the name of a repository")))?;
        Ok(Self { client, repository, tag })
    }

    fn absent_or(&self, error: crate::upstream::Error, name: &str) -> Error {
        match error.kind {
            Kind::Unknown | Kind::Denied => Error::absent(format!("{name}: {error}")),
            _ => error.into(),
        }
    }
}

#[async_trait]
impl Source for Remote {
    async fn repositories(&self) -> Result<Vec<String>> {
        Ok(vec![self.repository.to_string()])
    }

    async fn tags(&self, _: &str) -> Result<Vec<Tag>> {
        if let Some(tag) = &self.tag {
            return Ok(vec![tag.clone()]);
        }
        let mut tags: Vec<Tag> = Vec::new();
        loop {
            let last = tags.last().map(Tag::as_str);
            let page = self.client.tags(&self.repository, TAGS_PER_REQUEST, last).await;
            let page = page.map_err(|error| self.absent_or(error, "the list of tags"))?;
            // A registry that ignores `last` gives the same page again.
            let is_new = page.tags.last().is_some_and(|tag| tags.last() != Some(tag));
            tags.extend(page.tags);
            if !page.continues || !is_new {
                return Ok(tags);
            }
            if tags.len() > MANIFESTS_MAX {
                return Err(Error::refused(format!("{} has more than {MANIFESTS_MAX} tags", self.repository)));
            }
        }
    }

    async fn listed(&self, _: &str) -> Result<Vec<Digest>> {
        Ok(Vec::new())
    }

    async fn resolve(&self, _: &str, tag: &Tag) -> Result<Digest> {
        let reference = Reference::Tag(tag.clone());
        let name = format!("the tag {tag}");
        match self.client.head_manifest(&self.repository, &reference, None).await {
            Ok(ManifestHead::Current { digest: Some(digest), .. }) => return Ok(digest),
            Ok(_) => {}
            Err(error) => return Err(self.absent_or(error, &name)),
        }
        // A registry that does not state digests has to send the manifest.
        let fetched = self.client.manifest(&self.repository, &reference, super::limits::LIST_BYTES_MAX).await;
        Ok(fetched.map_err(|error| self.absent_or(error, &name))?.digest)
    }

    async fn manifest(&self, _: &str, digest: &Digest, limit_bytes: u64) -> Result<FoundManifest> {
        let reference = Reference::Digest(digest.clone());
        let fetched = self.client.manifest(&self.repository, &reference, limit_bytes).await;
        let fetched = fetched.map_err(|error| self.absent_or(error, &format!("the manifest {digest}")))?;
        Ok(FoundManifest { bytes: fetched.bytes, media_type: fetched.media_type })
    }

    async fn referrers(&self, _: &str, subject: &Digest) -> Result<Vec<Digest>> {
        let referrers = self.client.referrers(&self.repository, subject).await;
        let referrers = referrers.map_err(|error| self.absent_or(error, &format!("the referrers of {subject}")))?;
        if !referrers.is_complete {
            return Err(Error::refused(format!("the list of referrers of {subject} is too long to be read")));
        }
        Ok(referrers.entries.into_iter().map(|descriptor| descriptor.digest).collect())
    }

    async fn blob(&self, _: &str, digest: &Digest, start: u64) -> Result<FoundBlob> {
        let part = self.client.blob(&self.repository, digest, start).await;
        let part = part.map_err(|error| self.absent_or(error, &format!("the blob {digest}")))?;
        Ok(FoundBlob { start: part.start, size: part.size, body: part.body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parsed = |text: &str| text.parse::<RemoteAddress>();
        let address = parsed("docker://quay.io:8443/team/app:v1").unwrap();
        let tag = Some("v1".parse().unwrap());
        let expected =
            RemoteAddress { scheme: "https", host: "quay.io:8443".into(), repository: "team/app".into(), tag };
        assert_eq!(address, expected);
        assert_eq!(parsed("http://127.0.0.1:5000/app").unwrap().scheme, "http");
        for wrong in [
            "docker://quay.io",
            "docker:///app",
            "ftp://quay.io/app",
            "docker://me:x@quay.io/app",
            "docker://q.io/App",
            "docker://q.io/a:b c",
        ] {
            assert!(parsed(wrong).unwrap_err().to_string().contains("want docker://HOST/REPOSITORY"), "{wrong}");
        }
    }
}
