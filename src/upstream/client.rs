//! The requests of pulls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, IF_NONE_MATCH, LOCATION, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use url::Url;

use super::Result;
use super::address::Upstream;
use super::answer;
use super::error::{Error, Kind};
use super::tokens::Tokens;
use super::traffic::{Traffic, TrafficCounts};
use crate::auth::Seal;
use crate::oci::manifest::{DOCKER_IMAGE, DOCKER_LIST, OCI_ARTIFACT, OCI_IMAGE, OCI_INDEX, ORAS_ARTIFACT};
use crate::oci::{Algorithm, Digest, Reference, RepositoryName};
use crate::platform::{Body, Platform, SendError};
use crate::store::KeyValue;

/// How long an upstream may take to answer a question without a body: HEAD requests and tokens.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an upstream may take to begin its answer with content.
pub(super) const GET_TIMEOUT: Duration = Duration::from_secs(20);
/// How many redirects of one request are followed.
const REDIRECTS_MAX: usize = 5;
/// How this registry names itself to upstreams. Some upstreams refuse requests without a name.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("eyot/", env!("CARGO_PKG_VERSION")));

/// A client of one upstream. Clones share the memory of tokens.
#[derive(Clone)]
pub struct Client {
    upstream: Arc<Upstream>,
    pub(super) tokens: Arc<Tokens>,
    platform: Arc<dyn Platform>,
    /// Whether the upstream itself takes the operator's login, so that further requests carry the
    /// login from the beginning.
    pub(super) takes_login: Arc<AtomicBool>,
    traffic: Arc<Traffic>,
}

/// A request to the upstream's own host.
pub(super) struct Asked<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    /// The repository that a token must be for.
    pub(super) repository: Option<&'a RepositoryName>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) timeout: Duration,
    /// Whether a redirect to another host is the answer, and is not followed.
    stops_at_redirects: bool,
}

impl<'a> Asked<'a> {
    pub(super) fn get(url: Url, repository: impl Into<Option<&'a RepositoryName>>) -> Self {
        let (method, timeout) = (Method::GET, GET_TIMEOUT);
        Self { method, url, repository: repository.into(), headers: Vec::new(), timeout, stops_at_redirects: false }
    }

    fn head(url: Url, repository: &'a RepositoryName) -> Self {
        Self { method: Method::HEAD, timeout: HEAD_TIMEOUT, ..Self::get(url, repository) }
    }
}

/// An answer after all redirects that were followed.
pub(super) struct Followed {
    pub(super) response: Response<Body>,
    /// Whether the upstream's own host gave the answer.
    pub(super) is_own: bool,
    /// The target of a redirect that was not followed.
    target: Option<Url>,
}

impl Followed {
    /// Whether the upstream itself asks for a login.
    pub(super) fn wants_login(&self) -> bool {
        self.is_own && self.response.status() == StatusCode::UNAUTHORIZED
    }
}

/// The answer to a question about a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManifestHead {
    /// The manifest still has the entity tag that the question named.
    NotModified,
    /// The manifest that is there now.
    Current {
        /// The manifest's digest; `None` if the upstream does not state the digest.
        digest: Option<Digest>,
        /// The upstream's entity tag, for the next question.
        entity_tag: Option<String>,
    },
}

/// A manifest from an upstream, whose bytes have the digest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FetchedManifest {
    /// The manifest's digest.
    pub digest: Digest,
    /// The media type that the upstream states.
    pub media_type: Option<String>,
    /// The upstream's entity tag.
    pub entity_tag: Option<String>,
    /// The manifest.
    pub bytes: Bytes,
}

/// Where an upstream serves a blob.
#[derive(Debug)]
#[non_exhaustive]
pub enum BlobPlace {
    /// The upstream itself sends the blob.
    Here(BlobPart),
    /// At the URL to which the upstream redirects. The URL needs no login, and is http only if the
    /// upstream's own URL is http.
    Elsewhere(Url),
}

/// A blob from an upstream, or its end. The caller must check the digest.
#[derive(Debug)]
#[non_exhaustive]
pub struct BlobPart {
    /// The first byte of the body within the blob.
    pub start: u64,
    /// The size of the whole blob, in bytes.
    pub size: u64,
    /// The bytes from `start` to the end. The body's length is exact.
    pub body: Body,
}

