//! Claims: a key that is there while somebody does something that only one may do at a time, over all instances.

use std::sync::Arc;

use crate::store::{Error, KeyValue, Platform, Result, When};

pub(super) struct Claims {
    keys: Arc<dyn KeyValue>,
    platform: Arc<dyn Platform>,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// The claim holds, until it is released.
    Ours,
    /// Somebody else has it.
    Taken,
    /// The store cannot tell.
    Unknown,
}

impl Claims {
    pub(super) fn new(keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>) -> Self {
        Self { keys, platform }
    }

    /// Claims a key, if nobody has. A claim that is older than `age_ms_max` is that of an instance that was killed, and is
    /// removed: the next try has it.
    pub(super) async fn claim(&self, key: &str, age_ms_max: u64) -> Result<Claimed> {
        let now_ms = self.platform.now_ms();
        match self.keys.put(key, now_ms.to_string().into(), When::Absent).await {
            Ok(_) => return Ok(Claimed::Ours),
            Err(Error::Unsupported(_)) => return Ok(Claimed::Unknown),
            Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
        let since = self.keys.get(key).await?;
        let since_ms = since.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse::<u64>().ok());
        if since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) > age_ms_max) {
            self.keys.delete(key).await?;
        }
        Ok(Claimed::Taken)
    }

    pub(super) async fn release(&self, key: &str) -> Result<()> {
        self.keys.delete(key).await
    }
}
