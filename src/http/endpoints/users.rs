//! The users in the key-value store, an extension of eyot's own for administrators.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;

use super::{Call, Endpoint, Operation, operation};
use crate::auth::{Directory, Secret};
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::limits::ADMINISTRATION_REQUEST_BYTES_MAX;
use crate::http::permission::Permission;
use crate::http::reply::Reply;
use crate::platform::Body;
use crate::registry;

const USER: &str = "/v2/_eyot/users/<user>";

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: "GET",
        path: "/v2/_eyot/users",
        parse: |target| operation(ListUsers { last: target.query.text("last") }),
    },
    Endpoint { method: "PUT", path: USER, parse: |target| operation(PutUser(target.text("user").to_owned())) },
    Endpoint { method: "DELETE", path: USER, parse: |target| operation(DeleteUser(target.text("user").to_owned())) },
];

/// The body of a request that adds a user: a password, or its hash.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUser {
    password: Option<String>,
    hash: Option<String>,
}

struct ListUsers {
    /// The user after whom the page begins.
    last: Option<String>,
}

#[async_trait]
impl Operation for ListUsers {
    fn permission(&self) -> Permission<'_> {
        Permission::Administration
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        let users = directory(handler)?.users(self.last.as_deref()).await.map_err(registry::Error::from)?;
        Ok(Reply::json(&json!({ "users": users })))
    }
}

/// Adds a user, or changes the user's password.
struct PutUser(String);

#[async_trait]
impl Operation for PutUser {
    fn permission(&self) -> Permission<'_> {
        Permission::Administration
    }

    fn change(&self) -> Option<Change> {
        Some(Change::new("put-user").with_quoted("name", &self.0))
    }

    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let directory = directory(handler)?;
        match read::<NewUser>(call.body, "send {\"password\": \"…\"} or {\"hash\": \"…\"}").await? {
            NewUser { password: Some(password), hash: None } => {
                directory.add_user(&self.0, &Secret::new(password)).await.map_err(Error::Directory)?;
            }
            NewUser { password: None, hash: Some(hash) } => {
                directory.add_user_with_hash(&self.0, &hash).await.map_err(Error::Directory)?;
            }
            _ => return Err(Error::TokenRequest("send either a password or a hash")),
        }
        Ok(Reply::no_content())
    }
}

struct DeleteUser(String);

#[async_trait]
impl Operation for DeleteUser {
    fn permission(&self) -> Permission<'_> {
        Permission::Administration
    }

    fn change(&self) -> Option<Change> {
        Some(Change::new("delete-user").with_quoted("name", &self.0))
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        directory(handler)?.remove_user(&self.0).await.map_err(registry::Error::from)?;
        Ok(Reply::no_content())
    }
}

/// The directory of users and machine tokens. A registry without users has none.
pub(super) fn directory(handler: &Handler) -> Result<&Directory, Error> {
    handler.authorizer.access.directory().ok_or(Error::NotFound)
}

/// The JSON body of an administrator's request. `form` is the error text for any other body.
pub(super) async fn read<T: for<'a> Deserialize<'a>>(body: Body, form: &'static str) -> Result<T, Error> {
    let bytes = body.collect_up_to(ADMINISTRATION_REQUEST_BYTES_MAX).await.map_err(Error::Body)?;
    // The parser's message is left out, because the message may quote a secret.
    serde_json::from_slice(&bytes).map_err(|_| Error::TokenRequest(form))
}
