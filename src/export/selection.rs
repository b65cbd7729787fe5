//! Which repositories and tags an export takes.

use std::str::FromStr;

use crate::auth::{Pattern, PatternError, TagPattern, TagPatternError};
use crate::oci::RepositoryName;

/// `REPOSITORY` or `REPOSITORY:TAG`, both with `*` as a wildcard. In repositories, `*` stands for a
/// part of a component and `**` for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    repositories: Pattern,
    /// `None` selects all tags, and manifests without a tag.
    tags: Option<TagPattern>,
}

/// The reason why a text does not select anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// The part before the colon is not a pattern of repositories.
    #[error(transparent)]
    Repositories(#[from] PatternError),
    /// The part after the colon is not a pattern of tags.
    #[error(transparent)]
    Tags(#[from] TagPatternError),
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let (repositories, tags) = match text.split_once(':') {
            Some((repositories, tags)) => (repositories, Some(tags.parse()?)),
            None => (text, None),
        };
        Ok(Self { repositories: repositories.parse()?, tags })
    }
}

/// The selected repositories and tags: those of any selector, or all without a selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection(Vec<Selector>);

/// What a selection takes from one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selected<'a> {
    /// Nothing.
    Nothing,
    /// All tags and all manifests.
    Everything,
    /// The tags that one of the patterns matches, with the manifests that belong to the tags.
    Tags(Vec<&'a TagPattern>),
}

impl Selection {
    /// The selection of these selectors; all repositories if there are none.
    pub fn new(selectors: Vec<Selector>) -> Self {
        Self(selectors)
    }

    pub(super) fn of(&self, repository: &RepositoryName) -> Selected<'_> {
        if self.0.is_empty() {
            return Selected::Everything;
        }
        let mut patterns = Vec::new();
        for selector in self.0.iter().filter(|selector| selector.repositories.matches(repository)) {
            match &selector.tags {
                None => return Selected::Everything,
                Some(tags) => patterns.push(tags),
            }
        }
        if patterns.is_empty() { Selected::Nothing } else { Selected::Tags(patterns) }
    }

    /// The selectors that match none of `repositories`.
    pub(super) fn unmatched(&self, repositories: &[RepositoryName]) -> impl Iterator<Item = &Pattern> {
        let patterns = self.0.iter().map(|selector| &selector.repositories);
        patterns.filter(|pattern| !repositories.iter().any(|name| pattern.matches(name)))
    }
}

impl Selected<'_> {
    /// Whether a tag is selected.
    pub(super) fn has_tag(&self, tag: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Tags(patterns) => patterns.iter().any(|pattern| pattern.matches(tag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_choose_repositories_and_tags() {
        let selection = |texts: &[&str]| Selection::new(texts.iter().map(|text| text.parse().unwrap()).collect());
        let name = |text: &str| text.parse::<RepositoryName>().unwrap();
        assert_eq!(selection(&[]).of(&name("a")), Selected::Everything);
        let some = selection(&["team/**", "app:v*", "app:latest"]);
        assert_eq!(some.of(&name("team/a/b")), Selected::Everything);
        assert_eq!(some.of(&name("other")), Selected::Nothing);
        let tags = some.of(&name("app"));
        let taken = ["v1", "v", "latest", "x", "V1"].map(|tag| tags.has_tag(tag));
        assert_eq!(taken, [true, true, true, false, false]);
        let unmatched: Vec<_> = some.unmatched(&[name("app")]).map(Pattern::as_str).collect();
        assert_eq!(unmatched, ["team/**"]);
    }

    #[test]
    fn other_texts_are_refused() {
        for (text, expected) in [
            ("app:", SelectorError::Tags(TagPatternError)),
            ("app:a/b", SelectorError::Tags(TagPatternError)),
            ("App", SelectorError::Repositories(PatternError)),
            (":v1", SelectorError::Repositories(PatternError)),
        ] {
            assert_eq!(text.parse::<Selector>(), Err(expected), "{text}");
        }
    }
}
