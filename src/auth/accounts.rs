//! The built-in authority: users with passwords, machine tokens, and a policy.

use std::sync::Arc;

use async_trait::async_trait;

use super::directory::check_password;
use super::invalid::InvalidAccess;
use super::logins::Logins;
use super::policy::ANONYMOUS;
use super::{
    Attempt, Authority, Caller, Credentials, Directory, Issuers, PASSWORD_BYTES_MAX, PasswordHash, Policy, Refusal,
    Secret,
};
use crate::platform::Platform;
use crate::store::KeyValue;

/// Users from the settings and from the store, machine tokens, and a policy that says what each
/// caller may do.
pub struct Accounts {
    policy: Policy,
    logins: Arc<Logins>,
    directory: Directory,
    issuers: Option<Issuers>,
}

impl Accounts {
    /// Accounts for the users and machine tokens of the directory in `keys`. Users may do what
    /// `policy` says.
    pub fn new(policy: Policy, keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>) -> Self {
        let directory = Directory::new(keys.clone(), platform.clone());
        let logins = Arc::new(Logins::new(keys, platform));
        Self { policy, logins, directory, issuers: None }
    }

    /// Adds one user with a password in plain text. A second call replaces the user of the first.
    ///
    /// # Errors
    /// If the name is invalid, or the password is certainly too weak or too long. The text gives
    /// the reason, without the password.
    pub fn with_user(self, name: impl Into<String>, password: Secret) -> Result<Self, InvalidAccess> {
        check_password(&password)?;
        self.with_local_user(name, password)
    }

    /// Like [`Accounts::with_user`], but the password may be weak: for a registry that only this
    /// machine can reach.
    ///
    /// # Errors
    /// If the name is invalid, or the password is longer than [`PASSWORD_BYTES_MAX`].
    pub fn with_local_user(mut self, name: impl Into<String>, password: Secret) -> Result<Self, InvalidAccess> {
        let name = name.into();
        super::check_user_name(&name)?;
        if password.expose().len() > PASSWORD_BYTES_MAX {
            return Err(format!("the password is longer than {PASSWORD_BYTES_MAX} bytes").into());
        }
        self.logins_mut().set_plain(name, password);
        Ok(self)
    }

    /// Sets the users with password hashes (see [`super::parse_htpasswd`]). Use one kind and cost
    /// for all hashes: otherwise response times reveal which users exist.
    pub fn with_hashes(mut self, users: Vec<(String, PasswordHash)>) -> Self {
        self.logins_mut().set_hashes(users);
        self
    }

    /// Also accepts tokens of other issuers. In the policy, users with these tokens are called
    /// `oidc:…`.
    pub fn with_issuers(self, issuers: Issuers) -> Self {
        Self { issuers: Some(issuers), ..self }
    }

    /// Checks one login at a time over all instances that share the store, if the store supports
    /// the condition `Absent`. Meant for instances on one machine that cannot share a queue, such
    /// as components. By default each instance hashes one password at a time.
    pub fn one_login_at_a_time(mut self) -> Self {
        self.logins_mut().lease_checks();
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

    /// The caller of a machine token, with the token's grants and the grants of anonymous callers.
    async fn machine(&self, text: &Secret) -> Result<Caller, Refusal> {
        let mut caller = self.directory.machine(text).await?.ok_or(Refusal::Unauthorized)?;
        caller.grants.extend(self.policy.caller(None).grants);
        Ok(caller)
    }

    /// The caller of another issuer's token, with the grants of the rules for all names that the
    /// token has, and the grants of anonymous callers.
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
