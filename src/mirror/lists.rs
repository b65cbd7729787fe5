//! Lists of mirrored repositories: tags and referrers. The lists are the upstream's. While the
//! upstream fails, the lists have what is here.

use super::{MirroredRepository, Result};
use crate::oci::{Descriptor, Digest};
use crate::registry::{self, Page, PageRequest};

/// A list of a mirrored repository.
#[derive(Debug)]
pub struct Listed<T> {
    /// The list, or a page of the list.
    pub list: T,
    /// Why the list may be incomplete: the upstream was not asked or did not answer.
    pub warning: Option<String>,
}

impl MirroredRepository {
    /// A page of the upstream's tags or, while the upstream fails, of the tags that are here.
    ///
    /// # Errors
    /// [`registry::Error::NameUnknown`] when the upstream does not have the repository; the error of
    /// the upstream when no tag is here.
    pub async fn tags(&self, request: &PageRequest) -> Result<Listed<Page>> {
        self.check()?;
        let most = self.mirror.registry.limits().page_entries_max;
        let count = request.count.map_or(most, |count| count.min(most));
        if count == 0 {
            return Ok(Listed { list: Page { entries: Vec::new(), count, next: None }, warning: None });
        }
        let error = match self.mirror.client.tags(&self.remote, count, request.last.as_deref()).await {
            Ok(page) => {
                let mut entries: Vec<String> = page.tags.iter().map(|tag| tag.as_str().to_owned()).collect();
                // An upstream without pages sends all tags at once.
                let continues = page.continues || entries.len() > count;
                entries.truncate(count);
                let next = entries.last().cloned().filter(|_| continues);
                return Ok(Listed { list: Page { entries, count, next }, warning: None });
            }
            Err(error) if error.kind.is_absence() => {
                return Err(registry::Error::NameUnknown(self.local.clone()).into());
            }
            Err(error) => error,
        };
        self.mirror.troubles.note(&error).await;
        match self.mirror.registry.tags(&self.local, request).await {
            Ok(list) => Ok(Listed { list, warning: Some(format!("incomplete: {error}")) }),
            Err(registry::Error::NameUnknown(_)) => Err(error.into()),
            Err(other) => Err(other.into()),
        }
    }

    /// The upstream's referrers of `subject`, which are none while the upstream fails. The caller
    /// adds the referrers that are here.
    ///
    /// # Errors
    /// Only for a repository that is not mirrored.
    pub async fn referrers(&self, subject: &Digest) -> Result<Listed<Vec<Descriptor>>> {
        self.check()?;
        match self.mirror.client.referrers(&self.remote, subject).await {
            Ok(list) => Ok(Listed { list, warning: None }),
            Err(error) if error.kind.is_absence() => Ok(Listed { list: Vec::new(), warning: None }),
            Err(error) => {
                self.mirror.troubles.note(&error).await;
                Ok(Listed { list: Vec::new(), warning: Some(format!("incomplete: {error}")) })
            }
        }
    }
}
