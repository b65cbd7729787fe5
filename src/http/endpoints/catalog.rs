//! The catalog of repositories. Each caller sees only the repositories that the caller may list.

use async_trait::async_trait;

use super::{Call, Endpoint, Operation, operation};
use crate::auth::{Action, Seal};
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::authorizer::failure;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::reply::Reply;
use crate::oci::RepositoryName;
use crate::registry::PageRequest;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: "GET",
    path: "/v2/_catalog",
    parse: |target| operation(ListRepositories(target.query.page()?)),
}];

/// The first character of a parameter `last` that holds a sealed name. No repository's name begins
/// with `~`.
const SEALED: &str = "~";

struct ListRepositories(PageRequest);

#[async_trait]
impl Operation for ListRepositories {
    fn permission(&self) -> Permission<'_> {
        Permission::Catalog
    }

    fn change(&self) -> Option<Change> {
        None
    }

    /// If the next page begins after a repository that the caller may not list, the name of the
    /// repository is sealed.
    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let is_visible = |name: &RepositoryName| call.caller.may(Action::List, name);
        let Self(mut request) = *self;
        if let Some(sealed) = request.last.as_ref().and_then(|last| last.strip_prefix(SEALED)) {
            request.last = Some(seal(handler).await?.open(sealed).ok_or(Error::BadCursor)?);
        }
        let mut page = handler.registry.repositories(&request, is_visible).await?;
        if let Some(next) = &page.next
            && !next.parse().is_ok_and(|name| is_visible(&name))
        {
            page.next = Some(format!("{SEALED}{}", seal(handler).await?.close(next)));
        }
        let body = serde_json::json!({ "repositories": page.entries });
        Ok(Reply::json(&body).with_next_page("/v2/_catalog", &page))
    }
}

/// The key that seals names: shared by all instances, or this instance's own if the registry has no
/// tokens.
async fn seal(handler: &Handler) -> Result<Seal, Error> {
    let shared = handler.authorizer.access.seal().await.map_err(failure)?;
    Ok(shared.unwrap_or_else(|| handler.own_seal.clone()))
}
