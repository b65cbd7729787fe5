//! The manifests that name a subject (distribution-spec, "Listing Referrers").

use async_trait::async_trait;

use super::{Call, Endpoint, Operation, operation};
use crate::auth::Action;
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::reply::Reply;
use crate::oci::{Digest, RepositoryName};
use crate::registry::ReferrersRequest;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: "GET",
    path: "/v2/<name>/referrers/<digest>",
    parse: |target| {
        let query = &target.query;
        let request = ReferrersRequest { artifact_type: query.media_type("artifactType"), last: query.text("last") };
        operation(ListReferrers { repository: target.repository()?, subject: target.digest()?, request })
    },
}];

struct ListReferrers {
    repository: RepositoryName,
    subject: Digest,
    request: ReferrersRequest,
}

#[async_trait]
impl Operation for ListReferrers {
    fn permission(&self) -> Permission<'_> {
        Permission::Repository(Action::Pull, &self.repository)
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        let Self { repository, subject, request } = *self;
        let page = handler.registry.referrers(&repository, &subject, &request).await?;
        Ok(Reply::referrers(&repository, &subject, &request, page))
    }
}
