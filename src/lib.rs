//! eyot: an OCI registry for the edge.
//!
//! The same code is built in four forms: a WebAssembly component for Spin, a WebAssembly component
//! for any WASI host, a native binary, and this library. Each layer uses only the layers above
//! itself in the list:
//!
//! ```text
//! oci       digests, names, tags, descriptors, manifests, ranges      no I/O, no async
//! store     the two ports, their back ends, the platform              knows oci
//! registry  every rule of a registry, no HTTP                         knows oci, store
//! auth      who may do what                                           knows oci, store
//! http      parse -> authorize -> dispatch -> render; the only status codes   knows all above
//! host      spin, wasi, native                                        knows all above
//! ```

#![warn(missing_docs)]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod auth;
pub mod http;
pub mod oci;
pub mod registry;
pub mod store;

pub mod host;

pub use crate::http::Handler;
pub use crate::registry::Registry;
pub use crate::store::Body;
