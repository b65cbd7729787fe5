//! Shared by the test programs of this folder: servers to test, clients, transcripts, test data.
#![allow(dead_code, reason = "each test program uses a part")]

pub mod client;
#[cfg(feature = "native")]
pub mod host;
#[cfg(feature = "native")]
pub mod hub;
#[cfg(feature = "native")]
mod memory;
pub mod random;
pub mod repository;
pub mod runner;
pub mod transcript;
pub mod value;
