//! What an import takes, and under which names.

use std::str::FromStr;

use crate::auth::{Pattern, TagPattern};
use crate::oci::name::{NameError, TagError};
use crate::oci::{RepositoryName, Tag};

/// What an import takes, and under which names.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The name of the source's only repository here, and the tag of its only image.
    pub target: Option<Target>,
    /// The text before the names of all repositories.
    pub prefix: Option<RepositoryName>,
    /// The repositories to take, by their names in the source; all if the list is empty.
    pub repositories: Vec<Pattern>,
    /// The tags to take, with the referrers of their images. All tags, and manifests without a tag,
    /// if the list is empty.
    pub tags: Vec<TagPattern>,
    /// Changes nothing, and reports what would be taken.
    pub dry_run: bool,
}

/// A name in this registry: `team/app` or `team/app:v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The repository.
    pub repository: RepositoryName,
    /// The tag.
    pub tag: Option<Tag>,
}

/// The text is not a name in this registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The part before the colon.
    #[error(transparent)]
    Repository(#[from] NameError),
    /// The part after the colon.
    #[error(transparent)]
    Tag(#[from] TagError),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (repository, tag) = match text.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag.parse()?)),
            None => (text, None),
        };
        Ok(Self { repository: repository.parse()?, tag })
    }
}

impl Options {
    pub(super) fn takes_tag(&self, tag: &Tag) -> bool {
        self.tags.is_empty() || self.tags.iter().any(|pattern| pattern.matches(tag.as_str()))
    }

    /// Whether the import takes a repository of the source. Patterns match only names that are
    /// valid here.
    pub(super) fn takes_repository(&self, name: &str) -> bool {
        let matches = |name: &RepositoryName| self.repositories.iter().any(|pattern| pattern.matches(name));
        self.repositories.is_empty() || name.parse().is_ok_and(|name| matches(&name))
    }

    /// The name here of a repository of the source.
    ///
    /// # Errors
    /// A text for the operator, when the source's name cannot be used.
    pub(super) fn name_here(&self, name: &str) -> Result<RepositoryName, String> {
        let name = match &self.target {
            Some(target) => target.repository.as_str(),
            None if name.is_empty() => {
                return Err("the source does not name the repository: give a name with --as NAME".into());
            }
            None => name,
        };
        let full = match &self.prefix {
            Some(prefix) => format!("{prefix}/{name}"),
            None => name.to_owned(),
        };
        full.parse().map_err(|error: NameError| format!("{full} is {error}; give another name with --as NAME"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_here() {
        let options = |target: Option<&str>, prefix: Option<&str>| Options {
            target: target.map(|target| target.parse().unwrap()),
            prefix: prefix.map(|prefix| prefix.parse().unwrap()),
            ..Options::default()
        };
        for (target, prefix, name, expected) in [
            (None, None, "app", Ok("app")),
            (None, Some("old/hub"), "team/app", Ok("old/hub/team/app")),
            (Some("new:v1"), None, "team/app", Ok("new")),
            (Some("new"), Some("old"), "", Ok("old/new")),
            (None, None, "", Err("the source does not name the repository: give a name with --as NAME")),
        ] {
            let found = options(target, prefix).name_here(name);
            assert_eq!(found.as_ref().map(RepositoryName::as_str).map_err(String::as_str), expected, "{name}");
        }
        let error = options(None, None).name_here("App").unwrap_err();
        assert!(error.starts_with("App is not a repository name"), "{error}");
    }
}
