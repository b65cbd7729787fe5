//! What stands at the door: an authority, and the tokens that it has let others have.

use std::sync::Arc;

use super::{Attempt, Authority, Caller, Credentials, Directory, Policy, Refusal, Scope, Seal, Token, Tokens};

/// Decides about requests.
#[derive(Clone)]
pub struct Access {
    authority: Arc<dyn Authority>,
    tokens: Option<Arc<Tokens>>,
    directory: Option<Directory>,
}

impl Access {
    /// Who comes is identified by `authority`, and can have `tokens`.
    pub fn new(authority: Arc<dyn Authority>, tokens: Tokens) -> Self {
        Self { authority, tokens: Some(Arc::new(tokens)), directory: None }
    }

    /// Nobody can log in: everybody may do what `policy` lets anonymous callers do.
    pub fn without_login(policy: Policy) -> Self {
        Self { authority: Arc::new(policy), tokens: None, directory: None }
    }

    /// Anyone may do everything.
    pub fn open() -> Self {
        Self::without_login(Policy::open())
    }

    /// Anyone may pull, nobody may do anything else.
    pub fn read_only() -> Self {
        Self::without_login(Policy::read_only())
    }

    /// Lets administrators add users and machine tokens to `directory` over HTTP.
    pub fn with_directory(self, directory: Directory) -> Self {
        Self { directory: Some(directory), ..self }
    }

    /// The users and machine tokens that administrators manage.
    pub fn directory(&self) -> Option<&Directory> {
        self.directory.as_ref()
    }

    /// The service that its tokens are for; `None` where nobody can log in.
    pub fn service(&self) -> Option<&str> {
        self.tokens.as_ref().map(|tokens| tokens.service())
    }

    /// A key for names in cursors, which all instances share that share the key of tokens; `None` where there are no tokens.
    ///
    /// # Errors
    /// When the store that has the key does not answer.
    pub async fn seal(&self) -> Result<Option<Seal>, Refusal> {
        match &self.tokens {
            Some(tokens) => tokens.seal().await.map(Some),
            None => Ok(None),
        }
    }

    /// Who is calling: by a token of ours, at the cost of one signature, or as the authority says.
    ///
    /// # Errors
    /// As [`Authority::identify`].
    pub async fn caller(&self, attempt: Attempt<'_>) -> Result<Caller, Refusal> {
        if let (Credentials::Bearer(text), Some(tokens)) = (attempt.credentials, &self.tokens)
            && let Some(caller) = tokens.verify(text).await?
        {
            return Ok(caller);
        }
        self.authority.identify(attempt).await
    }

    /// A token for as much of `scopes` as the caller may have. Tokens are not had for tokens: nobody prolongs one.
    ///
    /// # Errors
    /// As [`Authority::identify`]; also [`Refusal::Unauthorized`] for anonymous callers where these may do nothing at all.
    pub async fn token(&self, attempt: Attempt<'_>, scopes: &[Scope]) -> Result<Token, Refusal> {
        let tokens = self.tokens.as_ref().ok_or(Refusal::Unauthorized)?;
        let caller = self.authority.identify(attempt).await?;
        if caller.user.is_none() && caller.grants.is_empty() {
            return Err(Refusal::Unauthorized);
        }
        tokens.sign(&caller.narrowed(scopes)).await
    }
}
