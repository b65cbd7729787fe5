//! Lists of an upstream: tags, and the referrers of a manifest.

use http::header::{ACCEPT, LINK};
use http::{HeaderValue, Method};
use serde::Deserialize;

use super::client::{Asked, Client, GET_TIMEOUT};
use super::error::{Error, Kind};
use super::{Result, answer};
use crate::oci::manifest::OCI_INDEX;
use crate::oci::{Descriptor, Digest, Reference, RepositoryName, Tag};

/// The most bytes of a list that are read.
const LIST_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A part of an upstream's list of tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPage {
    /// The tags, in the upstream's order.
    pub tags: Vec<Tag>,
    /// Whether the list continues after the last of these tags.
    pub continues: bool,
}

#[derive(Deserialize)]
struct TagList {
    // Some registries write `null` for an empty list.
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

impl Client {
    /// At most `count` of a repository's tags after `last`. Texts that are not tags are left out.
    ///
    /// # Errors
    /// [`Error`], with the class of the trouble.
    pub async fn tags(&self, repository: &RepositoryName, count: usize, last: Option<&str>) -> Result<TagPage> {
        let count = count.to_string();
        let query: Vec<_> = std::iter::once(("n", count.as_str())).chain(last.map(|last| ("last", last))).collect();
        let url = self.upstream().endpoint(&format!("v2/{repository}/tags/list"), &query);
        let asked = Asked { method: Method::GET, url, repository, headers: Vec::new(), timeout: GET_TIMEOUT };
        let (head, body) = self.send(asked).await?.into_parts();
        let bytes = self.collect(body, LIST_BYTES_MAX).await?;
        let list: TagList = self.parsed(&bytes, "the list of tags")?;
        let tags = list.tags.unwrap_or_default().iter().filter_map(|tag| tag.parse().ok()).collect();
        let continues = answer::text(&head.headers, &LINK).is_some_and(|link| link.contains("rel=\"next\""));
        Ok(TagPage { tags, continues })
    }

    /// The descriptors of the manifests that refer to `subject`, from the first page of the
    /// referrers API or, where the upstream has no such API, from the fallback tag
    /// (distribution-spec, "Unavailable Referrers API").
    ///
    /// # Errors
    /// [`Error`], with the class of the trouble. A subject without referrers gives an empty list.
    pub async fn referrers(&self, repository: &RepositoryName, subject: &Digest) -> Result<Vec<Descriptor>> {
        let url = self.upstream().endpoint(&format!("v2/{repository}/referrers/{subject}"), &[]);
        let headers = vec![(ACCEPT, HeaderValue::from_static(OCI_INDEX))];
        let asked = Asked { method: Method::GET, url, repository, headers, timeout: GET_TIMEOUT };
        let bytes = match self.send(asked).await {
            Ok(response) => self.collect(response.into_body(), LIST_BYTES_MAX).await?,
            Err(Error { kind: Kind::Unknown, .. }) => {
                let tag = format!("{}-{}", subject.algorithm().as_str(), subject.hex());
                let tag: Tag = tag.parse().map_err(|_| self.error(Kind::Unknown))?;
                match self.manifest(repository, &Reference::Tag(tag), LIST_BYTES_MAX).await {
                    Ok(fetched) => fetched.bytes,
                    Err(error) if error.kind.is_absence() => return Ok(Vec::new()),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        let index: Index = self.parsed(&bytes, "the list of referrers")?;
        Ok(index.manifests)
    }

    fn parsed<T: for<'a> Deserialize<'a>>(&self, bytes: &[u8], what: &str) -> Result<T> {
        let unreadable = |error: serde_json::Error| self.error(Kind::Invalid(format!("{what}: {error}")));
        serde_json::from_slice(bytes).map_err(unreadable)
    }
}
