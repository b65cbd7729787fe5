//! The manifests that name a subject (distribution-spec, "Listing Referrers").

use async_trait::async_trait;

use super::pull::{Read, pull};
use super::{Call, Endpoint};
use crate::http::Handler;
use crate::http::error::Error;
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
        pull(target, ListReferrers { subject: target.digest()?, request })
    },
}];

struct ListReferrers {
    subject: Digest,
    request: ReferrersRequest,
}

#[async_trait]
impl Read for ListReferrers {
    async fn read(self, repository: Pulled, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let Self { subject, request } = self;
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
