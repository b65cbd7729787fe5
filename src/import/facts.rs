//! The facts of imports in the key-value store: one line of JSON under each key. A fact that is lost
//! makes the next import read the beginning of one blob again.
//!
//! | fact | key |
//! | --- | --- |
//! | the upload session that holds the beginning of a blob | `import/<repo>!<digest>` |

use serde::{Deserialize, Serialize};

use crate::oci::{Digest, RepositoryName};
use crate::store::Expiring;

/// How long a blob may be continued, in milliseconds. The upload session itself ends earlier or
/// later by the setting `upload_lifetime_seconds`.
const UPLOAD_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Facts about blobs that no import continues any more.
pub(super) const UPLOADS: Expiring = Expiring {
    prefix: "import/",
    is_expired: |value, now_ms| {
        let fact: Option<UploadFact> = serde_json::from_slice(value).ok();
        fact.is_none_or(|fact| now_ms.abs_diff(fact.begun_ms) > UPLOAD_KEPT_MS)
    },
    needs_tag: None,
};

/// The upload of a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct UploadFact {
    pub(super) session: String,
    pub(super) begun_ms: u64,
}

/// The key of the fact about the upload of a blob.
#[cfg_attr(
    not(all(feature = "native", not(target_family = "wasm"))),
    allow(dead_code, reason = "only the native program imports")
)]
pub(super) fn upload(repository: &RepositoryName, digest: &Digest) -> String {
    format!("{}{repository}!{digest}", UPLOADS.prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_expires_after_a_week() {
        let fact = UploadFact { session: "s".into(), begun_ms: 1_700_000_000_000 };
        let value = serde_json::to_vec(&fact).unwrap();
        for (later_ms, expected) in [(0, false), (UPLOAD_KEPT_MS, false), (UPLOAD_KEPT_MS + 1, true)] {
            assert_eq!((UPLOADS.is_expired)(&value, fact.begun_ms + later_ms), expected, "{later_ms}");
        }
        assert!((UPLOADS.is_expired)(b"garbage", fact.begun_ms));
    }
}
