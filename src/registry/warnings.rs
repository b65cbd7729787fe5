//! Warnings: texts that an administrator attaches to a repository or a tag, shown to whoever pulls it (distribution-spec,
//! "Warnings").

use super::limits::WARNING_BYTES_MAX;
use super::{Error, Registry, Result, layout};
use crate::oci::{RepositoryName, Tag};
use crate::store::{self, When};

impl Registry {
    /// The warnings of a repository, and of one of its tags: one key read each. None are read where the limits say that there
    /// are none.
    pub async fn warnings(&self, repository: &RepositoryName, tag: Option<&Tag>) -> Result<Vec<String>> {
        if !self.limits.warnings {
            return Ok(Vec::new());
        }
        let mut warnings = Vec::new();
        for key in [Some(layout::warning(repository, None)), tag.map(|tag| layout::warning(repository, Some(tag)))] {
            if let Some(key) = key
                && let Some(entry) = self.keys.get(&key).await?
            {
                let corrupt = |_| store::Error::Corrupt(format!("the value of {key}"));
                warnings.push(String::from_utf8(entry.value.to_vec()).map_err(corrupt)?);
            }
        }
        Ok(warnings)
    }

    /// Attaches a warning to a repository or to one of its tags, in place of the one before.
    ///
    /// # Errors
    /// [`Error::WarningInvalid`] when the text is empty, too long, or holds what a header cannot.
    pub async fn set_warning(&self, repository: &RepositoryName, tag: Option<&Tag>, text: &str) -> Result<()> {
        if text.is_empty() || text.len() > WARNING_BYTES_MAX {
            return Err(Error::WarningInvalid(format!("a warning has 1 to {WARNING_BYTES_MAX} bytes")));
        }
        if !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(Error::WarningInvalid("a warning is one line of printable ASCII".into()));
        }
        let key = layout::warning(repository, tag);
        Ok(self.keys.put(&key, text.as_bytes().to_vec().into(), When::Always).await.map(drop)?)
    }

    /// Takes a warning away; one that is not there is no error.
    pub async fn delete_warning(&self, repository: &RepositoryName, tag: Option<&Tag>) -> Result<()> {
        Ok(self.keys.delete(&layout::warning(repository, tag)).await?)
    }
}
