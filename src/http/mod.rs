//! HTTP: requests are parsed into operations, authorized, carried out by the registry, and
//! rendered. Only this layer knows status codes.

mod audit;
mod authorizer;
mod body_limit;
mod byteranges;
mod conditional;
mod credentials;
mod drain;
mod endpoints;
mod error;
mod event;
mod head;
mod limits;
mod origin;
mod panics;
mod permission;
mod prefix;
mod progress;
mod pulled;
mod query;
mod redirects;
mod reply;
mod request_id;
#[cfg(feature = "tower")]
mod service;
mod site;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::request::Parts;
use http::{Method, Request, Response};
use tracing::Instrument as _;

use crate::auth::{Access, Seal};
use crate::mirror::{Mirrors, UpstreamFinding};
use crate::platform::Body;
use crate::registry::Registry;

use authorizer::Authorizer;
use body_limit::BodyLimit;
use drain::Drain;
use endpoints::{Call, Readiness};
use error::Error;
use event::Observer;
use permission::Permission;
use prefix::PathPrefix;
use reply::Reply;
use request_id::RequestId;

pub use audit::TARGET as AUDIT_TARGET;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub(crate) use audit::log_own as audit_own;
pub use event::Event;
pub use origin::{Peer, Proxies, ProxiesError, PublicUrlError};
pub use prefix::PathPrefixError;
pub use progress::Progress;
pub use redirects::Redirects;
pub use request_id::REQUEST_SPAN;

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
    authorizer: Authorizer,
    tag_max_age_seconds: u32,
    redirects: Redirects,
    mirrors: Option<Mirrors>,
    body_limit: BodyLimit,
    readiness: Readiness,
    observer: Option<Arc<Observer>>,
    prefix: PathPrefix,
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
            authorizer: Authorizer::new(access),
            tag_max_age_seconds: 0,
            redirects: Redirects::all_but(""),
            mirrors: None,
            body_limit: BodyLimit::default(),
            readiness: Readiness::default(),
            observer: None,
            prefix: PathPrefix::default(),
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

    /// The most bytes that the body of a request may have; by default no body is too long. Meant for
    /// hosts and proxies with such a limit. A longer body is refused at once with 413. The limit is
    /// announced to clients as `OCI-Chunk-Max-Length`, so that clients push larger blobs in chunks.
    pub fn with_body_bytes_max(self, body_bytes_max: Option<u64>) -> Self {
        Self { body_limit: BodyLimit(body_bytes_max), ..self }
    }

    /// The upstreams whose repositories are pulled through this registry; none by default.
    pub fn with_mirrors(self, mirrors: Mirrors) -> Self {
        Self { mirrors: Some(mirrors), ..self }
    }

    /// Calls `observer` after each change that a request has made, and before the client gets the
    /// answer. The observer runs on the thread of the request, so it must not block: a program that
    /// sends messages puts the event into a channel. If the client goes away before the answer, or
    /// the process ends, a change may have no event.
    ///
    /// ```
    /// use eyot::Handler;
    ///
    /// let handler = Handler::in_memory().with_observer(|event| {
    ///     if event.action == "push-manifest" {
    ///         println!("{:?} has the new tags {:?}", event.repository, event.tags);
    ///     }
    /// });
    /// ```
    pub fn with_observer(self, observer: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self { observer: Some(Arc::new(observer)), ..self }
    }

    /// The path below which a program serves the handler, such as `/registry`. Answers then lead
    /// clients to `/registry/v2/…`. Requests may come with the prefix, or without the prefix from a
    /// router that removes prefixes. Container clients only know registries at the root of a host,
    /// so a prefix suits clients of your own, and proxies that rewrite paths.
    ///
    /// # Errors
    /// If `path` is not an absolute path. The text says which form is allowed.
    pub fn with_path_prefix(self, path: &str) -> Result<Self, PathPrefixError> {
        Ok(Self { prefix: PathPrefix::new(path)?, ..self })
    }

    /// Tries whether each upstream answers and takes its login.
    pub async fn check_upstreams(&self) -> Vec<UpstreamFinding> {
        match &self.mirrors {
            Some(mirrors) => mirrors.check().await,
            None => Vec::new(),
        }
    }

    /// The URL by which clients reach the registry (`https://registry.example`). Clients are sent
    /// to this URL for tokens. By default clients are sent to the host that the request names.
    ///
    /// # Errors
    /// If `url` is not a scheme and a host alone. The text says which form is allowed.
    pub fn with_public_url(mut self, url: &str) -> Result<Self, PublicUrlError> {
        self.authorizer.set_public_url(url)?;
        Ok(self)
    }

    /// The proxies whose `X-Forwarded-…` and `Forwarded` headers are trusted; none by default. A
    /// host reports the other end of each connection by [`Peer`].
    pub fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.authorizer.proxies = proxies;
        self
    }

    /// Whether `address` belongs to a proxy whose headers are trusted.
    #[cfg(all(feature = "native", not(target_family = "wasm")))]
    pub(crate) fn is_proxy(&self, address: std::net::IpAddr) -> bool {
        self.authorizer.proxies.trusts(Some(address))
    }

    /// Answers requests only under a name of this machine: a loopback address, `localhost`, or the
    /// host of the public URL. Meant for a registry on a loopback address without a login: a page
    /// in a browser could otherwise reach the registry under a domain name that resolves to the
    /// loopback address.
    pub fn with_local_names_only(mut self) -> Self {
        self.authorizer.is_local = true;
        self
    }

    /// The registry behind the handler, for code beside HTTP: a collection on a schedule, a list of
    /// tags, a push by the program itself.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
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
        self.prefix.remove_from(request.uri_mut());
        let span = id.span();
        let response = self.answer(request).instrument(span.clone()).await;
        let mut response = response.map(|body| panics::guarded(span, body));
        id.write_to(response.headers_mut());
        self.prefix.add_to(response.headers_mut());
        response
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let (drain, body) = Drain::new(body);
        let performed = panics::caught(self.perform(&head, body));
        let result = performed.await.unwrap_or(Err(Error::Panicked));
        let reply = result.unwrap_or_else(|error| error.reply(&head));
        tracing::info!("{} {} {}", head.method, head.uri.path(), reply.status().as_u16());
        // Drain the body: a client that is still sending would not see the answer if the connection
        // were closed.
        let waits = head.headers.contains_key(http::header::EXPECT);
        panics::caught(drain.drain(waits)).await;
        reply.render(head.method == Method::HEAD)
    }

    async fn perform(&self, head: &Parts, body: Body) -> Result<Reply, Error> {
        origin::check_host(head)?;
        head::check_size(head)?;
        head::check_framing(head)?;
        let (body, exceeded) = self.body_limit.apply(body)?;
        let performed = self.perform_within_limits(head, body).await;
        performed.map_err(|error| self.body_limit.explain(&exceeded, error))
    }

    async fn perform_within_limits(&self, head: &Parts, body: Body) -> Result<Reply, Error> {
        let mut operation = endpoints::parse(head)?;
        let namespace = match (&self.mirrors, operation.pulled()) {
            (Some(mirrors), Some(pulled)) => pulled.route(mirrors, head)?,
            _ => None,
        };
        self.authorizer.check_site(head)?;
        let permission = operation.permission();
        let caller = self.authorizer.authorize(head, &permission).await?;
        let mirrored = permission.pushed().and_then(|pushed| self.mirrors.as_ref()?.find(pushed));
        if let Some(mirrored) = mirrored {
            return Err(Error::Mirrored { upstream: mirrored.upstream().to_owned() });
        }
        // An operation without a permission serves anyone, so its body does not come from an
        // authorized client.
        let _carried_out = (permission != Permission::None).then(|| Progress::begin(&head.extensions));
        let change = operation.change().map(|change| change.begin(&caller, self.authorizer.address(head)));
        let outcome = operation.perform(self, Call { head, caller: &caller, body }).await;
        let event = change.and_then(|change| change.finish(&outcome));
        if let (Some(event), Some(observer)) = (event, &self.observer) {
            observer(&event);
        }
        outcome.map(|reply| namespace.iter().fold(reply, |reply, namespace| reply.with_namespace(namespace)))
    }
}
