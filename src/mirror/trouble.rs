//! A short memory of upstreams in trouble, so that cached tags are served at once while their
//! upstream hangs. Pulls of content that is not here ask the upstream all the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::platform::Platform;
use crate::store::{Expiring, KeyValue, When};
use crate::upstream::{self, Kind};

/// How long checks of cached tags are left out after an upstream was in trouble, in milliseconds.
const PAUSE_MS: u64 = 30 * 1000;
/// The longest pause that an upstream can ask for by `Retry-After`, in milliseconds.
const PAUSE_MS_MAX: u64 = 15 * 60 * 1000;

/// Troubles that are over.
pub(super) const TROUBLES: Expiring = Expiring {
    prefix: "mirror/trouble/",
    is_expired: |value, now_ms| {
        let trouble: Option<Trouble> = serde_json::from_slice(value).ok();
        trouble.is_none_or(|trouble| !trouble.lasts(now_ms))
    },
    needs_tag: None,
};

/// The upstreams in trouble: in memory and, for components, whose instances live for a second, in
/// the key-value store.
#[derive(Clone)]
pub(super) struct Troubles {
    keys: Arc<dyn KeyValue>,
    platform: Arc<dyn Platform>,
    /// Has at most one entry for each upstream of the settings.
    known: Arc<Mutex<HashMap<String, Trouble>>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Trouble {
    until_ms: u64,
    /// The reason, for the warning to clients.
    why: String,
}

impl Trouble {
    /// A time further in the future than any pause comes from a clock that was set back since.
    fn lasts(&self, now_ms: u64) -> bool {
        self.until_ms > now_ms && self.until_ms - now_ms <= PAUSE_MS_MAX
    }
}

impl Troubles {
    pub(super) fn new(keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>) -> Self {
        Self { keys, platform, known: Arc::default() }
    }

    /// The reason why checks with an upstream are left out now; `None` if the upstream is to be
    /// asked.
    pub(super) async fn current(&self, upstream: &str) -> Option<String> {
        let now_ms = self.platform.now_ms();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(upstream).cloned();
        if let Some(known) = known.filter(|known| known.lasts(now_ms)) {
            return Some(known.why);
        }
        if self.platform.runs_tasks() {
            return None;
        }
        let entry = self.keys.get(&key(upstream)).await.ok()??;
        let stored: Trouble = serde_json::from_slice(&entry.value).ok()?;
        stored.lasts(now_ms).then_some(stored.why)
    }

    /// Notes the trouble that an error shows. Absence and invalid answers are no trouble.
    pub(super) async fn note(&self, error: &upstream::Error) {
        let pause_ms = match &error.kind {
            Kind::Down(_) | Kind::Slow(_) | Kind::Login(_) => PAUSE_MS,
            Kind::Limited { retry_after } => {
                let seconds = retry_after.as_ref().and_then(|text| text.parse::<u64>().ok());
                seconds.map_or(PAUSE_MS, |seconds| seconds.saturating_mul(1000).min(PAUSE_MS_MAX))
            }
            _ => return,
        };
        let trouble = Trouble { until_ms: self.platform.now_ms() + pause_ms, why: error.to_string() };
        if !self.platform.runs_tasks() {
            let value = serde_json::to_vec(&trouble).unwrap_or_default();
            if let Err(error) = self.keys.put(&key(&error.upstream), value.into(), When::Always).await {
                tracing::warn!("the trouble with an upstream is not noted for other instances: {error}");
            }
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(error.upstream.clone(), trouble);
    }
}

fn key(upstream: &str) -> String {
    format!("{}{upstream}", TROUBLES.prefix)
}
