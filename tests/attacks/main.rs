//! Malicious or faulty clients: over TCP, by manifests, and by the inputs of the fuzz targets.
#![cfg(all(feature = "native", not(target_family = "wasm")))]

mod abuse;
mod allocation;
mod fuzz;
mod hostile;
#[path = "../support/mod.rs"]
mod support;
