//! Requests of a WASI 0.2 host and the answers to them.

use anyhow::Result;
use http::header::CONTENT_LENGTH;
use http::{Request, Uri};
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam, Scheme,
};

use super::super::component::{Opened, handle, opened};
use super::streams::{self, WriteError};
use crate::http::Peer;
use crate::platform::{Body, ClientPace, Platform as _, SystemPlatform};

/// The most bytes that one write gives to the host, for a client that may be slow. The host holds
/// the writes that the client has not taken yet.
const WRITE_BYTES: usize = 64 * 1024;
/// The most bytes of one write for a client that keeps up.
const LARGE_WRITE_BYTES: usize = 256 * 1024;

/// Answers a request. While this instance has no open stores, calls `open`, which reads the settings
/// and opens the stores.
pub(super) async fn answer(request: IncomingRequest, to: ResponseOutparam, open: impl AsyncFnOnce() -> Result<Opened>) {
    let request = match receive(&request) {
        Ok(request) => request,
        Err(error) => {
            tracing::info!("cannot read a request: {error}");
            return ResponseOutparam::set(to, Err(error));
        }
    };
    let response = match opened(open).await {
        Ok(opened) => handle(&opened.stores, request).await,
        Err(unusable) => *unusable,
    };
    let (head, body) = response.into_parts();
    match begin(&head) {
        Ok((begun, outgoing)) => {
            ResponseOutparam::set(to, Ok(begun));
            send(body, outgoing).await;
        }
        Err(error) => ResponseOutparam::set(to, Err(error)),
    }
}

fn receive(request: &IncomingRequest) -> Result<Request<Body>, ErrorCode> {
    let mut uri = Uri::builder();
    match request.scheme() {
        Some(Scheme::Http) => uri = uri.scheme("http"),
        Some(Scheme::Https) => uri = uri.scheme("https"),
        Some(Scheme::Other(other)) => uri = uri.scheme(other.as_str()),
        None => {}
    }
    if let Some(authority) = request.authority() {
        uri = uri.authority(authority);
    }
    // The asterisk form of OPTIONS has no path.
    uri = uri.path_and_query(request.path_with_query().unwrap_or_else(|| "/".into()));
    let uri = uri.build().map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
    let mut received = Request::builder().method(method(&request.method())?).uri(uri).extension(Peer::default());
    for (name, value) in request.headers().entries() {
        received = received.header(name, value);
    }
    let incoming = request.consume().map_err(|()| internal("the body was taken before"))?;
    let mut received = received.body(streams::read(incoming, None, None)).map_err(internal)?;
    let length = received.headers().get(CONTENT_LENGTH);
    if let Some(length) = length.and_then(|value| value.to_str().ok()?.parse().ok()) {
        received = received.map(|body| body.with_length(length));
    }
    Ok(received)
}

fn method(method: &Method) -> Result<http::Method, ErrorCode> {
    Ok(match method {
        Method::Get => http::Method::GET,
        Method::Head => http::Method::HEAD,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        Method::Delete => http::Method::DELETE,
        Method::Connect => http::Method::CONNECT,
        Method::Options => http::Method::OPTIONS,
        Method::Trace => http::Method::TRACE,
        Method::Patch => http::Method::PATCH,
        Method::Other(name) => {
            http::Method::try_from(name.as_str()).map_err(|_| ErrorCode::HttpRequestMethodInvalid)?
        }
    })
}

fn begin(head: &http::response::Parts) -> Result<(OutgoingResponse, OutgoingBody), ErrorCode> {
    let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let headers = Fields::from_list(&headers.collect::<Vec<_>>()).map_err(internal)?;
    let response = OutgoingResponse::new(headers);
    response.set_status_code(head.status.as_u16()).map_err(|()| internal("status code"))?;
    let body = response.body().map_err(|()| internal("the body was taken before"))?;
    Ok((response, body))
}

/// Sends the body of an answer. This function returns when the host has taken the whole body: after
/// that the host may drop this instance.
async fn send(body: Body, to: OutgoingBody) {
    let mut pace = ClientPace::new(WRITE_BYTES, LARGE_WRITE_BYTES);
    match streams::write(body, to, || pace.next_bytes(SystemPlatform.now_ms())).await {
        // The answer to HEAD has the length of a body, and no body.
        Ok(()) | Err(WriteError::Refused(ErrorCode::HttpResponseBodySize(_))) => {}
        Err(error) => tracing::info!("cannot send an answer: {error}"),
    }
}

fn internal(error: impl std::fmt::Display) -> ErrorCode {
    ErrorCode::InternalError(Some(error.to_string()))
}
