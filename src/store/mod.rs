//! The two ports to storage, and their back ends.
//!
//! A *port* is an object-safe trait held as `Arc<dyn …>` and chosen once, when a host starts. The
//! clauses that every back end of a port must keep are in `contract`, and run against each back end.
//! `contract`, `counting` and `faulty` are for tests: the feature `testing` brings them.

mod blob_store;
mod error;
mod expiring;
mod key_value;
mod tidy;

pub mod check;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
#[cfg(any(test, feature = "testing"))]
pub mod counting;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
#[cfg(all(feature = "files", not(all(target_family = "wasm", target_os = "unknown"))))]
pub mod file;
pub mod memory;
pub mod packed;
pub mod readiness;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(all(feature = "spin", target_os = "wasi"))]
pub mod spin;
pub mod unordered;

pub use blob_store::{BlobStore, Family, Location, Stage, Stored};
pub use error::{Error, Failure};
pub use expiring::Expiring;
pub use key_value::{Entry, KEY_BYTES_MAX, KeyValue, Version, When};
pub use tidy::{Tidied, TidyRequest};

/// The result of a store's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
