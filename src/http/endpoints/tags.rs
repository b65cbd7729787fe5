//! The tags of a repository (distribution-spec, "Listing Tags").

use async_trait::async_trait;

use super::{Call, Endpoint, Operation, operation};
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::pulled::{Chosen, Pulled};
use crate::http::reply::Reply;
use crate::mirror::Listed;
use crate::registry::PageRequest;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: "GET",
    path: "/v2/<name>/tags/list",
    parse: |target| operation(ListTags { repository: target.repository()?.into(), page: target.query.page()? }),
}];

struct ListTags {
    repository: Pulled,
    page: PageRequest,
}

#[async_trait]
impl Operation for ListTags {
    fn permission(&self) -> Permission<'_> {
        self.repository.permission()
    }

    fn pulled(&mut self) -> Option<&mut Pulled> {
        Some(&mut self.repository)
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let registry = &handler.registry;
        let chosen = self.repository.choose(registry, call.caller).await?;
        let (repository, Listed { list: page, warning }) = match &chosen {
            Chosen::Own => {
                let list = registry.tags(self.repository.name(), &self.page).await?;
                (self.repository.name(), Listed { list, warning: None })
            }
            Chosen::Mirror(mirrored) => (mirrored.name(), mirrored.tags(&self.page).await?),
        };
        let body = serde_json::json!({ "name": repository.as_str(), "tags": page.entries });
        let mut warnings = registry.warnings(repository, None).await?;
        warnings.extend(warning);
        let path = format!("/v2/{repository}/tags/list");
        Ok(Reply::json(&body).with_next_page(&path, &page).with_warnings(&warnings))
    }
}
