//! HTTP: requests are parsed into operations, authorized, carried out by the registry, and
//! rendered. Only this layer knows status codes.

mod administration;
mod admission;
mod audit;
mod byteranges;
mod catalog;
mod conditional;
mod credentials;
mod error;
mod leftover;
mod limits;
mod operation;
mod origin;
mod panics;
mod permission;
mod redirects;
mod reply;
mod request_id;
mod site;
#[cfg(test)]
mod tests;
mod wanted;

use std::sync::Arc;

use http::{Method, Request, Response};
use tracing::Instrument as _;

use crate::auth::{Access, Caller, Seal};
use crate::oci::range::{RangeRequest, parse_chunk_range};
use crate::oci::{Digest, Reference, RepositoryName, Tag};
use crate::platform::Body;
use crate::registry::{self, Chunk, CollectRequest, Mounted, PageRequest, Registry, SessionId};

pub use origin::{Peer, Proxies, ProxiesError};

use admission::{Admission, may_mount};
use audit::Change;
use byteranges::ByteRanges;
use error::Error;
use leftover::Leftover;
use limits::WARNING_REQUEST_BYTES_MAX;
use operation::Operation;
use panics::Guarded;
use reply::{Freshness, Reply};
use request_id::RequestId;

pub use audit::TARGET as AUDIT_TARGET;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub(crate) use audit::tell_own as audit_own;
pub use request_id::REQUEST_SPAN;
pub use wanted::Wanted;

pub use redirects::Redirects;

/// Answers requests of the OCI distribution API.
///
/// ```
/// use eyot::{Body, Handler};
///
/// let handler = Handler::in_memory();
/// let request = http::Request::get("/v2/").body(Body::empty()).unwrap();
/// let response = futures_executor::block_on(handler.handle(request));
/// assert_eq!(response.status(), 200);
/// ```
#[derive(Clone)]
pub struct Handler {
    registry: Arc<Registry>,
    admission: Admission,
    tag_max_age_seconds: u32,
    redirects: Redirects,
    /// Seals names in cursors if the registry has no tokens.
    own_seal: Seal,
}

