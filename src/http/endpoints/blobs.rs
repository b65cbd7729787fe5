//! Blobs: reading and deleting. Blobs come into being by uploads and mounts.

use async_trait::async_trait;
use http::Method;
use http::header::RANGE;
use http::request::Parts;

use super::pull::{Read, pull};
use super::{Call, Endpoint, Operation, operation};
use crate::auth::Action;
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::byteranges::ByteRanges;
use crate::http::conditional;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::pulled::{FoundBlob, Pulled};
use crate::http::reply::{Freshness, Reply};
use crate::mirror::{BlobRange, BlobSource, MirroredRepository};
use crate::oci::range::RangeRequest;
use crate::oci::{Digest, RepositoryName};
use crate::platform::Body;
use crate::registry;

/// The media type of blobs. The registry does not know the types that manifests give to blobs.
const MEDIA_TYPE: &str = "application/octet-stream";
const PATH: &str = "/v2/<name>/blobs/<digest>";

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint { method: "GET", path: PATH, parse: |target| pull(target, GetBlob { digest: target.digest()? }) },
    Endpoint {
        method: "DELETE",
        path: PATH,
        parse: |target| operation(DeleteBlob { repository: target.repository()?, digest: target.digest()? }),
    },
];

struct GetBlob {
    digest: Digest,
}

#[async_trait]
impl Read for GetBlob {
    async fn read(self, repository: Pulled, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let (registry, digest, head) = (&handler.registry, &self.digest, call.head);
        let (blob, mirrored) = match repository.blob(registry, call.caller, digest).await? {
            FoundBlob::Here(blob, mirrored) => (blob, mirrored),
            // A client that is about to push asks by HEAD which layers are here. A layer of the
            // default upstream is none of an own repository.
            FoundBlob::Upstream(_) if repository.is_default() && head.method == Method::HEAD => {
                return Err(registry::Error::BlobUnknown(digest.clone()).into());
            }
            FoundBlob::Upstream(mirrored) => return from_upstream(head, &mirrored, digest).await,
        };
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
        let body = match mirrored {
            Some(mirrored) => mirrored.counted(body),
            None => body,
        };
        let reply = Reply::content(MEDIA_TYPE, digest, Freshness::Immutable, body).with_accept_ranges();
        Ok(match part {
            Some(part) => reply.with_partial(&part, blob.size),
            None => reply,
        })
    }
}

/// A blob that this registry does not hold, from an upstream. A question about the blob and a range
/// of the blob go through. The whole blob is also stored, unless the upstream redirects clients.
async fn from_upstream(head: &Parts, mirrored: &MirroredRepository, digest: &Digest) -> Result<Reply, Error> {
    conditional::read_precondition(head).check(Some(digest))?;
    if conditional::is_known(head, digest) {
        return Ok(Reply::not_modified(digest, Freshness::Immutable));
    }
    let reply = |body| Reply::content(MEDIA_TYPE, digest, Freshness::Immutable, body).with_accept_ranges();
    if head.method == Method::HEAD {
        let size = mirrored.blob_size(digest).await?;
        return Ok(reply(Body::empty().with_length(size)));
    }
    // A client that is redirected repeats the range at the URL of the redirect.
    let is_range = !mirrored.redirects() && conditional::is_range_valid(head, digest);
    if let Some(range) = head.headers.get(RANGE).filter(|_| is_range) {
        let BlobRange { media_type, served, body } = mirrored.blob_range(digest, range).await?;
        let media_type = media_type.as_deref().unwrap_or(MEDIA_TYPE);
        return Ok(Reply::content(media_type, digest, Freshness::Immutable, mirrored.counted(body))
            .with_accept_ranges()
            .with_range(served));
    }
    Ok(match mirrored.blob(digest).await? {
        BlobSource::Stream(blob) => reply(mirrored.counted(blob.body)),
        BlobSource::Redirect(url) => Reply::redirect(&url, digest),
    })
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
        Some(Change::of_repository("delete-blob", &self.repository).with_digest(&self.digest))
    }

    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let precondition = conditional::precondition(call.head);
        handler.registry.delete_blob_if(&self.repository, &self.digest, &precondition).await?;
        Ok(Reply::accepted())
    }
}
