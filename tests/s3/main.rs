//! The S3 stores over real S3 servers and over a server that deviates from S3, natively and on
//! every host. `scripts/test` installs the servers and builds the components.
#![cfg(all(feature = "native", not(target_family = "wasm")))]

mod authority;
mod content;
mod exports;
mod fake_s3;
mod mixes;
mod proxy;
mod s3;
mod s3_operation;
mod s3_server;
mod s3_trouble;
#[path = "../support/mod.rs"]
mod support;
