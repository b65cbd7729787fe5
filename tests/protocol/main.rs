//! The protocol in-process: answers, their cost in storage calls, and the bodies of requests.
#![cfg(not(target_family = "wasm"))]

mod bodies;
mod body_limit;
mod byteranges;
mod disk_calls;
mod health;
mod lists;
mod panics;
mod self_test;
mod storage_calls;
#[path = "../support/mod.rs"]
mod support;
mod transcripts;
mod warnings;