impl Client {
    /// A client that shares tokens through `keys`. `seal` encrypts the tokens there.
    pub fn new(upstream: Upstream, keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>, seal: Seal) -> Self {
        let tokens = Arc::new(Tokens::new(keys, platform.clone(), seal));
        let upstream = Arc::new(upstream);
        Self { upstream, tokens, platform, takes_login: Arc::default(), traffic: Arc::default() }
    }

    /// The upstream.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// What went between this instance and the upstream since the instance began.
    pub fn traffic(&self) -> TrafficCounts {
        self.traffic.counts()
    }

    /// Asks which manifest a reference leads to, with one HEAD request. `known` is the entity tag
    /// of an earlier answer.
    ///
    /// # Errors
    /// [`Error`], with the class of the trouble.
    pub async fn head_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        known: Option<&str>,
    ) -> Result<ManifestHead> {
        let mut headers = vec![(ACCEPT, accepted_manifests())];
        headers.extend(known.and_then(|tag| Some((IF_NONE_MATCH, HeaderValue::from_str(tag).ok()?))));
        let url = self.upstream.endpoint(&format!("v2/{repository}/manifests/{reference}"), &[]);
        let response = self.send(Asked { headers, ..Asked::head(url, repository) }).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(ManifestHead::NotModified);
        }
        let headers = response.headers();
        Ok(ManifestHead::Current { digest: answer::digest(headers), entity_tag: entity_tag(headers) })
    }

    /// Fetches a manifest of at most `limit_bytes`. The bytes have the digest in `reference`, or
    /// the digest that the upstream states for a tag, if the upstream states one.
    ///
    /// # Errors
    /// [`Error`], with the class of the trouble. [`Kind::Invalid`] for a wrong digest.
    pub async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        limit_bytes: u64,
    ) -> Result<FetchedManifest> {
        let headers = vec![(ACCEPT, accepted_manifests())];
        let url = self.upstream.endpoint(&format!("v2/{repository}/manifests/{reference}"), &[]);
        let (head, body) = self.send(Asked { headers, ..Asked::get(url, repository) }).await?.into_parts();
        let bytes = self.collect(body, limit_bytes).await?;
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(_) => answer::digest(&head.headers).unwrap_or_else(|| Algorithm::Sha256.digest(&bytes)),
        };
        if !digest.matches(&bytes) {
            return Err(self.error(Kind::Invalid(format!("the manifest has not the digest {digest}"))));
        }
        let media_type = answer::media_type(&head.headers).map(str::to_owned);
        Ok(FetchedManifest { digest, media_type, entity_tag: entity_tag(&head.headers), bytes })
    }

    /// Fetches a blob from byte `start` to its end. An upstream that does not serve ranges sends
    /// the blob from its first byte; [`BlobPart::start`] tells. The body's digest is not checked.
    ///
    /// # Errors
    /// [`Error`], with the class of the trouble.
    pub async fn blob(&self, repository: &RepositoryName, digest: &Digest, start: u64) -> Result<BlobPart> {
        let range = HeaderValue::from_str(&format!("bytes={start}-")).ok().filter(|_| start > 0);
        let response = self.get_blob(repository, digest, range).await?;
        self.part(repository, digest, start, response).await
    }

    /// Finds out where the upstream serves a blob, and begins to fetch a blob that the upstream
    /// itself serves. A redirect to another host is not followed.
    ///
    /// # Errors
    /// [`Error`], with the class of the trouble.
    pub async fn blob_place(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobPlace> {
        let asked = Asked { stops_at_redirects: true, ..self.blob_request(repository, digest, None) };
        let Followed { response, target, .. } = self.send_counted(asked).await?;
        Ok(match target {
            Some(target) => BlobPlace::Elsewhere(target),
            None => BlobPlace::Here(self.part(repository, digest, 0, response).await?),
        })
    }

    /// The answer to a request for a blob from byte `start` on.
    async fn part(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        start: u64,
        response: Response<Body>,
    ) -> Result<BlobPart> {
        let (head, body) = response.into_parts();
        if head.status == StatusCode::PARTIAL_CONTENT {
            return match answer::content_range(&head.headers) {
                Some((range, size)) if range.start == start && range.end == size => {
                    Ok(BlobPart { start, size, body: body.with_length(size - start) })
                }
                _ => Err(self.error(Kind::Invalid("a partial answer without the range that was asked for".into()))),
            };
        }
        let size = match answer::length(&head.headers).or(body.length()) {
            Some(size) => size,
            None => self.blob_size(repository, digest).await?,
        };
        Ok(BlobPart { start: 0, size, body: body.with_length(size) })
    }

    /// Fetches what a client's `Range` header asks for: the upstream's answer (200 or 206) with its
    /// own headers.
    ///
    /// # Errors
    /// [`Error`], with the class of the trouble; [`Kind::Range`] when the upstream answers 416.
    pub async fn blob_range(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: &HeaderValue,
    ) -> Result<Response<Body>> {
        self.get_blob(repository, digest, Some(range.clone())).await
    }

    /// The size of a blob, in bytes. Asks with HEAD and, where the target of a redirect takes no
    /// HEAD, with a GET of one byte.
    ///
    /// # Errors
    /// [`Error`], with the class of the trouble.
    pub async fn blob_size(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        let declared = match self.send(Asked::head(self.blob_url(repository, digest), repository)).await {
            Ok(response) => answer::length(response.headers()),
            Err(error) if matches!(error.kind, Kind::Down(_)) => None,
            Err(error) => return Err(error),
        };
        if let Some(size) = declared {
            return Ok(size);
        }
        let response = self.get_blob(repository, digest, Some(HeaderValue::from_static("bytes=0-0"))).await;
        let headers = match response {
            Ok(response) => response.into_parts().0.headers,
            // An empty blob has no byte 0.
            Err(error) if error.kind == Kind::Range => return Ok(0),
            Err(error) => return Err(error),
        };
        let size = answer::content_range(&headers).map(|(_, size)| size).or_else(|| answer::length(&headers));
        size.ok_or_else(|| self.error(Kind::Invalid("the size of the blob is not stated".into())))
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<HeaderValue>,
    ) -> Result<Response<Body>> {
        self.send(self.blob_request(repository, digest, range)).await
    }

    fn blob_request<'a>(
        &self,
        repository: &'a RepositoryName,
        digest: &Digest,
        range: Option<HeaderValue>,
    ) -> Asked<'a> {
        // An encoded body would have another digest.
        let identity = (ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let headers = std::iter::once(identity).chain(range.map(|range| (RANGE, range))).collect();
        Asked { headers, ..Asked::get(self.blob_url(repository, digest), repository) }
    }

    fn blob_url(&self, repository: &RepositoryName, digest: &Digest) -> Url {
        self.upstream.endpoint(&format!("v2/{repository}/blobs/{digest}"), &[])
    }

    /// Sends a request, with a login if the upstream asks for one.
    pub(super) async fn send(&self, asked: Asked<'_>) -> Result<Response<Body>> {
        Ok(self.send_counted(asked).await?.response)
    }

    async fn send_counted(&self, asked: Asked<'_>) -> Result<Followed> {
        let sent = self.send_with_login(asked).await;
        sent.inspect_err(|error| self.traffic.failed(error))
    }

    async fn send_with_login(&self, asked: Asked<'_>) -> Result<Followed> {
        let name = self.upstream.name();
        let known = match (self.upstream.login().filter(|_| self.takes_login.load(Relaxed)), asked.repository) {
            (Some(login), _) => login.header(),
            (None, Some(repository)) => self.tokens.find(name, repository).await,
            (None, None) => None,
        };
        let mut followed = self.follow(&asked, known.as_ref()).await?;
        let mut is_own_login = false;
        if followed.wants_login() {
            if let (Some(_), Some(repository)) = (&known, asked.repository) {
                self.tokens.forget(name, repository).await;
            }
            let (authorization, is_login) = self.log_in(asked.repository, followed.response.headers()).await?;
            is_own_login = is_login;
            followed = self.follow(&asked, Some(&authorization)).await?;
        }
        if followed.target.is_some() {
            return Ok(followed);
        }
        let (status, headers) = (followed.response.status(), followed.response.headers());
        match answer::trouble(status, headers, followed.is_own) {
            None => Ok(followed),
            Some(Kind::Denied) if is_own_login && status == StatusCode::UNAUTHORIZED => {
                Err(self.refused_login(format!("answer {status}")))
            }
            Some(kind) => Err(self.error(kind)),
        }
    }

    /// Sends a request and follows redirects. Only the upstream's own host gets the authorization.
    pub(super) async fn follow(&self, asked: &Asked<'_>, authorization: Option<&HeaderValue>) -> Result<Followed> {
        let mut url = asked.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let is_own = self.upstream.is_own(&url);
            let mut request = self.request(asked.method.clone(), &url, Body::empty())?;
            request.headers_mut().extend(asked.headers.iter().cloned());
            if let Some(authorization) = authorization.filter(|_| is_own) {
                request.headers_mut().insert(AUTHORIZATION, authorization.clone());
            }
            let response = self.exchange(request, asked.timeout).await?;
            let is_redirect = response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED;
            if !is_redirect {
                return Ok(Followed { response, is_own, target: None });
            }
            let target = answer::text(response.headers(), &LOCATION).and_then(|target| url.join(target).ok());
            url = match target.filter(|target| self.upstream.is_safe(target)) {
                Some(target) if asked.stops_at_redirects && !self.upstream.is_own(&target) => {
                    return Ok(Followed { response, is_own, target: Some(target) });
                }
                Some(target) => target,
                _ => return Err(self.error(Kind::Invalid("a redirect to a URL that is absent or not https".into()))),
            };
        }
        Err(self.error(Kind::Invalid(format!("more than {REDIRECTS_MAX} redirects"))))
    }

    pub(super) fn request(&self, method: Method, url: &Url, body: Body) -> Result<Request<Body>> {
        let request = Request::builder().method(method).uri(url.as_str()).header(USER_AGENT, AGENT).body(body);
        request.map_err(|_| self.error(Kind::Invalid("a URL that cannot be requested".into())))
    }

    pub(super) async fn exchange(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Body>> {
        let server = request.uri().authority().map(|server| server.to_string()).unwrap_or_default();
        self.traffic.requested();
        let sent = self.platform.send(request, timeout).await;
        sent.map(|response| self.traffic.answered(response)).map_err(|error| match error {
            SendError::TimedOut(why) => self.error(Kind::Slow(format!("{server}: {why}"))),
            error => self.error(Kind::Down(format!("{server}: {error}"))),
        })
    }

    pub(super) async fn collect(&self, body: Body, limit_bytes: u64) -> Result<Bytes> {
        let collected = body.collect_up_to(limit_bytes).await;
        collected.map_err(|error| match error {
            error @ crate::platform::BodyError::TooLarge { .. } => self.error(Kind::Invalid(error.to_string())),
            error => self.error(Kind::Down(error.to_string())),
        })
    }

    /// An error of this upstream.
    pub(crate) fn error(&self, kind: Kind) -> Error {
        Error { upstream: self.upstream.name().to_owned(), kind }
    }
}

/// The media types of manifests that this registry takes. An upstream may convert a manifest that
/// the client does not accept, and the manifest would then have another digest.
fn accepted_manifests() -> HeaderValue {
    let types = [OCI_INDEX, OCI_IMAGE, DOCKER_LIST, DOCKER_IMAGE, OCI_ARTIFACT, ORAS_ARTIFACT, "*/*;q=0.1"];
    HeaderValue::from_str(&types.join(", ")).unwrap_or(HeaderValue::from_static("*/*"))
}

/// The entity tag of an answer, as the upstream wrote the header.
fn entity_tag(headers: &HeaderMap) -> Option<String> {
    /// The longest entity tag that is kept, in bytes; a quoted digest has 73.
    const ENTITY_TAG_BYTES_MAX: usize = 256;
    let tag = answer::text(headers, &http::header::ETAG)?;
    (tag.len() <= ENTITY_TAG_BYTES_MAX).then(|| tag.to_owned())
}
