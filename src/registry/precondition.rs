//! Preconditions: a change is made only if a name leads to expected content (RFC 9110, section
//! 13.1). A precondition names digests, as a digest identifies content.

use super::{Error, Result};
use crate::oci::Digest;

/// The content that a client expects a name to lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Any content.
    Any,
    /// Content with one of these digests.
    OneOf(Vec<Digest>),
}

/// The conditions for a change. The default has no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// The name leads to this content (`If-Match`).
    pub matches: Option<Expected>,
    /// The name does not lead to this content (`If-None-Match`).
    pub matches_none: Option<Expected>,
}

impl Expected {
    /// Whether the expectation is met by content with the digest `current`, or by a name without
    /// content if `current` is `None`.
    pub fn is_met_by(&self, current: Option<&Digest>) -> bool {
        match self {
            Self::Any => current.is_some(),
            Self::OneOf(digests) => current.is_some_and(|current| digests.contains(current)),
        }
    }
}

impl Precondition {
    /// Whether the precondition has no condition.
    pub fn is_empty(&self) -> bool {
        self.matches.is_none() && self.matches_none.is_none()
    }

    /// # Errors
    /// [`Error::PreconditionFailed`] when `current`, the digest that the name leads to, does not
    /// meet the conditions.
    pub fn check(&self, current: Option<&Digest>) -> Result<()> {
        let matches = self.matches.as_ref().is_none_or(|expected| expected.is_met_by(current));
        let matches_none = self.matches_none.as_ref().is_none_or(|expected| !expected.is_met_by(current));
        if matches && matches_none { Ok(()) } else { Err(Error::PreconditionFailed) }
    }
}
