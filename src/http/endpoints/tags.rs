//! The tags of a repository (distribution-spec, "Listing Tags").

use async_trait::async_trait;

use super::pull::{Read, pull};
use super::{Call, Endpoint};
use crate::http::Handler;
use crate::http::error::Error;
use crate::http::pulled::{Chosen, Pulled};
use crate::http::reply::Reply;
use crate::mirror::Listed;
use crate::registry::PageRequest;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: "GET",
    path: "/v2/<name>/tags/list",
    parse: |target| pull(target, ListTags { page: target.query.page()? }),
}];

struct ListTags {
    page: PageRequest,
}

#[async_trait]
impl Read for ListTags {
    async fn read(self, repository: Pulled, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let registry = &handler.registry;
        let chosen = repository.choose(registry, call.caller).await?;
        let (name, Listed { list: page, warning }) = match &chosen {
            Chosen::Own => {
                let list = registry.tags(repository.name(), &self.page).await?;
                (repository.name(), Listed { list, warning: None })
            }
            Chosen::Mirror(mirrored) => (mirrored.name(), mirrored.tags(&self.page).await?),
        };
        let body = serde_json::json!({ "name": name.as_str(), "tags": page.entries });
        let mut warnings = registry.warnings(name, None).await?;
        warnings.extend(warning);
        let path = format!("/v2/{name}/tags/list");
        Ok(Reply::json(&body).with_next_page(&path, &page).with_warnings(&warnings))
    }
}
