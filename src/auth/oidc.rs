//! Tokens of other issuers (OpenID Connect): continuous integration and clusters log in with the
//! tokens that they already have.
//!
//! A token is accepted if a key that its issuer publishes has signed the token, and the token is
//! meant for this registry and valid now. The claims of the token then identify the user. The keys
//! of an issuer are fetched once for all requests that want the keys at the same time; slightly
//! outdated keys are used meanwhile. The key determines the algorithm that is tried, so a token
//! cannot make a public key serve as a shared secret.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use base64ct::{Base64UrlUnpadded, Encoding as _};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::{Host, Url};

use super::flight::Flights;
use super::invalid::InvalidAccess;
use super::jwk::{PublicKey, parse_keys};
use super::pattern::matches;
use super::{Refusal, Secret};
use crate::platform::{Causes, Platform};
use crate::store;

/// The longest token that is checked, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// How far an issuer's clock may differ from the registry's.
const SKEW_MS: u64 = 60 * 1000;
/// How long keys are kept if the issuer does not say.
const KEYS_AGE_DEFAULT_MS: u64 = 60 * 60 * 1000;
/// The shortest and the longest time for which keys are kept, whatever the issuer says.
const KEYS_AGE_MS: std::ops::RangeInclusive<u64> = 5 * 60 * 1000..=24 * 60 * 60 * 1000;
/// The shortest interval between two fetches from one issuer, for example for unknown keys that
/// tokens name, or after the issuer did not answer.
const FETCH_INTERVAL_MS: u64 = 30 * 1000;
/// How long outdated keys are still used while new keys are fetched, or while the issuer does not
/// answer.
const STALE_MS_MAX: u64 = 30 * 60 * 1000;
/// The most rules.
const RULES_MAX: usize = 100;
/// The most bytes of an issuer's document. A [`JwksSource`] gives up after so many bytes.
pub const DOCUMENT_BYTES_MAX: u64 = 256 * 1024;

/// The source of issuers' documents: a GET over TLS that follows no redirect.
#[async_trait]
pub trait JwksSource: Send + Sync {
    /// Fetches a document of at most [`DOCUMENT_BYTES_MAX`].
    ///
    /// # Errors
    /// [`store::Error::Unavailable`] for anything but the document.
    async fn fetch(&self, url: &str) -> Result<Document, store::Error>;
}

/// A document that was fetched.
#[derive(Clone, Debug)]
pub struct Document {
    /// The document.
    pub bytes: Bytes,
    /// How long the document may be kept, in seconds, if the answer says (`Cache-Control:
    /// max-age`).
    pub max_age_seconds: Option<u64>,
}

/// Rules that map a token to a user, one per line or separated by `;`: a name, an issuer, the
/// audience that the token must be for, and claims that the token must have.
///
/// ```
/// use eyot::auth::IssuerRules;
/// let rules: IssuerRules = "
///     ci     https://token.actions.githubusercontent.com  registry.example  repository=acme/*  ref=refs/heads/main
///     deploy https://kubernetes.default.svc               registry.example  sub=system:serviceaccount:prod:*
/// ".parse().unwrap();
/// ```
///
/// In a policy these users are called `oidc:ci` and `oidc:deploy`. In a claim's pattern `*` stands
/// for any text without `/`, and `**` for any text. If a claim is a list, one entry must match.
#[derive(Clone, Debug, Default)]
pub struct IssuerRules {
    rules: Vec<Rule>,
    /// Hosts other than an issuer's own from which its keys may come, with their ports.
    key_hosts: Vec<(String, u16)>,
}

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    /// The issuer as tokens name it, without a slash at the end.
    issuer: String,
    audience: String,
    claims: Vec<(String, String)>,
}

impl FromStr for IssuerRules {
    type Err = InvalidAccess;

    fn from_str(text: &str) -> Result<Self, InvalidAccess> {
        let lines = text.lines().map(|line| if line.trim_start().starts_with('#') { "" } else { line });
        let texts = lines.flat_map(|line| line.split(';')).map(str::trim).filter(|rule| !rule.is_empty());
        let rules = texts.map(|text| parse_rule(text).map_err(|why| format!("rule {text:?}: {why}")));
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        if rules.len() > RULES_MAX {
            return Err(format!("there are more than {RULES_MAX} rules").into());
        }
        Ok(Self { rules, key_hosts: Vec::new() })
    }
}

impl IssuerRules {
    /// Lets keys also come from these hosts (`HOST` or `HOST:PORT`, separated by commas or spaces).
    /// By default keys come only from the issuer's own host.
    ///
    /// # Errors
    /// The text names the word that is not a host.
    pub fn with_key_hosts(mut self, hosts: &str) -> Result<Self, InvalidAccess> {
        for word in hosts.split([',', ' ', '\n']).map(str::trim).filter(|word| !word.is_empty()) {
            let wrong = || InvalidAccess::from(format!("{word:?} is not a host, or a host with a port"));
            let url = parse_source(&format!("https://{word}")).map_err(|_| wrong())?;
            if url.path() != "/" {
                return Err(wrong());
            }
            self.key_hosts.push(host_and_port(&url).ok_or_else(wrong)?);
        }
        Ok(self)
    }
}

