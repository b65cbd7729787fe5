//! Users and machine tokens in the key-value store.
//!
//! | fact | key |
//! | --- | --- |
//! | a user | `auth/user/<name>` |
//! | a machine token | `auth/token/<name>` |
//! | the key that signs tokens (`token.rs`) | `auth/key` |
//! | failed logins, and the secret that names their keys (`throttle.rs`) | `auth/failures/…`, `auth/failures-secret` |
//! | the lease on checking a login (`lease.rs`) | `auth/login-leases/…`, `auth/login-leases-ended` |

use std::sync::Arc;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::caller::{Caller, Grant};
use super::invalid::InvalidAccess;
use super::password::unblock;
use super::password::{PASSWORD_BYTES_MAX, PasswordHash, check_user_name};
use super::policy::parse_grant;
use super::{PasswordHashError, Secret};
use crate::platform::Platform;
use crate::store::{self, KeyValue, When};

/// The least entropy of a new password, in bits, as [`Secret::entropy_bits_max`] counts.
pub(super) const PASSWORD_ENTROPY_BITS_MIN: u32 = 28;
/// The most users or tokens in one list.
const LIST_MAX: usize = 1000;
/// The most grants of a machine token.
const GRANTS_MAX: usize = 100;
/// The prefix of every machine token.
const PREFIX: &str = "eyot_";

/// Users and machine tokens that can be added and removed without a restart.
#[derive(Clone)]
pub struct Directory {
    keys: Arc<dyn KeyValue>,
    platform: Arc<dyn Platform>,
}

/// Why a user or a token cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The name, the password, the hash or a rule is invalid.
    #[error(transparent)]
    Invalid(#[from] InvalidAccess),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The permissions of a machine token, and their duration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineToken {
    /// Rules such as `team/** pull,push`.
    pub rules: Vec<String>,
    /// When the token expires, in milliseconds since the Unix epoch. `None`: only a revocation ends
    /// the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct TokenFact {
    /// SHA-256 of the secret. The secret is random, so it cannot be guessed from the hash.
    sha256: String,
    #[serde(flatten)]
    token: MachineToken,
}

impl Directory {
    /// A directory in a key-value store.
    pub fn new(keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>) -> Self {
        Self { keys, platform }
    }

    /// Adds a user, or replaces the password of a user.
    ///
    /// # Errors
    /// [`DirectoryError::Invalid`] if the name is invalid, or the password too weak or too long.
    pub async fn add_user(&self, name: &str, password: &Secret) -> Result<(), DirectoryError> {
        check_password(password)?;
        let (password, salt) = (password.clone(), self.platform.random());
        let hash = unblock(move || PasswordHash::new(&password, salt)).await;
        self.put_user(name, &hash).await
    }

    /// Adds a user by the hash of a password, or replaces the hash of a user.
    ///
    /// # Errors
    /// [`DirectoryError::Invalid`] if the name or the hash is invalid.
    pub async fn add_user_with_hash(&self, name: &str, hash: &str) -> Result<(), DirectoryError> {
        let invalid = |why: PasswordHashError| DirectoryError::Invalid(why.to_string().into());
        self.put_user(name, &PasswordHash::parse(hash).map_err(invalid)?).await
    }

    async fn put_user(&self, name: &str, hash: &PasswordHash) -> Result<(), DirectoryError> {
        check_user_name(name)?;
        Ok(self.keys.put(&user_key(name), hash.as_str().to_owned().into(), When::Always).await.map(drop)?)
    }

