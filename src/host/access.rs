//! The settings of access control: users, logins, tokens and permissions.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};

use super::settings::{AccessSettings, AuthMode, KeyValueName, ServerSettings, StoreSettings};
use crate::auth::{
    Access, Accounts, Directory, IssuerRules, Issuers, KEY_ENTROPY_BITS_MIN, Outbound, PasswordHash, Policy, Secret,
    Tokens, check_password, parse_htpasswd,
};
use crate::http::{Handler, Proxies};
use crate::platform::Platform;
use crate::store::KeyValue;

/// The settings of access control, read and checked.
#[derive(Clone, Debug)]
pub struct AccessConfig {
    users: Users,
    /// Whether the host listens on a loopback address, so that only this machine reaches the registry.
    loopback: bool,
    /// Whether only one instance checks a login at a time, as hashing passwords is expensive: for
    /// components on one machine, whose instances share only the store.
    one_login_at_a_time: bool,
    token_key: Option<Secret>,
    public_url: Option<String>,
    proxies: Proxies,
}

#[derive(Clone, Debug)]
enum Users {
    /// Logins are off: `policy` says what every caller may do, and `notice` is logged at the start.
    None {
        policy: Policy,
        notice: Option<&'static str>,
        /// Whether requests are answered only under names of this machine.
        local: bool,
    },
    Some {
        policy: Policy,
        plain: Option<(String, Secret)>,
        hashes: Vec<(String, PasswordHash)>,
        issuers: Option<IssuerRules>,
    },
}

const OPEN: &str = "auth_mode is none: everybody who reaches this registry can push and delete";
const READ_ONLY: &str = "this registry is read-only: no login is set up (settings auth_mode, auth_user, auth_password)";

/// The name of the service in tokens when no public URL gives a name.
const SERVICE_DEFAULT: &str = "eyot";

impl AccessConfig {
    /// Checks the settings of access control. The settings of the stores and of the server say
    /// where the users are and who reaches the registry.
    ///
    /// # Errors
    /// When a setting has an invalid value, or two settings exclude each other. No error text
    /// contains a secret.
    pub(super) fn new(settings: AccessSettings, stores: &StoreSettings, server: &ServerSettings) -> Result<Self> {
        if settings.token_key.as_ref().is_some_and(|key| key.entropy_bits_max() < KEY_ENTROPY_BITS_MIN) {
            bail!("setting auth_token_key: the key is too easy to guess; use one of `openssl rand -hex 32`");
        }
        let proxies = server.trusted_proxies.as_deref().unwrap_or_default();
        Ok(Self {
            one_login_at_a_time: cfg!(target_family = "wasm") && stores.keys != KeyValueName::S3,
            loopback: match server.listen_address.as_deref() {
                None => false,
                Some("localhost") => true,
                Some(text) => {
                    let address: IpAddr =
                        text.parse().with_context(|| format!("setting listen_address: {text:?} is not an address"))?;
                    address.to_canonical().is_loopback()
                }
            },
            token_key: settings.token_key.clone(),
            users: Users::new(settings)?,
            public_url: server.public_url.clone(),
            proxies: proxies.parse().context("setting trusted_proxies")?,
        })
    }

    /// Logs warnings at the start of a server: a weak password, open or read-only access, a
    /// registry without users.
    pub fn log_warnings(&self) {
        if let Users::Some { plain: Some((_, password)), .. } = &self.users
            && let Err(why) = check_password(password)
        {
            tracing::warn!(
                "setting auth_password: {why}. This password is accepted because only this machine reaches the registry"
            );
        }
        match &self.users {
            Users::None { notice: Some(notice), .. } => tracing::warn!("{notice}"),
            Users::None { .. } => {}
            Users::Some { plain: None, hashes, issuers: None, .. } if hashes.is_empty() => {
                tracing::warn!("no setting names a user: only users of `eyot user add` can log in");
            }
            Users::Some { .. } => {}
        }
    }