fn parse_rule(text: &str) -> Result<Rule, InvalidAccess> {
    let mut words = text.split_whitespace();
    let (Some(name), Some(issuer), Some(audience)) = (words.next(), words.next(), words.next()) else {
        return Err("want NAME ISSUER AUDIENCE CLAIM=PATTERN…".into());
    };
    super::check_user_name(name)?;
    parse_source(issuer).map_err(|why| format!("an issuer is a URL that {why}"))?;
    let claims: Option<Vec<_>> = words.map(|word| word.split_once('=')).collect();
    let claims = claims.ok_or("want CLAIM=PATTERN after the audience")?;
    if claims.is_empty() {
        // Anyone with an account at the issuer gets tokens for any audience.
        return Err("want at least one CLAIM=PATTERN: an issuer signs for everybody it knows".into());
    }
    let owned = |(claim, pattern): (&str, &str)| (claim.to_owned(), pattern.to_owned());
    let (name, issuer, audience) = (name.to_owned(), issuer.trim_end_matches('/').to_owned(), audience.to_owned());
    Ok(Rule { name, issuer, audience, claims: claims.into_iter().map(owned).collect() })
}

/// Parses the URL of a document that cannot be changed on the way: https, or http on this machine.
fn parse_source(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "begins with https:// and a host")?;
    let is_local = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => return Err("begins with https:// and a host"),
    };
    match url.scheme() {
        "https" => {}
        "http" if is_local => {}
        _ => return Err("begins with https:// (or http:// on this machine)"),
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("has no user, no query and no fragment");
    }
    Ok(url)
}

fn host_and_port(url: &Url) -> Option<(String, u16)> {
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

/// Checks tokens of other issuers.
pub struct Issuers {
    rules: Arc<IssuerRules>,
    source: Arc<dyn JwksSource>,
    platform: Arc<dyn Platform>,
    /// Has one entry per issuer.
    known: Arc<Mutex<HashMap<String, Known>>>,
    /// Has one entry per issuer.
    fetches: Flights<String, Result<Keys, Refusal>>,
}

type Keys = Arc<HashMap<String, PublicKey>>;

/// The user that another issuer's token identifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The names that the rules give the user; at least one.
    pub(super) names: Vec<String>,
    /// When the token expires, in milliseconds since the Unix epoch.
    pub(super) ends_ms: u64,
}

