//! Stored content in-process: garbage collection, and crashes and faults of the stores.
#![cfg(not(target_family = "wasm"))]

mod collect;
mod collect_scale;
mod crashes;
mod faults;
