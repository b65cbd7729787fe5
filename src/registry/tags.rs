//! Lists: a repository's tags, and the repositories (distribution-spec, "Listing tags"), in byte order.

use super::{Error, Registry, Result, layout};
use crate::oci::RepositoryName;

/// Which part of a list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// At most so many entries; the limit decides where nothing or more is asked.
    pub count: Option<usize>,
    /// Only what sorts after this, which need not exist (any more).
    pub last: Option<String>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries, in byte order.
    pub entries: Vec<String>,
    /// How many entries the page was to have.
    pub count: usize,
    /// Whether there are more.
    pub more: bool,
}

impl Registry {
    /// A repository's tags.
    ///
    /// # Errors
    /// [`Error::NameUnknown`] when no manifest was ever pushed to the repository.
    pub async fn tags(&self, repository: &RepositoryName, request: &PageRequest) -> Result<Page> {
        let prefix = layout::tags(repository);
        let page = self.page(&prefix, request, |key| key.strip_prefix(prefix.as_str())).await?;
        if page.entries.is_empty() && self.keys.get(&layout::repository(repository)).await?.is_none() {
            return Err(Error::NameUnknown(repository.clone()));
        }
        Ok(page)
    }

    /// The repositories to which manifests were pushed.
    pub async fn repositories(&self, request: &PageRequest) -> Result<Page> {
        self.page(layout::REPOSITORIES, request, layout::repository_name).await
    }

    async fn page(&self, prefix: &str, request: &PageRequest, entry: impl Fn(&str) -> Option<&str>) -> Result<Page> {
        let most = self.limits.page_entries_max;
        let count = request.count.map_or(most, |count| count.min(most));
        if count == 0 {
            return Ok(Page { entries: Vec::new(), count, more: false });
        }
        // Names are listed by their keys, in which `!` follows a repository's name.
        let terminator = if prefix == layout::REPOSITORIES { "!" } else { "" };
        let after = request.last.as_ref().map(|last| format!("{prefix}{last}{terminator}"));
        let keys = self.keys.list(prefix, after.as_deref(), count + 1).await?;
        let more = keys.len() > count;
        let entries = keys.iter().take(count).filter_map(|key| entry(key)).map(str::to_owned).collect();
        Ok(Page { entries, count, more })
    }
}
