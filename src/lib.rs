//! An OCI registry for your program: container images and other artifacts over the OCI distribution
//! API, with stores, users and a server of your choice.
//!
//! A [`Handler`] takes an [`http::Request`](::http::Request) and returns an
//! [`http::Response`](::http::Response). This program pushes an artifact and pulls it again, in
//! memory:
//!
//! ```
//! use eyot::{Body, Handler};
//! use http::{Method, Request};
//!
//! # futures_executor::block_on(async {
//! let registry = Handler::in_memory();
//! let send = |method: Method, path: &str, body: &str| {
//!     let request = Request::builder().method(method).uri(path);
//!     let request = request.header("content-type", "application/vnd.oci.image.index.v1+json");
//!     registry.handle(request.body(Body::from(body.as_bytes().to_vec())).unwrap())
//! };
//! let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
//! let pushed = send(Method::PUT, "/v2/team/app/manifests/v1", index).await;
//! assert_eq!(pushed.status(), 201);
//! let pulled = send(Method::GET, "/v2/team/app/manifests/v1", "").await;
//! assert_eq!(pulled.headers()["docker-content-digest"], pushed.headers()["docker-content-digest"]);
//! assert_eq!(pulled.into_body().collect_up_to(4096).await.unwrap(), index);
//! # });
//! ```
//!
//! # Where to go on
//!
//! | for | see |
//! | --- | --- |
//! | axum and tower | the feature `tower`, and the programs in `examples/` |
//! | users and permissions | [`auth::Authority`], [`auth::Accounts`], [`auth::Policy`] |
//! | stores | [`store::KeyValue`], [`store::BlobStore`], the back ends in [`store`] |
//! | pushes that your program is told of | [`Handler::with_observer`] |
//! | the registry without HTTP | [`Registry`] |
//! | a pull-through cache | [`mirror`] |
//! | tests of registry clients | `eyot::testing` (feature `test-server`) |
//!
//! # Features
//!
//! | feature | adds |
//! | --- | --- |
//! | `tower` | [`Handler`] as a `tower::Service` |
//! | `files`, `s3` | both stores in a folder (`store::file`), or in a bucket (`store::s3`) |
//! | `accounts` | users, machine tokens and OIDC (`auth::Accounts`) |
//! | `outbound` | `NativePlatform`, which sends requests over tokio, for S3, mirrors and OIDC |
//! | `oci-spec` | conversions from and to types of the crate `oci-spec` |
//! | `testing`, `test-server` | the contract of the stores, and `eyot::testing` |
//! | `native` (default), `wasi`, `wasi2`, `spin` | the program and the components |
//!
//! # Errors
//!
//! Every error is a type with [`std::error::Error::source`] where another error is the cause.
//! [`registry::Error`] has the outcomes of operations, [`store::Error`] the failures of stores,
//! [`auth::Refusal`] those of logins, and [`mirror::Error`] those of pulls through an upstream. A
//! [`Handler`] turns all of them into answers.
//!
//! # Guarantees
//!
//! - An answer that acknowledges a push is given only after the content is safe in the stores.
//! - Content is checked against its digest on the way in.
//! - Layers are streamed and never held in memory as a whole.
//! - Any number of handlers, in any number of processes, may serve the same stores.
//! - Content that a manifest names is never collected, also beside pushes.
//! - Errors are answers with the JSON body that the specification asks for; a panic becomes 500.
//!
//! # Layers
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
//! export    repositories as files of web servers and as OCI layouts   uses oci, platform, store, registry, auth
//! import    images from elsewhere                                     uses all above but mirror
//! http      parse, authorize, dispatch, render, choose the status     uses all above
//! host      spin, wasi, native                                        uses all above
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod auth;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub mod export;
pub mod http;
pub mod import;
pub mod mirror;
pub mod oci;
pub mod platform;
pub mod registry;
pub mod store;
pub mod upstream;

// The program and the components. The items are public for `main.rs` and for the tests of this
// repository, and may change with every version.
#[doc(hidden)]
pub mod host;

#[cfg(all(feature = "outbound", not(target_family = "wasm")))]
pub use crate::host::outbound::NativePlatform;
#[cfg(all(feature = "test-server", not(target_family = "wasm")))]
pub use crate::host::testing;
pub use crate::http::Handler;
pub use crate::platform::Body;
pub use crate::registry::Registry;

/// Compiles the Rust examples of the library's page.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
struct LibraryPage;
