//! The version of the API: clients ask whether there is a registry, and how to log in.

use async_trait::async_trait;

use super::{Call, Endpoint, Operation, operation};
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::reply::Reply;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint { method: "GET", path: "/v2/", parse: |_| operation(GetVersion) }];

struct GetVersion;

#[async_trait]
impl Operation for GetVersion {
    fn permission(&self) -> Permission<'_> {
        Permission::Login
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        Ok(handler.body_limit.announce(Reply::json(&serde_json::json!({}))))
    }
}
