//! Tokens of other issuers (OpenID Connect): continuous integration and clusters log in with what they have already.
//!
//! A token counts when it is signed by a key that its issuer publishes, is meant for us, and is good now; its claims then say who it is.
//! Which algorithm is tried follows from the key, so no token can have a public key taken for a secret one.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use base64ct::{Base64UrlUnpadded, Encoding as _};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::jwk::{PublicKey, parse_keys};
use super::pattern::matches;
use super::{Refusal, Secret};
use crate::store::{self, Platform};

/// The longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// How far an issuer's clock may differ from ours.
const SKEW_MS: u64 = 60 * 1000;
/// How long keys are kept when the issuer does not say.
const KEYS_AGE_DEFAULT_MS: u64 = 60 * 60 * 1000;
/// Keys are kept no shorter and no longer than this, whatever the issuer says.
const KEYS_AGE_MS: std::ops::RangeInclusive<u64> = 5 * 60 * 1000..=24 * 60 * 60 * 1000;
/// How often an issuer is asked at most: for keys that a token names and we do not know, or when it did not answer.
const FETCH_INTERVAL_MS: u64 = 30 * 1000;
/// How many rules there are at most.
const RULES_MAX: usize = 100;
/// The most bytes that a document of an issuer may have: what a [`JwksSource`] reads before it gives up.
pub const DOCUMENT_BYTES_MAX: u64 = 256 * 1024;

/// Where an issuer's documents come from: a GET that follows no redirect, over TLS.
#[async_trait]
pub trait JwksSource: Send + Sync {
    /// Fetches a document of at most [`DOCUMENT_BYTES_MAX`].
    ///
    /// # Errors
    /// [`store::Error::Unavailable`] for anything but the document.
    async fn fetch(&self, url: &str) -> Result<Document, store::Error>;
}

/// What was fetched.
#[derive(Clone, Debug)]
pub struct Document {
    /// The document.
    pub bytes: Bytes,
    /// How long it may be kept, in seconds, where the answer said (`Cache-Control: max-age`).
    pub max_age_seconds: Option<u64>,
}

/// Rules that make a user of a token, one a line or between `;`: a name, an issuer, the audience that the token must be for, and
/// claims that it must have.
///
/// ```
/// use eyot::auth::IssuerRules;
/// let rules: IssuerRules = "
///     ci     https://token.actions.githubusercontent.com  registry.example  repository=acme/*  ref=refs/heads/main
///     deploy https://kubernetes.default.svc               registry.example  sub=system:serviceaccount:prod:*
/// ".parse().unwrap();
/// ```
///
/// In a policy these users are called `oidc:ci` and `oidc:deploy`. In a claim's pattern `*` stands for anything but `/`, `**` for
/// anything; of a claim that is a list one entry must match.
#[derive(Clone, Debug, Default)]
pub struct IssuerRules(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    issuer: String,
    audience: String,
    claims: Vec<(String, String)>,
}

impl FromStr for IssuerRules {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(|line| if line.trim_start().starts_with('#') { "" } else { line });
        let texts = lines.flat_map(|line| line.split(';')).map(str::trim).filter(|rule| !rule.is_empty());
        let rules = texts.map(|text| parse_rule(text).map_err(|why| format!("rule {text:?}: {why}")));
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        if rules.len() > RULES_MAX {
            return Err(format!("there are more than {RULES_MAX} rules"));
        }
        Ok(Self(rules))
    }
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let mut words = text.split_whitespace();
    let (Some(name), Some(issuer), Some(audience)) = (words.next(), words.next(), words.next()) else {
        return Err("want NAME ISSUER AUDIENCE CLAIM=PATTERN…".into());
    };
    super::check_user_name(name)?;
    if !is_secure(issuer) {
        return Err("an issuer is a URL that begins with https:// (or http:// on this machine)".into());
    }
    let claims: Option<Vec<_>> = words.map(|word| word.split_once('=')).collect();
    let claims = claims.ok_or("want CLAIM=PATTERN after the audience")?;
    if claims.is_empty() {
        // Whoever has an account there gets tokens for any audience.
        return Err("want at least one CLAIM=PATTERN: an issuer signs for everybody it knows".into());
    }
    let owned = |(claim, pattern): (&str, &str)| (claim.to_owned(), pattern.to_owned());
    let (name, issuer, audience) = (name.to_owned(), issuer.trim_end_matches('/').to_owned(), audience.to_owned());
    Ok(Rule { name, issuer, audience, claims: claims.into_iter().map(owned).collect() })
}

/// Nobody in between can change what is fetched from there.
fn is_secure(url: &str) -> bool {
    let local = ["http://127.0.0.1:", "http://localhost:", "http://[::1]:"];
    url.starts_with("https://") || local.iter().any(|start| url.starts_with(start))
}

/// Checks tokens of other issuers.
pub struct Issuers {
    rules: IssuerRules,
    source: Arc<dyn JwksSource>,
    platform: Arc<dyn Platform>,
    /// By issuer.
    known: Mutex<HashMap<String, Known>>,
}

