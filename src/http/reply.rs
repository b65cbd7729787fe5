//! The answers to requests: status, headers and body.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, LINK,
    LOCATION, RANGE, WARNING, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;

use super::byteranges::ByteRanges;
use super::conditional::entity_tag;
use crate::mirror::ServedRange;
use crate::oci::manifest::OCI_INDEX;
use crate::oci::{Descriptor, Digest, RepositoryName, Tag};
use crate::platform::Body;
use crate::registry::{Page, Pushed, Referrers, ReferrersRequest, Registry, Share, Status};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Asks browsers to run nothing and to load nothing, because anyone may have pushed the content.
/// [`NO_SNIFFING`] also asks browsers not to take text for HTML.
const CONTENT_POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; sandbox");
const NO_SNIFFING: HeaderValue = HeaderValue::from_static("nosniff");
const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// How long caches may keep content.
#[derive(Clone, Copy, Debug)]
pub(super) enum Freshness {
    /// The request names a digest, so the content never changes.
    Immutable,
    /// The request names a tag, which may move.
    Tag { max_age_seconds: u32 },
}

impl Freshness {
    fn cache_control(self) -> String {
        match self {
            Self::Immutable => "max-age=31536000, immutable".into(),
            Self::Tag { max_age_seconds: 0 } => "no-cache".into(),
            Self::Tag { max_age_seconds } => format!("max-age={max_age_seconds}"),
        }
    }
}

/// The image index that holds a page of referrers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u32,
    media_type: &'a str,
    manifests: &'a [Descriptor],
}

/// A JSON body that counts as used memory until the client has taken the body.
struct Counted {
    json: Vec<u8>,
    _memory: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

/// An answer that is not rendered yet.
pub(super) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
}

impl Reply {
    fn new(status: StatusCode, body: Body) -> Self {
        Self { status, headers: HeaderMap::new(), body }
    }

    pub(super) fn json(value: &Value) -> Self {
        Self::new(StatusCode::OK, value.to_string().into_bytes().into()).with(CONTENT_TYPE, "application/json")
    }

    pub(super) fn referrers(
        repository: &RepositoryName,
        subject: &Digest,
        request: &ReferrersRequest,
        page: Referrers,
    ) -> Self {
        let Referrers { descriptors, next, mut memory } = page;
        // The index is serialized directly: a tree of JSON values would take several times the
        // memory of the page.
        let index = Index { schema_version: 2, media_type: OCI_INDEX, manifests: &descriptors };
        let json = serde_json::to_vec(&index).unwrap_or_default();
        memory.shrink_to(json.len() as u64);
        let body = Bytes::from_owner(Counted { json, _memory: memory });
        let mut reply = Self::new(StatusCode::OK, body.into()).with(CONTENT_TYPE, OCI_INDEX);
        let mut filter = String::new();
        if let Some(artifact_type) = &request.artifact_type {
            reply = reply.with(FILTERS_APPLIED, "artifactType");
            filter = format!("artifactType={}&", utf8_percent_encode(artifact_type, NON_ALPHANUMERIC));
        }
        match next {
            Some(next) => {
                let path = format!("/v2/{repository}/referrers/{subject}");
                reply.with(LINK, format!("<{path}?{filter}last={next}>; rel=\"next\""))
            }
            None => reply,
        }
    }

    pub(super) fn accepted() -> Self {
        Self::new(StatusCode::ACCEPTED, Body::empty())
    }

    pub(super) fn no_content() -> Self {
        Self::new(StatusCode::NO_CONTENT, Body::empty())
    }

    /// A manifest or a blob, whose body has a known length.
    pub(super) fn content(media_type: &str, digest: &Digest, freshness: Freshness, body: Body) -> Self {
        Self::new(StatusCode::OK, body).with(CONTENT_TYPE, media_type).with_validators(digest, freshness)
    }

    /// Redirects the client to the content at another URL, for this request only.
    pub(super) fn redirect(url: &str, digest: &Digest) -> Self {
        Self::new(StatusCode::TEMPORARY_REDIRECT, Body::empty())
            .with(LOCATION, url)
            .with(CONTENT_DIGEST, digest.as_str())
            .with(CACHE_CONTROL, "no-store")
    }

    /// 304: the client has the content already.
    pub(super) fn not_modified(digest: &Digest, freshness: Freshness) -> Self {
        Self::new(StatusCode::NOT_MODIFIED, Body::empty()).with_validators(digest, freshness)
    }

    fn with_validators(self, digest: &Digest, freshness: Freshness) -> Self {
        self.with(CONTENT_DIGEST, digest.as_str())
            .with(ETAG, entity_tag(digest))
            .with(CACHE_CONTROL, freshness.cache_control())
    }

    pub(super) fn blob_created(repository: &RepositoryName, digest: &Digest) -> Self {
        Self::new(StatusCode::CREATED, Body::empty())
            .with(LOCATION, format!("/v2/{repository}/blobs/{digest}"))
            .with(CONTENT_DIGEST, digest.as_str())
    }

