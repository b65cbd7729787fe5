//! Identifies callers: by an authority, or by a token that was issued earlier.

use std::sync::Arc;

#[cfg(feature = "accounts")]
use super::Directory;
use super::{Attempt, Authority, Caller, Credentials, Policy, Refusal, Scope, Seal, Token, Tokens};

/// Identifies the callers of requests, and issues tokens.
#[derive(Clone)]
pub struct Access {
    authority: Arc<dyn Authority>,
    tokens: Option<Arc<Tokens>>,
    #[cfg(feature = "accounts")]
    directory: Option<Directory>,
}

impl Access {
    /// Identifies callers by `authority`, and issues `tokens`.
    pub fn new(authority: Arc<dyn Authority>, tokens: Tokens) -> Self {
        Self {
            authority,
            tokens: Some(Arc::new(tokens)),
            #[cfg(feature = "accounts")]
            directory: None,
        }
    }

    /// A registry without logins: every caller may do what `policy` lets anonymous callers do.
    pub fn without_login(policy: Policy) -> Self {
        Self {
            authority: Arc::new(policy),
            tokens: None,
            #[cfg(feature = "accounts")]
            directory: None,
        }
    }

    /// Anyone may do everything.
    pub fn open() -> Self {
        Self::without_login(Policy::open())
    }

    /// Anyone may pull; every other action is denied.
    pub fn read_only() -> Self {
        Self::without_login(Policy::read_only())
    }

    /// Lets administrators add users and machine tokens to `directory` over HTTP.
    #[cfg(feature = "accounts")]
    pub fn with_directory(self, directory: Directory) -> Self {
        Self { directory: Some(directory), ..self }
    }

    /// The users and machine tokens that administrators manage.
    #[cfg(feature = "accounts")]
    pub fn directory(&self) -> Option<&Directory> {
        self.directory.as_ref()
    }

    /// The service that the tokens are for; `None` if the registry has no logins.
    pub fn service(&self) -> Option<&str> {
        self.tokens.as_ref().map(|tokens| tokens.service())
    }

    /// A key that seals names in cursors. All instances that share the key of tokens share this
    /// key. `None` if the registry has no tokens.
    ///
    /// # Errors
    /// If the store that holds the key does not answer.
    pub async fn seal(&self) -> Result<Option<Seal>, Refusal> {
        match &self.tokens {
            Some(tokens) => tokens.seal().await.map(Some),
            None => Ok(None),
        }
    }

    /// Identifies the caller: by a signed token, at the cost of one signature, or else by the
    /// authority.
    ///
    /// # Errors
    /// The errors of [`Authority::identify`].
    pub async fn caller(&self, attempt: Attempt<'_>) -> Result<Caller, Refusal> {
        if let (Credentials::Bearer(text), Some(tokens)) = (attempt.credentials, &self.tokens)
            && let Some(caller) = tokens.verify(text).await?
        {
            return Ok(caller);
        }
        self.authority.identify(attempt).await
    }

    /// Issues a token for as much of `scopes` as the caller may have. A signed token is not
    /// accepted as credentials for another token, so a token cannot be prolonged.
    ///
    /// # Errors
    /// The errors of [`Authority::identify`]. Also [`Refusal::Unauthorized`] if the registry has no
    /// tokens, or for an anonymous caller without any grant.
    pub async fn token(&self, attempt: Attempt<'_>, scopes: &[Scope]) -> Result<Token, Refusal> {
        let tokens = self.tokens.as_ref().ok_or(Refusal::Unauthorized)?;
        let caller = self.authority.identify(attempt).await?;
        if caller.user.is_none() && caller.grants.is_empty() {
            return Err(Refusal::Unauthorized);
        }
        tokens.sign(&caller.narrowed(scopes)).await
    }
}