/// What is known of an issuer.
#[derive(Clone, Default)]
struct Known {
    keys: Arc<HashMap<String, PublicKey>>,
    until_ms: u64,
    asked_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
    /// Extensions that must be understood: we understand none.
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Issuers {
    /// Users by these rules; keys come from `source`.
    pub fn new(rules: IssuerRules, source: Arc<dyn JwksSource>, platform: Arc<dyn Platform>) -> Self {
        Self { rules, source, platform, known: Mutex::default() }
    }

    /// Whether a text looks like a token that could be somebody else's.
    pub(super) fn is_token(text: &Secret) -> bool {
        let text = text.expose();
        text.starts_with("eyJ") && text.len() <= TOKEN_BYTES_MAX && text.matches('.').count() == 2
    }

    /// The names that the rules give whoever has this token; none for a token that is not right.
    ///
    /// # Errors
    /// When the issuer's keys cannot be had.
    pub(super) async fn names(&self, token: &Secret) -> Result<Vec<String>, Refusal> {
        let Some((signed, signature)) = token.expose().rsplit_once('.') else { return Ok(Vec::new()) };
        let Some((header, claims)) = signed.split_once('.') else { return Ok(Vec::new()) };
        let (Some(header), Some(claims)) = (decode::<Header>(header), decode::<Map<String, Value>>(claims)) else {
            return Ok(Vec::new());
        };
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default().trim_end_matches('/');
        // Before anybody is asked for a key.
        let names = self.rules.0.iter().filter(|rule| rule.issuer == issuer && rule.applies(&claims));
        let names: Vec<_> = names.map(|rule| format!("oidc:{}", rule.name)).collect();
        let Ok(signature) = Base64UrlUnpadded::decode_vec(signature) else { return Ok(Vec::new()) };
        if names.is_empty() || header.crit.is_some() || !self.is_now(&claims) {
            return Ok(Vec::new());
        }
        let keys = self.keys(issuer, &header.kid).await?;
        let right = keys.get(&header.kid).is_some_and(|key| key.verifies(&header.alg, signed.as_bytes(), &signature));
        Ok(if right { names } else { Vec::new() })
    }

    fn is_now(&self, claims: &Map<String, Value>) -> bool {
        let now_ms = self.platform.now_ms();
        // Fractions of seconds are allowed and dropped.
        let time_ms = |name| claims.get(name).and_then(Value::as_f64).map(|seconds| (seconds.max(0.0) * 1000.0) as u64);
        let has_begun = |name| match claims.get(name) {
            Some(_) => time_ms(name).is_some_and(|ms| ms <= now_ms + SKEW_MS),
            None => true,
        };
        time_ms("exp").is_some_and(|ms| now_ms < ms) && has_begun("nbf") && has_begun("iat")
    }

    /// The issuer's keys, fetched when they are too old or lack the one that is wanted.
    async fn keys(&self, issuer: &str, wanted: &str) -> Result<Arc<HashMap<String, PublicKey>>, Refusal> {
        let now_ms = self.platform.now_ms();
        let known = {
            let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let known = all.entry(issuer.to_owned()).or_default();
            let is_fresh = now_ms < known.until_ms;
            if is_fresh && known.keys.contains_key(wanted) {
                return Ok(known.keys.clone());
            }
            if known.asked_ms.is_some_and(|asked_ms| now_ms.saturating_sub(asked_ms) < FETCH_INTERVAL_MS) {
                return match is_fresh {
                    true => Ok(known.keys.clone()),
                    false => Err(unavailable(format!("{issuer} did not answer a moment ago"))),
                };
            }
            known.asked_ms = Some(now_ms);
            known.clone()
        };
        let (keys, age_ms) = self.fetch(issuer).await?;
        let fetched = Known { keys: Arc::new(keys), until_ms: now_ms + age_ms, ..known };
        let keys = fetched.keys.clone();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(issuer.to_owned(), fetched);
        Ok(keys)
    }

    async fn fetch(&self, issuer: &str) -> Result<(HashMap<String, PublicKey>, u64), Refusal> {
        let discovery = self.source.fetch(&format!("{issuer}/.well-known/openid-configuration")).await?;
        let wrong = |what: &str| unavailable(format!("{issuer}: {what}"));
        let found: Discovery = serde_json::from_slice(&discovery.bytes).map_err(|_| wrong("no configuration"))?;
        if found.issuer.trim_end_matches('/') != issuer || !is_secure(&found.jwks_uri) {
            return Err(wrong("the configuration is of another issuer, or its keys come by an insecure way"));
        }
        let document = self.source.fetch(&found.jwks_uri).await?;
        let keys = parse_keys(&document.bytes).ok_or_else(|| wrong("no keys"))?;
        let age_ms = document.max_age_seconds.map_or(KEYS_AGE_DEFAULT_MS, |seconds| seconds.saturating_mul(1000));
        Ok((keys, age_ms.clamp(*KEYS_AGE_MS.start(), *KEYS_AGE_MS.end())))
    }
}

impl Rule {
    fn applies(&self, claims: &Map<String, Value>) -> bool {
        let has = |claim: &str, fits: &dyn Fn(&str) -> bool| match claims.get(claim) {
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).any(fits),
            Some(Value::String(text)) => fits(text),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => fits(&value.to_string()),
            _ => false,
        };
        let is_for_us = has("aud", &|audience| audience == self.audience);
        is_for_us && self.claims.iter().all(|(claim, pattern)| has(claim, &|text| fits(pattern, text)))
    }
}

/// The longest claim that is compared, in bytes.
const CLAIM_BYTES_MAX: usize = 1024;

fn fits(pattern: &str, text: &str) -> bool {
    text.len() <= CLAIM_BYTES_MAX && matches(pattern.as_bytes(), text.as_bytes())
}

fn unavailable(text: String) -> Refusal {
    store::Error::Unavailable(text).into()
}

fn decode<T: for<'a> Deserialize<'a>>(part: &str) -> Option<T> {
    serde_json::from_slice(&Base64UrlUnpadded::decode_vec(part).ok()?).ok()
}

#[cfg(test)]
mod tests;
