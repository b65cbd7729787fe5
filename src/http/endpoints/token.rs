//! The token endpoint: Docker's token authentication, and its OAuth form with a body.

use async_trait::async_trait;
use http::Method;
use http::header::CACHE_CONTROL;
use http::request::Parts;
use serde_json::json;

use super::{Call, Endpoint, Operation, operation};
use crate::auth::{Attempt, SCOPE_BYTES_MAX, Scope};
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::authorizer::TOKEN_PATH;
use crate::http::credentials::{credentials, form_credentials};
use crate::http::error::Error;
use crate::http::limits::{ADMINISTRATION_REQUEST_BYTES_MAX, SCOPE_WORDS_MAX, SCOPES_PER_TOKEN_MAX};
use crate::http::permission::Permission;
use crate::http::reply::Reply;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint { method: "GET", path: TOKEN_PATH, parse: |_| operation(RequestToken) },
    Endpoint { method: "POST", path: TOKEN_PATH, parse: |_| operation(RequestToken) },
];

/// A request for a token. The query of a GET, or the body of a POST, has the scopes.
struct RequestToken;

#[async_trait]
impl Operation for RequestToken {
    fn permission(&self) -> Permission<'_> {
        Permission::None
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, Call { head, body, .. }: Call<'_>) -> Result<Reply, Error> {
        let authorizer = &handler.authorizer;
        if authorizer.access.service().is_none() {
            return Err(Error::NotFound);
        }
        let form = match head.method {
            Method::POST => body.collect_up_to(ADMINISTRATION_REQUEST_BYTES_MAX).await.map_err(Error::Body)?,
            _ => head.uri.query().unwrap_or_default().as_bytes().to_vec().into(),
        };
        issue(handler, head, &form).await
    }
}

async fn issue(handler: &Handler, head: &Parts, form: &[u8]) -> Result<Reply, Error> {
    let authorizer = &handler.authorizer;
    let scopes = scopes(form)?;
    // Credentials are not read from a query, because queries are logged on the way.
    let in_form = if head.method == Method::POST { form_credentials(form)? } else { None };
    let credentials = match in_form {
        Some(credentials) => credentials,
        None => credentials(head).map_err(|why| authorizer.refuse(head, None, &[], why))?,
    };
    let attempt = Attempt { credentials: &credentials, address: authorizer.address(head) };
    let token = authorizer.access.token(attempt, &scopes).await;
    let token = token.map_err(|why| authorizer.refuse(head, Some(&credentials), &[], why))?;
    let text = token.text.expose();
    let reply = json!({
        "token": text, "access_token": text, "expires_in": token.lifetime_seconds, "scope": token.scope,
    });
    Ok(Reply::json(&reply).with(CACHE_CONTROL, "no-store"))
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
                return Err(Error::TokenRequest("the request names too many scopes"));
            }
            if word.len() > SCOPE_BYTES_MAX {
                return Err(Error::TokenRequest("a scope is too long"));
            }
            if let Some(scope) = Scope::parse(word) {
                scope.add_to(&mut scopes);
            }
            if scopes.len() > SCOPES_PER_TOKEN_MAX {
                return Err(Error::TokenRequest("the request names too many scopes"));
            }
        }
    }
    Ok(scopes)
}