/// The keys of an issuer that are known, and how long they are valid.
#[derive(Clone, Default)]
struct Known {
    keys: Keys,
    until_ms: u64,
    /// When the issuer last answered, or failed to answer. A fetch in progress or an abandoned
    /// fetch does not count, so that it does not keep other requests from asking.
    asked_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
    /// Extensions that the recipient must understand. The registry supports no extension, so a
    /// token with this field is refused.
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Issuers {
    /// Identifies users by `rules`, with keys from `source`.
    pub fn new(rules: IssuerRules, source: Arc<dyn JwksSource>, platform: Arc<dyn Platform>) -> Self {
        Self { rules: Arc::new(rules), source, platform, known: Arc::default(), fetches: Flights::new() }
    }

    /// Whether a text looks like a token of another issuer.
    pub(super) fn is_token(text: &Secret) -> bool {
        let text = text.expose();
        text.starts_with("eyJ") && text.len() <= TOKEN_BYTES_MAX && text.matches('.').count() == 2
    }

    /// The user that the rules give to a token; `None` for an invalid token.
    ///
    /// # Errors
    /// [`Refusal::Issuer`] if the issuer's keys cannot be fetched.
    pub(super) async fn identify(&self, token: &Secret) -> Result<Option<Identity>, Refusal> {
        let Some((signed, signature)) = token.expose().rsplit_once('.') else { return Ok(None) };
        let Some((header, claims)) = signed.split_once('.') else { return Ok(None) };
        let (Some(header), Some(claims)) = (decode::<Header>(header), decode::<Map<String, Value>>(claims)) else {
            return Ok(None);
        };
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default().trim_end_matches('/');
        // Apply the rules first: keys are fetched only for a token that a rule accepts.
        let names = self.rules.rules.iter().filter(|rule| rule.issuer == issuer && rule.applies(&claims));
        let names: Vec<_> = names.map(|rule| format!("oidc:{}", rule.name)).collect();
        let Ok(signature) = Base64UrlUnpadded::decode_vec(signature) else { return Ok(None) };
        let Some(ends_ms) = self.end_if_now(&claims).filter(|_| !names.is_empty() && header.crit.is_none()) else {
            return Ok(None);
        };
        let keys = self.keys(issuer, &header.kid).await?;
        let right = keys.get(&header.kid).is_some_and(|key| key.verifies(&header.alg, signed.as_bytes(), &signature));
        Ok(right.then_some(Identity { names, ends_ms }))
    }

    /// When a token expires, in milliseconds since the Unix epoch; `None` if the token is not valid
    /// now.
    fn end_if_now(&self, claims: &Map<String, Value>) -> Option<u64> {
        let now_ms = self.platform.now_ms();
        // Fractions of seconds are allowed and dropped.
        let time_ms = |name| claims.get(name).and_then(Value::as_f64).map(|seconds| (seconds.max(0.0) * 1000.0) as u64);
        let has_begun = |name| match claims.get(name) {
            Some(_) => time_ms(name).is_some_and(|ms| ms <= now_ms + SKEW_MS),
            None => true,
        };
        time_ms("exp").filter(|ms| now_ms < *ms && has_begun("nbf") && has_begun("iat"))
    }

    /// The issuer's keys. The keys are fetched if they are outdated or lack the key `wanted`.
    async fn keys(&self, issuer: &str, wanted: &str) -> Result<Keys, Refusal> {
        let now_ms = self.platform.now_ms();
        let known = self.lock().get(issuer).cloned().unwrap_or_default();
        let has_wanted = known.keys.contains_key(wanted);
        let is_fresh = now_ms < known.until_ms;
        if is_fresh && has_wanted {
            return Ok(known.keys);
        }
        let serves = has_wanted && now_ms < known.until_ms.saturating_add(STALE_MS_MAX);
        if known.asked_ms.is_some_and(|asked_ms| now_ms.saturating_sub(asked_ms) < FETCH_INTERVAL_MS) {
            return if is_fresh || serves { Ok(known.keys) } else { Err(Refusal::Issuer(issuer.to_owned())) };
        }
        let fetch = self.fetch(issuer);
        if serves && self.platform.runs_tasks() {
            let _in_background = self.fetches.start(self.platform.as_ref(), issuer.to_owned(), fetch);
            return Ok(known.keys);
        }
        let (fetched, _) = self.fetches.join(self.platform.as_ref(), issuer.to_owned(), fetch).await;
        if fetched.is_err() && (is_fresh || serves) { Ok(known.keys) } else { fetched }
    }

    /// Fetches an issuer's keys, and remembers the keys and the time of the attempt.
    fn fetch(&self, issuer: &str) -> impl Future<Output = Result<Keys, Refusal>> + Send + 'static {
        let (known, platform, issuer) = (self.known.clone(), self.platform.clone(), issuer.to_owned());
        let (rules, source) = (self.rules.clone(), self.source.clone());
        async move {
            let fetched = rules.fetch(source.as_ref(), &issuer).await;
            let now_ms = platform.now_ms();
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = known.entry(issuer.clone()).or_default();
            entry.asked_ms = Some(now_ms);
            match fetched {
                Ok((keys, age_ms)) => {
                    entry.keys = Arc::new(keys);
                    entry.until_ms = now_ms + age_ms;
                    Ok(entry.keys.clone())
                }
                Err(why) => {
                    tracing::error!("the keys of issuer {issuer} cannot be fetched: {why}");
                    Err(Refusal::Issuer(issuer))
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IssuerRules {
    /// Fetches an issuer's keys. Gives the keys, and how long they are valid, in milliseconds.
    async fn fetch(&self, source: &dyn JwksSource, issuer: &str) -> Result<(HashMap<String, PublicKey>, u64), String> {
        let own = parse_source(issuer)?;
        let configuration = parse_source(&format!("{issuer}/.well-known/openid-configuration"))?;
        let discovery = source.fetch(configuration.as_str()).await.map_err(|error| Causes(&error).to_string())?;
        let found: Discovery =
            serde_json::from_slice(&discovery.bytes).map_err(|_| "its configuration cannot be read".to_owned())?;
        if found.issuer.trim_end_matches('/') != issuer {
            return Err("its configuration is that of another issuer".into());
        }
        let keys = parse_source(&found.jwks_uri).map_err(|why| format!("the URL of its keys is not one that {why}"))?;
        let host = host_and_port(&keys);
        let is_known = host == host_and_port(&own) || host.is_some_and(|host| self.key_hosts.contains(&host));
        if !is_known {
            let host = keys.host_str().unwrap_or_default();
            return Err(format!("its keys are on another host, {host} (setting oidc_key_hosts)"));
        }
        let document = source.fetch(keys.as_str()).await.map_err(|error| Causes(&error).to_string())?;
        let keys = parse_keys(&document.bytes).ok_or("its keys cannot be read")?;
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

fn decode<T: for<'a> Deserialize<'a>>(part: &str) -> Option<T> {
    serde_json::from_slice(&Base64UrlUnpadded::decode_vec(part).ok()?).ok()
}

#[cfg(test)]
mod tests;
