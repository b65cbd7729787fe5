//! Slows down password guessing. A login attempt is counted as failed before its password is
//! checked, and the count is taken back if the password is right. So attempts at the same moment
//! are counted one by one. The counts are exact if the store supports conditions.
//!
//! | count | free | longest wait |
//! | --- | --- | --- |
//! | of a user from one network | 10 | 60 s |
//! | of a user from anywhere | 100 | 10 s |
//! | of a user, where the host knows no addresses | 10 | 10 s |
//! | of an address, for any user | 100 | 60 s |
//!
//! So only a client in the same network can keep a user waiting for long. The count of a user from
//! anywhere does not delay a login from a network in which the user has logged in within a day.
//!
//! The counts are in the key-value store, because an instance may live for one request only. Names
//! and networks are hashed into a fixed number of counts, so that an attacker cannot fill the
//! store. The hash has a secret key, so that an attacker cannot choose a name whose failures delay
//! another user.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::Refusal;
use crate::platform::Platform;
use crate::store::{self, Expiring, KeyValue, When};

/// The wait after the first failure beyond the free failures. The wait doubles with each further
/// failure.
const WAIT_MS: u64 = 1000;
/// How long failures are remembered after the last one.
const FORGOTTEN_AFTER_MS: u64 = 15 * 60 * 1000;
/// How long a user counts as known in a network after a login from the network.
const KNOWN_FOR_MS: u64 = 24 * 60 * 60 * 1000;
/// How often a change of a count is tried if other attempts change the count at the same moment.
const TRIES_MAX: usize = 100;
/// When an attempt is to be made again after all these tries failed, in milliseconds from now.
const CONTENDED_RETRY_MS: u64 = 1000;
/// The key under which the secret of the hash is stored.
const SECRET: &str = "auth/failures-secret";

/// How many failures are free of a wait, and the longest wait, for one kind of count.
#[derive(Clone, Copy)]
struct Rule {
    kind: &'static str,
    free: u32,
    wait_ms_max: u64,
}

const USER_IN_NETWORK: Rule = Rule { kind: "user-network", free: 10, wait_ms_max: 60_000 };
const USER_ANYWHERE: Rule = Rule { kind: "user", free: 100, wait_ms_max: 10_000 };
const USER_WITHOUT_NETWORK: Rule = Rule { kind: "user-only", free: 10, wait_ms_max: 10_000 };
/// A whole office may share an address, so 100 failures are free: one bot in the office must not
/// lock the others out.
const ADDRESS: Rule = Rule { kind: "address", free: 100, wait_ms_max: 60_000 };

/// Counts that no longer delay a login and no longer mark a user as known in a network.
pub(super) const FAILURES: Expiring = Expiring {
    prefix: "auth/failures/",
    is_expired: |value, now_ms| {
        let counted: Failures = serde_json::from_slice(value).unwrap_or_default();
        // Failures are also expired if the clock was set back since.
        let is_past = |then_ms: u64, lasts_ms| now_ms.abs_diff(then_ms) > lasts_ms;
        is_past(counted.last_ms, FORGOTTEN_AFTER_MS)
            && counted.good_ms.is_none_or(|good_ms| is_past(good_ms, KNOWN_FOR_MS))
    },
    needs_tag: None,
};

pub(super) struct Throttle {
    keys: Arc<dyn KeyValue>,
    platform: Arc<dyn Platform>,
    secret: Mutex<Option<Vec<u8>>>,
}

/// The recent failures of one count.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Failures {
    count: u32,
    last_ms: u64,
    /// When the last login succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    good_ms: Option<u64>,
}

/// A count that an attempt has raised.
struct Raised {
    rule: Rule,
    key: String,
    before: Failures,
    after: Failures,
}

/// An attempt that has been counted as failed.
pub(super) struct Counted {
    raised: Vec<Raised>,
}

impl Throttle {
    pub(super) fn new(keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>) -> Self {
        Self { keys, platform, secret: Mutex::default() }
    }

    /// Refuses a user who tries too often, with the time to wait. No count is changed, and the
    /// count of the user from anywhere is not checked.
    pub(super) async fn check(&self, user: &str, address: Option<IpAddr>) -> Result<(), Refusal> {
        for (rule, key) in self.counts(user, address).await? {
            if rule.kind != USER_ANYWHERE.kind {
                self.read(&key).await?.0.check(rule, self.platform.now_ms())?;
            }
        }
        Ok(())
    }

    /// The counts that an attempt raises.
    async fn counts(&self, user: &str, address: Option<IpAddr>) -> Result<Vec<(Rule, String)>, Refusal> {
        let secret = self.secret().await?;
        let key = |rule: Rule, who: &[&[u8]]| (rule, key(&secret, rule.kind, who));
        Ok(match address.map(network) {
            None => vec![key(USER_WITHOUT_NETWORK, &[user.as_bytes()])],
            Some(network) => vec![
                key(USER_IN_NETWORK, &[&network, user.as_bytes()]),
                key(USER_ANYWHERE, &[user.as_bytes()]),
                key(ADDRESS, &[&network]),
            ],
        })
    }

