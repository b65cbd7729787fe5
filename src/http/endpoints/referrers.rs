//! The manifests that name a subject (distribution-spec, "Listing Referrers").

use async_trait::async_trait;

use super::{Call, Endpoint, Operation, operation};
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::pulled::{Chosen, Pulled};
use crate::http::reply::Reply;
use crate::mirror::Listed;
use crate::oci::Digest;
use crate::registry::ReferrersRequest;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: "GET",
    path: "/v2/<name>/referrers/<digest>",
    parse: |target| {
        let query = &target.query;
        let request = ReferrersRequest { artifact_type: query.media_type("artifactType"), last: query.text("last") };
        operation(ListReferrers { repository: target.repository()?.into(), subject: target.digest()?, request })
    },
}];

struct ListReferrers {
    repository: Pulled,
    subject: Digest,
    request: ReferrersRequest,
}

#[async_trait]
impl Operation for ListReferrers {
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
        let Self { repository, subject, request } = *self;
        let registry = &handler.registry;
        let mirrored = match repository.choose(registry, call.caller).await? {
            Chosen::Own => {
                let page = registry.referrers(repository.name(), &subject, &request).await?;
                return Ok(Reply::referrers(repository.name(), &subject, &request, page));
            }
            Chosen::Mirror(mirrored) => mirrored,
        };
        let Listed { list: page, warning } = mirrored.referrers(&subject, &request).await?;
        let warnings: Vec<String> = warning.into_iter().collect();
        Ok(Reply::referrers(mirrored.name(), &subject, &request, page).with_warnings(&warnings))
    }
}
