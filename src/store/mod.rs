//! The two ports to storage, and their back ends.
//!
//! A *port* is an object-safe trait held as `Arc<dyn …>` and chosen once, when a host starts. The
//! clauses that every back end of a port must keep are in [`contract`], and run against each back
//! end.

mod blob_store;
mod expiring;
mod key_value;
mod tidy;

pub mod check;
pub mod contract;
pub mod counting;
pub mod faulty;
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub mod file;
pub mod memory;
pub mod packed;
pub mod s3;
#[cfg(all(feature = "spin", target_os = "wasi"))]
pub mod spin;
pub mod unordered;

use crate::platform::{BodyError, SendError, SourceError};

pub use blob_store::{BlobStore, Location, Stage, Stored};
pub use expiring::Expiring;
pub use key_value::{Entry, KEY_BYTES_MAX, KeyValue, Version, When};
pub use tidy::{Tidied, TidyRequest};

/// Why a store operation failed. Callers handle each case differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A condition did not hold, or another request took the stage. The store changed nothing.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The back end cannot honour the condition. The store changed nothing; the caller continues
    /// without the condition or gives up.
    #[error("unsupported: {0}")]
    Unsupported(&'static str),
    /// The store could not be reached or failed. The change may or may not have happened; never
    /// read this error as absence.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// No space is left. The write was not acknowledged; reads and deletes still work.
    #[error("full: {0}")]
    Full(String),
    /// The store can only be read.
    #[error("read-only: {0}")]
    ReadOnly(String),
    /// The stored data is missing, or cannot be the data that was written.
    #[error("corrupt: {0}")]
    Corrupt(String),
}

/// A body that is read from a store carries the error of the store.
impl From<Error> for BodyError {
    fn from(error: Error) -> Self {
        Self::Source(SourceError::new(error))
    }
}

/// Appending a body that fails is a failure of the store: an error of the source store stays the
/// same, and every other reason becomes [`Error::Unavailable`].
impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        let of_store = match &error {
            BodyError::Source(source) => source.downcast_ref::<Self>().cloned(),
            _ => None,
        };
        of_store.unwrap_or_else(|| Self::Unavailable(error.to_string()))
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Unsupported => Self::Unsupported("this platform sends no requests"),
            SendError::Failed(why) => Self::Unavailable(why),
        }
    }
}

/// The result of a store's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
