//! How a push and a garbage collection run at the same time without a lock.
//!
//! A push *holds* the keys that it refers to. First the push reads whether a round of the
//! collection is active.
//!
//! - No round is active: the push goes on, and reads the collection's state again after its writes.
//!   If no round has begun by then, every later round sees the writes of the push.
//!
//! - A round is active: the push first *rescues* (protects) its keys, by writing one key
//!   `rescued/<key>` for each, and only then checks that the keys exist. The collector announces
//!   the keys that it is about to remove before it reads the rescue keys. Both sides write before
//!   they read, so at least one side sees the other, and neither side needs conditional writes.
//!
//! The rescue keys of a round are deleted at the end of the next round, so a push that finds a
//! later round rescues its keys again. On a second try the keys that the push writes exist already,
//! so the push only checks that those keys and the keys that it refers to still exist. A push
//! therefore succeeds even when rounds begin and end during its tries.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::content::Content;
use super::facts::{BlobFact, Facts};
use super::limits::{CALLS_AT_ONCE_MAX, RIGHT_OF_WAY_MS, SWEEPING_MS_MAX};
use super::{Error, Result, layout};
use crate::platform::Platform;
use crate::store::{self, When};

/// How many tries a push has when rounds begin or end during the push.
pub(super) const HOLD_TRIES_MAX: usize = 4;

/// The state of the collection, which every push reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct CollectionFact {
    pub round: u64,
    pub active: bool,
    /// The keys that the collector is removing at present. The announcement was made at
    /// `sweeping_ms` (milliseconds since the Unix epoch).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sweeping: Vec<String>,
    #[serde(default)]
    pub sweeping_ms: u64,
    /// When the last round ended, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub ended_ms: u64,
}

impl CollectionFact {
    /// Whether the collector is removing one of `keys` at present. An announcement that is older
    /// than `SWEEPING_MS_MAX` comes from a collector that was cut off and is ignored. An
    /// announcement that is dated further in the future is ignored too: the clock must have been
    /// set back since.
    fn is_sweeping(&self, keys: &[String], now_ms: u64) -> bool {
        if now_ms.abs_diff(self.sweeping_ms) > SWEEPING_MS_MAX {
            return false;
        }
        let swept: HashSet<&String> = self.sweeping.iter().collect();
        keys.iter().any(|key| swept.contains(key))
    }
}

/// The result of holding keys. The keys are held as long as the collection's state equals this one.
#[derive(Debug)]
pub(super) struct Hold {
    round: u64,
    active: bool,
}

impl Hold {
    /// Whether a round of the collection was active when the keys were held.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }
}

/// Protects the keys of pushes from the collector.
#[derive(Clone)]
pub(super) struct CollectionGuard {
    pub facts: Facts,
    pub content: Content,
    pub platform: Arc<dyn Platform>,
}

impl CollectionGuard {
    pub(super) async fn collection(&self) -> Result<CollectionFact> {
        Ok(self.facts.load(layout::COLLECTION).await?.unwrap_or_default())
    }

    /// Holds `keys`, which need not exist. The caller must check whether the keys exist after this
    /// call and before [`CollectionGuard::is_held`].
    ///
    /// # Errors
    /// [`Error::Busy`] when the collector is removing one of `keys` at present, or when later
    /// rounds begin during every try.
    pub(super) async fn hold(&self, keys: &[String]) -> Result<Hold> {
        let mut collection = self.collection().await?;
        for _ in 0..HOLD_TRIES_MAX {
            let round = collection.round;
            if !collection.active {
                return Ok(Hold { round, active: false });
            }
            self.rescue(keys, round).await?;
            collection = self.collection().await?;
            // The rescue keys of a round are deleted at the end of the next round. In a later round
            // the push must rescue its keys again.
            if collection.active && collection.round <= round + 1 {
                if collection.is_sweeping(keys, self.platform.now_ms()) {
                    return Err(Error::Busy);
                }
                return Ok(Hold { round: collection.round, active: true });
            }
        }
        Err(Error::Busy)
    }

