//! Slowing down who guesses: failed logins are counted per user and per address, and after some each new attempt has to wait.
//!
//! The counts lie in the key-value store, as an instance may live for one request only. Names and addresses are hashed into a
//! fixed number of counts, so that nobody can fill the store with names. Attempts at the same moment may be counted as one.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Refusal;
use crate::store::{KeyValue, Platform, When};

/// How many failures of a user go without a wait.
const USER_FREE_FAILURES: u32 = 10;
/// How many of an address: a whole office may share one, and one bot in it must not lock the others out.
const ADDRESS_FREE_FAILURES: u32 = 100;
/// The wait after the first failure that is not free; it doubles with each.
const WAIT_MS: u64 = 1000;
/// The longest wait: somebody else's guessing must not lock a user out for long.
const WAIT_MS_MAX: u64 = 60 * 1000;
/// How long failures are remembered after the last one.
const FORGOTTEN_AFTER_MS: u64 = 15 * 60 * 1000;

pub(super) struct Throttle {
    keys: Arc<dyn KeyValue>,
    platform: Arc<dyn Platform>,
}

/// Failures of late.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Failures {
    count: u32,
    last_ms: u64,
}

/// Whose failures they are: a user's and an address's.
pub(super) struct Suspects {
    counts: Vec<(String, Failures)>,
}

impl Throttle {
    pub(super) fn new(keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>) -> Self {
        Self { keys, platform }
    }

    /// Lets an attempt pass, or says how long to wait: one key read for each of user and address.
    pub(super) async fn check(&self, user: &str, address: Option<IpAddr>) -> Result<Suspects, Refusal> {
        let user = (key("user", user.as_bytes()), USER_FREE_FAILURES);
        let address = address.map(|address| (of_address(address), ADDRESS_FREE_FAILURES));
        let now_ms = self.platform.now_ms();
        let mut counts = Vec::new();
        for (key, free) in std::iter::once(user).chain(address) {
            let entry = self.keys.get(&key).await?;
            // A count that cannot be read is none: it must not lock anybody out.
            let counted: Failures =
                entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default();
            let wait_ms = counted.wait_until_ms(free).saturating_sub(now_ms);
            if wait_ms > 0 {
                return Err(Refusal::TooManyAttempts { retry_after_ms: wait_ms.min(WAIT_MS_MAX) });
            }
            let forgotten = now_ms.saturating_sub(counted.last_ms) > FORGOTTEN_AFTER_MS;
            counts.push((key, if forgotten { Failures::default() } else { counted }));
        }
        Ok(Suspects { counts })
    }

    /// The attempt failed: one key write each.
    pub(super) async fn failed(&self, suspects: Suspects) -> Result<(), Refusal> {
        let last_ms = self.platform.now_ms();
        for (key, failures) in suspects.counts {
            let failures = Failures { count: failures.count.saturating_add(1), last_ms };
            let value = serde_json::json!(failures).to_string();
            self.keys.put(&key, value.into(), When::Always).await?;
        }
        Ok(())
    }
}

impl Failures {
    fn wait_until_ms(self, free: u32) -> u64 {
        match self.count.checked_sub(free) {
            None | Some(0) => 0,
            Some(over) => self.last_ms + (WAIT_MS << (over - 1).min(16)).min(WAIT_MS_MAX),
        }
    }
}

/// Whoever has an IPv6 address has a whole network of them.
fn of_address(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => key("address", &address.octets()),
        IpAddr::V6(address) => key("address", &address.octets()[..8]),
    }
}

/// One of 65,536 counts for each kind.
fn key(kind: &str, who: &[u8]) -> String {
    format!("auth/failures/{kind}/{}", hex::encode(&Sha256::digest(who)[..2]))
}
