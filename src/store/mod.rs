//! The two ports to storage, the platform, and their back ends.
//!
//! A *port* is an object-safe trait held as `Arc<dyn …>` and chosen once, when a host starts. The
//! clauses that every back end of a port must keep are in [`contract`], and run against each back
//! end.

mod blob_store;
mod body;
mod expiring;
mod key_value;
mod platform;
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

pub use blob_store::{BlobStore, Location, Stage, Stored};
pub use body::{Body, BodyError};
pub use expiring::Expiring;
pub use key_value::{Entry, KEY_BYTES_MAX, KeyValue, Version, When};
pub use platform::Platform;
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub use platform::SystemPlatform;
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

/// The result of a store's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
