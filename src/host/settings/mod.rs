//! The table of all settings. Every host has the same settings: environment variables in upper
//! case, or Spin variables in lower case.
//!
//! Each file has the settings of one subject, and reads them into the type that the rest of the
//! program uses. `eyot help settings`, docs/settings.md and spin.toml have the same table; a test
//! compares them (`pages.rs`).

mod access;
mod connections;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod help;
mod limits;
mod mirrors;
mod misspelt;
#[cfg(test)]
mod pages;
mod s3;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod secret_files;
mod server;
pub mod setting;
mod stores;
mod values;

pub use connections::Connections;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub use help::{help, help_of};
pub use mirrors::MirrorSettings;
pub use misspelt::nearest_setting;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub use secret_files::read_secret_files;
pub use setting::Host;
pub use stores::{BlobStoreName, KeyValueName, StoreSettings};
pub use values::Values;

pub(super) use access::{AccessSettings, AuthMode};
pub(super) use limits::{read_body_bytes_max, read_limits, read_tag_max_age_seconds};
pub(super) use s3::{read_redirects, read_s3};
pub(super) use server::ServerSettings;

use setting::AnySetting;

/// Settings about one subject.
pub struct Group {
    /// The subject.
    pub title: &'static str,
    /// The settings.
    pub settings: &'static [&'static dyn AnySetting],
}

/// All settings, by subject.
pub static GROUPS: &[Group] = &[
    Group { title: "Stores", settings: stores::SETTINGS },
    Group { title: "S3", settings: s3::SETTINGS },
    Group { title: "Access", settings: access::SETTINGS },
    Group { title: "Limits", settings: limits::SETTINGS },
    Group { title: "Garbage collection", settings: limits::COLLECTION_SETTINGS },
    Group { title: "Pulls and pushes", settings: limits::PULL_SETTINGS },
    Group { title: "Upstreams", settings: mirrors::SETTINGS },
    Group { title: "Server", settings: server::SETTINGS },
    Group { title: "Connections of the native program", settings: connections::SETTINGS },
];

/// All settings.
pub fn all_settings() -> impl Iterator<Item = &'static dyn AnySetting> {
    GROUPS.iter().flat_map(|group| group.settings).copied()
}