    async fn rescue(&self, keys: &[String], round: u64) -> Result<()> {
        let rescues = keys.iter().map(|key| async move {
            let key = layout::rescued(key);
            self.facts.store(&key, &round, When::Always).await
        });
        let rescues: Vec<_> = rescues.collect();
        stream::iter(rescues).buffer_unordered(CALLS_AT_ONCE_MAX).try_collect().await
    }

    /// Whether the collection's state is unchanged since [`CollectionGuard::hold`]. If so, the collection
    /// removes no key that the caller found in between. If not, the caller must hold the keys
    /// again.
    pub(super) async fn is_held(&self, hold: &Hold) -> Result<bool> {
        let collection = self.collection().await?;
        Ok(collection.round == hold.round && collection.active == hold.active)
    }

    /// Notes that a push was refused for missing content that a collection may have removed a
    /// moment ago. The rounds that begin during the next `RIGHT_OF_WAY_MS` remove nothing at once,
    /// so that the client can push the content again. Writes nothing if no round is active and the
    /// last round ended more than `RIGHT_OF_WAY_MS` ago.
    pub(super) async fn ask_for_time(&self) -> Result<()> {
        let (collection, now_ms) = (self.collection().await?, self.platform.now_ms());
        if !collection.active && now_ms.abs_diff(collection.ended_ms) > RIGHT_OF_WAY_MS {
            return Ok(());
        }
        self.facts.store(layout::COLLECTION_REFUSED, &now_ms, When::Always).await
    }

    /// Whether a push was refused for missing content during the last `RIGHT_OF_WAY_MS`.
    pub(super) async fn is_asked_for_time(&self) -> Result<bool> {
        let refused_ms: Option<u64> = self.facts.load(layout::COLLECTION_REFUSED).await?;
        Ok(refused_ms.is_some_and(|refused_ms| self.platform.now_ms().abs_diff(refused_ms) <= RIGHT_OF_WAY_MS))
    }

    /// Copies the fact under `source` to `key`, so that `key` refers to the same content. Returns
    /// `false` when the fact or its content is missing or about to be removed, or when the content
    /// does not have `size` bytes.
    pub(super) async fn share(&self, key: &str, source: &str, size: Option<u64>) -> Result<bool> {
        let mut written: Option<BlobFact> = None;
        for _ in 0..HOLD_TRIES_MAX {
            if written.is_none() && self.facts.load::<BlobFact>(source).await?.is_none() {
                return Ok(false);
            }
            let hold = self.hold(&[]).await?;
            match &written {
                None => {
                    // Read the fact again under the hold: a whole round may have passed since the
                    // first read.
                    let known: Option<BlobFact> = self.facts.load(source).await?;
                    let Some(fact) = known.filter(|known| size.is_none_or(|size| known.size == size)) else {
                        return Ok(false);
                    };
                    // The active round may remove the content before the collector sees the key
                    // written here.
                    if hold.active && self.is_condemned(&fact).await? || !self.content.is_readable(&fact).await? {
                        return Ok(false);
                    }
                    // Do not overwrite the fact of another push: the content of this fact may be
                    // gone by the time of the write.
                    match self.facts.store(key, &fact, When::Absent).await {
                        Err(Error::Store(store::Error::Conflict(_))) => {
                            written = self.facts.load(key).await?;
                            continue;
                        }
                        result => result?,
                    }
                    written = Some(fact);
                }
                // Another push may already use the fact under `key`, even for the same content.
                // Delete the fact only if its content is gone.
                Some(fact) if !self.content.is_readable(fact).await? => {
                    if self.facts.load::<BlobFact>(key).await?.as_ref() == Some(fact) {
                        self.facts.keys.delete(key).await?;
                    }
                    return Ok(false);
                }
                Some(fact) if hold.active && self.is_condemned(fact).await? => continue,
                Some(_) if self.facts.keys.get(key).await?.is_none() => {
                    written = None;
                    continue;
                }
                // The fact was written before the collection's state was read, so every later round
                // sees the fact.
                Some(_) => return Ok(true),
            }
            if self.is_held(&hold).await? {
                return Ok(true);
            }
        }
        Err(Error::Busy)
    }

    async fn is_condemned(&self, fact: &BlobFact) -> Result<bool> {
        for name in self.content.blobs.names_of(&fact.location).await? {
            if self.facts.keys.get(&layout::condemned(&layout::stored(&name))).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
