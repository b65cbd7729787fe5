//! Patterns of names of repositories and of tags.

use std::fmt;
use std::str::FromStr;

use crate::oci::name::NAME_BYTES_MAX;
use crate::oci::{RepositoryName, Tag};

/// A pattern of repository names. `team/app` matches just that repository, `team/*` the
/// repositories directly in `team`, `team/**` the repositories at any depth in `team`, `**` all
/// repositories.
///
/// ```
/// use eyot::auth::Pattern;
/// let pattern: Pattern = "team/**".parse().unwrap();
/// assert!(pattern.matches(&"team/a/b".parse().unwrap()));
/// assert!(!pattern.matches(&"team".parse().unwrap()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// The text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pattern of repositories: want a name in which * stands for part of a component and ** for anything")]
pub struct PatternError;

impl Pattern {
    /// Every repository.
    pub fn everything() -> Self {
        Self("**".into())
    }

    /// Just one repository.
    pub fn exactly(repository: &RepositoryName) -> Self {
        Self(repository.as_str().to_owned())
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern is `**`, which matches every repository.
    pub fn is_everything(&self) -> bool {
        self.0 == "**"
    }

    /// Whether the pattern matches `repository`.
    pub fn matches(&self, repository: &RepositoryName) -> bool {
        matches(self.0.as_bytes(), repository.as_str().as_bytes())
    }
}

/// A pattern of tags, in which `*` stands for any text.
///
/// ```
/// use eyot::auth::TagPattern;
/// let pattern: TagPattern = "v1.*".parse().unwrap();
/// assert!(pattern.matches("v1.2"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPattern(String);

/// The text is not a pattern of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pattern of tags: want a tag in which * stands for any text, as in v1.*")]
pub struct TagPatternError;

impl TagPattern {
    /// Whether the pattern matches a tag.
    pub fn matches(&self, tag: &str) -> bool {
        // A tag has no slash, so one star stands for any text.
        matches(self.0.as_bytes(), tag.as_bytes())
    }
}

impl FromStr for TagPattern {
    type Err = TagPatternError;

    fn from_str(text: &str) -> Result<Self, TagPatternError> {
        // The rest must be a tag with any text in the place of a star.
        match text.replace('*', "x").parse::<Tag>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(TagPatternError),
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How many texts this thread has compared with patterns.
    pub(crate) static MATCHES: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Whether a text matches a pattern. The literal beginning and end of the pattern are compared
/// first, which decides most rules in linear time.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    #[cfg(test)]
    MATCHES.with(|count| count.set(count.get() + 1));
    let Some(first) = pattern.iter().position(|byte| *byte == b'*') else { return pattern == text };
    let last = pattern.iter().rposition(|byte| *byte == b'*').unwrap_or(first);
    let (begin, middle, end) = (&pattern[..first], &pattern[first..=last], &pattern[last + 1..]);
    match text.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end)) {
        None => false,
        Some(_) if middle == b"**" => true,
        Some(rest) if middle == b"*" => !rest.contains(&b'/'),
        Some(rest) => middle_matches(middle, rest),
    }
}

/// Matches in time proportional to the product of the lengths, whatever the pattern. `reached[n]`
/// says whether the part of the pattern that was read can match the first `n` bytes of the text.
fn middle_matches(pattern: &[u8], text: &[u8]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        if pattern[at] == b'*' {
            let deep = pattern.get(at + 1) == Some(&b'*');
            for n in 0..text.len() {
                reached[n + 1] |= reached[n] && (deep || text[n] != b'/');
            }
            at += if deep { 2 } else { 1 };
        } else {
            for n in (0..text.len()).rev() {
                reached[n + 1] = reached[n] && text[n] == pattern[at];
            }
            reached[0] = false;
            at += 1;
        }
    }
    reached[text.len()]
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"/._-*".contains(&b);
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(known) && !text.contains("***") {
            Ok(Self(text.to_owned()))
        } else {
            Err(PatternError)
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_tags() {
        for (pattern, tag, expected) in [
            ("v1", "v1", true),
            ("v1", "v10", false),
            ("*", "anything", true),
            ("v1.*", "v1.2", true),
            ("v1.*", "v2.1", false),
            ("*-alpine", "3-alpine", true),
            ("*-alpine", "3-alpine-x", false),
            ("v*-*-x", "v1-a-b-x", true),
            ("v*-*-x", "v1-x", false),
            ("a*a", "a", false),
            ("a*b*b", "ab", false),
        ] {
            let pattern: TagPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(tag), expected, "{pattern:?} {tag}");
        }
        for wrong in ["", "a b", ".x", "a/b"] {
            assert_eq!(wrong.parse::<TagPattern>(), Err(TagPatternError), "{wrong}");
        }
    }

    #[test]
    fn a_star_stays_in_its_component() {
        for (pattern, name, expected) in [
            ("team/app", "team/app", true),
            ("team/app", "team/app2", false),
            ("team/app", "team/ap", false),
            ("team/*", "team/app", true),
            ("team/*", "team/a/b", false),
            ("team/*", "team", false),
            ("team/**", "team/a/b", true),
            ("team/**", "teams/a", false),
            ("**", "a", true),
            ("*", "a/b", false),
            ("**/app", "a/b/app", true),
            ("**/app", "app", false),
            ("*-ci/x*z", "a-ci/xyz", true),
            ("a*a*a", "aaa", true),
            ("a*a*a", "aa", false),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&name.parse().unwrap()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let pattern: Pattern = "*a".repeat(127).parse().unwrap();
        assert!(!pattern.matches(&"a".repeat(126).parse().unwrap()));
    }

    #[test]
    fn a_text_that_no_name_can_match_is_no_pattern() {
        for text in ["", "Team", "a b", "a:b", "***", "é", "a!"] {
            assert_eq!(text.parse::<Pattern>(), Err(PatternError), "{text}");
        }
    }
}
