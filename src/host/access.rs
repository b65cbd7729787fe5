//! The settings that say who may do what.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::auth::{
    Access, Accounts, Directory, IssuerRules, Issuers, KEY_ENTROPY_BITS_MIN, Outbound, PasswordHash, Policy, Secret,
    Tokens, parse_htpasswd,
};
use crate::http::{Handler, Proxies};
use crate::store::{KeyValue, Platform};

/// Who may do what, read and checked.
#[derive(Clone, Debug)]
pub struct AccessConfig {
    users: Users,
    token_key: Option<Secret>,
    public_url: Option<String>,
    proxies: Proxies,
}

#[derive(Clone, Debug)]
enum Users {
    /// Nobody can log in: what anyone may do, and what the start says of that.
    None(Policy, &'static str),
    Some {
        policy: Policy,
        plain: Option<(String, Secret)>,
        hashes: Vec<(String, PasswordHash)>,
        issuers: Option<IssuerRules>,
    },
}

const OPEN: &str = "auth_mode is none: whoever reaches this registry can push and delete";
const READ_ONLY: &str = "this registry is read-only: no login is set up (settings auth_mode, auth_user, auth_password)";

/// What tokens are for where no public URL says it.
const SERVICE_DEFAULT: &str = "eyot";

impl AccessConfig {
    /// Reads the settings through `get`.
    ///
    /// # Errors
    /// When a setting has a value that it does not take, or two that exclude each other are given. No text holds a secret.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let token_key = get("auth_token_key").map(Secret::new);
        if token_key.as_ref().is_some_and(|key| key.entropy_bits_max() < KEY_ENTROPY_BITS_MIN) {
            bail!("setting auth_token_key: too easy to guess; take one of `openssl rand -hex 32`");
        }
        Ok(Self {
            users: Users::read(&get)?,
            token_key,
            public_url: get("public_url"),
            proxies: get("trusted_proxies").unwrap_or_default().parse().context("setting trusted_proxies")?,
        })
    }

    /// Puts whoever is to decide before a handler.
    ///
    /// # Errors
    /// When a setting has a value that it does not take.
    pub fn access(&self, keys: &Arc<dyn KeyValue>, platform: &Arc<dyn Platform>) -> Result<Access> {
        let (policy, plain, hashes, issuers) = match &self.users {
            Users::None(policy, notice) => {
                log::warn!("{notice}");
                return Ok(Access::without_login(policy.clone()));
            }
            Users::Some { policy, plain, hashes, issuers } => {
                (policy.clone(), plain.clone(), hashes.clone(), issuers.clone())
            }
        };
        if plain.is_none() && hashes.is_empty() && issuers.is_none() {
            log::warn!("no setting names a user: only those of `eyot user add` can log in");
        }
        let mut accounts = Accounts::new(policy, keys.clone(), platform.clone()).with_hashes(hashes);
        if let Some((user, password)) = plain {
            accounts = accounts
                .with_user(user, password)
                .map_err(|why| anyhow!("settings auth_user, auth_password: {why}"))?;
        }
        if let Some(rules) = issuers {
            let source = Arc::new(Outbound::new(platform.clone()));
            accounts = accounts.with_issuers(Issuers::new(rules, source, platform.clone()));
        }
        let service = self.public_url.as_deref().and_then(|url| url.split("//").nth(1)?.split('/').next());
        let service = service.unwrap_or(SERVICE_DEFAULT);
        let tokens = match &self.token_key {
            Some(key) => Tokens::with_key(service, key, platform.clone()),
            None => Tokens::stored(service, keys.clone(), platform.clone()),
        };
        let directory = Directory::new(keys.clone(), platform.clone());
        Ok(Access::new(Arc::new(accounts), tokens).with_directory(directory))
    }

    /// Tells a handler how clients reach it.
    ///
    /// # Errors
    /// When a setting has a value that it does not take.
    pub fn apply(&self, handler: Handler) -> Result<Handler> {
        let handler = handler.with_proxies(self.proxies.clone());
        match &self.public_url {
            Some(url) => handler.with_public_url(url).map_err(|why| anyhow!("setting public_url: {why}")),
            None => Ok(handler),
        }
    }
}

impl Users {
    fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let plain = match (get("auth_user"), get("auth_password")) {
            (Some(user), Some(password)) => Some((user, Secret::new(password))),
            (None, None) => None,
            _ => bail!("settings auth_user and auth_password: one is there without the other"),
        };
        let mut hashes =
            parse_htpasswd(&get("htpasswd").unwrap_or_default()).map_err(|why| anyhow!("setting htpasswd: {why}"))?;
        if let Some(path) = get("htpasswd_file") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("setting htpasswd_file: {path}"))?;
            hashes.extend(parse_htpasswd(&text).map_err(|why| anyhow!("setting htpasswd_file: {path}: {why}"))?);
        }
        let issuers: Option<IssuerRules> = get("oidc_issuers")
            .map(|rules| rules.parse())
            .transpose()
            .map_err(|why| anyhow!("setting oidc_issuers: {why}"))?;
        let has_users = plain.is_some() || !hashes.is_empty();
        if issuers.is_some() && get("auth_policy").is_none() {
            bail!("setting oidc_issuers: only an auth_policy says what their users, oidc:NAME, may do");
        }
        let policy = match (get("auth_mode").as_deref(), get("auth_policy")) {
            (Some(_), Some(_)) => bail!("settings auth_mode and auth_policy: only one of them can be"),
            (Some("none"), _) if has_users => {
                bail!("setting auth_mode: with none nobody logs in, so there are no users")
            }
            (Some("none"), _) => return Ok(Self::None(Policy::open(), OPEN)),
            (Some("write_only"), _) => Policy::write_only(),
            (Some("read_write"), _) => Policy::read_write(),
            (Some(other), _) => bail!("setting auth_mode: {other:?} is not one of none, write_only, read_write"),
            (None, Some(policy)) => policy.parse().context("setting auth_policy")?,
            (None, None) if has_users => Policy::read_write(),
            (None, None) => return Ok(Self::None(Policy::read_only(), READ_ONLY)),
        };
        Ok(Self::Some { policy, plain, hashes, issuers })
    }
}
