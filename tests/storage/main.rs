//! Stored content in-process: garbage collection, imports, and crashes and faults of the stores.
#![cfg(not(target_family = "wasm"))]

mod collect;
mod collect_scale;
mod crashes;
mod faults;
#[cfg(feature = "native")]
mod import;
