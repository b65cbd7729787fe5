//! Decides whether the caller of a request has the permission that the request requires. The answer
//! to a refused client says how to log in.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;

use super::audit;
use super::credentials::credentials;
use super::error::Error;
use super::origin::{Proxies, PublicUrlError, parse_public_url};
use super::permission::Permission;
use crate::auth::{Access, Attempt, Caller, Credentials, Refusal, Scope};

/// The path of the endpoint that issues tokens, which every challenge names.
pub(super) const TOKEN_PATH: &str = "/v2/_eyot/token";

/// Decides about requests from their headers and their connection.
#[derive(Clone)]
pub(super) struct Authorizer {
    pub(super) access: Arc<Access>,
    pub(super) proxies: Proxies,
    pub(super) public_url: Option<String>,
    /// Whether requests are answered only under a name of this machine.
    pub(super) is_local: bool,
}

impl Authorizer {
    pub(super) fn new(access: Access) -> Self {
        Self { access: Arc::new(access), proxies: Proxies::default(), public_url: None, is_local: false }
    }

    pub(super) fn set_public_url(&mut self, url: &str) -> Result<(), PublicUrlError> {
        self.public_url = Some(parse_public_url(url)?);
        Ok(())
    }

    /// The caller, if the caller has the permission. The decision is made without looking whether
    /// the content exists: a caller without permission gets the same answer in either case.
    pub(super) async fn authorize(&self, head: &Parts, permission: &Permission<'_>) -> Result<Caller, Error> {
        if *permission == Permission::None {
            return Ok(Caller::default());
        }
        let scopes = permission.scopes();
        let credentials = match self.access.service() {
            Some(_) => credentials(head).map_err(|why| self.refuse(head, None, &scopes, why))?,
            // The registry has no logins, so an Authorization header is ignored. Clients keep
            // sending old credentials.
            None => Credentials::Anonymous,
        };
        let attempt = Attempt { credentials: &credentials, address: self.address(head) };
        let caller = self.access.caller(attempt).await;
        let caller = caller.map_err(|why| self.refuse(head, Some(&credentials), &scopes, why))?;
        let is_anonymous = matches!(credentials, Credentials::Anonymous);
        let must_log_in = *permission == Permission::Login && is_anonymous;
        if permission.is_given(&caller) && !(must_log_in && self.access.service().is_some()) {
            return Ok(caller);
        }
        Err(match credentials {
            Credentials::Anonymous => self.unauthorized(head, &scopes, None),
            // Another token may have the scope that is missing.
            Credentials::Bearer(_) => {
                Error::InsufficientScope { challenge: self.challenge(head, &scopes, Some("insufficient_scope")) }
            }
            // The user lacks the permission, so another token would not help.
            Credentials::Basic { .. } => Error::Denied { challenge: self.challenge(head, &scopes, None) },
        })
    }

    /// The answer to wrong credentials. The refusal is also written to the audit log. `credentials`
    /// is `None` if the credentials cannot be read.
    pub(super) fn refuse(
        &self,
        head: &Parts,
        credentials: Option<&Credentials>,
        scopes: &[Scope],
        why: Refusal,
    ) -> Error {
        audit::refused(credentials, self.address(head), &why);
        match why {
            Refusal::Unauthorized => self.unauthorized(head, scopes, Some("invalid_token")),
            why => failure(why),
        }
    }

    fn unauthorized(&self, head: &Parts, scopes: &[Scope], why: Option<&str>) -> Error {
        match self.challenge(head, scopes, why) {
            Some(challenge) => Error::Unauthorized { challenge },
            None => Error::Denied { challenge: None },
        }
    }

    /// The `WWW-Authenticate` challenge that says how to get a sufficient token (RFC 6750, section
    /// 3). `None` if the registry has no logins. If the URL by which clients reach the registry is
    /// unknown, the challenge cannot name the token endpoint and asks for a password with each
    /// request (`Basic`).
    fn challenge(&self, head: &Parts, scopes: &[Scope], error: Option<&str>) -> Option<String> {
        let service = self.access.service()?;
        let own = || self.proxies.base(head).map(Cow::from);
        let Some(base) = self.public_url.as_deref().map(Cow::from).or_else(own) else {
            return Some(format!("Basic realm=\"{service}\""));
        };
        let mut challenge = format!("Bearer realm=\"{base}{TOKEN_PATH}\",service=\"{service}\"");
        if !scopes.is_empty() {
            let scopes: Vec<_> = scopes.iter().map(Scope::to_string).collect();
            challenge += &format!(",scope=\"{}\"", scopes.join(" "));
        }
        if let Some(error) = error {
            challenge += &format!(",error=\"{error}\"");
        }
        Some(challenge)
    }

    pub(super) fn address(&self, head: &Parts) -> Option<IpAddr> {
        self.proxies.client(head)
    }
}

/// The answer to a refusal for a reason other than wrong credentials.
pub(super) fn failure(why: Refusal) -> Error {
    match why {
        Refusal::Unauthorized => Error::Denied { challenge: None },
        Refusal::TooManyAttempts { retry_after_ms } => Error::TooManyAttempts { retry_after_ms },
        Refusal::Busy { retry_after_ms } => Error::LoginsBusy { retry_after_ms },
        Refusal::Issuer(issuer) => Error::Issuer(issuer),
        Refusal::TokenTooLarge => Error::TokenRequest("a token for all these scopes would not fit into a header"),
        Refusal::Store(error) => Error::Registry(error.into()),
    }
}
