//! Signed tokens: a caller in writing, valid for a few minutes (a JWT of RFC 7519, signed with
//! HMAC-SHA-256).
//!
//! An instance with the key checks a token by itself: a request with a token costs one signature
//! and no storage call. Only this algorithm is ever tried, whatever algorithm a token names.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::action::Action;
use super::caller::{Caller, Grant, Narrowed};
use super::{Refusal, Seal, Secret};
use crate::oci::RepositoryName;
use crate::platform::Platform;
use crate::store::{self, KeyValue, When};

/// How long a token is valid. A user who loses a right keeps the right in existing tokens for so
/// long.
const LIFETIME_MS: u64 = 5 * 60 * 1000;
/// How far the clocks of two instances may differ.
const SKEW_MS: u64 = 10 * 1000;
/// The longest token that is signed or checked, in bytes: a token goes into a header.
const TOKEN_BYTES_MAX: usize = 24 * 1024;
/// How long a key is used for signing before it is read again.
const KEY_AGE_MAX_MS: u64 = 10 * 60 * 1000;
/// The shortest interval between two lookups of an unknown key that a token names.
const KEY_LOOKUP_INTERVAL_MS: u64 = 10 * 1000;
/// The key in the store under which instances share the signing key.
const KEY: &str = "auth/key";
const KEY_BYTES: usize = 32;

/// The least entropy of a key from the settings, in bits, as [`Secret::entropy_bits_max`] counts.
pub const KEY_ENTROPY_BITS_MIN: u32 = 128;

const ISSUER: &str = "eyot";
const ALGORITHM: &str = "HS256";

/// Makes and checks the tokens of one service.
pub struct Tokens {
    service: String,
    platform: Arc<dyn Platform>,
    /// The store of the signing key; `None` for a given key, which never changes.
    keys: Option<Arc<dyn KeyValue>>,
    held: Mutex<Held>,
}

/// The key in use.
#[derive(Default)]
struct Held {
    key: Option<Arc<Key>>,
    read_ms: u64,
    looked_up_ms: u64,
}

struct Key {
    bytes: Vec<u8>,
    id: String,
}

/// A token that was just made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Token {
    /// The token's text.
    pub text: Secret,
    /// When the token was made, in milliseconds since the Unix epoch.
    pub issued_ms: u64,
    /// How long the token is valid, in seconds.
    pub lifetime_seconds: u64,
    /// The granted scopes, separated by spaces.
    pub scope: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

/// The claims of a token. Times are in seconds since the Unix epoch.
#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    iat: u64,
    nbf: u64,
    exp: u64,
    access: Vec<AccessClaim>,
    /// [`Narrowed::pulls_everything`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pulls_everything: bool,
}

/// A grant, in the form of Docker's tokens. An entry without actions is a repository of
/// [`Narrowed::refused`].
#[derive(Serialize, Deserialize)]
struct AccessClaim {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<Action>,
}

impl Tokens {
    /// Tokens for `service`, signed with a key in the store `keys`. The first instance that needs
    /// the key makes it. All instances over one store share the key.
    pub fn stored(service: impl Into<String>, keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>) -> Self {
        Self { service: service.into(), platform, keys: Some(keys), held: Mutex::default() }
    }

    /// Tokens for `service`, signed with the given key. Services that share a key must differ in
    /// name.
    pub fn with_key(service: impl Into<String>, key: &Secret, platform: Arc<dyn Platform>) -> Self {
        let key = Key::new(Sha256::digest(key.expose()).to_vec());
        let held = Held { key: Some(Arc::new(key)), ..Held::default() };
        Self { service: service.into(), platform, keys: None, held: Mutex::new(held) }
    }

