//! The vocabulary of the OCI specifications: digests, names, manifests, ranges. No I/O and no
//! async.

pub mod digest;
pub mod manifest;
pub mod name;
pub mod range;
#[cfg(feature = "oci-spec")]
mod spec;

pub use digest::{Algorithm, Digest, Hasher};
pub use manifest::{Descriptor, Manifest};
pub use name::{Reference, RepositoryName, Tag};
