//! The built-in authority: users with passwords, machine tokens, and a policy.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

use super::directory::check_password;
use super::policy::ANONYMOUS;
use super::remembered::Remembered;
use super::throttle::Throttle;
use super::{
    Attempt, Authority, Caller, Credentials, Directory, Issuers, PASSWORD_BYTES_MAX, PasswordHash, Policy, Refusal,
    Secret,
};
use crate::store::{KeyValue, Platform};

/// A hash whose password nobody knows, of the kind that [`PasswordHash::new`] makes: to be computed where there is no user.
const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$ZXlvdCBkZWNveSBzYWx0IQ$jSBoi3uWlzbdtgDmSqAVNQQT7hVxyt7wvQUgrWsqBHM";

/// Users, from settings and from the store, with what a policy lets them do.
pub struct Accounts {
    policy: Policy,
    plain: Option<(String, Secret)>,
    users: HashMap<String, PasswordHash>,
    decoys: Vec<PasswordHash>,
    directory: Directory,
    issuers: Option<Issuers>,
    throttle: Throttle,
    remembered: Remembered,
    platform: Arc<dyn Platform>,
    password_checks: AtomicU64,
}

impl Accounts {
    /// Users of the directory in `keys`, who may do what `policy` says.
    pub fn new(policy: Policy, keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>) -> Self {
        Self {
            policy,
            plain: None,
            users: HashMap::new(),
            decoys: vec![PasswordHash::parse(DECOY).expect("a hash")],
            directory: Directory::new(keys.clone(), platform.clone()),
            issuers: None,
            throttle: Throttle::new(keys, platform.clone()),
            remembered: Remembered::new(platform.as_ref()),
            platform,
            password_checks: AtomicU64::new(0),
        }
    }

    /// One more user, with a password as it is.
    ///
    /// # Errors
    /// When the name is none, or the password surely too weak: the text says so, without the password.
    pub fn with_user(self, name: impl Into<String>, password: Secret) -> Result<Self, String> {
        check_password(&password).map_err(|why| format!("the password is {why}"))?;
        self.with_local_user(name, password)
    }

    /// One more user, whose password may be weak: for a registry that only this machine can reach.
    ///
    /// # Errors
    /// When the name is none, or the password too long to be compared.
    pub fn with_local_user(self, name: impl Into<String>, password: Secret) -> Result<Self, String> {
        let name = name.into();
        super::check_user_name(&name)?;
        if password.expose().len() > PASSWORD_BYTES_MAX {
            return Err(format!("the password is longer than {PASSWORD_BYTES_MAX} bytes"));
        }
        Ok(Self { plain: Some((name, password)), ..self })
    }

    /// More users, with hashes (see [`super::parse_htpasswd`]). For users whom nobody can tell from such as there are not, all
    /// hashes are of one kind and cost.
    pub fn with_hashes(self, users: Vec<(String, PasswordHash)>) -> Self {
        let mut decoys: Vec<_> = users.iter().map(|(_, hash)| hash.clone()).collect();
        if decoys.is_empty() {
            decoys = self.decoys;
        }
        Self { users: users.into_iter().collect(), decoys, ..self }
    }

    /// Whoever has tokens of other issuers; their users are called `oidc:…` in the policy.
    pub fn with_issuers(self, issuers: Issuers) -> Self {
        Self { issuers: Some(issuers), ..self }
    }

    /// How often a password was compared or hashed.
    pub fn password_checks(&self) -> u64 {
        self.password_checks.load(Ordering::Relaxed)
    }

    async fn log_in(&self, user: &str, password: &Secret, address: Option<IpAddr>) -> Result<Caller, Refusal> {
        let now_ms = self.platform.now_ms();
        if !self.remembered.holds(user, password, now_ms) {
            let suspects = self.throttle.check(user, address).await?;
            let stored = self.directory.hash_of(user).await?;
            if !self.is_right(user, password, stored.as_ref()) {
                self.throttle.failed(suspects).await?;
                return Err(Refusal::Unauthorized);
            }
            self.remembered.keep(user, password, now_ms);
        }
        Ok(self.policy.caller(Some(user)))
    }

    /// One hash is computed whether there is such a user or not, so that nobody can tell by the time it takes. Only a right
    /// password that is not hashed is quicker.
    fn is_right(&self, user: &str, password: &Secret, stored: Option<&PasswordHash>) -> bool {
        self.password_checks.fetch_add(1, Ordering::Relaxed);
        let plain = self.plain.as_ref().filter(|(name, _)| name == user);
        if plain.is_some_and(|(_, known)| known.matches(password)) {
            return true;
        }
        match self.users.get(user).or(stored).filter(|_| plain.is_none()) {
            Some(hash) => hash.verify(password),
            None => {
                self.decoy(user).verify(password);
                false
            }
        }
    }

    /// The same one each time for one name.
    fn decoy(&self, user: &str) -> &PasswordHash {
        let number = Sha256::digest(user)[..4].iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        &self.decoys[number % self.decoys.len()]
    }

    /// A machine token's caller, who may also do what anyone may.
    async fn machine(&self, text: &Secret) -> Result<Caller, Refusal> {
        let mut caller = self.directory.machine(text).await?.ok_or(Refusal::Unauthorized)?;
        caller.grants.extend(self.policy.caller(None).grants);
        Ok(caller)
    }

    /// Whoever has a token of another issuer, who may do what the rules for all their names say, and what anyone may.
    async fn of_issuer(&self, issuers: &Issuers, token: &Secret) -> Result<Caller, Refusal> {
        let names = issuers.names(token).await?;
        let first = names.first().ok_or(Refusal::Unauthorized)?;
        let all: Vec<&str> = names.iter().map(String::as_str).chain([ANONYMOUS]).collect();
        Ok(self.policy.granted(first, &all))
    }
}

#[async_trait]
impl Authority for Accounts {
    async fn identify(&self, attempt: Attempt<'_>) -> Result<Caller, Refusal> {
        match attempt.credentials {
            Credentials::Anonymous => Ok(self.policy.caller(None)),
            Credentials::Basic { password: text, .. } | Credentials::Bearer(text) if Directory::is_token(text) => {
                self.machine(text).await
            }
            Credentials::Basic { password: text, .. } | Credentials::Bearer(text)
                if let Some(issuers) = &self.issuers
                    && Issuers::is_token(text) =>
            {
                self.of_issuer(issuers, text).await
            }
            Credentials::Basic { user, password } => self.log_in(user, password, attempt.address).await,
            Credentials::Bearer(_) => Err(Refusal::Unauthorized),
        }
    }
}
