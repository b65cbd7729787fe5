//! How a push and a collection stay out of each other's way without a lock.
//!
//! A push *holds* the keys that it is going to lean on: it reads whether a round of the collection is under way. If none is, it goes on
//! and looks again when it has written. If nothing has begun by then, whatever round comes next sees what was written. If a round is under
//! way, the push first *rescues* its keys, each by a key of its own, and only then looks whether they are there. The collector
//! says which keys it is about to remove before it looks for rescues. Each of the two writes before it reads, so at least one
//! of them sees the other, and neither needs a condition of the store. Rescues are forgotten when the round after theirs ends, so a push
//! that finds a later round than that rescues again. The second time what the push wrote is there already, so it is enough that
//! what it leans on is still there as well: a push gets through however often rounds begin and end beside it.

use std::collections::HashSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::facts::BlobFact;
use super::limits::{CALLS_AT_ONCE_MAX, RIGHT_OF_WAY_MS, SWEEPING_MS_MAX};
use super::{Error, Registry, Result, layout};
use crate::store::{self, When};

/// How often a push begins anew because a round began or ended beside it.
pub(super) const HOLD_TRIES_MAX: usize = 4;

/// Where the collection stands, for all to see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct CollectionFact {
    pub round: u64,
    pub active: bool,
    /// The keys that are being removed just now, and since when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sweeping: Vec<String>,
    #[serde(default)]
    pub sweeping_ms: u64,
    /// When the last round ended.
    #[serde(default)]
    pub ended_ms: u64,
}

impl CollectionFact {
    /// Whether one of `keys` is being removed just now. An announcement that is too old, or dated so far in the future that
    /// the clock must have been set back since, comes from a collector that was cut off.
    fn is_sweeping(&self, keys: &[String], now_ms: u64) -> bool {
        if now_ms.abs_diff(self.sweeping_ms) > SWEEPING_MS_MAX {
            return false;
        }
        let swept: HashSet<&String> = self.sweeping.iter().collect();
        keys.iter().any(|key| swept.contains(key))
    }
}

/// Keys that are held, as long as the collection stands where it stood.
#[derive(Debug)]
pub(super) struct Hold {
    round: u64,
    active: bool,
}

impl Hold {
    /// Whether a round is under way.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }
}

impl Registry {
    pub(super) async fn collection(&self) -> Result<CollectionFact> {
        Ok(self.load(layout::COLLECTION).await?.unwrap_or_default())
    }

    /// Holds `keys`, which need not exist. Whether they do must be looked at after this and before [`Registry::is_held`].
    ///
    /// # Errors
    /// [`Error::Busy`] when one of them is being removed just now.
    pub(super) async fn hold(&self, keys: &[String]) -> Result<Hold> {
        let mut collection = self.collection().await?;
        for _ in 0..HOLD_TRIES_MAX {
            let round = collection.round;
            if !collection.active {
                return Ok(Hold { round, active: false });
            }
            self.rescue(keys, round).await?;
            collection = self.collection().await?;
            // What is rescued is forgotten at the end of the next round. In a later one it must be rescued anew.
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
            self.store(&key, &round, When::Always).await
        });
        let rescues: Vec<_> = rescues.collect();
        stream::iter(rescues).buffer_unordered(CALLS_AT_ONCE_MAX).try_collect().await
    }

    /// Whether nothing came in between: what was found after [`Registry::hold`] is there to stay. If not, it must be held anew.
    pub(super) async fn is_held(&self, hold: &Hold) -> Result<bool> {
        let collection = self.collection().await?;
        Ok(collection.round == hold.round && collection.active == hold.active)
    }

    /// Notes that a push was refused for content that a collection may just have removed, so that the client can push it again:
    /// the rounds that begin during the next seconds remove nothing at once.
    pub(super) async fn ask_for_time(&self) -> Result<()> {
        let (collection, now_ms) = (self.collection().await?, self.platform.now_ms());
        if !collection.active && now_ms.abs_diff(collection.ended_ms) > RIGHT_OF_WAY_MS {
            return Ok(());
        }
        self.store(layout::COLLECTION_REFUSED, &now_ms, When::Always).await
    }

    /// Whether a push was refused so a short while ago.
    pub(super) async fn is_asked_for_time(&self) -> Result<bool> {
        let refused_ms: Option<u64> = self.load(layout::COLLECTION_REFUSED).await?;
        Ok(refused_ms.is_some_and(|refused_ms| self.platform.now_ms().abs_diff(refused_ms) <= RIGHT_OF_WAY_MS))
    }

    /// Lets `key` hold the content that the fact under `source` leads to, if it is there and, where it is known, of this size.
    pub(super) async fn share(&self, key: &str, source: &str, size: Option<u64>) -> Result<bool> {
        let mut written: Option<BlobFact> = None;
        for _ in 0..HOLD_TRIES_MAX {
            if written.is_none() && self.load::<BlobFact>(source).await?.is_none() {
                return Ok(false);
            }
            let hold = self.hold(&[]).await?;
            match &written {
                None => {
                    // Again, now that it is held: a whole round may have passed.
                    let known: Option<BlobFact> = self.load(source).await?;
                    let Some(fact) = known.filter(|known| size.is_none_or(|size| known.size == size)) else {
                        return Ok(false);
                    };
                    // It may be removed in this very round, before anything that we write is seen.
                    if hold.active && self.is_condemned(&fact).await? || !self.is_readable(&fact).await? {
                        return Ok(false);
                    }
                    // Never over what another push has put there: by the time that this is written the content may be gone.
                    match self.store(key, &fact, When::Absent).await {
                        Err(Error::Store(store::Error::Conflict(_))) => {
                            written = self.load(key).await?;
                            continue;
                        }
                        result => result?,
                    }
                    written = Some(fact);
                }
                // Others may lean on what lies under the key by now, even on the same content: it goes only with its content.
                Some(fact) if !self.is_readable(fact).await? => {
                    if self.load::<BlobFact>(key).await?.as_ref() == Some(fact) {
                        self.keys.delete(key).await?;
                    }
                    return Ok(false);
                }
                Some(fact) if hold.active && self.is_condemned(fact).await? => continue,
                Some(_) if self.keys.get(key).await?.is_none() => {
                    written = None;
                    continue;
                }
                // The fact was written before the collection's state was read: whatever round comes next sees it.
                Some(_) => return Ok(true),
            }
            if self.is_held(&hold).await? {
                return Ok(true);
            }
        }
        Err(Error::Busy)
    }

    async fn is_condemned(&self, fact: &BlobFact) -> Result<bool> {
        for name in self.blobs.names_of(&fact.location).await? {
            if self.keys.get(&layout::condemned(&layout::stored(&name))).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
