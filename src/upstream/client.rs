//! The requests of pulls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, IF_NONE_MATCH, LOCATION, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::Result;
use super::address::{Login, Upstream};
use super::answer;
use super::challenge::Challenge;
use super::error::{Error, Kind};
use super::tokens::Tokens;
use crate::auth::{Seal, Secret};
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
/// The most bytes of a token server's answer.
const TOKEN_ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// How this registry names itself to upstreams. Some upstreams refuse requests without a name.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("eyot/", env!("CARGO_PKG_VERSION")));

/// A client of one upstream. Clones share the memory of tokens.
#[derive(Clone)]
pub struct Client {
    upstream: Arc<Upstream>,
    tokens: Arc<Tokens>,
    platform: Arc<dyn Platform>,
    /// Whether the upstream itself takes the operator's login, so that further requests carry the
    /// login from the beginning.
    takes_login: Arc<AtomicBool>,
}

/// A request to the upstream's own host.
pub(super) struct Asked<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    /// The repository that a token must be for.
    pub(super) repository: &'a RepositoryName,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) timeout: Duration,
}

/// An answer after all redirects.
struct Followed {
    response: Response<Body>,
    /// Whether the upstream's own host gave the answer.
    is_own: bool,
}

/// The answer to a question about a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A blob from an upstream, or its end. The caller must check the digest.
#[derive(Debug)]
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
        Self { upstream: Arc::new(upstream), tokens, platform, takes_login: Arc::default() }
    }

    /// The upstream.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
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
        let asked = Asked { method: Method::HEAD, url, repository, headers, timeout: HEAD_TIMEOUT };
        let response = self.send(asked).await?;
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
        let asked = Asked { method: Method::GET, url, repository, headers, timeout: GET_TIMEOUT };
        let (head, body) = self.send(asked).await?.into_parts();
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
        let asked = Asked {
            method: Method::HEAD,
            url: self.blob_url(repository, digest),
            repository,
            headers: Vec::new(),
            timeout: HEAD_TIMEOUT,
        };
        let declared = match self.send(asked).await {
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
        // An encoded body would have another digest.
        let identity = (ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let headers = std::iter::once(identity).chain(range.map(|range| (RANGE, range))).collect();
        let url = self.blob_url(repository, digest);
        self.send(Asked { method: Method::GET, url, repository, headers, timeout: GET_TIMEOUT }).await
    }

    fn blob_url(&self, repository: &RepositoryName, digest: &Digest) -> Url {
        self.upstream.endpoint(&format!("v2/{repository}/blobs/{digest}"), &[])
    }

    /// Sends a request, with a login if the upstream asks for one.
    pub(super) async fn send(&self, asked: Asked<'_>) -> Result<Response<Body>> {
        let name = self.upstream.name();
        let known = match self.upstream.login().filter(|_| self.takes_login.load(Relaxed)) {
            Some(login) => login.header(),
            None => self.tokens.find(name, asked.repository).await,
        };
        let mut followed = self.follow(&asked, known.as_ref()).await?;
        let mut is_own_login = false;
        if followed.response.status() == StatusCode::UNAUTHORIZED && followed.is_own {
            if known.is_some() {
                self.tokens.forget(name, asked.repository).await;
            }
            let (authorization, is_login) = self.log_in(asked.repository, followed.response.headers()).await?;
            is_own_login = is_login;
            followed = self.follow(&asked, Some(&authorization)).await?;
        }
        let Followed { response, is_own } = followed;
        if let Some(remaining) = answer::text(response.headers(), &HeaderName::from_static("ratelimit-remaining")) {
            tracing::debug!("upstream {name}: rate limit remaining {remaining}");
        }
        match answer::trouble(response.status(), response.headers(), is_own) {
            None => Ok(response),
            Some(Kind::Denied) if is_own_login && response.status() == StatusCode::UNAUTHORIZED => {
                Err(self.refused_login(format!("answer {}", response.status())))
            }
            Some(kind) => Err(self.error(kind)),
        }
    }

    /// Sends a request and follows redirects. Only the upstream's own host gets the authorization.
    async fn follow(&self, asked: &Asked<'_>, authorization: Option<&HeaderValue>) -> Result<Followed> {
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
                return Ok(Followed { response, is_own });
            }
            let target = answer::text(response.headers(), &LOCATION).and_then(|target| url.join(target).ok());
            url = match target {
                Some(target) if self.upstream.is_safe(&target) => target,
                _ => return Err(self.error(Kind::Invalid("a redirect to a URL that is absent or not https".into()))),
            };
        }
        Err(self.error(Kind::Invalid(format!("more than {REDIRECTS_MAX} redirects"))))
    }

    /// The `Authorization` header that answers a challenge, and whether the header carries the
    /// operator's login itself.
    async fn log_in(&self, repository: &RepositoryName, headers: &HeaderMap) -> Result<(HeaderValue, bool)> {
        let login = self.upstream.login();
        let unusable = || self.refused_login("no header can carry the login".into());
        match (Challenge::of(headers), login) {
            (None, _) => {
                Err(self.error(Kind::Invalid("answer 401 without a login challenge that is known here".into())))
            }
            (Some(Challenge::Basic), None) => Err(self.error(Kind::Denied)),
            (Some(Challenge::Basic), Some(login)) | (Some(_), Some(login @ Login::Token(_))) => {
                self.takes_login.store(true, Relaxed);
                Ok((login.header().ok_or_else(unusable)?, true))
            }
            (Some(Challenge::Bearer { realm, service }), login) => {
                let (token, lifetime) = self.token(repository, &realm, service.as_deref(), login).await?;
                let kept = self.tokens.keep(self.upstream.name(), repository, token, lifetime).await;
                let header =
                    kept.ok_or_else(|| self.error(Kind::Invalid("the token cannot be sent in a header".into())))?;
                Ok((header, false))
            }
        }
    }

    /// Requests a token to pull one repository. Returns the token and its lifetime in seconds.
    async fn token(
        &self,
        repository: &RepositoryName,
        realm: &str,
        service: Option<&str>,
        login: Option<&Login>,
    ) -> Result<(Secret, Option<u64>)> {
        let mut url = Url::parse(realm).map_err(|_| self.error(Kind::Invalid("the token realm is no URL".into())))?;
        if !self.upstream.trusts_realm(&url) {
            let host = url.host_str().unwrap_or_default();
            let why = format!(
                "the token realm {}://{host} is not https or not of the upstream's domain; the option realm= of the \
                 setting upstreams can allow the host",
                url.scheme()
            );
            return Err(self.error(Kind::Invalid(why)));
        }
        url.set_fragment(None);
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .append_pair("scope", &format!("repository:{repository}:pull"));
        let mut request = self.request(Method::GET, &url, Body::empty())?;
        if let Some(login) = login {
            let header = login.header().ok_or_else(|| self.refused_login("no header can carry the login".into()))?;
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        let response = self.exchange(request, HEAD_TIMEOUT).await?;
        let status = response.status();
        match answer::trouble(status, response.headers(), true) {
            None if status == StatusCode::OK => {}
            Some(Kind::Denied) if login.is_some() => {
                return Err(self.refused_login(format!("the token server answers {status}")));
            }
            Some(Kind::Unknown | Kind::Invalid(_)) | None => {
                return Err(self.error(Kind::Invalid(format!("the token server answers {status}"))));
            }
            Some(kind) => return Err(self.error(kind)),
        }
        #[derive(Deserialize)]
        struct Granted {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let bytes = self.collect(response.into_body(), TOKEN_ANSWER_BYTES_MAX).await?;
        let granted = serde_json::from_slice(&bytes).ok().and_then(|granted: Granted| {
            let token = granted.token.or(granted.access_token).filter(|token| !token.is_empty())?;
            Some((Secret::new(token), granted.expires_in))
        });
        granted.ok_or_else(|| self.error(Kind::Invalid("the token server's answer has no token".into())))
    }

    fn request(&self, method: Method, url: &Url, body: Body) -> Result<Request<Body>> {
        let request = Request::builder().method(method).uri(url.as_str()).header(USER_AGENT, AGENT).body(body);
        request.map_err(|_| self.error(Kind::Invalid("a URL that cannot be requested".into())))
    }

    async fn exchange(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Body>> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let sent = self.platform.send(request, timeout).await;
        sent.map_err(|error| match error {
            SendError::TimedOut(why) => self.error(Kind::Slow(format!("{host}: {why}"))),
            error => self.error(Kind::Down(format!("{host}: {error}"))),
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

    /// The error for a login that the upstream refuses. The operator has to act, so the log says so.
    fn refused_login(&self, why: String) -> Error {
        let error = self.error(Kind::Login(why));
        tracing::error!("{error}; see the setting upstream_logins");
        error
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
