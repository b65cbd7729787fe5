//! The built-in authority: users with passwords, machine tokens, and a policy.

use std::sync::Arc;

use async_trait::async_trait;

use super::directory::check_password;
use super::logins::Logins;
use super::policy::ANONYMOUS;
use super::{
    Attempt, Authority, Caller, Credentials, Directory, Issuers, PASSWORD_BYTES_MAX, PasswordHash, Policy, Refusal,
    Secret,
};
use crate::store::{KeyValue, Platform};

/// Users, from settings and from the store, with what a policy lets them do.
pub struct Accounts {
    policy: Policy,
    logins: Arc<Logins>,
    directory: Directory,
    issuers: Option<Issuers>,
}

impl Accounts {
    /// Users of the directory in `keys`, who may do what `policy` says.
    pub fn new(policy: Policy, keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>) -> Self {
        let directory = Directory::new(keys.clone(), platform.clone());
        let logins = Arc::new(Logins::new(keys, platform));
        Self { policy, logins, directory, issuers: None }
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
    pub fn with_local_user(mut self, name: impl Into<String>, password: Secret) -> Result<Self, String> {
        let name = name.into();
        super::check_user_name(&name)?;
        if password.expose().len() > PASSWORD_BYTES_MAX {
            return Err(format!("the password is longer than {PASSWORD_BYTES_MAX} bytes"));
        }
        self.logins_mut().set_plain(name, password);
        Ok(self)
    }

    /// More users, with hashes (see [`super::parse_htpasswd`]). For users whom nobody can tell from such as there are not, all
    /// hashes are of one kind and cost.
    pub fn with_hashes(mut self, users: Vec<(String, PasswordHash)>) -> Self {
        self.logins_mut().set_hashes(users);
        self
    }

    /// Whoever has tokens of other issuers; their users are called `oidc:…` in the policy.
    pub fn with_issuers(self, issuers: Issuers) -> Self {
        Self { issuers: Some(issuers), ..self }
    }

    /// Looks at one login at a time over all instances that share the store, where the store knows `Absent`: for instances on
    /// one machine that cannot share a queue, as components. By default each instance hashes one password at a time.
    pub fn in_turn(mut self) -> Self {
        self.logins_mut().log_in_in_turn();
        self
    }

    /// How often a password was compared or hashed.
    pub fn password_checks(&self) -> u64 {
        self.logins.checks()
    }

    fn logins_mut(&mut self) -> &mut Logins {
        Arc::get_mut(&mut self.logins).expect("nobody logs in while the accounts are set up")
    }

    async fn log_in(&self, user: &str, password: &Secret, attempt: Attempt<'_>) -> Result<Caller, Refusal> {
        self.logins.log_in(user, password, attempt.address).await?;
        Ok(self.policy.caller(Some(user)))
    }

    /// A machine token's caller, who may also do what anyone may.
    async fn machine(&self, text: &Secret) -> Result<Caller, Refusal> {
        let mut caller = self.directory.machine(text).await?.ok_or(Refusal::Unauthorized)?;
        caller.grants.extend(self.policy.caller(None).grants);
        Ok(caller)
    }

    /// Whoever has a token of another issuer, who may do what the rules for all their names say, and what anyone may.
    async fn of_issuer(&self, issuers: &Issuers, token: &Secret) -> Result<Caller, Refusal> {
        let identity = issuers.identify(token).await?.ok_or(Refusal::Unauthorized)?;
        let first = identity.names.first().ok_or(Refusal::Unauthorized)?;
        let all: Vec<&str> = identity.names.iter().map(String::as_str).chain([ANONYMOUS]).collect();
        Ok(Caller { ends_ms: Some(identity.ends_ms), ..self.policy.granted(first, &all) })
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
            Credentials::Basic { user, password } => self.log_in(user, password, attempt).await,
            Credentials::Bearer(_) => Err(Refusal::Unauthorized),
        }
    }
}
