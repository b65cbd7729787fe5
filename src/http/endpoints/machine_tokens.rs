//! Tokens for machines, an extension of eyot's own for administrators.

use async_trait::async_trait;
use http::StatusCode;
use http::header::CACHE_CONTROL;
use serde::Deserialize;
use serde_json::json;

use super::users::{directory, read};
use super::{Call, Endpoint, Operation, operation};
use crate::auth::MachineToken;
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::reply::Reply;
use crate::registry;

const TOKEN: &str = "/v2/_eyot/tokens/<token>";

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: "GET",
        path: "/v2/_eyot/tokens",
        parse: |target| operation(ListTokens { last: target.query.text("last") }),
    },
    Endpoint { method: "PUT", path: TOKEN, parse: |target| operation(PutToken(target.text("token").to_owned())) },
    Endpoint { method: "DELETE", path: TOKEN, parse: |target| operation(DeleteToken(target.text("token").to_owned())) },
];

/// The body of a request that adds a machine token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    rules: Vec<String>,
    expires_in_seconds: Option<u64>,
}

struct ListTokens {
    /// The token after which the page begins.
    last: Option<String>,
}

#[async_trait]
impl Operation for ListTokens {
    fn permission(&self) -> Permission<'_> {
        Permission::Administration
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        let tokens = directory(handler)?.tokens(self.last.as_deref()).await.map_err(registry::Error::from)?;
        Ok(Reply::json(&json!({ "tokens": tokens })))
    }
}

/// Adds a machine token. The answer is the only place where the token's text ever appears.
struct PutToken(String);

#[async_trait]
impl Operation for PutToken {
    fn permission(&self) -> Permission<'_> {
        Permission::Administration
    }

    fn change(&self) -> Option<Change> {
        Some(Change::new("put-token").with_quoted("name", &self.0))
    }

    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let directory = directory(handler)?;
        let form = "send {\"rules\": [\"team/** pull,push\"], \"expires_in_seconds\": 86400}; leave expires_in_seconds out for a token without an end";
        let NewToken { rules, expires_in_seconds } = read(call.body, form).await?;
        let token = MachineToken { rules, expires_ms: expires_in_seconds.map(|seconds| directory.in_seconds(seconds)) };
        let text = directory.add_token(&self.0, &token).await.map_err(Error::Directory)?;
        let reply = Reply::json(&json!({ "token": text.expose() })).with(CACHE_CONTROL, "no-store");
        Ok(reply.with_status(StatusCode::CREATED))
    }
}

struct DeleteToken(String);

#[async_trait]
impl Operation for DeleteToken {
    fn permission(&self) -> Permission<'_> {
        Permission::Administration
    }

    fn change(&self) -> Option<Change> {
        Some(Change::new("delete-token").with_quoted("name", &self.0))
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        directory(handler)?.remove_token(&self.0).await.map_err(registry::Error::from)?;
        Ok(Reply::no_content())
    }
}
