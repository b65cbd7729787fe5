//! The tags of a repository (distribution-spec, "Listing Tags").

use async_trait::async_trait;

use super::{Call, Endpoint, Operation, operation};
use crate::auth::Action;
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::reply::Reply;
use crate::oci::RepositoryName;
use crate::registry::PageRequest;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: "GET",
    path: "/v2/<name>/tags/list",
    parse: |target| operation(ListTags { repository: target.repository()?, page: target.query.page()? }),
}];

struct ListTags {
    repository: RepositoryName,
    page: PageRequest,
}

#[async_trait]
impl Operation for ListTags {
    fn permission(&self) -> Permission<'_> {
        Permission::Repository(Action::Pull, &self.repository)
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        let repository = &self.repository;
        let page = handler.registry.tags(repository, &self.page).await?;
        let body = serde_json::json!({ "name": repository.as_str(), "tags": page.entries });
        let warnings = handler.registry.warnings(repository, None).await?;
        let path = format!("/v2/{repository}/tags/list");
        Ok(Reply::json(&body).with_next_page(&path, &page).with_warnings(&warnings))
    }
}
