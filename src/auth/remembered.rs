//! Passwords that were right a moment ago, so that a client that sends one with every request does not have it hashed each
//! time. Kept in the memory of one instance, as a digest under a key that nobody has. A password counts only as long as its
//! user has the same hash, which the digest holds too.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::Secret;
use crate::store::Platform;

/// How long a password is remembered.
const LIFETIME_MS: u64 = 5 * 60 * 1000;
/// How many are; then all are forgotten.
const PASSWORDS_MAX: usize = 1000;

pub(super) struct Remembered {
    key: [u8; 32],
    until_ms: Mutex<HashMap<[u8; 32], u64>>,
}

impl Remembered {
    pub(super) fn new(platform: &dyn Platform) -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&platform.random());
        key[16..].copy_from_slice(&platform.random());
        Self { key, until_ms: Mutex::default() }
    }

    pub(super) fn holds(&self, digest: &[u8; 32], now_ms: u64) -> bool {
        let until_ms = self.until_ms.lock().unwrap_or_else(PoisonError::into_inner);
        until_ms.get(digest).is_some_and(|until_ms| now_ms < *until_ms)
    }

    pub(super) fn keep(&self, digest: [u8; 32], now_ms: u64) {
        let mut until_ms = self.until_ms.lock().unwrap_or_else(PoisonError::into_inner);
        if until_ms.len() >= PASSWORDS_MAX {
            until_ms.clear();
        }
        until_ms.insert(digest, now_ms + LIFETIME_MS);
    }

    /// Names a user, a password, and something else that belongs to them: their hash, or where they come from.
    pub(super) fn digest(&self, user: &str, password: &Secret, more: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        for part in [user, password.expose(), more] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}
