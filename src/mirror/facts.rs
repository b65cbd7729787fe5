//! Facts about mirrored content, in the key-value store: one line of JSON under each key. A fact
//! that is lost costs requests to the upstream, and never makes an answer wrong.
//!
//! | fact | key |
//! | --- | --- |
//! | when a tag was checked with the upstream | `mirror/tag/<repo>!<tag>` |
//! | the upstream's tags of a repository | `mirror/list/<repo>!tags` |
//! | the upstream's referrers of a manifest | `mirror/list/<repo>!<digest>` |
//! | the upload session that holds the beginning of a blob | `mirror/fill/<repo>!<digest>` |
//! | an upstream is in trouble (`trouble.rs`) | `mirror/trouble/<upstream>` |

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::{Mirror, Result};
use crate::oci::{Digest, RepositoryName, Tag};
use crate::registry;
use crate::store::{Expiring, When};

/// How long the answer "the tag does not exist" is remembered, in milliseconds.
pub(super) const ABSENT_MS: u64 = 60 * 1000;
/// How long the fact about a tag is kept after the last check, in milliseconds: longer than any tag
/// is served.
const TAG_KEPT_MS: u64 = 2 * super::settings::TAG_SECONDS_MAX * 1000;
/// How long a fill may be continued, in milliseconds. The upload session itself ends earlier or
/// later by the setting `upload_lifetime_seconds`.
const FILL_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Facts about tags that no pull uses any more.
pub(super) const TAGS: Expiring = Expiring {
    prefix: "mirror/tag/",
    is_expired: |value, now_ms| {
        let fact: Option<TagFact> = serde_json::from_slice(value).ok();
        fact.is_none_or(|fact| {
            let lasts_ms = if fact.is_absent { ABSENT_MS } else { TAG_KEPT_MS };
            now_ms.abs_diff(fact.checked_ms) > lasts_ms
        })
    },
};

/// Lists that are not served any more.
pub(super) const LISTS: Expiring = Expiring {
    prefix: "mirror/list/",
    is_expired: |value, now_ms| {
        let fact: Option<ListFact<IgnoredAny>> = serde_json::from_slice(value).ok();
        fact.is_none_or(|fact| now_ms > fact.until_ms || now_ms.abs_diff(fact.checked_ms) > TAG_KEPT_MS)
    },
};

/// Facts about fills that nobody continues any more.
pub(super) const FILLS: Expiring = Expiring {
    prefix: "mirror/fill/",
    is_expired: |value, now_ms| {
        let fact: Option<FillFact> = serde_json::from_slice(value).ok();
        fact.is_none_or(|fact| now_ms.abs_diff(fact.begun_ms) > FILL_KEPT_MS)
    },
};

/// The last check of a tag with the upstream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TagFact {
    pub checked_ms: u64,
    /// The manifest that the tag led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The upstream's entity tag of that manifest, for the next check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity_tag: Option<String>,
    /// Whether the upstream said that the tag does not exist.
    #[serde(default)]
    pub is_absent: bool,
}

/// A list of the upstream, or that there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ListFact<T> {
    pub checked_ms: u64,
    /// The time after which the fact has no use.
    pub until_ms: u64,
    /// Whether the upstream said that the list does not exist.
    #[serde(default)]
    pub is_absent: bool,
    /// The whole list; `None` if the list is too large for one value.
    pub entries: Option<Vec<T>>,
}

/// The fill of a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FillFact {
    pub session: String,
    pub begun_ms: u64,
}

pub(super) fn tag(repository: &RepositoryName, tag: &Tag) -> String {
    format!("{}{repository}!{tag}", TAGS.prefix)
}

pub(super) fn tag_list(repository: &RepositoryName) -> String {
    format!("{}{repository}!tags", LISTS.prefix)
}

pub(super) fn referrer_list(repository: &RepositoryName, subject: &Digest) -> String {
    format!("{}{repository}!{subject}", LISTS.prefix)
}

pub(super) fn fill(repository: &RepositoryName, digest: &Digest) -> String {
    format!("{}{repository}!{digest}", FILLS.prefix)
}

impl Mirror {
    /// The fact under a key. A value that cannot be read counts as absent.
    pub(super) async fn load<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let entry = self.keys.get(key).await.map_err(registry::Error::from)?;
        Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()))
    }

    /// Writes a fact. Best effort: without the fact the next pull asks the upstream again.
    pub(super) async fn note<T: Serialize>(&self, key: &str, fact: &T) {
        self.note_up_to(key, fact, u64::MAX).await;
    }

    /// Writes a fact as [`Mirror::note`] does, if the value has at most `bytes_max` bytes. Returns
    /// whether the value has.
    pub(super) async fn note_up_to<T: Serialize>(&self, key: &str, fact: &T, bytes_max: u64) -> bool {
        let value = serde_json::to_vec(fact).unwrap_or_default();
        if value.len() as u64 > bytes_max {
            return false;
        }
        if let Err(error) = self.keys.put(key, value.into(), When::Always).await {
            tracing::warn!("a fact about mirrored content is not kept: {error}");
        }
        true
    }

    /// Removes a fact. Best effort: the collector removes expired facts.
    pub(super) async fn forget(&self, key: &str) {
        if let Err(error) = self.keys.delete(key).await {
            tracing::warn!("a fact about mirrored content is left behind: {error}");
        }
    }
}
