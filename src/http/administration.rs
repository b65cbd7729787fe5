//! eyot's own endpoints for access: the token endpoint, and the administration of users and machine
//! tokens.

use http::StatusCode;
use http::header::CACHE_CONTROL;
use http::request::Parts;
use serde::Deserialize;
use serde_json::json;

use super::Handler;
use super::credentials::{credentials, form_credentials};
use super::error::Error;
use super::limits::{ADMINISTRATION_REQUEST_BYTES_MAX, SCOPE_WORDS_MAX, SCOPES_PER_TOKEN_MAX};
use super::operation::Operation;
use super::reply::Reply;
use crate::auth::{Attempt, Directory, MachineToken, SCOPE_BYTES_MAX, Scope, Secret};
use crate::platform::Body;
use crate::registry;

/// The body of a request that adds a user: a password, or its hash.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUser {
    password: Option<String>,
    hash: Option<String>,
}

/// The body of a request that adds a machine token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    rules: Vec<String>,
    expires_in_seconds: Option<u64>,
}

impl Handler {
    /// Issues a token (Docker's token authentication, and its OAuth form with a body).
    pub(super) async fn token(&self, head: &Parts, query: &[u8], body: Option<Body>) -> Result<Reply, Error> {
        if self.admission.access.service().is_none() {
            return Err(Error::NotFound);
        }
        let form = match body {
            Some(body) => body.collect_up_to(ADMINISTRATION_REQUEST_BYTES_MAX).await.map_err(Error::Body)?,
            None => query.to_vec().into(),
        };
        let scopes = scopes(&form)?;
        // Credentials are not read from a query, because queries are logged on the way.
        let in_form = if head.method == http::Method::POST { form_credentials(&form)? } else { None };
        let credentials = match in_form {
            Some(credentials) => credentials,
            None => credentials(head).map_err(|why| self.admission.refuse(head, None, &[], why))?,
        };
        let attempt = Attempt { credentials: &credentials, address: self.admission.address(head) };
        let token = self.admission.access.token(attempt, &scopes).await;
        let token = token.map_err(|why| self.admission.refuse(head, Some(&credentials), &[], why))?;
        let text = token.text.expose();
        let reply = json!({
            "token": text, "access_token": text, "expires_in": token.lifetime_seconds, "scope": token.scope,
        });
        Ok(Reply::json(&reply).with(CACHE_CONTROL, "no-store"))
    }

    /// Carries out an administrator's request about users or machine tokens.
    pub(super) async fn administer(&self, operation: Operation, body: Body) -> Result<Reply, Error> {
        // A registry without users has no directory to add users to.
        let directory = self.admission.access.directory().ok_or(Error::NotFound)?;
        match operation {
            Operation::ListUsers(last) => {
                let users = directory.users(last.as_deref()).await.map_err(registry::Error::from)?;
                Ok(Reply::json(&json!({ "users": users })))
            }
            Operation::PutUser(name) => put_user(directory, &name, body).await,
            Operation::DeleteUser(name) => {
                directory.remove_user(&name).await.map_err(registry::Error::from)?;
                Ok(Reply::no_content())
            }
            Operation::ListTokens(last) => {
                let tokens = directory.tokens(last.as_deref()).await.map_err(registry::Error::from)?;
                Ok(Reply::json(&json!({ "tokens": tokens })))
            }
            Operation::PutToken(name) => put_token(directory, &name, body).await,
            Operation::DeleteToken(name) => {
                directory.remove_token(&name).await.map_err(registry::Error::from)?;
                Ok(Reply::no_content())
            }
            _ => Err(Error::NotFound),
        }
    }
}

async fn put_user(directory: &Directory, name: &str, body: Body) -> Result<Reply, Error> {
    match read::<NewUser>(body, "want {\"password\": \"…\"} or {\"hash\": \"…\"}").await? {
        NewUser { password: Some(password), hash: None } => {
            directory.add_user(name, &Secret::new(password)).await.map_err(Error::Directory)?;
        }
        NewUser { password: None, hash: Some(hash) } => {
            directory.add_user_with_hash(name, &hash).await.map_err(Error::Directory)?;
        }
        _ => return Err(Error::TokenRequest("want either a password or a hash")),
    }
    Ok(Reply::no_content())
}

async fn put_token(directory: &Directory, name: &str, body: Body) -> Result<Reply, Error> {
    let wanted = "want {\"rules\": [\"team/** pull,push\"], \"expires_in_seconds\": 86400}, the second if it is to end";
    let new: NewToken = read(body, wanted).await?;
    let token = MachineToken { rules: new.rules, expires_ms: new.expires_in_seconds.map(|s| directory.in_seconds(s)) };
    let text = directory.add_token(name, &token).await.map_err(Error::Directory)?;
    let reply = Reply::json(&json!({ "token": text.expose() })).with(CACHE_CONTROL, "no-store");
    Ok(reply.with_status(StatusCode::CREATED))
}

async fn read<T: for<'a> Deserialize<'a>>(body: Body, wanted: &'static str) -> Result<T, Error> {
    let bytes = body.collect_up_to(ADMINISTRATION_REQUEST_BYTES_MAX).await.map_err(Error::Body)?;
    // The parser's message is left out, because the message may quote a secret.
    serde_json::from_slice(&bytes).map_err(|_| Error::TokenRequest(wanted))
}

/// The scopes that a form asks for, in one parameter or several. Unknown scopes are left out.
fn scopes(form: &[u8]) -> Result<Vec<Scope>, Error> {
    let fields = form_urlencoded::parse(form).filter(|(name, _)| name == "scope");
    let mut scopes = Vec::new();
    let mut words = 0;
    for (_, value) in fields {
        for word in value.split_whitespace() {
            words += 1;
            if words > SCOPE_WORDS_MAX {
                return Err(Error::TokenRequest("too many scopes"));
            }
            if word.len() > SCOPE_BYTES_MAX {
                return Err(Error::TokenRequest("a scope is too long"));
            }
            if let Some(scope) = Scope::parse(word) {
                scope.add_to(&mut scopes);
            }
            if scopes.len() > SCOPES_PER_TOKEN_MAX {
                return Err(Error::TokenRequest("too many scopes"));
            }
        }
    }
    Ok(scopes)
}
