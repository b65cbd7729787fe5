//! The format of facts in the key-value store: one line of JSON and, for a manifest, the manifest's
//! bytes after that line.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Result;
use super::layout::Key;
use super::limits::{CALLS_AT_ONCE_MAX, CALLS_PREPARED_MAX};
use crate::oci::Digest;
use crate::oci::digest::HasherState;
use crate::store::{self, KeyValue, Location, Stage, Version, When};

/// Where a tag points.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TagFact {
    pub digest: Digest,
    pub media_type: String,
    pub size: u64,
    pub pushed_ms: u64,
}

/// A manifest. The manifest's bytes follow this fact in the same value or, above a size limit, are
/// in the blob store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ManifestFact {
    pub media_type: String,
    pub size: u64,
    #[serde(default)]
    pub pushed_ms: u64,
    /// A random number that identifies the push that wrote this fact.
    #[serde(default)]
    pub push: u64,
    /// Whether the bytes are in the blob store. The fact under `large/` then says where, and no
    /// other fact does: two pushes of one manifest store its bytes in two places, and only one
    /// place is kept.
    #[serde(default)]
    pub large: bool,
    /// The digest of the manifest's subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// Whether the manifest came from an upstream, and never from a client's push.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
}

/// The last noted pull of a cached manifest.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct UseFact {
    pub used_ms: u64,
}

/// The cached manifests that the next round of the collection evicts because of the size of all.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct EvictionFact {
    /// The limit of the size when the time was chosen, in bytes.
    pub bytes_max: u64,
    /// Manifests that were last pulled before this time go, in milliseconds since the Unix epoch.
    pub before_ms: u64,
}

/// Where a blob's bytes are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BlobFact {
    pub size: u64,
    pub location: Location,
}

/// A state of an upload: the bytes that a stage holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub stage: Stage,
    pub hasher: HasherState,
    pub offset: u64,
}

/// The state of an upload. A second fact of the same form may describe the bytes that a broken
/// request left (`session.rs`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct UploadFact {
    pub stage: Stage,
    pub hasher: HasherState,
    pub offset: u64,
    /// Makes two states of one upload differ even if their other members are equal.
    pub revision: u64,
    pub begun_ms: u64,
    pub changed_ms: u64,
    /// The state with the whole content, which a closing request is about to commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Progress>,
    /// Only in the second fact: the stage of the first fact to which the bytes were added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_to: Option<Stage>,
}

/// The statement that a repository exists.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RepositoryFact {
    pub pushed_ms: u64,
}

/// The facts of a registry in the key-value store.
#[derive(Clone)]
pub(super) struct Facts {
    pub keys: Arc<dyn KeyValue>,
}

impl Facts {
    pub(super) async fn load<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        Ok(self.load_version(key).await?.map(|(fact, _, _)| fact))
    }

    /// A fact, the bytes after its line, and its version.
    pub(super) async fn load_version<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, Bytes, Version)>> {
        let Some(entry) = self.keys.get(key).await? else { return Ok(None) };
        let line = entry.value.iter().position(|b| *b == b'\n').unwrap_or(entry.value.len());
        let behind = entry.value.slice((line + 1).min(entry.value.len())..);
        match serde_json::from_slice(&entry.value[..line]) {
            Ok(fact) => Ok(Some((fact, behind, entry.version))),
            Err(error) => {
                Err(store::Error::corrupt(format!("cannot read the value of key {key}")).because(error).into())
            }
        }
    }

    /// For each of `keys`, in order, whether the key exists.
    pub(super) async fn are_there(&self, keys: &[Key]) -> Result<Vec<bool>> {
        let mut are_there = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(CALLS_PREPARED_MAX) {
            let reads = chunk.iter().map(|key| async move {
                match self.keys.get(key).await {
                    // A key with a damaged value exists.
                    Err(store::Error::Corrupt(_)) => Ok(true),
                    entry => entry.map(|entry| entry.is_some()),
                }
            });
            let reads: Vec<_> = reads.collect();
            let found: Vec<_> = stream::iter(reads).buffered(CALLS_AT_ONCE_MAX).try_collect().await?;
            are_there.extend(found);
        }
        Ok(are_there)
    }

    pub(super) async fn store<T: Serialize>(&self, key: &str, fact: &T, when: When) -> Result<()> {
        self.keys.put_where_supported(key, to_line(key, fact, &[])?, when).await?;
        Ok(())
    }
}

/// The value for a fact: its line of JSON, with `behind` after the line.
pub(super) fn to_line<T: Serialize>(key: &str, fact: &T, behind: &[u8]) -> Result<Bytes> {
    let unlikely = |error: serde_json::Error| {
        store::Error::corrupt(format!("cannot encode the value of key {key}")).because(error)
    };
    let mut line = serde_json::to_vec(fact).map_err(unlikely)?;
    if !behind.is_empty() {
        line.reserve_exact(behind.len() + 1);
        line.push(b'\n');
        line.extend_from_slice(behind);
    }
    Ok(line.into())
}
