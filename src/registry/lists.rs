//! Lists: a repository's tags and manifests, and the repositories (distribution-spec, "Listing
//! tags"), in byte order.

use std::sync::Arc;

use super::facts::Facts;
use super::layout::Prefix;
use super::limits::LISTS_PER_PAGE_MAX;
use super::{Error, Limits, Result, layout};
use crate::oci::RepositoryName;

/// The requested part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// The largest number of entries. The limit `page_entries_max` applies when the number is
    /// absent or larger.
    pub count: Option<usize>,
    /// The page begins after this entry, which need not exist (any more).
    pub last: Option<String>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The entries, in byte order.
    pub entries: Vec<String>,
    /// The largest number of entries that the page could have.
    pub count: usize,
    /// The value of [`PageRequest::last`] for the next page; `None` on the last page. A page may
    /// have fewer than `count` entries without being the last one.
    pub next: Option<String>,
}

/// The lists of a registry.
#[derive(Clone)]
pub(super) struct Lists {
    pub facts: Facts,
    pub limits: Arc<Limits>,
}

impl Lists {
    /// A repository's tags.
    ///
    /// # Errors
    /// [`Error::NameUnknown`] when no manifest was ever pushed to the repository.
    pub(super) async fn tags(&self, repository: &RepositoryName, request: &PageRequest) -> Result<Page> {
        let prefix = layout::tags(repository);
        let entry = |key: &str| key.strip_prefix(prefix.as_str()).map(str::to_owned);
        let page = self.page(&prefix, request, entry, |_| true).await?;
        if page.entries.is_empty() && self.facts.keys.get(&layout::repository(repository)).await?.is_none() {
            return Err(Error::NameUnknown(repository.clone()));
        }
        Ok(page)
    }

    /// The digests of a repository's manifests.
    pub(super) async fn manifests(&self, repository: &RepositoryName, request: &PageRequest) -> Result<Page> {
        let prefix = layout::manifests(repository);
        let entry = |key: &str| key.strip_prefix(prefix.as_str()).map(str::to_owned);
        self.page(&prefix, request, entry, |_| true).await
    }

    /// The repositories to which manifests were pushed, out of those that are `visible`. The number
    /// of names that one page looks at is limited, so a caller who may see few of many repositories
    /// gets short pages.
    pub(super) async fn repositories(
        &self,
        request: &PageRequest,
        visible: impl Fn(&RepositoryName) -> bool,
    ) -> Result<Page> {
        let entry = |key: &str| layout::repository_name(key).map(str::to_owned);
        let is_visible = |name: &str| name.parse().is_ok_and(|name| visible(&name));
        self.page(&layout::repositories(), request, entry, is_visible).await
    }

    async fn page(
        &self,
        prefix: &Prefix,
        request: &PageRequest,
        entry: impl Fn(&str) -> Option<String>,
        visible: impl Fn(&str) -> bool,
    ) -> Result<Page> {
        let most = self.limits.page_entries_max;
        let count = request.count.map_or(most, |count| count.min(most));
        let mut page = Page { entries: Vec::new(), count, next: None };
        if count == 0 {
            return Ok(page);
        }
        let mut after = request.last.as_ref().map(|last| layout::listed_after(prefix, last).into_string());
        // Ask for one entry more than the page takes, to know whether there is another page.
        let mut wanted = count + 1;
        for _ in 0..LISTS_PER_PAGE_MAX {
            let keys = self.facts.keys.list(prefix, after.as_deref(), wanted).await?;
            for name in keys.iter().filter_map(|key| entry(key)) {
                if page.entries.len() == count {
                    return Ok(page);
                }
                if visible(&name) {
                    page.entries.push(name.clone());
                }
                page.next = Some(name);
            }
            if keys.len() < wanted {
                return Ok(Page { next: None, ..page });
            }
            after = keys.into_iter().next_back();
            wanted = most + 1;
        }
        Ok(page)
    }
}
