//! Hosts: thin adapters that turn a host's requests into [`http::Request`]s, choose the stores from
//! the settings, and turn the answers back. Only hosts use tokio, WASI and the Spin SDK.

#[cfg(any(feature = "native", feature = "wasi", feature = "wasi2", feature = "spin"))]
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub mod access;
#[cfg(any(feature = "native", feature = "wasi", feature = "wasi2", feature = "spin"))]
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub mod config;
#[cfg(any(feature = "native", feature = "wasi", feature = "wasi2", feature = "spin"))]
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub mod log;
#[cfg(any(feature = "native", feature = "wasi", feature = "wasi2", feature = "spin"))]
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub mod settings;

#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub mod command;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod export;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod import;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub mod native;
#[cfg(all(feature = "outbound", not(target_family = "wasm")))]
pub mod outbound;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub mod prune;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod slots;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod stall;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub mod tls;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod unsent;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub mod users;

#[cfg(all(feature = "test-server", not(target_family = "wasm")))]
pub mod testing;

// Each component is built with one of the features. If several are on, `spin` wins over `wasi`, and
// `wasi` over `wasi2`: the world of `spin` offers everything that the world of `wasi` offers.
#[cfg(all(any(feature = "wasi", feature = "wasi2", feature = "spin"), target_os = "wasi"))]
mod component;
#[cfg(all(any(feature = "wasi", feature = "wasi2"), not(feature = "spin"), target_os = "wasi"))]
mod environment;
#[cfg(all(any(feature = "wasi", feature = "wasi2", feature = "spin"), target_os = "wasi"))]
mod exchange;
#[cfg(all(feature = "spin", target_os = "wasi"))]
mod spin;
#[cfg(all(feature = "wasi", not(feature = "spin"), target_os = "wasi"))]
mod wasi;
#[cfg(all(feature = "wasi2", not(any(feature = "wasi", feature = "spin")), target_os = "wasi"))]
mod wasi2;
#[cfg(all(any(feature = "wasi", feature = "spin"), target_os = "wasi"))]
mod wasi_inbound;
#[cfg(all(any(feature = "wasi", feature = "spin"), target_os = "wasi"))]
mod wasi_outbound;
