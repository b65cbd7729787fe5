//! Mounts: a blob of one repository becomes a blob of another (distribution-spec, "Mounting a blob
//! from another repository").

use async_trait::async_trait;

use super::uploads::BeginUpload;
use super::{Call, Endpoint, Operation, operation};
use crate::auth::{Action, Caller};
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::reply::Reply;
use crate::oci::{Digest, RepositoryName};
use crate::registry::Mounted;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: "POST",
    path: "/v2/<name>/blobs/uploads/?mount=<digest>",
    // A mount with an invalid digest, or from an invalid repository name, cannot be done. The
    // answer is a new upload, as for content that is not found.
    parse: |target| {
        let (repository, query) = (target.repository()?, &target.query);
        let Ok(digest) = query.get("mount").unwrap_or_default().parse::<Digest>() else {
            return operation(BeginUpload { repository, algorithm: query.algorithm()? });
        };
        match query.get("from").map(|from| from.parse::<RepositoryName>()).transpose() {
            Ok(from) => operation(MountBlob { repository, digest, from }),
            Err(_) => operation(BeginUpload { repository, algorithm: digest.algorithm() }),
        }
    },
}];

struct MountBlob {
    repository: RepositoryName,
    digest: Digest,
    /// The repository to mount from; `None` for any repository that has the blob.
    from: Option<RepositoryName>,
}

#[async_trait]
impl Operation for MountBlob {
    fn permission(&self) -> Permission<'_> {
        Permission::Mount { repository: &self.repository, from: self.from.as_ref() }
    }

    fn change(&self) -> Option<Change> {
        let change = Change::of_repository("mount-blob", &self.repository);
        Some(match &self.from {
            Some(from) => change.with("from", from),
            None => change,
        })
    }

    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let Self { repository, digest, from } = *self;
        if !may_mount(call.caller, from.as_ref()) {
            // The answer is the same as for content that does not exist, so that the answer does
            // not reveal where content is.
            let status = handler.registry.begin_upload(&repository, digest.algorithm()).await?;
            return Ok(handler.body_limit.announce(Reply::upload_begun(&repository, &status)));
        }
        match handler.registry.mount_or_begin(&repository, &digest, from.as_ref()).await? {
            Mounted::Blob(digest) => Ok(Reply::blob_created(&repository, &digest)),
            Mounted::Upload(status) => Ok(handler.body_limit.announce(Reply::upload_begun(&repository, &status))),
        }
    }
}

/// Whether a caller may mount content of `from`. Without `from` the content may come from anywhere,
/// so the user must be able to pull every repository; a token for one repository records whether
/// its user can.
fn may_mount(caller: &Caller, from: Option<&RepositoryName>) -> bool {
    match from {
        Some(from) => caller.may(Action::Pull, from),
        None => caller.pulls_everything(),
    }
}