    /// Builds the access control, over the users and token keys in `keys`.
    ///
    /// # Errors
    /// When a setting has an invalid value; the text names the setting.
    pub fn access(&self, keys: &Arc<dyn KeyValue>, platform: &Arc<dyn Platform>) -> Result<Access> {
        let (policy, plain, hashes, issuers) = match &self.users {
            Users::None { policy, .. } => return Ok(Access::without_login(policy.clone())),
            Users::Some { policy, plain, hashes, issuers } => {
                (policy.clone(), plain.clone(), hashes.clone(), issuers.clone())
            }
        };
        let mut accounts = Accounts::new(policy, keys.clone(), platform.clone()).with_hashes(hashes);
        if self.one_login_at_a_time {
            accounts = accounts.one_login_at_a_time();
        }
        if let Some((user, password)) = plain {
            let added = match self.loopback {
                true => accounts.with_local_user(user, password),
                false => accounts.with_user(user, password),
            };
            accounts = added.map_err(|why| anyhow!("settings auth_user, auth_password: {why}"))?;
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

    /// Applies the settings for trusted proxies, local names and the public URL to a handler.
    ///
    /// # Errors
    /// When a setting has an invalid value; the text names the setting.
    pub fn apply(&self, handler: Handler) -> Result<Handler> {
        let handler = handler.with_proxies(self.proxies.clone());
        let handler = match self.users {
            Users::None { local: true, .. } => handler.with_local_names_only(),
            _ => handler,
        };
        match &self.public_url {
            Some(url) => handler.with_public_url(url).map_err(|why| anyhow!("setting public_url: {why}")),
            None => Ok(handler),
        }
    }
}

impl Users {
    fn new(settings: AccessSettings) -> Result<Self> {
        let plain = match (settings.user, settings.password) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            (Some(_), None) => bail!("setting auth_password is missing: auth_user needs a password"),
            (None, Some(_)) => bail!("setting auth_user is missing: auth_password needs the name of its user"),
        };
        let hashes = read_hashes(&settings.htpasswd.unwrap_or_default(), settings.htpasswd_file)?;
        let issuers = read_issuers(settings.oidc_issuers, &settings.oidc_key_hosts.unwrap_or_default())?;
        let has_users = plain.is_some() || !hashes.is_empty();
        if issuers.is_some() && settings.policy.is_none() {
            bail!("setting oidc_issuers: only an auth_policy can give permissions to the users oidc:NAME");
        }
        let policy = match (settings.mode, settings.policy) {
            (Some(_), Some(_)) => bail!("settings auth_mode and auth_policy exclude each other: set one of them"),
            (Some(AuthMode::None | AuthMode::Local), _) if has_users => {
                bail!("setting auth_mode: with none and local nobody logs in, so there can be no users")
            }
            (Some(AuthMode::None), _) => {
                return Ok(Self::None { policy: Policy::open(), notice: Some(OPEN), local: false });
            }
            // The mode `local` is for this machine alone, so no warning is needed.
            (Some(AuthMode::Local), _) => return Ok(Self::None { policy: Policy::open(), notice: None, local: true }),
            (Some(AuthMode::WriteOnly), _) => Policy::write_only(),
            (Some(AuthMode::ReadWrite), _) => Policy::read_write(),
            (None, Some(policy)) => policy.parse().context("setting auth_policy")?,
            (None, None) if has_users => Policy::read_write(),
            (None, None) => {
                return Ok(Self::None { policy: Policy::read_only(), notice: Some(READ_ONLY), local: false });
            }
        };
        Ok(Self::Some { policy, plain, hashes, issuers })
    }
}

/// The users of the settings `htpasswd` and `htpasswd_file`.
fn read_hashes(htpasswd: &str, file: Option<String>) -> Result<Vec<(String, PasswordHash)>> {
    let mut hashes = parse_htpasswd(htpasswd).map_err(|why| anyhow!("setting htpasswd: {why}"))?;
    if let Some(path) = file {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("setting htpasswd_file: cannot read {path}"))?;
        hashes.extend(parse_htpasswd(&text).map_err(|why| anyhow!("setting htpasswd_file: {path}: {why}"))?);
    }
    Ok(hashes)
}

