//! The lease on checking a login: at most one instance among all that share a store holds the
//! lease, and only a few instances take turns at holding the lease.
//!
//! A store that supports only the condition `Absent` is enough. Leases have numbers. A lease is a
//! key with the lease's number, and the key [`ENDED`] says which lease was the last that has ended.
//! The next lease belongs to the instance that creates the key with the next number. No instance
//! removes the key of a lease that is still held, because the removal could hit a key that another
//! instance has just created.
//!
//! The memory of a component cannot shrink, so an instance keeps the memory of its password hashes
//! until the instance ends. A crowd of logins starts hundreds of instances. [`ENDED`] therefore
//! lists the instances that held a lease a moment ago. While the list is full, only the instances
//! in the list get leases.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::platform::Platform;
use crate::store::{Entry, Error, KeyValue, Result, When};

/// The key that holds the number of the last lease that has ended, and the recent holders.
const ENDED: &str = "auth/login-leases-ended";
/// The most instances that hold leases in turn.
pub(super) const HOLDERS_MAX: usize = 6;
/// How long after its last lease an instance counts as a holder, in milliseconds. Hosts drop an
/// instance with its memory after a second without a request.
pub(super) const HOLDER_MS: u64 = 1500;

/// The leases, as one instance sees them.
pub(super) struct Leases {
    keys: Arc<dyn KeyValue>,
    platform: Arc<dyn Platform>,
    /// A random name of this instance.
    instance: String,
}

/// The outcome of asking for the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lease {
    /// This instance holds the lease with this number until [`Leases::end`].
    Acquired(u64),
    /// Another instance holds the lease, or other instances are to get the next lease.
    HeldElsewhere,
    /// The store does not support the condition, so there are no leases.
    Unsupported,
}

/// The value of [`ENDED`].
#[derive(Default, Serialize, Deserialize)]
struct Ended {
    number: u64,
    holders: Vec<Holder>,
}

#[derive(Serialize, Deserialize)]
struct Holder {
    instance: String,
    last_ms: u64,
}

impl Leases {
    pub(super) fn new(keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>) -> Self {
        let instance = hex::encode(platform.random());
        Self { keys, platform, instance }
    }

    /// Asks for the lease. A lease older than `age_ms_max` milliseconds belongs to an instance that
    /// was killed; the lease is ended.
    pub(super) async fn acquire(&self, age_ms_max: u64) -> Result<Lease> {
        let (now_ms, ended) = (self.platform.now_ms(), self.ended().await?);
        let next = ended.number + 1;
        // A read costs less than a write that conflicts.
        if let Some(entry) = self.keys.get(&key(next)).await? {
            let since_ms = parse(&entry).unwrap_or_default();
            if now_ms.saturating_sub(since_ms) > age_ms_max && self.ended().await?.number == ended.number {
                self.write_ended(next, &ended).await?;
            }
            return Ok(Lease::HeldElsewhere);
        }
        if !ended.has_room_for(&self.instance, now_ms) {
            return Ok(Lease::HeldElsewhere);
        }
        match self.keys.put(&key(next), now_ms.to_string().into(), When::Absent).await {
            // The key of a lease that has ended can be created again, so check that the lease has
            // not ended.
            Ok(_) if self.ended().await?.number == ended.number => Ok(Lease::Acquired(next)),
            Ok(_) => self.keys.delete(&key(next)).await.map(|()| Lease::HeldElsewhere),
            Err(Error::Conflict(_)) => Ok(Lease::HeldElsewhere),
            Err(Error::Unsupported(_)) => Ok(Lease::Unsupported),
            Err(error) => Err(error),
        }
    }

    /// Ends the lease of this instance.
    pub(super) async fn end(&self, number: u64) -> Result<()> {
        let now_ms = self.platform.now_ms();
        let mut ended = self.ended().await?;
        ended.holders.retain(|holder| holder.is_recent(now_ms) && holder.instance != self.instance);
        ended.holders.push(Holder { instance: self.instance.clone(), last_ms: now_ms });
        self.write_ended(number, &ended).await
    }

    async fn write_ended(&self, number: u64, before: &Ended) -> Result<()> {
        let value = serde_json::json!({ "number": number, "holders": before.holders });
        self.keys.put(ENDED, value.to_string().into(), When::Always).await?;
        self.keys.delete(&key(number)).await
    }

    async fn ended(&self) -> Result<Ended> {
        Ok(self.keys.get(ENDED).await?.and_then(|entry| parse(&entry)).unwrap_or_default())
    }
}

impl Ended {
    fn has_room_for(&self, instance: &str, now_ms: u64) -> bool {
        let others = self.holders.iter().filter(|holder| holder.is_recent(now_ms) && holder.instance != instance);
        others.count() < HOLDERS_MAX
    }
}

impl Holder {
    fn is_recent(&self, now_ms: u64) -> bool {
        now_ms.abs_diff(self.last_ms) < HOLDER_MS
    }
}

fn parse<T: for<'a> Deserialize<'a>>(entry: &Entry) -> Option<T> {
    serde_json::from_slice(&entry.value).ok()
}

fn key(number: u64) -> String {
    format!("auth/login-leases/{number}")
}
