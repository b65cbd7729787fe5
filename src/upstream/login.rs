//! The login at an upstream: the answer to a challenge, and the check of an upstream.

use std::sync::atomic::Ordering::Relaxed;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::address::Login;
use super::challenge::Challenge;
use super::client::{Asked, Client, HEAD_TIMEOUT};
use super::error::{Error, Kind};
use super::{Result, answer};
use crate::auth::Secret;
use crate::oci::RepositoryName;
use crate::platform::Body;

/// The most bytes of a token server's answer.
const TOKEN_ANSWER_BYTES_MAX: u64 = 64 * 1024;

impl Client {
    /// Tries whether a registry answers at the upstream's URL (`GET /v2/`) and takes the login. An
    /// upstream without a login counts as well if it gives tokens for single repositories only.
    ///
    /// # Errors
    /// [`Error`], with the class of the trouble. [`Kind::Login`] also when the upstream serves nobody
    /// without a login, and the settings have none.
    pub async fn check(&self) -> Result<()> {
        let mut asked = Asked::get(self.upstream().endpoint("v2/", &[]), None);
        asked.timeout = HEAD_TIMEOUT;
        let login = self.upstream().login();
        let mut followed = self.follow(&asked, None).await?;
        if followed.wants_login() {
            let headers = followed.response.headers();
            if login.is_none() && Challenge::of(headers) == Some(Challenge::Basic) {
                return Err(self.refused_login("the upstream wants a login, and none is set".into()));
            }
            let is_public = |error: &Error| login.is_none() && error.kind == Kind::Denied;
            followed = match self.log_in(None, headers).await {
                Ok((authorization, _)) => self.follow(&asked, Some(&authorization)).await?,
                Err(error) if is_public(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            if followed.wants_login() {
                return match login {
                    None => Ok(()),
                    Some(_) => Err(self.refused_login(format!("answer {}", followed.response.status()))),
                };
            }
        }
        let (status, headers) = (followed.response.status(), followed.response.headers());
        match answer::trouble(status, headers, followed.is_own) {
            Some(Kind::Unknown | Kind::Denied) => {
                Err(self.error(Kind::Invalid(format!("{} is no registry: answer {status}", asked.url))))
            }
            Some(kind) => Err(self.error(kind)),
            None if answer::media_type(headers) == Some("text/html") => {
                Err(self.error(Kind::Invalid(format!("{} is no registry: the answer is a web page", asked.url))))
            }
            None => Ok(()),
        }
    }

    /// The `Authorization` header that answers a challenge, and whether the header carries the
    /// operator's login itself. A token is for one repository, or for none.
    pub(super) async fn log_in(
        &self,
        repository: Option<&RepositoryName>,
        headers: &HeaderMap,
    ) -> Result<(HeaderValue, bool)> {
        let login = self.upstream().login();
        let unusable = || self.refused_login("no header can carry the login".into());
        match (Challenge::of(headers), login) {
            (None, _) => {
                Err(self.error(Kind::Invalid("answer 401 without a login challenge that is known here".into())))
            }
            (Some(Challenge::Basic), None) => Err(self.error(Kind::Denied)),
            (Some(Challenge::Basic), Some(login)) | (Some(_), Some(login @ Login::Token(_))) => {
                self.takes_login.store(true, Relaxed);
                Ok((login.header().ok_or_else(unusable)?, true))
            }
            (Some(Challenge::Bearer { realm, service }), login) => {
                let (token, lifetime) = self.token(repository, &realm, service.as_deref(), login).await?;
                let kept = match repository {
                    Some(repository) => self.tokens.keep(self.upstream().name(), repository, token, lifetime).await,
                    None => super::tokens::bearer(&token),
                };
                let header =
                    kept.ok_or_else(|| self.error(Kind::Invalid("the token cannot be sent in a header".into())))?;
                Ok((header, false))
            }
        }
    }

    /// Requests a token to pull one repository. Returns the token and its lifetime in seconds.
    async fn token(
        &self,
        repository: Option<&RepositoryName>,
        realm: &str,
        service: Option<&str>,
        login: Option<&Login>,
    ) -> Result<(Secret, Option<u64>)> {
        let mut url = Url::parse(realm).map_err(|_| self.error(Kind::Invalid("the token realm is no URL".into())))?;
        if !self.upstream().trusts_realm(&url) {
            let host = url.host_str().unwrap_or_default();
            let why = format!(
                "the tokens are on another host, {}://{host}: if the host belongs to the upstream, add the option \
                 realm={host} to the line of the upstream in the setting upstreams; the host must be reached by https",
                url.scheme()
            );
            return Err(self.error(Kind::Invalid(why)));
        }
        url.set_fragment(None);
        let scope = repository.map(|repository| ("scope", format!("repository:{repository}:pull")));
        url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service))).extend_pairs(scope);
        let mut request = self.request(Method::GET, &url, Body::empty())?;
        if let Some(login) = login {
            let header = login.header().ok_or_else(|| self.refused_login("no header can carry the login".into()))?;
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        let response = self.exchange(request, HEAD_TIMEOUT).await?;
        let status = response.status();
        match answer::trouble(status, response.headers(), true) {
            None if status == StatusCode::OK => {}
            Some(Kind::Denied) if login.is_some() => {
                return Err(self.refused_login(format!("the token server answers {status}")));
            }
            Some(Kind::Unknown | Kind::Invalid(_)) | None => {
                return Err(self.error(Kind::Invalid(format!("the token server answers {status}"))));
            }
            Some(kind) => return Err(self.error(kind)),
        }
        #[derive(Deserialize)]
        struct Granted {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let bytes = self.collect(response.into_body(), TOKEN_ANSWER_BYTES_MAX).await?;
        let granted = serde_json::from_slice(&bytes).ok().and_then(|granted: Granted| {
            let token = granted.token.or(granted.access_token).filter(|token| !token.is_empty())?;
            Some((Secret::new(token), granted.expires_in))
        });
        granted.ok_or_else(|| self.error(Kind::Invalid("the token server's answer has no token".into())))
    }

    /// The error for a login that the upstream refuses. The operator has to act, so the log says so.
    pub(super) fn refused_login(&self, why: String) -> Error {
        let error = self.error(Kind::Login(why));
        tracing::error!("{error}; see the setting upstream_logins");
        error
    }
}
