//! A registry for the tests of registry clients: a real registry in memory on a port of this
//! machine, which fails on request and records all requests.
//!
//! ```
//! use eyot::testing::{Fault, serve};
//! use http::{Method, StatusCode};
//!
//! let registry = serve();
//! registry.fail(Method::GET, "/blobs/", 1, Fault::status(StatusCode::TOO_MANY_REQUESTS, Some(1)));
//! // Here your client pushes an image to `format!("{}/team/app:v1", registry.host())`, and pulls
//! // the image again.
//! assert_eq!(registry.tags("team/app"), Vec::<String>::new());
//! assert!(registry.requests().is_empty());
//! ```
//!
//! The registry answers until the value is dropped. All functions may be called in a test of any
//! async runtime, because the server has a thread of its own.

mod fault;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

pub use fault::Fault;

use crate::auth::{Access, Accounts, Policy, Secret, Tokens};
use crate::http::{Handler, Peer};
use crate::oci::{Digest, Reference, RepositoryName};
use crate::platform::{Body, SystemPlatform};
use crate::registry::{Limits, PageRequest, Registry};
use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};
use fault::Faults;

/// A request that the registry has received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recorded {
    /// The method.
    pub method: Method,
    /// The path and the query.
    pub target: String,
    /// Whether the request had an `Authorization` header.
    pub has_authorization: bool,
    /// The status of the answer; `None` while the request is served, and if the connection was
    /// closed without an answer.
    pub status: Option<StatusCode>,
}

/// A registry that serves until the value is dropped.
pub struct TestRegistry {
    address: SocketAddr,
    handler: Handler,
    shared: Arc<Shared>,
    runtime: Handle,
    /// Dropping the sender ends the server.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    faults: Mutex<Faults>,
    requests: Mutex<Vec<Recorded>>,
}

/// Serves a registry in which anyone may do everything.
///
/// # Panics
/// If this machine has no free port.
pub fn serve() -> TestRegistry {
    serve_handler(Handler::in_memory())
}

/// Serves a registry in which one user may do everything, and others nothing. Clients log in by
/// Basic or by a token, as the registry asks them to.
///
/// # Panics
/// If `user` is no valid name, and if this machine has no free port.
pub fn serve_with_login(user: &str, password: &str) -> TestRegistry {
    let (keys, platform) = (Arc::new(MemoryKeyValue::default()), Arc::new(SystemPlatform));
    let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
    let policy: Policy = format!("{user} ** all").parse().expect("a name of a user");
    let accounts = Accounts::new(policy, keys.clone(), platform.clone());
    let accounts = accounts.with_local_user(user, Secret::new(password)).expect("a name of a user");
    let access = Access::new(Arc::new(accounts), Tokens::stored("eyot", keys.clone(), platform.clone()));
    serve_handler(Handler::new(Registry::new(keys, blobs, platform, Limits::default()), access))
}

/// Serves a handler of your own.
///
/// # Panics
/// If this machine has no free port.
pub fn serve_handler(handler: Handler) -> TestRegistry {
    let (ready, started) = mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let shared = Arc::new(Shared::default());
    let server = (handler.clone(), shared.clone());
    let thread = std::thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
            let address = listener.local_addr().expect("an address");
            ready.send((address, Handle::current())).expect("the thread that waits for the start");
            tokio::select! {
                () = accept(listener, server) => {}
                _ = stopped => {}
            }
        });
    });
    let (address, runtime) = started.recv().expect("the server starts");
    TestRegistry { address, handler, shared, runtime, stop: Some(stop), thread: Some(thread) }
}

impl TestRegistry {
    /// The address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The host and port, as they stand in the name of an image. The server speaks plain HTTP.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The handler that answers the requests, for code beside HTTP.
    pub fn handler(&self) -> &Handler {
        &self.handler
    }

