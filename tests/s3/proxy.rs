//! A proxy before an S3 server. The proxy counts requests and, on demand, misbehaves as a real
//! server may.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use eyot::host::outbound::NativePlatform;
use eyot::platform::{Body, BodyError, Platform};
use futures_util::stream;
use http::header::TRANSFER_ENCODING;
use http::{Request, Response, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

const TIMEOUT: Duration = Duration::from_secs(120);
const NO_CHUNKS: &str = "<Error><Code>NotImplemented</Code><Message>Transfer-Encoding</Message></Error>";

/// The proxy's action for one request.
pub enum Act {
    Pass,
    /// Reads the body, then answers without asking the server.
    Answer(u16, &'static str),
    /// Begins to answer before the body has arrived, and ends the answer after the body.
    AnswerEarly(u16, &'static str),
    /// Closes the connection without forwarding the request.
    CutBefore,
    /// Forwards the request, then closes the connection instead of answering.
    CutAfter,
    /// Cuts the server's answer off after this number of bytes.
    CutAnswer(usize),
    /// Reads the body, then sends this response without asking the server.
    Respond(Response<Body>),
    /// Sends this response before reading the body, without asking the server.
    RespondEarly(Response<Body>),
    /// Forwards the request, then sends this response instead of the server's.
    RespondAfter(Response<Body>),
    /// Sends the server's answer after changing it with this function.
    Change(fn(Response<Body>) -> Response<Body>),
    /// Reads the whole request and never answers.
    Hang,
}

/// A request that the proxy has seen: its method, and its path with the query parameters that are
/// not part of the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub path: String,
}

type Script = Box<dyn FnMut(&Seen) -> Act + Send>;

pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    server: SocketAddr,
    platform: NativePlatform,
    seen: Mutex<Vec<Seen>>,
    bytes: AtomicU64,
    script: Mutex<Script>,
}

impl Proxy {
    /// Starts a proxy before `server` that runs as long as the runtime.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            server,
            platform: NativePlatform::default(),
            seen: Mutex::default(),
            bytes: AtomicU64::new(0),
            script: Mutex::new(Box::new(|_| Act::Pass)),
        });
        let proxy = Self { address, state: state.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.clone();
                let service = service_fn(move |request| {
                    let state = state.clone();
                    async move { state.handle(request).await }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        proxy
    }

    pub fn script(&self, script: impl FnMut(&Seen) -> Act + Send + 'static) {
        *self.state.script.lock().unwrap() = Box::new(script);
    }

    /// The requests since the last call of `take`, and the number of body bytes sent to the server
    /// since then.
    pub fn take(&self) -> (Vec<Seen>, u64) {
        let seen = std::mem::take(&mut *self.state.seen.lock().unwrap());
        (seen, self.state.bytes.swap(0, Ordering::Relaxed))
    }
}

impl State {
    async fn handle(self: Arc<Self>, request: Request<hyper::body::Incoming>) -> Result<Response<Body>, String> {
        let (mut head, body) = request.into_parts();
        if head.headers.contains_key(TRANSFER_ENCODING) {
            // S3 refuses chunked transfer coding; the servers of the tests accept it.
            return Ok(answer(501, NO_CHUNKS));
        }
        let seen = Seen { method: head.method.to_string(), path: unsigned(&head.uri) };
        let act = (self.script.lock().unwrap())(&seen);
        self.seen.lock().unwrap().push(seen);
        let (counter, body) = (self.clone(), Body::new(body));
        let length = body.length();
        let counted = stream::unfold((counter, body), |(counter, mut body)| async move {
            let data: Result<Bytes, BodyError> = body.next().await?;
            if let Ok(data) = &data {
                counter.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
            Some((data, (counter, body)))
        });
        let body = Body::from_stream(counted);
        let body = length.map_or(Body::empty(), |length| body.with_length(length));
        match act {
            Act::Answer(status, text) => {
                let _ = body.collect_up_to(u64::MAX).await;
                return Ok(answer(status, text));
            }
            Act::AnswerEarly(status, text) => return Ok(answer_early(status, text, body)),
            Act::Respond(response) => {
                let _ = body.collect_up_to(u64::MAX).await;
                return Ok(response);
            }
            Act::RespondEarly(response) => return Ok(response),
            Act::Hang => {
                let _ = body.collect_up_to(u64::MAX).await;
                return std::future::pending().await;
            }
            Act::CutBefore => return Err("cut".into()),
            _ => {}
        }
        head.uri = format!("http://{}{}", self.server, head.uri.path_and_query().unwrap()).parse().unwrap();
        let result = self.platform.send(Request::from_parts(head, body), TIMEOUT).await;
        let response = result.map_err(|error| error.to_string())?;
        match act {
            Act::CutAfter => Err("cut".into()),
            Act::CutAnswer(at) => Ok(cut(response, at)),
            Act::RespondAfter(other) => Ok(other),
            Act::Change(change) => Ok(change(response)),
            _ => Ok(response),
        }
    }
}

fn answer(status: u16, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn answer_early(status: u16, text: &'static str, body: Body) -> Response<Body> {
    let pieces = stream::once(async move { body.collect_up_to(u64::MAX).await.map(|_| Bytes::from(text)) });
    answer(status, "").map(|_| Body::from_stream(pieces).with_length(text.len() as u64))
}

fn cut(response: Response<Body>, at: usize) -> Response<Body> {
    response.map(|body| {
        let length = body.length();
        let pieces = stream::unfold((body, at), |(mut body, left)| async move {
            if left == 0 {
                return Some((Err(BodyError::Interrupted("cut".into())), (body, 0)));
            }
            let mut data = body.next().await?.ok()?;
            data.truncate(left);
            let left = left - data.len();
            Some((Ok(data), (body, left)))
        });
        let body = Body::from_stream(pieces);
        length.map_or(Body::empty(), |length| body.with_length(length))
    })
}

fn unsigned(uri: &http::Uri) -> String {
    let query = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.starts_with("X-Amz-"));
    let query: Vec<&str> = query.collect();
    if query.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), query.join("&")) }
}
