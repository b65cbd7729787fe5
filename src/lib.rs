//! eyot: an OCI registry for the edge.
//!
//! The same code is built in four forms: a WebAssembly component for Spin, a WebAssembly component
//! for any WASI host, a native binary, and this library. Each layer uses only the layers above
//! itself in the list:
//!
//! ```text
//! oci       digests, names, tags, descriptors, manifests, ranges      no I/O, no async
//! platform  bodies, the clock, randomness, outbound HTTP              uses nothing above
//! store     the two ports and their back ends                         uses oci, platform
//! registry  every rule of a registry, no HTTP                         uses all above
//! auth      users, logins, tokens, permissions                        uses oci, platform, store
//! upstream  a client of other registries                              uses oci, platform, store, auth
//! mirror    the pull-through cache                                    uses all above
//! import    images from elsewhere                                     uses all above but mirror
//! http      parse, authorize, dispatch, render, choose the status     uses all above
//! host      spin, wasi, native                                        uses all above
//! ```

pub mod auth;
pub mod http;
pub mod import;
pub mod mirror;
pub mod oci;
pub mod platform;
pub mod registry;
pub mod store;
pub mod upstream;

pub mod host;

pub use crate::http::Handler;
pub use crate::platform::Body;
pub use crate::registry::Registry;
