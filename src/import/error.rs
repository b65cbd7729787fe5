//! The failures of an import.

use crate::{registry, upstream};

/// Why something could not be imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source does not have the content. The text names the content.
    #[error("{0}")]
    Absent(String),
    /// The source has something that the import does not take. The text names the thing and the
    /// reason.
    #[error("{0}")]
    Refused(String),
    /// The source cannot be read.
    #[error("cannot read the source: {0}")]
    Unreadable(String),
    /// The source failed several times in a row.
    #[error("{times} requests to the source failed one after the other; the last: {last}")]
    Failing {
        /// How many requests failed.
        times: usize,
        /// The failure of the last request.
        last: upstream::Error,
    },
    /// Another registry, which is the source, fails.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// The registry into which the import goes refuses the content, or fails.
    #[error(transparent)]
    Registry(#[from] registry::Error),
}

/// The result of a step of an import.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }

    pub(super) fn absent(name: impl Into<String>) -> Self {
        Self::Absent(name.into())
    }

    /// Whether the rest of the import would fail for the same reason: the registry's own store
    /// fails, the source fails again and again, or the source does not take the login.
    pub(super) fn ends_the_import(&self) -> bool {
        match self {
            Self::Registry(registry::Error::Store(_)) => true,
            Self::Upstream(error) => matches!(error.kind, upstream::Kind::Login(_)),
            Self::Failing { .. } => true,
            _ => false,
        }
    }

    /// Whether the source itself is in trouble, and not one item of the source.
    pub(super) fn is_trouble_of_source(&self) -> bool {
        use upstream::Kind;
        match self {
            Self::Upstream(error) => matches!(error.kind, Kind::Down(_) | Kind::Slow(_) | Kind::Limited { .. }),
            _ => false,
        }
    }
}
