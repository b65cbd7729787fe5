//! Outbound HTTP of a native process: hyper's client with rustls, which reuses connections.

use std::error::Error as Cause;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::uri::Scheme;
use http::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls;

use crate::platform::{Body, BodyError, Causes, Platform, SendError, SystemPlatform};

/// The longest time for making a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for the next bytes of an answer's body.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an idle connection is kept: servers close idle connections after a minute or less.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The hint in the error text when a certificate is not trusted.
const TRUST: &str = "eyot trusts the certificate authorities of the system, or in their place those in the file that \
                     the environment variable SSL_CERT_FILE names";
/// The hint in the error text when the server does not speak TLS.
const NO_TLS: &str = "the server did not speak TLS; check http or https in the URL";

/// How many bytes of a request body the operating system may buffer: bytes in that buffer look sent
/// before the server has them. A request with this many bytes or more, or of unknown length, gets
/// three times the timeout; a shorter body gets less, in proportion.
const BUFFER_BYTES: u64 = 4 * 1024 * 1024;

type TlsClient = Client<HttpsConnector<HttpConnector>, Body>;

/// The operating system's clock and randomness, and HTTP over its network. Sending requests needs a
/// tokio runtime.
#[derive(Default)]
pub struct NativePlatform {
    plain: OnceLock<Client<HttpConnector, Body>>,
    // Made by the first request over TLS: reading the system's certificates takes a moment, and a
    // small container has no certificates at all.
    tls: OnceLock<TlsClient>,
}

impl NativePlatform {
    fn plain(&self) -> &Client<HttpConnector, Body> {
        self.plain.get_or_init(|| client_of(connector()))
    }

    fn tls(&self) -> Result<&TlsClient, SendError> {
        if let Some(client) = self.tls.get() {
            return Ok(client);
        }
        let unreadable = |why| SendError::Failed(format!("{why}; {TRUST}"));
        let builder = HttpsConnectorBuilder::new().with_native_roots().map_err(unreadable)?;
        let client = client_of(builder.https_only().enable_http1().wrap_connector(connector()));
        Ok(self.tls.get_or_init(|| client))
    }
}

fn connector() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.enforce_http(false);
    tcp
}

fn client_of<C: Connect + Clone>(connector: C) -> Client<C, Body> {
    Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).build(connector)
}

#[async_trait]
impl Platform for NativePlatform {
    fn now_ms(&self) -> u64 {
        SystemPlatform.now_ms()
    }

    fn random(&self) -> [u8; 16] {
        SystemPlatform.random()
    }

    fn runs_tasks(&self) -> bool {
        tokio::runtime::Handle::try_current().is_ok()
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(task);
        }
    }

    async fn send(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Body>, SendError> {
        let buffered = request.body().length().unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        let limit = timeout + timeout * 2 * buffered as u32 / BUFFER_BYTES as u32;
        let pace = Pace(Arc::new(Mutex::new(Some(Instant::now()))));
        let is_plain = request.uri().scheme() == Some(&Scheme::HTTP);
        let request = request.map(|body| paced(body, pace.clone()));
        let mut exchange = pin!(if is_plain { self.plain().request(request) } else { self.tls()?.request(request) });
        loop {
            let until = pace.since().unwrap_or_else(Instant::now) + limit;
            match timeout_at(until, exchange.as_mut()).await {
                Ok(answered) => return Ok(answered.map_err(|error| SendError::Failed(causes(&error)))?.map(read)),
                // The body had no data ready, or the server took more of the body. Wait on.
                Err(_) if pace.since().is_none_or(|since| since.elapsed() < limit) => {}
                Err(_) => return Err(SendError::TimedOut(format!("no answer within {} s", limit.as_secs()))),
            }
        }
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// The time since when the client waits for the server to take more of a body or to answer; `None`
/// while the request body has no data ready.
#[derive(Clone)]
struct Pace(Arc<Mutex<Option<Instant>>>);

impl Pace {
    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request body that records in `pace` whether the last poll had data ready.
fn paced(mut body: Body, pace: Pace) -> Body {
    Body::from_poll(body.length(), move |cx| {
        let polled = body.poll_next(cx);
        let since = polled.is_ready().then(Instant::now);
        *pace.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
        polled
    })
}

/// An answer's body that fails after [`READ_TIMEOUT`] without bytes.
fn read(body: hyper::body::Incoming) -> Body {
    let body = Body::new(body);
    let length = body.length();
    let pieces = stream::try_unfold(body, |mut body| async move {
        match tokio::time::timeout(READ_TIMEOUT, body.next()).await {
            Ok(Some(data)) => Ok(Some((data?, body))),
            Ok(None) => Ok(None),
            Err(_) => Err(BodyError::Interrupted(format!("no bytes arrived for {} s", READ_TIMEOUT.as_secs()))),
        }
    });
    match length {
        Some(length) => Body::from_stream(pieces).with_length(length),
        None => Body::from_stream(pieces),
    }
}

/// The text of an error with all its causes, as hyper's own text leaves the causes out.
fn causes(error: &(dyn Cause + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    match hint(last) {
        Some(hint) => format!("{}; {hint}", Causes(error)),
        None => Causes(error).to_string(),
    }
}

/// A hint at how to fix an error of rustls. hyper wraps errors of rustls in [`io::Error`]s.
fn hint(error: &(dyn Cause + 'static)) -> Option<&'static str> {
    match error.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(_)) => Some(TRUST),
        Some(rustls::Error::InvalidMessage(_)) => Some(NO_TLS),
        Some(_) => None,
        None => hint(error.downcast_ref::<io::Error>()?.get_ref()?),
    }
}
