//! Repository names, tags and references (distribution-spec, "Pulling manifests").

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestError};

/// The most bytes a repository name may have. Clients limit host and name together to 255 bytes, so
/// real names are not longer.
pub const NAME_BYTES_MAX: usize = 255;
/// The most bytes a tag may have.
pub const TAG_BYTES_MAX: usize = 128;

/// The name of a repository: path components joined by `/`. A component consists of lower case
/// letters and digits with single separators in between (`.`, `_`, `__` or any number of `-`).
///
/// ```
/// use eyot::oci::RepositoryName;
/// assert!("team/app".parse::<RepositoryName>().is_ok());
/// assert!("Team//app".parse::<RepositoryName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(String);

/// The error for a text that is not a repository name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a repository name: want path components of lower case letters, digits and single separators (. _ __ -), \
     joined by /, at most {NAME_BYTES_MAX} bytes"
)]
pub struct NameError;

impl RepositoryName {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() <= NAME_BYTES_MAX && text.split('/').all(is_component) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError)
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    if !ends.into_iter().all(|end| end.is_some_and(|b| alphanumeric(*b))) {
        return false;
    }
    // Between two runs of letters and digits there must be exactly one separator.
    bytes
        .split(|b| alphanumeric(*b))
        .all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-'))
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tag: a letter, digit or `_`, then up to 127 letters, digits, `_`, `.` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

/// The error for a text that is not a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a tag: want a letter, digit or _, then letters, digits, _ . -, at most {TAG_BYTES_MAX} characters")]
pub struct TagError;

impl Tag {
    /// The tag's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(word);
        if first && text.len() <= TAG_BYTES_MAX && bytes.all(|b| word(b) || b == b'.' || b == b'-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(TagError)
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a manifest within a repository: a tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The manifest that the tag points to.
    Tag(Tag),
    /// The manifest with the digest.
    Digest(Digest),
}

/// The error for a text that is neither a tag nor a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// A text without a colon is meant as a tag, but is not a valid tag.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// A text with a colon is meant as a digest, but is not a valid digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_grammar() {
        let long = "a".repeat(NAME_BYTES_MAX);
        for good in ["a", "0", "team/app", "a.b", "a_b", "a__b", "a-b", "a---b", "a/b/c/d", "1/2", &long] {
            assert!(good.parse::<RepositoryName>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(NAME_BYTES_MAX + 1);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a._b", "-a", "a-", ".a", "a.", "_a", "a!", "a b",
            "a%2fb", "..", "a/../b", "é", "a\0", &too_long,
        ] {
            assert_eq!(bad.parse::<RepositoryName>(), Err(NameError), "{bad}");
        }
    }

    #[test]
    fn tags_of_the_grammar() {
        let long = "a".repeat(TAG_BYTES_MAX);
        for good in ["v1", "_x", "V1.2-rc.3", "latest", &long] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(TAG_BYTES_MAX + 1);
        for bad in ["", ".a", "-a", "a/b", "a b", "a:b", "a!", "é", &too_long] {
            assert_eq!(bad.parse::<Tag>(), Err(TagError), "{bad}");
        }
    }

    #[test]
    fn a_reference_with_a_colon_is_a_digest() {
        assert!(matches!("v1".parse(), Ok(Reference::Tag(_))));
        assert!(matches!("sha256:zz".parse::<Reference>(), Err(ReferenceError::Digest(_))));
        assert!(matches!(".x".parse::<Reference>(), Err(ReferenceError::Tag(_))));
    }
}