    /// Removes a user, who cannot log in from now on. A signed token that the user has stays valid
    /// until its end, for five minutes at most.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn remove_user(&self, name: &str) -> Result<(), store::Error> {
        // An invalid name has no key.
        if check_user_name(name).is_err() {
            return Ok(());
        }
        self.keys.delete(&user_key(name)).await
    }

    /// The names of the users after `last`, in byte order: at most 1,000.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn users(&self, last: Option<&str>) -> Result<Vec<String>, store::Error> {
        self.names("auth/user/", last).await
    }

    /// The hash of a user's password; `None` for an unknown user. Costs one key read.
    pub(super) async fn hash_of(&self, name: &str) -> Result<Option<PasswordHash>, store::Error> {
        if check_user_name(name).is_err() {
            return Ok(None);
        }
        let Some(entry) = self.keys.get(&user_key(name)).await? else { return Ok(None) };
        let hash = std::str::from_utf8(&entry.value).ok().and_then(|text| PasswordHash::parse(text).ok());
        Ok(Some(hash.ok_or_else(|| store::Error::corrupt(format!("cannot read the password hash of user {name}")))?))
    }

    /// Makes a machine token, and replaces a token of the same name. The store keeps only a hash,
    /// so the text cannot be shown again.
    ///
    /// # Errors
    /// [`DirectoryError::Invalid`] if the name or a rule is invalid.
    pub async fn add_token(&self, name: &str, token: &MachineToken) -> Result<Secret, DirectoryError> {
        check_user_name(name)?;
        token.grants()?;
        let random = [self.platform.random(), self.platform.random()].concat();
        let secret = Base64UrlUnpadded::encode_string(&random);
        let fact = TokenFact { sha256: hex::encode(Sha256::digest(&secret)), token: token.clone() };
        let value = serde_json::json!(fact).to_string();
        self.keys.put(&token_key(name), value.into(), When::Always).await?;
        Ok(Secret::new(format!("{PREFIX}{name}_{secret}")))
    }

    /// Revokes a machine token. Signed tokens that were issued for the machine token stay valid for
    /// up to five minutes.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn remove_token(&self, name: &str) -> Result<(), store::Error> {
        if check_user_name(name).is_err() {
            return Ok(());
        }
        self.keys.delete(&token_key(name)).await
    }

    /// The names of the machine tokens after `last`, in byte order: at most 1,000.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn tokens(&self, last: Option<&str>) -> Result<Vec<String>, store::Error> {
        self.names("auth/token/", last).await
    }

    /// Whether a text has the form of a machine token.
    pub(super) fn is_token(text: &Secret) -> bool {
        parse_token(text).is_some()
    }

    /// The caller of a machine token. `None` if the token is malformed, unknown, revoked or
    /// expired. Costs one key read.
    pub(super) async fn machine(&self, text: &Secret) -> Result<Option<Caller>, store::Error> {
        let Some((name, secret)) = parse_token(text) else { return Ok(None) };
        let key = token_key(name);
        let Some(entry) = self.keys.get(&key).await? else { return Ok(None) };
        let corrupt = |error| store::Error::corrupt(format!("cannot read the value of key {key}")).because(error);
        let fact: TokenFact = serde_json::from_slice(&entry.value).map_err(corrupt)?;
        let right: bool = hex::encode(Sha256::digest(secret)).as_bytes().ct_eq(fact.sha256.as_bytes()).into();
        let ended = fact.token.expires_ms.is_some_and(|expires_ms| expires_ms <= self.platform.now_ms());
        if !right || ended {
            return Ok(None);
        }
        let grants = fact
            .token
            .grants()
            .map_err(|why| store::Error::corrupt(format!("cannot read the value of key {key}: {why}")))?;
        let ends_ms = fact.token.expires_ms;
        Ok(Some(Caller { user: Some(format!("token:{name}")), grants, ends_ms, narrowed: None }))
    }

    /// The time `seconds` from now, in milliseconds since the Unix epoch, for
    /// [`MachineToken::expires_ms`].
    pub fn in_seconds(&self, seconds: u64) -> u64 {
        self.platform.now_ms().saturating_add(seconds.saturating_mul(1000))
    }

    async fn names(&self, prefix: &str, last: Option<&str>) -> Result<Vec<String>, store::Error> {
        let after = last.map(|last| format!("{prefix}{last}"));
        let keys = self.keys.list(prefix, after.as_deref(), LIST_MAX).await?;
        Ok(keys.iter().filter_map(|key| key.strip_prefix(prefix)).map(str::to_owned).collect())
    }
}

impl MachineToken {
    fn grants(&self) -> Result<Vec<Grant>, InvalidAccess> {
        if self.rules.is_empty() || self.rules.len() > GRANTS_MAX {
            return Err(format!("a token has 1 to {GRANTS_MAX} rules").into());
        }
        let grants = self.rules.iter().map(|rule| match rule.split_whitespace().collect::<Vec<_>>()[..] {
            [repositories, actions] => parse_grant(repositories, actions),
            _ => Err("want REPOSITORIES ACTIONS, as in: team/** pull,push".into()),
        });
        grants.collect()
    }
}

/// Refuses passwords that are certainly too weak, or too long to be hashed.
///
/// # Errors
/// The text gives the reason, and holds nothing of the password.
pub fn check_password(password: &Secret) -> Result<(), InvalidAccess> {
    if password.entropy_bits_max() < PASSWORD_ENTROPY_BITS_MIN {
        return Err("the password is too short, or has too few different characters: take ten or more".into());
    }
    if password.expose().len() > PASSWORD_BYTES_MAX {
        return Err(format!("the password is longer than {PASSWORD_BYTES_MAX} bytes").into());
    }
    Ok(())
}

fn user_key(name: &str) -> String {
    format!("auth/user/{name}")
}

fn token_key(name: &str) -> String {
    format!("auth/token/{name}")
}

/// Splits `eyot_<name>_<secret>` into the name and the secret of 43 characters, which may contain
/// `_`.
fn parse_token(text: &Secret) -> Option<(&str, &str)> {
    let rest = text.expose().strip_prefix(PREFIX)?;
    let (name, secret) = rest.split_at_checked(rest.len().checked_sub(43)?)?;
    let name = name.strip_suffix('_')?;
    check_user_name(name).ok().map(|()| (name, secret))
}