impl Handler {
    /// Serves `registry` to the callers that `access` lets in.
    pub fn new(registry: Registry, access: Access) -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&registry.platform().random());
        key[16..].copy_from_slice(&registry.platform().random());
        Self {
            registry: Arc::new(registry),
            admission: Admission::new(access),
            tag_max_age_seconds: 0,
            redirects: Redirects::all_but(""),
            own_seal: Seal::new(key),
        }
    }

    /// How long caches may answer for a tag without asking, in seconds. Content by digest never
    /// changes and may be cached for good. A tag may move, so by default caches ask each time, and
    /// get 304 if the tag has not moved.
    pub fn with_tag_max_age_seconds(self, tag_max_age_seconds: u32) -> Self {
        Self { tag_max_age_seconds, ..self }
    }

    /// Which clients are redirected to the blob store for layers, if the store has URLs to give. By
    /// default all clients are redirected.
    pub fn with_redirects(self, redirects: Redirects) -> Self {
        Self { redirects, ..self }
    }

    /// The URL by which clients reach the registry (`https://registry.example`). Clients are sent
    /// to this URL for tokens. By default clients are sent to the host that the request names.
    ///
    /// # Errors
    /// If `url` is not a scheme and a host alone. The text says which form is wanted.
    pub fn with_public_url(mut self, url: &str) -> Result<Self, &'static str> {
        self.admission.set_public_url(url)?;
        Ok(self)
    }

    /// The proxies whose `X-Forwarded-…` and `Forwarded` headers are trusted; none by default. A
    /// host reports the other end of each connection by [`Peer`].
    pub fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.admission.proxies = proxies;
        self
    }

    /// Whether `address` belongs to a proxy whose headers are trusted.
    #[cfg(all(feature = "native", not(target_family = "wasm")))]
    pub(crate) fn is_proxy(&self, address: std::net::IpAddr) -> bool {
        self.admission.proxies.trusts(Some(address))
    }

    /// Answers requests only under a name of this machine: a loopback address, `localhost`, or the
    /// host of the public URL. Meant for a registry on a loopback address without a login: a page
    /// in a browser could otherwise reach the registry under a domain name that resolves to the
    /// loopback address.
    pub fn with_local_names_only(mut self) -> Self {
        self.admission.is_local = true;
        self
    }

    /// Serves a registry in memory to anyone, for tests. The content is lost when the handler is
    /// dropped.
    #[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
    pub fn in_memory() -> Self {
        Self::new(Registry::in_memory(Arc::new(crate::platform::SystemPlatform)), Access::open())
    }

    /// Answers one request. Every request gets an answer, also after a panic. An answer with a body
    /// always has a Content-Length.
    pub async fn handle(&self, mut request: Request<Body>) -> Response<Body> {
        let id = RequestId::of(request.headers(), self.registry.platform());
        request.extensions_mut().insert(id.clone());
        let span = id.span();
        let response = self.answer(request).instrument(span.clone()).await;
        let mut response = response.map(|body| Guarded::body(span, body));
        id.add_to(response.headers_mut());
        response
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let (leftover, body) = Leftover::watch(body);
        let performed = panics::caught(async {
            origin::check_host(&head)?;
            let operation = Operation::parse(&head)?;
            self.admission.check_site(&head)?;
            let caller = self.admission.admit(&head, &operation).await?;
            // Anyone may ask for a token, so the body of a token request does not come from an
            // admitted client.
            let let_in = !matches!(operation, Operation::Token(_) | Operation::PostToken);
            let _carried = let_in.then(|| Wanted::tell(&head.extensions));
            let change = Change::of(&operation, &caller, self.admission.address(&head));
            let outcome = self.perform(&head, &caller, operation, body).await;
            if let Some(change) = change {
                change.tell(&outcome);
            }
            outcome
        });
        let result = performed.await.unwrap_or(Err(Error::Panicked));
        let reply = result.unwrap_or_else(|error| error.reply(&head));
        tracing::info!("{} {} {}", head.method, head.uri.path(), reply.status().as_u16());
        // Drain the body: a client that is still sending would not see the answer if the connection
        // were closed.
        let waits = head.headers.contains_key(http::header::EXPECT);
        panics::caught(leftover.drain(waits)).await;
        reply.render(head.method == Method::HEAD)
    }

    async fn perform(
        &self,
        head: &http::request::Parts,
        caller: &Caller,
        operation: Operation,
        body: Body,
    ) -> Result<Reply, Error> {
        let registry = &self.registry;
        match operation {
            Operation::Version => Ok(Reply::json(&serde_json::json!({}))),
            Operation::Catalog(page) => self.catalog(caller, &page).await,
            Operation::Tags(repository, page) => self.tags(&repository, &page).await,
            Operation::GetManifest(repository, reference) => self.manifest(head, &repository, &reference).await,
            Operation::PutManifest(repository, reference, tags) => {
                self.push_manifest(head, &repository, &reference, &tags, body).await
            }
            Operation::DeleteManifest(repository, reference) => {
                registry.delete_manifest_if(&repository, &reference, &conditional::precondition(head)).await?;
                Ok(Reply::accepted())
            }
            Operation::GetBlob(repository, digest) => self.blob(head, &repository, &digest).await,
            Operation::DeleteBlob(repository, digest) => {
                let precondition = conditional::precondition(head);
                registry.delete_blob_if(&repository, &digest, &precondition).await?;
                Ok(Reply::accepted())
            }
            Operation::Referrers(repository, subject, request) => {
                let page = registry.referrers(&repository, &subject, &request).await?;
                Ok(Reply::referrers(&repository, &subject, &request, page))
            }
            // With warnings switched off, pulls show no warnings, so these endpoints do not exist.
            Operation::GetWarnings(..) | Operation::SetWarning(..) | Operation::DeleteWarning(..)
                if !registry.limits().warnings =>
            {
                Err(Error::NotFound)
            }
            Operation::GetWarnings(repository, tag) => {
                let warnings = registry.warnings(&repository, tag.as_ref()).await?;
                Ok(Reply::json(&serde_json::json!({ "warnings": warnings })))
            }
            Operation::SetWarning(repository, tag) => {
                let text = body.collect_up_to(WARNING_REQUEST_BYTES_MAX).await.map_err(Error::Warning)?;
                let text = String::from_utf8_lossy(&text);
                registry.set_warning(&repository, tag.as_ref(), text.trim_end()).await?;
                Ok(Reply::no_content())
            }
            Operation::DeleteWarning(repository, tag) => {
                registry.delete_warning(&repository, tag.as_ref()).await?;
                Ok(Reply::no_content())
            }
            Operation::Check => Ok(Reply::json(&serde_json::json!({ "findings": registry.check().await? }))),
            Operation::Collect { dry_run } => {
                let request = CollectRequest { dry_run, ..registry.collect_request() };
                let report = registry.collect_step(&request).await?;
                Ok(Reply::json(&serde_json::json!(report)))
            }
            Operation::BeginUpload(repository, algorithm) => {
                let status = registry.begin_upload(&repository, algorithm).await?;
                Ok(Reply::upload_begun(&repository, &status))
            }
            Operation::PushBlob(repository, digest) => {
                registry.push_blob(&repository, &digest, body).await?;
                Ok(Reply::blob_created(&repository, &digest))
            }
            Operation::MountBlob { repository, digest, from } if may_mount(caller, from.as_ref()) => {
                self.mount(&repository, &digest, from.as_ref()).await
            }
            // The caller may not mount the content. The answer is the same as for content that does
            // not exist, so that the answer does not reveal where content is.
            Operation::MountBlob { repository, digest, .. } => {
                let status = registry.begin_upload(&repository, digest.algorithm()).await?;
                Ok(Reply::upload_begun(&repository, &status))
            }
            Operation::UploadStatus(repository, session) => {
                let status = registry.upload_status(&repository, &session).await?;
                Ok(Reply::upload(http::StatusCode::NO_CONTENT, &repository, &status))
            }
            Operation::AppendUpload(repository, session) => self.append(head, &repository, &session, body).await,
            Operation::CompleteUpload(repository, session, digest) => {
                let chunk = Chunk { range: chunk_range(head)?, body };
                registry
                    .complete_upload(&repository, &session, &digest, chunk)
                    .await
                    .map_err(in_upload(&repository))?;
                Ok(Reply::blob_created(&repository, &digest))
            }
            Operation::CancelUpload(repository, session) => {
                registry.cancel_upload(&repository, &session).await?;
                Ok(Reply::no_content())
            }
            Operation::Token(query) => self.token(head, &query, None).await,
            Operation::PostToken => self.token(head, &[], Some(body)).await,
            Operation::ListUsers(_)
            | Operation::PutUser(_)
            | Operation::DeleteUser(_)
            | Operation::ListTokens(_)
            | Operation::PutToken(_)
            | Operation::DeleteToken(_) => self.administer(operation, body).await,
        }
    }

    async fn tags(&self, repository: &RepositoryName, request: &PageRequest) -> Result<Reply, Error> {
        let page = self.registry.tags(repository, request).await?;
        let body = serde_json::json!({ "name": repository.as_str(), "tags": page.entries });
        let warnings = self.registry.warnings(repository, None).await?;
        let path = format!("/v2/{repository}/tags/list");
        Ok(Reply::json(&body).with_next_page(&path, &page).with_warnings(&warnings))
    }

    async fn manifest(
        &self,
        head: &http::request::Parts,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Reply, Error> {
        let manifest = self.registry.manifest(repository, reference).await?;
        let freshness = match reference {
            Reference::Tag(_) => Freshness::Tag { max_age_seconds: self.tag_max_age_seconds },
            Reference::Digest(_) => Freshness::Immutable,
        };
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        conditional::read_precondition(head).check(Some(&manifest.digest))?;
        let warnings = self.registry.warnings(repository, tag).await?;
        if conditional::is_known(head, &manifest.digest) {
            return Ok(Reply::not_modified(&manifest.digest, freshness).with_warnings(&warnings));
        }
        let body = match head.method {
            Method::HEAD => Body::empty().with_length(manifest.size),
            _ => self.registry.read_manifest(&manifest).await?,
        };
        Ok(Reply::content(&manifest.media_type, &manifest.digest, freshness, body).with_warnings(&warnings))
    }

    async fn push_manifest(
        &self,
        head: &http::request::Parts,
        repository: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        body: Body,
    ) -> Result<Reply, Error> {
        let most = self.registry.limits().tags_per_push_max;
        if tags.len() > most {
            return Err(Error::TooManyTags { most });
        }
        let content_type = operation::header(head, &http::header::CONTENT_TYPE)?;
        let condition = conditional::precondition(head);
        let pushed =
            self.registry.push_manifest_if(repository, reference, tags, content_type, body, &condition).await?;
        Ok(Reply::manifest_created(repository, &pushed))
    }

    async fn blob(
        &self,
        head: &http::request::Parts,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Reply, Error> {
        let blob = self.registry.blob(repository, digest).await?;
        conditional::read_precondition(head).check(Some(digest))?;
        if conditional::is_known(head, digest) {
            return Ok(Reply::not_modified(digest, Freshness::Immutable));
        }
        // A Range header that is not text is ignored.
        let range = head.headers.get(http::header::RANGE).and_then(|value| value.to_str().ok());
        // HEAD describes the whole content; RFC 9110 defines Range for GET alone.
        let range = range.filter(|_| head.method == Method::GET && conditional::is_range_valid(head, digest));
        let wanted = match RangeRequest::parse(range, blob.size) {
            RangeRequest::Unsatisfiable => return Err(Error::RangeNotSatisfiable { size: blob.size }),
            // Several ranges are never redirected: S3 does not serve several ranges at once.
            RangeRequest::Parts(parts) => {
                let ranges = ByteRanges::new(blob, parts, self.registry.platform().uuid());
                return Ok(Reply::byte_ranges(digest, ranges, self.registry.clone()));
            }
            RangeRequest::Part(part) => Some(part),
            RangeRequest::Whole => None,
        };
        // The client repeats the request at the redirect's URL, with the same Range header.
        if head.method == Method::GET
            && self.redirects.apply_to(head)
            && let Some(url) = self.registry.redirect_blob(&blob).await?
        {
            return Ok(Reply::redirect(&url, digest));
        }
        let part = wanted.clone().unwrap_or(0..blob.size);
        let body = match head.method {
            Method::HEAD => Body::empty().with_length(blob.size),
            _ => self.registry.read_blob(&blob, part).await?,
        };
        let reply = Reply::content("application/octet-stream", digest, Freshness::Immutable, body).with_accept_ranges();
        Ok(match wanted {
            Some(part) => reply.with_partial(&part, blob.size),
            None => reply,
        })
    }

    async fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<Reply, Error> {
        match self.registry.mount_or_begin(repository, digest, from).await? {
            Mounted::Blob(digest) => Ok(Reply::blob_created(repository, &digest)),
            Mounted::Upload(status) => Ok(Reply::upload_begun(repository, &status)),
        }
    }

    async fn append(
        &self,
        head: &http::request::Parts,
        repository: &RepositoryName,
        session: &SessionId,
        body: Body,
    ) -> Result<Reply, Error> {
        let chunk = Chunk { range: chunk_range(head)?, body };
        let status = self.registry.append_upload(repository, session, chunk).await.map_err(in_upload(repository))?;
        Ok(Reply::upload(http::StatusCode::ACCEPTED, repository, &status))
    }
}

/// The range of the blob that a chunk holds, from `Content-Range`; `None` without the header.
fn chunk_range(head: &http::request::Parts) -> Result<Option<std::ops::Range<u64>>, Error> {
    let Some(text) = operation::header(head, &http::header::CONTENT_RANGE)? else { return Ok(None) };
    let range = parse_chunk_range(text);
    let malformed =
        || registry::Error::UploadInvalid("Content-Range: want <first byte>-<last byte>, as in 0-1023".into());
    Ok(Some(range.ok_or_else(malformed)?))
}

/// Converts an error of an upload. The answer to a chunk that is out of order says where the upload
/// stands, and needs the repository to name the upload's location.
fn in_upload(repository: &RepositoryName) -> impl FnOnce(registry::Error) -> Error {
    let repository = repository.clone();
    move |error| match error {
        registry::Error::ChunkOutOfOrder { session, offset } => {
            Error::ChunkOutOfOrder { repository, status: registry::Status { session, offset } }
        }
        error => error.into(),
    }
}