/// The rules of the settings `oidc_issuers` and `oidc_key_hosts`.
fn read_issuers(rules: Option<String>, key_hosts: &str) -> Result<Option<IssuerRules>> {
    let Some(rules) = rules else { return Ok(None) };
    let rules: IssuerRules = rules.parse().map_err(|why| anyhow!("setting oidc_issuers: {why}"))?;
    Ok(Some(rules.with_key_hosts(key_hosts).map_err(|why| anyhow!("setting oidc_key_hosts: {why}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Action, Attempt, Credentials};
    use crate::host::settings::{Host, Values};
    use crate::platform::SystemPlatform;
    use crate::store::memory::MemoryKeyValue;

    fn read(settings: &[(&str, &str)]) -> Result<AccessConfig> {
        let get = |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let values = Values::new(Host::Native, &get);
        let (stores, server) = (StoreSettings::read(values)?, ServerSettings::read(values)?);
        AccessConfig::new(AccessSettings::read(values)?, &stores, &server)
    }

    const USER: [(&str, &str); 2] = [("auth_user", "me"), ("auth_password", "a long passphrase")];

    /// The actions of an anonymous caller and of a user, and whether logins are on.
    fn may(settings: &[(&str, &str)]) -> (Vec<Action>, Vec<Action>, bool) {
        let keys: Arc<dyn KeyValue> = Arc::new(MemoryKeyValue::default());
        let access = read(settings).unwrap().access(&keys, &(Arc::new(SystemPlatform) as Arc<dyn Platform>)).unwrap();
        let allowed = |credentials| {
            let attempt = Attempt { credentials: &credentials, address: None };
            let caller = futures_executor::block_on(access.caller(attempt)).unwrap();
            let repository = "any/app".parse().unwrap();
            [Action::Pull, Action::Push, Action::Admin]
                .into_iter()
                .filter(|action| caller.may(*action, &repository))
                .collect()
        };
        let has_login = access.service().is_some();
        let basic = || Credentials::Basic { user: "me".into(), password: Secret::new("a long passphrase") };
        (allowed(Credentials::Anonymous), if has_login { allowed(basic()) } else { Vec::new() }, has_login)
    }

    #[test]
    fn one_setting_says_who_must_log_in() {
        use Action::{Admin, Pull, Push};
        let (nothing, pull, all) = (Vec::new(), vec![Pull], vec![Pull, Push, Admin]);
        let with = |more: &[(&'static str, &'static str)]| [USER.as_slice(), more].concat();
        for (settings, expected) in [
            (vec![], (pull.clone(), nothing.clone(), false)),
            (vec![("auth_mode", "none")], (all.clone(), nothing.clone(), false)),
            (vec![("auth_mode", "local")], (all.clone(), nothing.clone(), false)),
            (with(&[("auth_mode", "write_only")]), (pull.clone(), all.clone(), true)),
            (with(&[("auth_mode", "read_write")]), (nothing.clone(), all.clone(), true)),
            (with(&[]), (nothing.clone(), all.clone(), true)),
            (with(&[("auth_policy", "anonymous any/* pull; me any/* push")]), (pull, vec![Pull, Push], true)),
            (with(&[("auth_policy", "you ** all")]), (nothing.clone(), nothing, true)),
        ] {
            assert_eq!(may(&settings), expected, "{settings:?}");
        }
    }

    #[test]
    fn contradictions_are_refused_in_texts_without_secrets() {
        let issuer = "ci https://issuer.example here sub=x";
        for (settings, expected) in [
            (vec![("auth_mode", "open")], "\"open\" is not one of none, write_only, read_write"),
            (vec![("auth_user", "me")], "setting auth_password is missing"),
            (vec![("auth_mode", "none"), USER[0], USER[1]], "nobody logs in"),
            (vec![("auth_mode", "none"), ("auth_policy", "a b pull")], "exclude each other"),
            (vec![("auth_policy", "a b")], "want WHO REPOSITORIES ACTIONS"),
            (vec![("auth_token_key", "hunter2hunter2")], "too easy to guess"),
            (vec![("htpasswd", "me:hunter2")], "user me: want a bcrypt hash"),
            (vec![("trusted_proxies", "proxy.example")], "is not an address"),
            (vec![("oidc_issuers", issuer)], "only an auth_policy"),
        ] {
            let error = format!("{:#}", read(&settings).map(|_| ()).unwrap_err());
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
        let config = read(&[USER[0], USER[1], ("auth_token_key", "0123456789abcdef0123456789abcdef0123")]).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("passphrase") && !shown.contains("0123"), "{shown}");
        let weak = read(&[("auth_user", "me"), ("auth_password", "secret")]).unwrap();
        let keys: Arc<dyn KeyValue> = Arc::new(MemoryKeyValue::default());
        let platform: Arc<dyn Platform> = Arc::new(SystemPlatform);
        let error = weak.access(&keys, &platform).err().unwrap().to_string();
        assert!(error.contains("too short") && !error.contains("secret"), "{error}");
        for (address, expected) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("localhost", true),
            ("0.0.0.0", false),
            ("::", false),
            ("10.0.0.1", false),
        ] {
            let weak = [("auth_user", "me"), ("auth_password", "secret"), ("listen_address", address)];
            assert_eq!(read(&weak).unwrap().access(&keys, &platform).is_ok(), expected, "{address}");
        }
    }
}
