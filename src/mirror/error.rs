//! The failures of pulls through the cache.

use crate::{registry, upstream};

/// Why a pull through the cache failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The upstream is in trouble, and the content is not here. Content that the upstream does not
    /// have is an error of the registry, as in every repository.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// The registry refuses or fails.
    #[error(transparent)]
    Registry(#[from] registry::Error),
}

/// The result of a pull through the cache.
pub type Result<T, E = Error> = std::result::Result<T, E>;