    /// Makes the next `times` requests fail that have this method and whose path and query contain
    /// `part`. Faults apply in the order in which they were added.
    pub fn fail(&self, method: Method, part: &str, times: usize, fault: Fault) {
        lock(&self.shared.faults).add(method, part, times, fault);
    }

    /// All requests since the start or the last call of [`TestRegistry::forget_requests`], in the
    /// order of their arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.shared.requests).clone()
    }

    /// Empties the record of requests.
    pub fn forget_requests(&self) {
        lock(&self.shared.requests).clear();
    }

    /// The tags of a repository in byte order; none if the repository does not exist.
    ///
    /// # Panics
    /// If `repository` is no name of a repository.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        let name: RepositoryName = repository.parse().expect("a name of a repository");
        let registry = self.handler.registry().clone();
        self.run(async move {
            let mut tags: Vec<String> = Vec::new();
            loop {
                let request = PageRequest { count: None, last: tags.last().cloned() };
                let Ok(page) = registry.tags(&name, &request).await else { return tags };
                let is_last = page.entries.len() < page.count;
                tags.extend(page.entries);
                if is_last {
                    return tags;
                }
            }
        })
    }

    /// The bytes of a manifest, by tag or digest; `None` if the registry does not have the manifest.
    ///
    /// # Panics
    /// If `repository` or `reference` is not valid.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Bytes> {
        let name: RepositoryName = repository.parse().expect("a name of a repository");
        let reference: Reference = reference.parse().expect("a tag or a digest");
        let registry = self.handler.registry().clone();
        self.run(async move {
            let manifest = registry.manifest(&name, &reference).await.ok()?;
            let limit = registry.limits().manifest_bytes_max;
            registry.read_manifest(&manifest).await.ok()?.collect_up_to(limit).await.ok()
        })
    }

    /// The bytes of a blob; `None` if the repository does not hold the blob.
    ///
    /// # Panics
    /// If `repository` or `digest` is not valid.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Bytes> {
        let name: RepositoryName = repository.parse().expect("a name of a repository");
        let digest: Digest = digest.parse().expect("a digest");
        let registry = self.handler.registry().clone();
        self.run(async move {
            let blob = registry.blob(&name, &digest).await.ok()?;
            registry.read_blob(&blob, 0..blob.size).await.ok()?.collect_up_to(blob.size).await.ok()
        })
    }

    /// Runs work on the server's thread.
    fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (send, receive) = mpsc::channel();
        self.runtime.spawn(async move { send.send(work.await) });
        receive.recv().expect("the server runs")
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server was printed by its thread.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, (handler, shared): (Handler, Arc<Shared>)) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Most likely no file descriptor is free. Connections of other tests must end first.
            tokio::task::yield_now().await;
            continue;
        };
        tokio::spawn(connection(stream, peer, handler.clone(), shared.clone()));
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, handler: Handler, shared: Arc<Shared>) {
    let serve = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (handler, shared) = (handler.clone(), shared.clone());
        async move { shared.answer(&handler, peer, request.map(Body::new)).await }
    });
    // A client may end its connection at any time.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
}

impl Shared {
    /// # Errors
    /// When a fault closes the connection without an answer.
    async fn answer(
        &self,
        handler: &Handler,
        peer: SocketAddr,
        mut request: Request<Body>,
    ) -> io::Result<Response<Body>> {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let fault = lock(&self.faults).take(request.method(), &target);
        let number = {
            let mut requests = lock(&self.requests);
            let has_authorization = request.headers().contains_key(http::header::AUTHORIZATION);
            requests.push(Recorded { method: request.method().clone(), target, has_authorization, status: None });
            requests.len() - 1
        };
        request.extensions_mut().insert(Peer { address: Some(peer.ip()), is_tls: false, shows_host: true });
        let response = match fault {
            None => handler.handle(request).await,
            Some(fault) => fault.answer(handler, request).await?,
        };
        if let Some(recorded) = lock(&self.requests).get_mut(number) {
            recorded.status = Some(response.status());
        }
        Ok(response)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
