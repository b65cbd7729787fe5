//! Lists of an upstream: tags, and the referrers of a manifest.

use http::header::{ACCEPT, LINK};
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::client::{Asked, Client};
use super::error::{Error, Kind};
use super::{Result, answer};
use crate::oci::{Descriptor, Digest, Reference, RepositoryName, Tag};

/// The most bytes of a page of a list that are read, and of all pages of a list of referrers.
const LIST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The most pages of one list that are read.
const LIST_PAGES_MAX: usize = 50;
/// The media types of lists: referrers are an index, and tags are plain JSON.
const LIST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/json";
/// How many tags one page is asked to have.
const TAGS_PER_PAGE: usize = 1000;

/// A part of an upstream's list of tags.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TagPage {
    /// The tags, in the upstream's order.
    pub tags: Vec<Tag>,
    /// Whether the list continues after the last of these tags.
    pub continues: bool,
}

/// A list of an upstream, read page by page.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WholeList<T> {
    /// The entries, in the upstream's order.
    pub entries: Vec<T>,
    /// Whether the list was read to its end. A list over a limit is not.
    pub is_complete: bool,
}

/// The body of an answer to `tags/list`.
#[derive(Deserialize)]
struct TagList {
    // Some registries write `null` for an empty list.
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// One page of a list.
struct ListPage<L> {
    list: L,
    bytes: u64,
    /// The URL of the next page, which the upstream gives in the header `Link`.
    next: Option<Url>,
}

impl TagList {
    /// The tags. Texts that are not tags are left out.
    fn tags(self) -> Vec<Tag> {
        self.tags.unwrap_or_default().iter().filter_map(|tag| tag.parse().ok()).collect()
    }
}

impl Client {
    /// At most `count` of a repository's tags after `last`. Texts that are not tags are left out.
    ///
    /// # Errors
    /// [`Error`], with the class of the trouble.
    pub async fn tags(&self, repository: &RepositoryName, count: usize, last: Option<&str>) -> Result<TagPage> {
        let page: ListPage<TagList> = self.list_page(self.tags_url(repository, count, last), repository).await?;
        Ok(TagPage { continues: page.next.is_some(), tags: page.list.tags() })
    }

    /// All tags of a repository. No page is read after the first `bytes_max` bytes.
    ///
    /// # Errors
    /// [`Error`], with the class of the trouble.
    pub async fn all_tags(&self, repository: &RepositoryName, bytes_max: u64) -> Result<WholeList<Tag>> {
        let first = self.tags_url(repository, TAGS_PER_PAGE, None);
        self.whole_list(first, repository, bytes_max, TagList::tags).await
    }

    /// The descriptors of the manifests that refer to `subject`, from the referrers API or, where the
    /// upstream has no such API, from the fallback tag (distribution-spec, "Unavailable Referrers
    /// API").
    ///
    /// # Errors
    /// [`Error`], with the class of the trouble. A subject without referrers gives an empty list.
    pub async fn referrers(&self, repository: &RepositoryName, subject: &Digest) -> Result<WholeList<Descriptor>> {
        let first = self.upstream().endpoint(&format!("v2/{repository}/referrers/{subject}"), &[]);
        let manifests = |index: Index| index.manifests;
        match self.whole_list(first, repository, LIST_BYTES_MAX, manifests).await {
            Err(Error { kind: Kind::Unknown, .. }) => {}
            listed => return listed,
        }
        let tag = format!("{}-{}", subject.algorithm().as_str(), subject.hex());
        let entries = match tag.parse() {
            // A sha512 digest is too long for a tag.
            Err(_) => Vec::new(),
            Ok(tag) => match self.manifest(repository, &Reference::Tag(tag), LIST_BYTES_MAX).await {
                Ok(fetched) => self.parsed::<Index>(&fetched.bytes)?.manifests,
                Err(error) if error.kind.is_absence() => Vec::new(),
                Err(error) => return Err(error),
            },
        };
        Ok(WholeList { entries, is_complete: true })
    }

    fn tags_url(&self, repository: &RepositoryName, count: usize, last: Option<&str>) -> Url {
        let count = count.to_string();
        let query: Vec<_> = std::iter::once(("n", count.as_str())).chain(last.map(|last| ("last", last))).collect();
        self.upstream().endpoint(&format!("v2/{repository}/tags/list"), &query)
    }

    async fn whole_list<L: DeserializeOwned, T>(
        &self,
        first: Url,
        repository: &RepositoryName,
        bytes_max: u64,
        entries: impl Fn(L) -> Vec<T>,
    ) -> Result<WholeList<T>> {
        let mut list = WholeList { entries: Vec::new(), is_complete: false };
        let (mut url, mut bytes) = (first, 0);
        for _ in 0..LIST_PAGES_MAX {
            let page = self.list_page(url, repository).await?;
            list.entries.extend(entries(page.list));
            bytes += page.bytes;
            match page.next {
                None => {
                    list.is_complete = true;
                    break;
                }
                Some(_) if bytes >= bytes_max => break,
                Some(next) => url = next,
            }
        }
        Ok(list)
    }

    async fn list_page<L: DeserializeOwned>(&self, url: Url, repository: &RepositoryName) -> Result<ListPage<L>> {
        let mut asked = Asked::get(url.clone(), repository);
        asked.headers.push((ACCEPT, HeaderValue::from_static(LIST_TYPES)));
        let (head, body) = self.send(asked).await?.into_parts();
        let read = self.collect(body, LIST_BYTES_MAX).await?;
        let next = next_page(&head.headers).and_then(|next| url.join(next).ok());
        // Only the upstream's own host gets the login.
        if next.as_ref().is_some_and(|next| !self.upstream().is_own(next)) {
            return Err(self.error(Kind::Invalid("the next page of a list is on another host".into())));
        }
        Ok(ListPage { list: self.parsed(&read)?, bytes: read.len() as u64, next })
    }

    fn parsed<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        let unreadable = |error: serde_json::Error| self.error(Kind::Invalid(format!("a list: {error}")));
        serde_json::from_slice(bytes).map_err(unreadable)
    }
}

/// The target of the link to the next page (RFC 8288): `</v2/app/tags/list?last=b>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<&str> {
    let links = answer::text(headers, &LINK)?.split('<').filter_map(|link| link.split_once('>'));
    let is_next = |parameters: &str| {
        let mut parameters = parameters.trim_end_matches([',', ' ']).split(';').map(str::trim);
        parameters.any(|parameter| matches!(parameter, "rel=\"next\"" | "rel=next"))
    };
    links.into_iter().find(|(_, parameters)| is_next(parameters)).map(|(target, _)| target)
}
