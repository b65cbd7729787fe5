//! Tokens of upstreams: kept in memory and, encrypted, in the key-value store, so that new
//! instances need not log in again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use serde::{Deserialize, Serialize};

use super::address::sensitive;
use crate::auth::{Seal, Secret};
use crate::oci::RepositoryName;
use crate::platform::Platform;
use crate::store::{self, Expiring, KeyValue, When};

/// How long a token lives if the token server does not say, in seconds (the documented default of
/// token servers).
const LIFETIME_SECONDS_DEFAULT: u64 = 60;
/// The longest time for which a token is kept, whatever the token server says, in seconds.
const LIFETIME_SECONDS_MAX: u64 = 24 * 60 * 60;
/// A token is used until this part of its lifetime is left (10 %).
const SPARE_PART: u64 = 10;
/// The longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// How many tokens an instance remembers. One more token clears the memory, and forgotten tokens
/// are read from the store.
const REMEMBERED_MAX: usize = 1000;

/// Stored tokens that have expired, or that cannot be read.
pub(super) const TOKENS: Expiring = Expiring {
    prefix: "upstream/token/",
    is_expired: |value, now_ms| {
        let stored: Option<Stored> = serde_json::from_slice(value).ok();
        stored.is_none_or(|stored| !is_current(stored.until_ms, now_ms))
    },
};

/// The value of a token's key.
#[derive(Serialize, Deserialize)]
struct Stored {
    until_ms: u64,
    /// The key and the token, encrypted.
    sealed: String,
}

#[derive(Clone)]
struct Known {
    token: Secret,
    until_ms: u64,
}

/// The tokens of all upstreams, by upstream and repository.
pub(super) struct Tokens {
    keys: Arc<dyn KeyValue>,
    platform: Arc<dyn Platform>,
    seal: Seal,
    known: Mutex<HashMap<String, Known>>,
}

impl Tokens {
    pub(super) fn new(keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>, seal: Seal) -> Self {
        Self { keys, platform, seal, known: Mutex::default() }
    }

    /// The `Authorization` header with a token that is still valid.
    pub(super) async fn find(&self, upstream: &str, repository: &RepositoryName) -> Option<HeaderValue> {
        let key = key(upstream, repository);
        let remembered = self.known().get(&key).cloned();
        let known = match remembered.filter(|known| is_current(known.until_ms, self.platform.now_ms())) {
            Some(known) => known,
            None => {
                let stored = self.stored(&key).await?;
                self.remember(key, stored.clone());
                stored
            }
        };
        bearer(&known.token)
    }

    /// Keeps a token that lives for `lifetime_seconds` from now. Returns the `Authorization` header
    /// with the token; `None` if no header can carry the text. A failure of the store is logged
    /// only: other instances then log in themselves.
    pub(super) async fn keep(
        &self,
        upstream: &str,
        repository: &RepositoryName,
        token: Secret,
        lifetime_seconds: Option<u64>,
    ) -> Option<HeaderValue> {
        let header = bearer(&token).filter(|_| token.expose().len() <= TOKEN_BYTES_MAX)?;
        let lifetime_ms = lifetime_seconds.unwrap_or(LIFETIME_SECONDS_DEFAULT).min(LIFETIME_SECONDS_MAX) * 1000;
        let until_ms = self.platform.now_ms() + (lifetime_ms - lifetime_ms / SPARE_PART);
        let key = key(upstream, repository);
        let stored = Stored { until_ms, sealed: self.seal.encrypt(&format!("{key}\n{}", token.expose())) };
        let value = serde_json::to_vec(&stored).unwrap_or_default();
        if let Err(error) = self.keys.put(&key, value.into(), When::Always).await {
            tracing::warn!("a token of upstream {upstream} is not shared with other instances: {error}");
        }
        self.remember(key, Known { token, until_ms });
        Some(header)
    }

    /// Drops a token that the upstream refuses.
    pub(super) async fn forget(&self, upstream: &str, repository: &RepositoryName) {
        let key = key(upstream, repository);
        self.known().remove(&key);
        if let Err(error) = self.keys.delete(&key).await {
            tracing::warn!(
                "a token of upstream {upstream} stays stored although the upstream refuses the token: {error}"
            );
        }
    }

    /// A valid token from the store. A token that this instance cannot decrypt counts as absent:
    /// the token was stored under another login.
    async fn stored(&self, key: &str) -> Option<Known> {
        let entry = match self.keys.get(key).await {
            Ok(entry) => entry?,
            Err(error @ store::Error::Unavailable(_)) => {
                tracing::warn!("the stored tokens of upstreams cannot be read: {error}");
                return None;
            }
            Err(_) => return None,
        };
        let stored: Stored = serde_json::from_slice(&entry.value).ok()?;
        let opened =
            self.seal.decrypt(&stored.sealed).filter(|_| is_current(stored.until_ms, self.platform.now_ms()))?;
        let token = opened.strip_prefix(key)?.strip_prefix('\n')?;
        Some(Known { token: Secret::new(token), until_ms: stored.until_ms })
    }

    fn remember(&self, key: String, known: Known) {
        let mut remembered = self.known();
        if remembered.len() >= REMEMBERED_MAX && !remembered.contains_key(&key) {
            remembered.clear();
        }
        remembered.insert(key, known);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(upstream: &str, repository: &RepositoryName) -> String {
    format!("{}{upstream}!{repository}", TOKENS.prefix)
}

pub(super) fn bearer(token: &Secret) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {}", token.expose()))
}

/// Whether a time has not come yet. A time further in the future than any token lives comes from
/// a clock that was set back since, and counts as past.
fn is_current(until_ms: u64, now_ms: u64) -> bool {
    until_ms > now_ms && until_ms - now_ms <= LIFETIME_SECONDS_MAX * 1000
}
