//! Warnings: texts that an administrator attaches to a repository or a tag, shown to clients that
//! pull from there (distribution-spec, "Warnings").

use std::sync::Arc;

use super::error::InvalidWarning;
use super::facts::Facts;
use super::limits::WARNING_BYTES_MAX;
use super::{Limits, Result, layout};
use crate::oci::{RepositoryName, Tag};
use crate::store::{self, When};

/// The warnings of all repositories and tags.
#[derive(Clone)]
pub(super) struct Warnings {
    pub facts: Facts,
    pub limits: Arc<Limits>,
}

impl Warnings {
    /// The warnings of a repository, and of one of its tags: one key read each. When the limits
    /// turn warnings off, the list is empty and no key is read.
    pub(super) async fn get(&self, repository: &RepositoryName, tag: Option<&Tag>) -> Result<Vec<String>> {
        if !self.limits.warnings {
            return Ok(Vec::new());
        }
        let mut warnings = Vec::new();
        for key in [Some(layout::warning(repository, None)), tag.map(|tag| layout::warning(repository, Some(tag)))] {
            if let Some(key) = key
                && let Some(entry) = self.facts.keys.get(&key).await?
            {
                let corrupt =
                    |error| store::Error::corrupt(format!("cannot read the value of key {key}")).because(error);
                warnings.push(String::from_utf8(entry.value.to_vec()).map_err(corrupt)?);
            }
        }
        Ok(warnings)
    }

    /// Attaches a warning to a repository or to one of its tags, and replaces an earlier warning.
    ///
    /// # Errors
    /// [`Error::WarningInvalid`](super::Error::WarningInvalid).
    pub(super) async fn set(&self, repository: &RepositoryName, tag: Option<&Tag>, text: &str) -> Result<()> {
        if text.is_empty() || text.len() > WARNING_BYTES_MAX {
            return Err(InvalidWarning::Length { most: WARNING_BYTES_MAX }.into());
        }
        if !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(InvalidWarning::Characters.into());
        }
        let key = layout::warning(repository, tag);
        Ok(self.facts.keys.put(&key, text.as_bytes().to_vec().into(), When::Always).await.map(drop)?)
    }

    /// Removes a warning. Succeeds also when there is no warning.
    pub(super) async fn delete(&self, repository: &RepositoryName, tag: Option<&Tag>) -> Result<()> {
        Ok(self.facts.keys.delete(&layout::warning(repository, tag)).await?)
    }
}