    /// The service that the tokens are for (`service` in challenges, `aud` in tokens).
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Signs a token for a caller. The token ends when the caller's credentials end, and after five
    /// minutes at the latest.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] when the credentials end within a second,
    /// [`Refusal::TokenTooLarge`] when the token would not fit into a header.
    pub async fn sign(&self, caller: &Caller) -> Result<Token, Refusal> {
        let key = self.signing_key().await?;
        let issued_ms = self.platform.now_ms();
        let seconds = issued_ms / 1000;
        let ends = caller.ends_ms.map_or(u64::MAX, |ends_ms| ends_ms / 1000).min(seconds + LIFETIME_MS / 1000);
        if ends <= seconds {
            return Err(Refusal::Unauthorized);
        }
        let narrowed = caller.narrowed.clone().unwrap_or_default();
        let claims = Claims {
            iss: ISSUER.into(),
            aud: self.service.clone(),
            sub: caller.user.clone(),
            iat: seconds,
            nbf: seconds,
            exp: ends,
            access: caller
                .grants
                .iter()
                .map(AccessClaim::of)
                .chain(narrowed.refused.iter().map(AccessClaim::refused))
                .collect(),
            pulls_everything: caller.pulls_everything(),
        };
        let header = Header { alg: ALGORITHM.into(), typ: "JWT".into(), kid: key.id.clone() };
        let signed = format!("{}.{}", encode(&header)?, encode(&claims)?);
        let signature = Base64UrlUnpadded::encode_string(&key.mac(&signed).finalize().into_bytes());
        let text = format!("{signed}.{signature}");
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::TokenTooLarge);
        }
        let granted = claims.access.iter().filter(|access| !access.actions.is_empty());
        let scope = granted.map(AccessClaim::scope).collect::<Vec<_>>().join(" ");
        Ok(Token { text: Secret::new(text), issued_ms, lifetime_seconds: ends - seconds, scope })
    }

    /// A key that seals names in cursors, derived from the key that signs tokens.
    pub(super) async fn seal(&self) -> Result<Seal, Refusal> {
        let key = self.signing_key().await?;
        Ok(Seal::new(key.mac("eyot cursors").finalize().into_bytes().into()))
    }

    /// The caller that a token describes. `None` for any text that is not a currently valid token
    /// for this service.
    ///
    /// # Errors
    /// If the store that holds the key does not answer.
    pub async fn verify(&self, text: &Secret) -> Result<Option<Caller>, Refusal> {
        let text = text.expose();
        let Some((signed, signature)) = text.rsplit_once('.').filter(|_| text.len() <= TOKEN_BYTES_MAX) else {
            return Ok(None);
        };
        let Some((header, claims)) = signed.split_once('.') else { return Ok(None) };
        let Some(header) = decode::<Header>(header) else { return Ok(None) };
        if header.alg != ALGORITHM || header.typ != "JWT" {
            return Ok(None);
        }
        let Some(key) = self.key_called(&header.kid).await? else { return Ok(None) };
        let Ok(signature) = Base64UrlUnpadded::decode_vec(signature) else { return Ok(None) };
        if key.mac(signed).verify_slice(&signature).is_err() {
            return Ok(None);
        }
        Ok(decode::<Claims>(claims).and_then(|claims| self.caller(claims)))
    }

    fn caller(&self, claims: Claims) -> Option<Caller> {
        let now_ms = self.platform.now_ms();
        let is_now = now_ms < claims.exp.saturating_mul(1000) && claims.nbf.saturating_mul(1000) <= now_ms + SKEW_MS;
        if claims.iss != ISSUER || claims.aud != self.service || !is_now {
            return None;
        }
        let mut narrowed = Narrowed { pulls_everything: claims.pulls_everything, refused: Vec::new() };
        let mut grants = Vec::new();
        for access in claims.access {
            match access.actions.is_empty() {
                true => narrowed.refused.push(access.name.parse().ok()?),
                false => grants.push(access.grant()?),
            }
        }
        Some(Caller { user: claims.sub, grants, ends_ms: None, narrowed: Some(narrowed) })
    }

    /// The key to sign with. The key is read again after a while, because two instances may have
    /// made one at the same time.
    async fn signing_key(&self) -> Result<Arc<Key>, Refusal> {
        let now_ms = self.platform.now_ms();
        let Some(keys) = &self.keys else { return self.held_key().ok_or(Refusal::Unauthorized) };
        if let Some(key) = self.held_key().filter(|_| now_ms.saturating_sub(self.lock().read_ms) < KEY_AGE_MAX_MS) {
            return Ok(key);
        }
        if let Some(key) = self.read(keys.as_ref()).await? {
            return Ok(key);
        }
        let bytes = [self.platform.random(), self.platform.random()].concat();
        match keys.put_where_supported(KEY, hex::encode(bytes).into(), When::Absent).await {
            Ok(_) | Err(store::Error::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
        // Read the key back: if two instances have made one at the same time, the last write
        // counts.
        let lost = || store::Error::corrupt(format!("key {KEY} was written and is missing"));
        Ok(self.read(keys.as_ref()).await?.ok_or_else(lost)?)
    }

    /// The key with this id: the key in use, or a key that another instance has made meanwhile.
    async fn key_called(&self, id: &str) -> Result<Option<Arc<Key>>, Refusal> {
        let of_name = |key: &Arc<Key>| key.id == id;
        if let Some(key) = self.held_key().filter(of_name) {
            return Ok(Some(key));
        }
        let Some(keys) = &self.keys else { return Ok(None) };
        let now_ms = self.platform.now_ms();
        {
            let mut held = self.lock();
            // Unknown key ids must not cost a storage call each.
            if held.looked_up_ms != 0 && now_ms.saturating_sub(held.looked_up_ms) < KEY_LOOKUP_INTERVAL_MS {
                return Ok(None);
            }
            held.looked_up_ms = now_ms;
        }
        Ok(self.read(keys.as_ref()).await?.filter(of_name))
    }

    async fn read(&self, keys: &dyn KeyValue) -> Result<Option<Arc<Key>>, Refusal> {
        let Some(entry) = keys.get(KEY).await? else { return Ok(None) };
        let bytes = hex::decode(&entry.value).ok().filter(|bytes| bytes.len() == KEY_BYTES);
        let bytes = bytes.ok_or_else(|| store::Error::corrupt(format!("cannot read the value of key {KEY}")))?;
        let key = Arc::new(Key::new(bytes));
        let mut held = self.lock();
        held.key = Some(key.clone());
        held.read_ms = self.platform.now_ms();
        Ok(Some(key))
    }

    fn held_key(&self) -> Option<Arc<Key>> {
        self.lock().key.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Key {
    fn new(bytes: Vec<u8>) -> Self {
        let id = hex::encode(&Sha256::new().chain_update("eyot key id").chain_update(&bytes).finalize()[..8]);
        Self { bytes, id }
    }

    fn mac(&self, signed: &str) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.bytes).expect("HMAC takes keys of any length").chain_update(signed)
    }
}

impl AccessClaim {
    fn of(grant: &Grant) -> Self {
        let name = grant.repositories.as_str().to_owned();
        Self { kind: "repository".into(), name, actions: grant.actions.clone() }
    }

    fn refused(repository: &RepositoryName) -> Self {
        Self { kind: "repository".into(), name: repository.as_str().to_owned(), actions: Vec::new() }
    }

    fn scope(&self) -> String {
        let actions: Vec<_> = self.actions.iter().map(|action| action.as_str()).collect();
        format!("{}:{}:{}", self.kind, self.name, actions.join(","))
    }

    fn grant(self) -> Option<Grant> {
        let repositories = self.name.parse().ok().filter(|_| self.kind == "repository")?;
        Some(Grant { repositories, actions: self.actions })
    }
}

fn encode(part: &impl Serialize) -> Result<String, Refusal> {
    let unlikely = |error: serde_json::Error| store::Error::corrupt("cannot encode a token").because(error);
    Ok(Base64UrlUnpadded::encode_string(&serde_json::to_vec(part).map_err(unlikely)?))
}

fn decode<T: for<'a> Deserialize<'a>>(part: &str) -> Option<T> {
    serde_json::from_slice(&Base64UrlUnpadded::decode_vec(part).ok()?).ok()
}

#[cfg(test)]
mod tests;
