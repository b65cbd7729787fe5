//! The self-check of the stores and upstreams, an extension of eyot's own (extensions/README of the
//! specification).

use async_trait::async_trait;

use super::{Call, Endpoint, Operation, operation};
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::reply::Reply;

pub(super) const ENDPOINTS: &[Endpoint] =
    &[Endpoint { method: "POST", path: "/v2/_eyot/check", parse: |_| operation(Check) }];

struct Check;

#[async_trait]
impl Operation for Check {
    fn permission(&self) -> Permission<'_> {
        Permission::Administration
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        let findings = handler.registry.check().await?;
        let upstreams = handler.check_upstreams().await;
        Ok(Reply::json(&serde_json::json!({ "findings": findings, "upstreams": upstreams })))
    }
}