    /// 201 for a manifest. `Location` names the digest, which stays the same when the tag moves.
    pub(super) fn manifest_created(repository: &RepositoryName, pushed: &Pushed) -> Self {
        let reply = Self::new(StatusCode::CREATED, Body::empty())
            .with(LOCATION, format!("/v2/{repository}/manifests/{}", pushed.digest))
            .with(ETAG, entity_tag(&pushed.digest))
            .with(CONTENT_DIGEST, pushed.digest.as_str());
        let reply = match &pushed.subject {
            Some(subject) => reply.with(SUBJECT, subject.as_str()),
            None => reply,
        };
        let tags: Vec<&str> = pushed.tags.iter().map(Tag::as_str).collect();
        if tags.is_empty() { reply } else { reply.with(TAG, tags.join(", ")) }
    }

    /// 202 for a new upload. There is no `Range` header, as no byte has been received.
    pub(super) fn upload_begun(repository: &RepositoryName, status: &Status) -> Self {
        Self::new(StatusCode::ACCEPTED, Body::empty()).with_upload(repository, status)
    }

    /// The state of an upload. The specification asks for a `Range` header here, but a range cannot
    /// say "no bytes". An upload without bytes therefore has the range `0-0`, the same as an upload
    /// of one byte. The official conformance program reads the header.
    pub(super) fn upload(code: StatusCode, repository: &RepositoryName, status: &Status) -> Self {
        Self::new(code, Body::empty()).with(RANGE, "0-0").with_upload(repository, status)
    }

    /// Adds the location of an upload and, if any byte has been received, the range of received
    /// bytes.
    pub(super) fn with_upload(self, repository: &RepositoryName, status: &Status) -> Self {
        let reply = self
            .with(LOCATION, format!("/v2/{repository}/blobs/uploads/{}", status.session))
            .with(UPLOAD_UUID, status.session.to_string());
        match status.offset {
            0 => reply,
            offset => reply.with(RANGE, format!("0-{}", offset - 1)),
        }
    }

    /// Adds a `Warning` header for each text: code 299, no agent, no date, the text quoted.
    pub(super) fn with_warnings(mut self, warnings: &[String]) -> Self {
        for text in warnings {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                self.headers.append(WARNING, value);
            }
        }
        self
    }

    /// Says which upstream the parameter `ns` chose (distribution-spec, "Registry Proxying").
    pub(super) fn with_namespace(self, namespace: &str) -> Self {
        self.with(NAMESPACE, namespace)
    }

    pub(super) fn with_accept_ranges(self) -> Self {
        self.with(ACCEPT_RANGES, "bytes")
    }

    /// Makes the answer 206 if a range was served. The text is the value of `Content-Range`, which is
    /// absent where the body has several ranges.
    pub(super) fn with_range(self, served: ServedRange) -> Self {
        match served {
            ServedRange::Whole => self,
            ServedRange::Part(range) => self.with_status(StatusCode::PARTIAL_CONTENT).with(CONTENT_RANGE, range),
            ServedRange::Parts => self.with_status(StatusCode::PARTIAL_CONTENT),
        }
    }

    pub(super) fn with_partial(self, part: &Range<u64>, size: u64) -> Self {
        self.with_status(StatusCode::PARTIAL_CONTENT)
            .with(CONTENT_RANGE, format!("bytes {}-{}/{size}", part.start, part.end - 1))
    }

    /// 206 with several ranges of a blob.
    pub(super) fn byte_ranges(digest: &Digest, ranges: ByteRanges, registry: Arc<Registry>) -> Self {
        let media_type = ranges.content_type();
        Self::content(&media_type, digest, Freshness::Immutable, ranges.into_body(registry))
            .with_accept_ranges()
            .with_status(StatusCode::PARTIAL_CONTENT)
    }

    /// Adds a link to the next page, if the list continues.
    pub(super) fn with_next_page(self, path: &str, page: &Page) -> Self {
        match &page.next {
            Some(last) => {
                let last = utf8_percent_encode(last, NON_ALPHANUMERIC);
                self.with(LINK, format!("<{path}?n={}&last={last}>; rel=\"next\"", page.count))
            }
            None => self,
        }
    }

    /// The digest in the answer's `Docker-Content-Digest` header.
    pub(super) fn digest(&self) -> Option<&str> {
        self.headers.get(CONTENT_DIGEST)?.to_str().ok()
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a header. Values are names, digests and numbers of a checked grammar. A header with an
    /// invalid value is logged and left out.
    pub(super) fn with(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        match HeaderValue::from_str(value.as_ref()) {
            Ok(value) => _ = self.headers.insert(name, value),
            Err(_) => tracing::error!("the header {name} cannot have the value {:?}", value.as_ref()),
        }
        self
    }

    /// The response to send. The response to HEAD has the Content-Length of the body that is left
    /// out.
    pub(super) fn render(self, to_head: bool) -> Response<Body> {
        let mut reply = self.with(API_VERSION, "registry/2.0");
        let length = reply.body.length();
        debug_assert!(length.is_some(), "every answer has a known length");
        // RFC 9110, section 8.6: a 204 has no Content-Length, and a 304 may have only that of the
        // content. Both are sent without the header.
        if !matches!(reply.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            && let Some(length) = length
        {
            reply.headers.insert(CONTENT_LENGTH, length.into());
        }
        // Without Cache-Control, caches may keep an answer for a while, even a 404 that the next
        // push makes wrong.
        reply.headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        reply.headers.insert(CONTENT_SECURITY_POLICY, CONTENT_POLICY);
        reply.headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFFING);
        let mut response = Response::new(if to_head { Body::empty() } else { reply.body });
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        response
    }
}
