//! The settings that choose the stores.

use std::path::PathBuf;

use anyhow::Result;

use super::setting::{AnySetting, Choice, EVERY_HOST, EVERY_SPIN, Host, NATIVE, Number, SPIN_4, Setting, Text};
use super::values::Values;
use crate::store::packed::{CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MIN};

/// The upper bound of settings for the size of one value in a key-value store, in bytes: the limit
/// of Spin's local stores.
pub(super) const VALUE_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// A key-value store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyValueName {
    /// Files in the data folder.
    Files,
    /// A bucket.
    S3,
    /// The memory of the process, for tests.
    Memory,
    /// Spin's SQLite.
    SpinSqlite,
    /// Spin's key-value store.
    SpinKeyValue,
}

/// A blob store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobStoreName {
    /// Files in the data folder.
    Files,
    /// A bucket.
    S3,
    /// The memory of the process, for tests.
    Memory,
    /// Values of the key-value store.
    Packed,
}

static KEYS: Setting<Choice<KeyValueName>> = Setting::new(
    "keys",
    Choice {
        values: &[
            ("spin-sqlite", KeyValueName::SpinSqlite, SPIN_4),
            ("spin-key-value", KeyValueName::SpinKeyValue, EVERY_SPIN),
            ("files", KeyValueName::Files, EVERY_HOST),
            ("s3", KeyValueName::S3, EVERY_HOST),
            ("memory", KeyValueName::Memory, NATIVE),
        ],
        default: |host| match host {
            Host::Spin => KeyValueName::SpinSqlite,
            Host::Spin3 => KeyValueName::SpinKeyValue,
            Host::Native | Host::Wasi => KeyValueName::Files,
        },
    },
    "the store of tags, manifests and upload sessions",
)
.details("[Storage](storage.md) compares the stores.");

static BLOBS: Setting<Choice<BlobStoreName>> = Setting::new(
    "blobs",
    Choice {
        values: &[
            ("packed", BlobStoreName::Packed, EVERY_HOST),
            ("files", BlobStoreName::Files, EVERY_HOST),
            ("s3", BlobStoreName::S3, EVERY_HOST),
            ("memory", BlobStoreName::Memory, NATIVE),
        ],
        default: |host| match host {
            Host::Spin | Host::Spin3 => BlobStoreName::Packed,
            Host::Native | Host::Wasi => BlobStoreName::Files,
        },
    },
    "the store of layers; packed: in values of the key-value store",
);

static DATA_DIR: Setting<Text> = Setting::new(
    "data_dir",
    Text {
        form: "a folder",
        default: |host| match host {
            Host::Native => "data",
            Host::Wasi | Host::Spin | Host::Spin3 => "/data",
        },
    },
    "the folder of the store files",
)
.details("A component needs the path at which its host mounts the folder.");

static CHUNK_BYTES: Setting<Number> = Setting::new(
    "chunk_bytes",
    Number { least: CHUNK_BYTES_MIN as u64, most: VALUE_BYTES_MAX, default: CHUNK_BYTES_DEFAULT as u64 },
    "the size of the values of packed layers, in bytes",
)
.details("Some stores take only smaller values than the default.");

pub(super) static SETTINGS: &[&dyn AnySetting] = &[&KEYS, &BLOBS, &DATA_DIR, &CHUNK_BYTES];

/// The settings of the stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// The key-value store.
    pub keys: KeyValueName,
    /// The blob store.
    pub blobs: BlobStoreName,
    /// The folder of the file stores.
    pub data_dir: PathBuf,
    /// The size of the chunks of packed blobs, in bytes.
    pub chunk_bytes: u32,
}

impl StoreSettings {
    pub(crate) fn read(values: Values<'_>) -> Result<Self> {
        Ok(Self {
            keys: values.read(&KEYS)?,
            blobs: values.read(&BLOBS)?,
            data_dir: values.read(&DATA_DIR)?.into(),
            chunk_bytes: values.read(&CHUNK_BYTES)? as u32,
        })
    }

    /// Whether one of the stores is a bucket.
    pub(crate) fn need_s3(&self) -> bool {
        self.keys == KeyValueName::S3 || self.blobs == BlobStoreName::S3
    }
}