    /// Counts an attempt as failed, or refuses the attempt with the time to wait. A refused attempt
    /// is not counted.
    pub(super) async fn begin(&self, user: &str, address: Option<IpAddr>) -> Result<Counted, Refusal> {
        let rules = self.counts(user, address).await?;
        let mut counted = Counted { raised: Vec::new() };
        for (rule, key) in rules {
            if rule.kind == USER_ANYWHERE.kind && counted.is_of_known_user(self.platform.now_ms()) {
                continue;
            }
            match self.raise(rule, key).await {
                Ok(raised) => counted.raised.push(raised),
                Err(refusal) => {
                    self.take_back(counted, None).await?;
                    return Err(refusal);
                }
            }
        }
        Ok(counted)
    }

    /// Takes back the counts of an attempt that succeeded, and marks the user as known in the
    /// network.
    pub(super) async fn succeeded(&self, counted: Counted) -> Result<(), Refusal> {
        let now_ms = self.platform.now_ms();
        self.take_back(counted, Some(now_ms)).await
    }

    async fn raise(&self, rule: Rule, key: String) -> Result<Raised, Refusal> {
        let raise = |before: Failures| {
            let now_ms = self.platform.now_ms();
            before.check(rule, now_ms)?;
            let is_forgotten = now_ms.saturating_sub(before.last_ms) > FORGOTTEN_AFTER_MS;
            let count = if is_forgotten { 0 } else { before.count };
            Ok(Failures { count: count.saturating_add(1), last_ms: now_ms, ..before })
        };
        let (before, after) = self.change(&key, raise).await?;
        Ok(Raised { rule, key, before, after })
    }

    async fn take_back(&self, counted: Counted, good_ms: Option<u64>) -> Result<(), Refusal> {
        for raised in counted.raised {
            let good_ms = good_ms.filter(|_| raised.rule.kind == USER_IN_NETWORK.kind);
            let lower = |now: Failures| {
                let is_last = now.last_ms == raised.after.last_ms;
                Ok(Failures {
                    count: now.count.saturating_sub(1),
                    last_ms: if is_last { raised.before.last_ms } else { now.last_ms },
                    good_ms: good_ms.or(now.good_ms),
                })
            };
            match self.change(&raised.key, lower).await {
                // The attempt stays counted as failed; the only harm is a longer wait.
                Ok(_) | Err(Refusal::Busy { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Changes a count by compare-and-swap, so that no concurrent change is lost if the store
    /// supports conditions. Gives the count before and after.
    async fn change(
        &self,
        key: &str,
        change: impl Fn(Failures) -> Result<Failures, Refusal>,
    ) -> Result<(Failures, Failures), Refusal> {
        for _ in 0..TRIES_MAX {
            let (before, when) = self.read(key).await?;
            let after = change(before)?;
            match self.keys.put_where_supported(key, serde_json::json!(after).to_string().into(), when).await {
                Ok(_) => return Ok((before, after)),
                Err(store::Error::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Refusal::Busy { retry_after_ms: CONTENDED_RETRY_MS })
    }

    /// A count, and the condition that the count is still the same.
    async fn read(&self, key: &str) -> Result<(Failures, When), Refusal> {
        Ok(match self.keys.get(key).await? {
            None => (Failures::default(), When::Absent),
            // A count that cannot be parsed is treated as zero, so that it does not lock a user
            // out.
            Some(entry) => (serde_json::from_slice(&entry.value).unwrap_or_default(), When::Unchanged(entry.version)),
        })
    }

    /// The secret of the hash. The first instance that needs the secret makes it.
    async fn secret(&self) -> Result<Vec<u8>, Refusal> {
        let lock = || self.secret.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(secret) = lock().clone() {
            return Ok(secret);
        }
        if self.keys.get(SECRET).await?.is_none() {
            let bytes = [self.platform.random(), self.platform.random()].concat();
            match self.keys.put_where_supported(SECRET, hex::encode(bytes).into(), When::Absent).await {
                Ok(_) | Err(store::Error::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Read the secret back: if two instances have made one at the same time, the last write
        // counts.
        let lost = || store::Error::corrupt(format!("key {SECRET} was written and is missing"));
        let secret = self.keys.get(SECRET).await?.ok_or_else(lost)?.value.to_vec();
        *lock() = Some(secret.clone());
        Ok(secret)
    }
}

impl Counted {
    fn is_of_known_user(&self, now_ms: u64) -> bool {
        let good_ms = self.raised.first().and_then(|raised| raised.before.good_ms);
        good_ms.is_some_and(|good_ms| now_ms.saturating_sub(good_ms) < KNOWN_FOR_MS)
    }
}

impl Failures {
    fn check(self, rule: Rule, now_ms: u64) -> Result<(), Refusal> {
        let until_ms = match self.count.checked_sub(rule.free) {
            None | Some(0) => 0,
            Some(over) => self.last_ms + (WAIT_MS << (over - 1).min(16)).min(rule.wait_ms_max),
        };
        match until_ms.saturating_sub(now_ms) {
            0 => Ok(()),
            wait_ms => Err(Refusal::TooManyAttempts { retry_after_ms: wait_ms.min(rule.wait_ms_max) }),
        }
    }
}

/// The network of an address: the first 64 bits of an IPv6 address, because the holder of an IPv6
/// address has a whole network of addresses. An IPv4 address stands for itself.
fn network(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets()[..8].to_vec(),
    }
}

/// The key of a count. There are 65,536 keys for each kind of count.
fn key(secret: &[u8], kind: &str, who: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    for part in who {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    format!("auth/failures/{kind}/{}", hex::encode(&mac.finalize().into_bytes()[..2]))
}
