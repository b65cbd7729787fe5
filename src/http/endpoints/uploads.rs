//! Uploads of blobs (distribution-spec, "Pushing blobs").

use std::ops::Range;

use async_trait::async_trait;
use http::StatusCode;
use http::header::CONTENT_RANGE;
use http::request::Parts;

use super::path::{Target, parse_digest};
use super::{Call, Endpoint, Operation, operation};
use crate::auth::Action;
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::head;
use crate::http::permission::Permission;
use crate::http::reply::Reply;
use crate::oci::range::parse_chunk_range;
use crate::oci::{Algorithm, Digest, RepositoryName};
use crate::registry::{self, Chunk, InvalidDigest, InvalidUpload, SessionId, Status};

const UPLOAD: &str = "/v2/<name>/blobs/uploads/<session>";

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: "POST",
        path: "/v2/<name>/blobs/uploads/?digest=<digest>",
        parse: |target| operation(PushBlob { repository: target.repository()?, digest: digest(target)? }),
    },
    Endpoint {
        method: "POST",
        path: "/v2/<name>/blobs/uploads/",
        parse: |target| {
            operation(BeginUpload { repository: target.repository()?, algorithm: target.query.algorithm()? })
        },
    },
    Endpoint { method: "GET", path: UPLOAD, parse: |target| operation(GetUpload(Upload::parse(target)?)) },
    Endpoint { method: "PATCH", path: UPLOAD, parse: |target| operation(AppendUpload(Upload::parse(target)?)) },
    Endpoint {
        method: "PUT",
        path: UPLOAD,
        parse: |target| operation(CompleteUpload { upload: Upload::parse(target)?, digest: digest(target)? }),
    },
    Endpoint { method: "DELETE", path: UPLOAD, parse: |target| operation(CancelUpload(Upload::parse(target)?)) },
];

/// The digest in the query.
fn digest(target: &Target<'_>) -> Result<Digest, Error> {
    let missing = || registry::Error::from(InvalidDigest::Missing);
    parse_digest(&target.query.get("digest").ok_or_else(missing)?)
}

/// An upload in progress.
struct Upload {
    repository: RepositoryName,
    session: SessionId,
}

impl Upload {
    fn parse(target: &Target<'_>) -> Result<Self, Error> {
        Ok(Self { repository: target.repository()?, session: target.session()? })
    }

    fn permission(&self) -> Permission<'_> {
        Permission::Repository(Action::Push, &self.repository)
    }

    /// Converts an error of the registry. The answer to a chunk that is out of order says where the
    /// upload stands, and needs the repository to name the upload's location.
    fn error(&self, error: registry::Error) -> Error {
        match error {
            registry::Error::ChunkOutOfOrder { session, offset } => {
                Error::ChunkOutOfOrder { repository: self.repository.clone(), status: Status { session, offset } }
            }
            error => error.into(),
        }
    }
}

/// A whole blob in one request.
struct PushBlob {
    repository: RepositoryName,
    digest: Digest,
}

#[async_trait]
impl Operation for PushBlob {
    fn permission(&self) -> Permission<'_> {
        Permission::Repository(Action::Push, &self.repository)
    }

    fn change(&self) -> Option<Change> {
        Some(Change::of_repository("push-blob", &self.repository))
    }

    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        handler.registry.push_blob(&self.repository, &self.digest, call.body).await?;
        Ok(Reply::blob_created(&self.repository, &self.digest))
    }
}

/// The begin of an upload. The audit log has no line for an upload before its completion, because
/// no content exists before.
pub(super) struct BeginUpload {
    pub(super) repository: RepositoryName,
    pub(super) algorithm: Algorithm,
}

#[async_trait]
impl Operation for BeginUpload {
    fn permission(&self) -> Permission<'_> {
        Permission::Repository(Action::Push, &self.repository)
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        let status = handler.registry.begin_upload(&self.repository, self.algorithm).await?;
        Ok(handler.body_limit.announce(Reply::upload_begun(&self.repository, &status)))
    }
}

/// Asks how many bytes of the upload have been received.
struct GetUpload(Upload);

#[async_trait]
impl Operation for GetUpload {
    fn permission(&self) -> Permission<'_> {
        self.0.permission()
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        let Upload { repository, session } = &self.0;
        let status = handler.registry.upload_status(repository, session).await?;
        Ok(Reply::upload(StatusCode::NO_CONTENT, repository, &status))
    }
}

/// Appends a chunk.
struct AppendUpload(Upload);

#[async_trait]
impl Operation for AppendUpload {
    fn permission(&self) -> Permission<'_> {
        self.0.permission()
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let chunk = Chunk { range: chunk_range(call.head)?, body: call.body };
        let Upload { repository, session } = &self.0;
        let appended = handler.registry.append_upload(repository, session, chunk).await;
        let status = appended.map_err(|error| self.0.error(error))?;
        Ok(Reply::upload(StatusCode::ACCEPTED, repository, &status))
    }
}

/// Completes an upload, with the last chunk in the body, if there is one.
struct CompleteUpload {
    upload: Upload,
    digest: Digest,
}

#[async_trait]
impl Operation for CompleteUpload {
    fn permission(&self) -> Permission<'_> {
        self.upload.permission()
    }

    fn change(&self) -> Option<Change> {
        Some(Change::of_repository("push-blob", &self.upload.repository))
    }

    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let chunk = Chunk { range: chunk_range(call.head)?, body: call.body };
        let Upload { repository, session } = &self.upload;
        let completed = handler.registry.complete_upload(repository, session, &self.digest, chunk).await;
        completed.map_err(|error| self.upload.error(error))?;
        Ok(Reply::blob_created(repository, &self.digest))
    }
}

struct CancelUpload(Upload);

#[async_trait]
impl Operation for CancelUpload {
    fn permission(&self) -> Permission<'_> {
        self.0.permission()
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        handler.registry.cancel_upload(&self.0.repository, &self.0.session).await?;
        Ok(Reply::no_content())
    }
}

/// The range of the blob that a chunk holds, from `Content-Range`; `None` without the header.
fn chunk_range(head: &Parts) -> Result<Option<Range<u64>>, Error> {
    let Some(text) = head::text(head, &CONTENT_RANGE)? else { return Ok(None) };
    let malformed = || registry::Error::from(InvalidUpload::ContentRange);
    let range = parse_chunk_range(text).ok_or_else(malformed)?;
    Ok(Some(range))
}
