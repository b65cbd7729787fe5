//! Outbound HTTP of a component for WASI 0.2, through the host's HTTP client.

use std::time::Duration;

use async_trait::async_trait;
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingResponse, Method as WasiMethod, OutgoingRequest, RequestOptions, Scheme,
};

use super::super::exchange::{CONNECT_TIMEOUT, READ_TIMEOUT, Writing, answer_timeout, beside};
use super::executor::Ready;
use super::streams;
use crate::platform::{Body, Platform, SendError, SystemPlatform};

/// The clock, the randomness and the HTTP client of a WASI 0.2 host.
pub(super) struct Wasi2Platform;

#[async_trait]
impl Platform for Wasi2Platform {
    fn now_ms(&self) -> u64 {
        SystemPlatform.now_ms()
    }

    fn random(&self) -> [u8; 16] {
        SystemPlatform.random()
    }

    async fn send(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Body>, SendError> {
        let (head, body) = request.into_parts();
        let timeout = answer_timeout(timeout, &body);
        let outgoing = outgoing(&head)?;
        let to = outgoing.body().map_err(|()| refused("body"))?;
        let answer = outgoing_handler::handle(outgoing, Some(options(timeout))).map_err(|error| failed(&error))?;

        let mut writing: Option<Writing> = Some(Box::pin(async move {
            if let Err(error) = streams::write(body, to, || usize::MAX).await {
                // The server may have answered before the end of the request, or the answer says why.
                tracing::debug!("a request was not sent to its end: {error}");
            }
        }));
        let response = loop {
            match answer.get() {
                Some(Ok(Ok(response))) => break response,
                Some(Ok(Err(error))) => return Err(failed(&error)),
                Some(Err(())) => return Err(SendError::Failed("the answer was asked for twice".into())),
                None => beside(&mut writing, Ready::new(answer.subscribe())).await,
            }
        };
        receive(&response, writing, head.method != Method::HEAD)
    }

    async fn sleep(&self, duration: Duration) {
        Ready::new(subscribe_duration(duration.as_nanos() as u64)).await;
    }
}

fn refused(what: &str) -> SendError {
    SendError::Failed(format!("the host refuses the {what} of the request"))
}

fn outgoing(head: &http::request::Parts) -> Result<OutgoingRequest, SendError> {
    let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let headers = Fields::from_list(&headers.collect::<Vec<_>>()).map_err(|_| refused("headers"))?;
    let request = OutgoingRequest::new(headers);
    request.set_method(&method(&head.method)).map_err(|()| refused("method"))?;
    let is_plain = head.uri.scheme_str() == Some("http");
    let scheme = if is_plain { Scheme::Http } else { Scheme::Https };
    request.set_scheme(Some(&scheme)).map_err(|()| refused("scheme"))?;
    request.set_authority(head.uri.authority().map(|name| name.as_str())).map_err(|()| refused("authority"))?;
    let path = head.uri.path_and_query().map(|path| path.as_str());
    request.set_path_with_query(path).map_err(|()| refused("path"))?;
    Ok(request)
}

fn method(method: &Method) -> WasiMethod {
    match *method {
        Method::GET => WasiMethod::Get,
        Method::HEAD => WasiMethod::Head,
        Method::POST => WasiMethod::Post,
        Method::PUT => WasiMethod::Put,
        Method::DELETE => WasiMethod::Delete,
        Method::PATCH => WasiMethod::Patch,
        ref other => WasiMethod::Other(other.to_string()),
    }
}

/// The request options with all timeouts that the host supports; other timeouts are logged and left
/// out.
fn options(timeout: Duration) -> RequestOptions {
    let options = RequestOptions::new();
    let nanoseconds = |duration: Duration| Some(duration.as_nanos() as u64);
    for (name, refused) in [
        ("connecting", options.set_connect_timeout(nanoseconds(CONNECT_TIMEOUT))),
        ("the first byte", options.set_first_byte_timeout(nanoseconds(timeout))),
        ("bytes in between", options.set_between_bytes_timeout(nanoseconds(READ_TIMEOUT))),
    ] {
        if refused.is_err() {
            tracing::debug!("the host does not support a timeout for {name}");
        }
    }
    options
}

/// The error of a request without an answer, with a hint at the likely cause: the host's own error
/// codes say little.
fn failed(error: &ErrorCode) -> SendError {
    let hint = match error {
        ErrorCode::ConnectionTimeout | ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout => {
            return SendError::TimedOut(error.to_string());
        }
        ErrorCode::TlsProtocolError | ErrorCode::TlsCertificateError | ErrorCode::TlsAlertReceived(_) => {
            "; the host of this component decides which certificate authorities it trusts"
        }
        ErrorCode::HttpRequestDenied => "; the host of this component forbids requests to this server",
        _ => "",
    };
    SendError::Failed(format!("{error}{hint}"))
}

fn receive(response: &IncomingResponse, writing: Option<Writing>, has_body: bool) -> Result<Response<Body>, SendError> {
    let mut received = Response::new(Body::empty());
    let unreadable = |what: &str| SendError::Failed(format!("an answer with an unreadable {what}"));
    *received.status_mut() = response.status().try_into().map_err(|_| unreadable("status"))?;
    for (name, value) in response.headers().entries() {
        let name = HeaderName::try_from(name).map_err(|_| unreadable("header"))?;
        received.headers_mut().append(name, HeaderValue::try_from(value).map_err(|_| unreadable("header"))?);
    }
    let declared = received.headers().get(CONTENT_LENGTH).filter(|_| has_body);
    // The check of the length is here because a host may not check the length.
    let declared = declared.and_then(|value| value.to_str().ok()?.parse().ok());
    let body = response.consume().map_err(|()| unreadable("body"))?;
    *received.body_mut() = streams::read(body, declared, writing);
    Ok(received)
}
