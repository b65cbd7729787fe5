//! HTTP over TCP: hyper sends well-formed requests, a bare socket sends malformed ones.

use std::convert::Infallible;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::header::HOST;
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::runner::{Target, pieces};

/// Longer than any answer may take. A server that hangs fails the test after this time.
const PATIENCE: Duration = Duration::from_secs(900);

pub type RequestBody = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Clone, Copy)]
pub struct Client {
    pub address: SocketAddr,
}

impl Client {
    /// Sends one request on a connection of its own. The caller still has to read the reply's body.
    pub async fn open(&self, mut request: Request<RequestBody>) -> Result<Response<Incoming>, String> {
        let stream = TcpStream::connect(self.address).await;
        let stream = stream.map_err(|why| format!("no connection: {why}"))?;
        stream.set_nodelay(true).map_err(|why| why.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(Forgiving(stream))).await.map_err(|why| why.to_string())?;
        tokio::spawn(connection);
        let host = HeaderValue::from_str(&self.address.to_string()).expect("an address is ASCII");
        request.headers_mut().insert(HOST, host);
        match tokio::time::timeout(PATIENCE, sender.send_request(request)).await {
            Ok(reply) => reply.map_err(|why| format!("{why:?}")),
            Err(_) => Err(format!("nothing after {PATIENCE:?}")),
        }
    }

    /// Sends a request and reads the whole reply.
    pub async fn fetch(&self, request: Request<RequestBody>) -> Result<Response<Bytes>, String> {
        let (head, body) = self.open(request).await?.into_parts();
        match tokio::time::timeout(PATIENCE, body.collect()).await {
            Ok(Ok(body)) => Ok(Response::from_parts(head, body.to_bytes())),
            Ok(Err(why)) => Err(format!("{} and half a body: {why:?}", head.status)),
            Err(_) => Err(format!("{} and no end after {PATIENCE:?}", head.status)),
        }
    }
}

impl Target for Client {
    async fn send(&self, request: Request<Bytes>, streamed: bool) -> Result<Response<Bytes>, String> {
        let request =
            request.map(|body| if streamed { chunked(futures_util::stream::iter(pieces(body))) } else { whole(body) });
        self.fetch(request).await
    }
}

pub fn whole(body: impl Into<Bytes>) -> RequestBody {
    Full::new(body.into()).boxed_unsync()
}

/// A body of unknown length, which is sent in chunked transfer coding.
pub fn chunked(pieces: impl Stream<Item = Bytes> + Send + 'static) -> RequestBody {
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}

/// A socket that ignores failed writes. A server may answer and close before it has read a body to
/// its end; hyper would report the failed write and lose the answer.
struct Forgiving(TcpStream);

impl AsyncWrite for Forgiving {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.0).poll_write(cx, bytes) {
            Poll::Ready(Err(_)) => Poll::Ready(Ok(bytes.len())),
            other => other,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.0).poll_write_vectored(cx, slices) {
            Poll::Ready(Err(_)) => Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum())),
            other => other,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl AsyncRead for Forgiving {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

/// Sends `bytes` unchanged on a new socket and returns the socket. Dropping the socket cuts the
/// request.
pub fn raw(address: SocketAddr, bytes: &[u8]) -> std::net::TcpStream {
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time limit");
    // A server may refuse the request before it has read all bytes. Ignore a failed write.
    let _ = stream.write_all(bytes);
    stream
}

/// The status of the reply to a raw request that has `Connection: close`; `None` if the server
/// closed the connection without a reply.
pub fn raw_status(stream: &mut std::net::TcpStream) -> Option<u16> {
    let mut reply = Vec::new();
    // A connection reset after the reply counts as the end of the reply.
    let _ = stream.read_to_end(&mut reply);
    let line = String::from_utf8_lossy(&reply[..reply.len().min(15)]).into_owned();
    line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}
