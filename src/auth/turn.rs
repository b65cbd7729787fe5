//! Turns: mutual exclusion over all instances that share a store.
//!
//! A store that supports only the condition `Absent` is enough. No key is removed while the key is
//! in effect, because the removal could hit a key that another instance has just created. Turns
//! have numbers. A key holds the number of the last turn that has ended, and the next turn belongs
//! to the instance that creates the key with the next number.

use std::sync::Arc;

use crate::platform::Platform;
use crate::store::{Error, KeyValue, Result, When};

/// The key that holds the number of the last turn that has ended.
const ENDED: &str = "auth/turns-ended";

pub(super) struct Turns {
    keys: Arc<dyn KeyValue>,
    platform: Arc<dyn Platform>,
}

/// The outcome of asking for a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The turn with this number belongs to the calling instance until [`Turns::end`].
    Ours(u64),
    /// Another instance has the turn.
    Taken,
    /// The store does not support the condition, so turns cannot be taken.
    Unknown,
}

impl Turns {
    pub(super) fn new(keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>) -> Self {
        Self { keys, platform }
    }

    /// Asks for a turn. A turn older than `age_ms_max` milliseconds belongs to an instance that was
    /// killed; the turn is ended.
    pub(super) async fn take(&self, age_ms_max: u64) -> Result<Turn> {
        let (now_ms, ended) = (self.platform.now_ms(), self.ended().await?);
        let next = ended + 1;
        // A read costs less than a write that conflicts.
        if let Some(since_ms) = self.number(&key(next)).await? {
            if now_ms.saturating_sub(since_ms) > age_ms_max && self.ended().await? == ended {
                self.end(next).await?;
            }
            return Ok(Turn::Taken);
        }
        match self.keys.put(&key(next), now_ms.to_string().into(), When::Absent).await {
            // The key of a turn that has ended can be created again, so check that the turn has not
            // ended.
            Ok(_) if self.ended().await? == ended => Ok(Turn::Ours(next)),
            Ok(_) => self.keys.delete(&key(next)).await.map(|()| Turn::Taken),
            Err(Error::Conflict(_)) => Ok(Turn::Taken),
            Err(Error::Unsupported(_)) => Ok(Turn::Unknown),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn end(&self, turn: u64) -> Result<()> {
        self.keys.put(ENDED, turn.to_string().into(), When::Always).await?;
        self.keys.delete(&key(turn)).await
    }

    async fn ended(&self) -> Result<u64> {
        Ok(self.number(ENDED).await?.unwrap_or_default())
    }

    async fn number(&self, key: &str) -> Result<Option<u64>> {
        let entry = self.keys.get(key).await?;
        Ok(entry.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok()))
    }
}

fn key(turn: u64) -> String {
    format!("auth/turns/{turn}")
}
