//! Every host over TCP: the protocol, settings, the data folder, and kills. `scripts/test` builds
//! the components and hosts that the tests need.
#![cfg(all(feature = "native", not(target_family = "wasm")))]

mod check;
mod components;
#[cfg(target_os = "linux")]
mod data_folder;
mod local_names;
mod mirrors;
mod plug;
mod settings;
mod spin_manners;
#[path = "../support/mod.rs"]
mod support;
#[cfg(target_os = "linux")]
mod trace;
