//! A step of the garbage collection, an extension of eyot's own.

use async_trait::async_trait;

use super::{Call, Endpoint, Operation, operation};
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::reply::Reply;
use crate::registry::CollectRequest;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: "POST",
    path: "/v2/_eyot/collect",
    parse: |target| match target.query.text("dry_run").as_deref() {
        None | Some("false") => operation(Collect { dry_run: false }),
        Some("true") => operation(Collect { dry_run: true }),
        Some(_) => Err(Error::BadDryRun),
    },
}];

struct Collect {
    dry_run: bool,
}

#[async_trait]
impl Operation for Collect {
    fn permission(&self) -> Permission<'_> {
        Permission::Administration
    }

    fn change(&self) -> Option<Change> {
        (!self.dry_run).then(|| Change::new("collect"))
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        let request = CollectRequest { dry_run: self.dry_run, ..handler.registry.collect_request() };
        let report = handler.registry.collect_step(&request).await?;
        Ok(Reply::json(&serde_json::json!(report)))
    }
}
