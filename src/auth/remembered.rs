//! Remembers passwords that were right a moment ago, so that a password that a client sends with
//! every request is not hashed each time. The memory of one instance keeps each password as a
//! digest under a random key of the instance. The digest also covers the user's hash, so a password
//! is remembered only as long as the user has the same hash.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::Secret;
use crate::platform::Platform;

/// How long a password is remembered.
const LIFETIME_MS: u64 = 5 * 60 * 1000;
/// The most passwords that are remembered. The next password makes the instance forget all others.
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

    /// A digest of a user, a password, and one more text: the user's hash, or the client's address.
    pub(super) fn digest(&self, user: &str, password: &Secret, more: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        for part in [user, password.expose(), more] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}
