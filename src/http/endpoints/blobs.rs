//! Blobs: reading and deleting. Blobs come into being by uploads and mounts.

use async_trait::async_trait;
use http::Method;
use http::header::RANGE;

use super::{Call, Endpoint, Operation, operation};
use crate::auth::Action;
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::byteranges::ByteRanges;
use crate::http::conditional;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::reply::{Freshness, Reply};
use crate::oci::range::RangeRequest;
use crate::oci::{Digest, RepositoryName};
use crate::platform::Body;

const PATH: &str = "/v2/<name>/blobs/<digest>";

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: "GET",
        path: PATH,
        parse: |target| operation(GetBlob { repository: target.repository()?, digest: target.digest()? }),
    },
    Endpoint {
        method: "DELETE",
        path: PATH,
        parse: |target| operation(DeleteBlob { repository: target.repository()?, digest: target.digest()? }),
    },
];

struct GetBlob {
    repository: RepositoryName,
    digest: Digest,
}

#[async_trait]
impl Operation for GetBlob {
    fn permission(&self) -> Permission<'_> {
        Permission::Repository(Action::Pull, &self.repository)
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, Call { head, .. }: Call<'_>) -> Result<Reply, Error> {
        let (registry, digest) = (&handler.registry, &self.digest);
        let blob = registry.blob(&self.repository, digest).await?;
        conditional::read_precondition(head).check(Some(digest))?;
        if conditional::is_known(head, digest) {
            return Ok(Reply::not_modified(digest, Freshness::Immutable));
        }
        // A Range header that is not text is ignored.
        let range = head.headers.get(RANGE).and_then(|value| value.to_str().ok());
        // HEAD describes the whole content; RFC 9110 defines Range for GET alone.
        let range = range.filter(|_| head.method == Method::GET && conditional::is_range_valid(head, digest));
        let part = match RangeRequest::parse(range, blob.size) {
            RangeRequest::Unsatisfiable => return Err(Error::RangeNotSatisfiable { size: blob.size }),
            // Several ranges are never redirected: S3 does not serve several ranges at once.
            RangeRequest::Parts(parts) => {
                let ranges = ByteRanges::new(blob, parts, registry.platform().uuid());
                return Ok(Reply::byte_ranges(digest, ranges, registry.clone()));
            }
            RangeRequest::Part(part) => Some(part),
            RangeRequest::Whole => None,
        };
        // The client repeats the request at the redirect's URL, with the same Range header.
        if head.method == Method::GET
            && handler.redirects.apply_to(head)
            && let Some(url) = registry.redirect_blob(&blob).await?
        {
            return Ok(Reply::redirect(&url, digest));
        }
        let body = match head.method {
            Method::HEAD => Body::empty().with_length(blob.size),
            _ => registry.read_blob(&blob, part.clone().unwrap_or(0..blob.size)).await?,
        };
        let reply = Reply::content("application/octet-stream", digest, Freshness::Immutable, body).with_accept_ranges();
        Ok(match part {
            Some(part) => reply.with_partial(&part, blob.size),
            None => reply,
        })
    }
}

struct DeleteBlob {
    repository: RepositoryName,
    digest: Digest,
}

#[async_trait]
impl Operation for DeleteBlob {
    fn permission(&self) -> Permission<'_> {
        Permission::Repository(Action::Delete, &self.repository)
    }

    fn change(&self) -> Option<Change> {
        Some(Change::of_repository("delete-blob", &self.repository).with("digest", &self.digest))
    }

    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let precondition = conditional::precondition(call.head);
        handler.registry.delete_blob_if(&self.repository, &self.digest, &precondition).await?;
        Ok(Reply::accepted())
    }
}
