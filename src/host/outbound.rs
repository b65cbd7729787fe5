//! The way out of a plain process: hyper's client with rustls, connections kept.

use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use http::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::store::{Body, BodyError, Error, Platform, Result, SystemPlatform};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer's body may rest.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection without requests is kept: servers close theirs after a minute or less.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

/// The operating system's clock and randomness, and HTTP over its network. Requests are sent on a tokio runtime.
#[derive(Default)]
pub struct NativePlatform {
    // Made with the first request: reading the system's certificates takes a moment.
    client: OnceLock<HttpClient>,
}

impl NativePlatform {
    fn client(&self) -> Result<&HttpClient> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = new_client().map_err(|e| Error::Unavailable(format!("the system's certificates: {e}")))?;
        Ok(self.client.get_or_init(|| client))
    }
}

fn new_client() -> std::io::Result<HttpClient> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.enforce_http(false);
    let https = HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).build(https))
}

#[async_trait]
impl Platform for NativePlatform {
    fn now_ms(&self) -> u64 {
        SystemPlatform.now_ms()
    }

    fn random(&self) -> [u8; 16] {
        SystemPlatform.random()
    }

    async fn send(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Body>> {
        let late = |_| Error::Unavailable(format!("no answer within {} s", timeout.as_secs()));
        let answered = tokio::time::timeout(timeout, self.client()?.request(request)).await.map_err(late)?;
        Ok(answered.map_err(|error| Error::Unavailable(causes(&error)))?.map(read))
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// An answer's body, which must not rest for long.
fn read(body: hyper::body::Incoming) -> Body {
    let body = Body::new(body);
    let length = body.length();
    let pieces = stream::try_unfold(body, |mut body| async move {
        match tokio::time::timeout(READ_TIMEOUT, body.next()).await {
            Ok(Some(data)) => Ok(Some((data?, body))),
            Ok(None) => Ok(None),
            Err(_) => Err(BodyError::Interrupted(format!("nothing came for {} s", READ_TIMEOUT.as_secs()))),
        }
    });
    match length {
        Some(length) => Body::from_stream(pieces).with_length(length),
        None => Body::from_stream(pieces),
    }
}

/// hyper tells what happened in the causes of its errors.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
