//! The HTTP server in front of the component. Instances are reused as Spin reuses them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use wasmtime::component::GuestTaskId;
use wasmtime::{Result, Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, Proxy, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use crate::guest::{self, Guest, Services};
use crate::options::{Manners, Options};

/// Spin makes an instance of a component of WASI 0.2 for every request.
const REQUESTS_PER_P2_INSTANCE_MAX: usize = 1;
const REQUESTS_PER_INSTANCE_MAX: usize = 128;
const REQUESTS_AT_ONCE_MAX: usize = 16;

pub async fn serve(
    listener: TcpListener,
    component: ProxyPre<Guest>,
    services: Arc<Services>,
    options: &Options,
) -> Result<()> {
    let handler = ProxyHandler::new(Instances { component, services, idle: options.idle });
    loop {
        let (stream, _) = listener.accept().await?;
        // Spin leaves Nagle's algorithm on, so an answer whose head and body are two writes takes
        // 40 ms on a kept-alive connection.
        stream.set_nodelay(options.manners == Manners::Quick)?;
        tokio::spawn(serve_connection(stream, handler.clone()));
    }
}

async fn serve_connection(stream: TcpStream, handler: ProxyHandler<Instances>) {
    let service = service_fn(|request| async {
        let response = match own_answer(&request, &handler.state().services) {
            Some(response) => response,
            None => forward(request, &handler).await,
        };
        Ok::<_, Infallible>(response)
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        eprintln!("spin-host: connection: {error:?}");
    }
}

/// Answers the paths that belong to the host itself.
fn own_answer(request: &Request<Incoming>, services: &Services) -> Option<Response<WasiBody>> {
    match request.uri().path() {
        "/__host/calls" => {}
        "/__host/calls/reset" => services.calls.reset(),
        _ => return None,
    }
    let mut response = Response::new(full(services.calls.to_json()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Some(response)
}

async fn forward(mut request: Request<Incoming>, handler: &ProxyHandler<Instances>) -> Response<WasiBody> {
    let line = format!("{} {}", request.method(), request.uri());
    if let Some(uri) = absolute(&request) {
        *request.uri_mut() = uri;
    }
    let request = request.map(|body| body.map_err(Error::from).boxed_unsync());
    match handler.handle((), request).await {
        Ok(response) => response,
        Err(error) => {
            eprintln!("spin-host: {line}: {error:?}");
            let mut response = Response::new(full(String::new()));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// The full URI of a request. The guest needs scheme and authority, which an HTTP/1 request line
/// does not contain.
fn absolute(request: &Request<Incoming>) -> Option<Uri> {
    let host = request.headers().get(HOST)?.to_str().ok()?;
    let path = request.uri().path_and_query()?.as_str();
    let uri = Uri::builder().scheme("http").authority(host);
    uri.path_and_query(path).build().ok()
}

fn full(text: String) -> WasiBody {
    Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Makes the instances that serve the requests.
struct Instances {
    component: ProxyPre<Guest>,
    services: Arc<Services>,
    idle: Duration,
}

impl HandlerState for Instances {
    type StoreData = Guest;
    type WorkerExpiration = Expiration;
    type WorkerState = Reuse;

    async fn instantiate(&self) -> Result<Instance<Guest, Expiration, Reuse>> {
        let mut store = guest::store(&self.component, Arc::clone(&self.services))?;
        let proxy = self.component.instantiate_async(&mut store).await?;
        let requests_max = match proxy {
            Proxy::P2(_) => REQUESTS_PER_P2_INSTANCE_MAX,
            Proxy::P3(_) => REQUESTS_PER_INSTANCE_MAX,
        };
        Ok(Instance {
            store,
            proxy,
            view: Guest::http,
            expiration: Expiration { idle: self.idle, sleep: Box::pin(tokio::time::sleep(Duration::MAX)) },
            state: Reuse { requests_max },
        })
    }
}

/// Drops an instance that has been idle for a while, with all its resources. If a guest returns a
/// body and ends its task, the body is cut off, as in Spin.
struct Expiration {
    idle: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl WorkerExpiration for Expiration {
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>, status: WorkerStatus, since: Instant) -> Poll<()> {
        if !matches!(status, WorkerStatus::Idle) {
            return Poll::Pending;
        }
        let deadline = (since + self.idle).into();
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(context)
    }
}

/// Decides when an instance takes another request.
struct Reuse {
    requests_max: usize,
}

impl WorkerState for Reuse {
    type StoreData = Guest;
    type RequestData = ();

    fn should_accept_request(&self, at_once: usize, in_all: usize) -> ShouldAccept {
        if in_all >= self.requests_max {
            ShouldAccept::Never
        } else if at_once >= REQUESTS_AT_ONCE_MAX {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, Guest>,
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        // Requests have no time limit: `spin up` sets a limit only on request.
        Box::pin(std::future::pending())
    }

    fn drop(&self, _: Store<Guest>, result: Result<()>) {
        if let Err(error) = result {
            eprintln!("spin-host: an instance failed: {error:?}");
        }
    }
}
