//! Outbound HTTP of a component, through the host's HTTP client.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use wasip3::clocks::monotonic_clock;
use wasip3::http::client;
use wasip3::http::types::{
    ErrorCode, Fields, Request as WasiRequest, RequestOptions, Response as WasiResponse, Scheme, Trailers,
};
use wasip3::wit_bindgen::{FutureReader, FutureWriter, StreamResult, StreamWriter};
use wasip3::{wit_future, wit_stream};

use super::exchange::{CONNECT_TIMEOUT, READ_TIMEOUT, Writing, answer_timeout, beside};
use crate::platform::{Body, BodyError, Platform, SendError, SystemPlatform};

/// The most bytes of an answer's body that one read takes from the host.
const READ_BYTES: usize = 128 * 1024;

/// The clock, the randomness and the HTTP client of a WASI host.
pub(super) struct WasiPlatform;

#[async_trait]
impl Platform for WasiPlatform {
    fn now_ms(&self) -> u64 {
        SystemPlatform.now_ms()
    }

    fn random(&self) -> [u8; 16] {
        SystemPlatform.random()
    }

    async fn send(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Body>, SendError> {
        let (head, body) = request.into_parts();
        let timeout = answer_timeout(timeout, &body);
        let unusable = |what: &str| SendError::Failed(format!("the host refuses the {what} of the request"));
        let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        let headers = Fields::from_list(&headers.collect::<Vec<_>>()).map_err(|_| unusable("headers"))?;
        let (writer, reader) = wit_stream::new();
        let (end, trailers) = wit_future::new(|| Err(ErrorCode::InternalError(Some("the body broke off".into()))));
        let (request, sent) = WasiRequest::new(headers, Some(reader), trailers, Some(options(timeout)));
        request.set_method(&(&head.method).into()).map_err(|()| unusable("method"))?;
        let is_plain = head.uri.scheme_str() == Some("http");
        let scheme = if is_plain { Scheme::Http } else { Scheme::Https };
        request.set_scheme(Some(&scheme)).map_err(|()| unusable("scheme"))?;
        request.set_authority(head.uri.authority().map(|name| name.as_str())).map_err(|()| unusable("authority"))?;
        let path = head.uri.path_and_query().map(|path| path.as_str());
        request.set_path_with_query(path).map_err(|()| unusable("path"))?;

        let mut writing: Option<Writing> = Some(Box::pin(write(body, writer, end)));
        let response = beside(&mut writing, client::send(request)).await;
        let response = response.map_err(|error| match error {
            ErrorCode::ConnectionTimeout | ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout => {
                SendError::TimedOut(text_with_hint(&error))
            }
            error => SendError::Failed(text_with_hint(&error)),
        })?;
        receive(response, Exchange { _sent: sent, writing }, head.method != Method::HEAD)
    }

    async fn sleep(&self, duration: Duration) {
        monotonic_clock::wait_for(duration.as_nanos() as u64).await;
    }
}

/// The text of an error, with a hint at the likely cause: the host's own error codes say little.
fn text_with_hint(error: &ErrorCode) -> String {
    let hint = match error {
        ErrorCode::TlsProtocolError | ErrorCode::TlsCertificateError | ErrorCode::TlsAlertReceived(_) => {
            "; the host of this component decides which certificate authorities it trusts"
        }
        ErrorCode::HttpRequestDenied => {
            "; the host of this component forbids requests to this server (Spin: allowed_outbound_hosts)"
        }
        _ => "",
    };
    format!("{error}{hint}")
}

/// The request options with all timeouts that the host supports; other timeouts are logged and left
/// out.
fn options(timeout: Duration) -> RequestOptions {
    let options = RequestOptions::new();
    let nanoseconds = |duration: Duration| Some(duration.as_nanos() as u64);
    for refused in [
        options.set_connect_timeout(nanoseconds(CONNECT_TIMEOUT)),
        options.set_first_byte_timeout(nanoseconds(timeout)),
        options.set_between_bytes_timeout(nanoseconds(READ_TIMEOUT)),
    ] {
        if let Err(error) = refused {
            tracing::debug!("the host does not support a timeout: {error}");
        }
    }
    options
}

async fn write(mut body: Body, mut writer: StreamWriter<u8>, end: FutureWriter<Result<Option<Trailers>, ErrorCode>>) {
    while let Some(data) = body.next().await {
        match data {
            Ok(data) => {
                if !writer.write_all(data.into()).await.is_empty() {
                    // The host has given up the request or has its answer already.
                    return;
                }
            }
            Err(error) => {
                let _ = end.write(Err(ErrorCode::InternalError(Some(error.to_string())))).await;
                return;
            }
        }
    }
    drop(writer);
    let _ = end.write(Ok(None)).await;
}

/// An exchange whose answer has begun. Dropping this value cancels the exchange and loses the rest
/// of the answer: wasmtime then ends the body early as if the body were complete.
struct Exchange {
    _sent: FutureReader<Result<(), ErrorCode>>,
    writing: Option<Writing>,
}

fn receive(response: WasiResponse, exchange: Exchange, has_body: bool) -> Result<Response<Body>, SendError> {
    let mut received = Response::new(Body::empty());
    let unreadable = |what: &str| SendError::Failed(format!("an answer with an unreadable {what}"));
    *received.status_mut() = response.get_status_code().try_into().map_err(|_| unreadable("status"))?;
    for (name, value) in response.get_headers().copy_all() {
        let name = HeaderName::try_from(name).map_err(|_| unreadable("header"))?;
        received.headers_mut().append(name, HeaderValue::try_from(value).map_err(|_| unreadable("header"))?);
    }
    let declared = received.headers().get(CONTENT_LENGTH).filter(|_| has_body);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse().ok());
    *received.body_mut() = read(response, exchange, declared);
    Ok(received)
}

/// The answer's body. A body whose length differs from `declared` is an error. The check is here
/// because a host may not check the length.
fn read(response: WasiResponse, exchange: Exchange, declared: Option<u64>) -> Body {
    // The result future reports success at once: the host needs no report on the use of the body.
    let (_, result) = wit_future::new(|| Ok(()));
    let (reader, trailers) = WasiResponse::consume_body(response, result);
    let state = Some((reader, trailers, exchange, 0));
    Body::from_stream(stream::try_unfold(state, move |state| async move {
        let Some((mut reader, trailers, mut exchange, before)) = state else { return Ok(None) };
        let (result, bytes) = beside(&mut exchange.writing, reader.read(Vec::with_capacity(READ_BYTES))).await;
        match result {
            StreamResult::Complete(_) => {
                let now = before + bytes.len() as u64;
                Ok(Some((Bytes::from(bytes), Some((reader, trailers, exchange, now)))))
            }
            // A stream that ends may be cut off: only the trailers tell whether the body is
            // complete.
            _ => match (trailers.await, declared) {
                (Err(error), _) => Err(BodyError::Interrupted(error.to_string())),
                (Ok(_), Some(declared)) if before != declared => Err(BodyError::Length { declared }),
                (Ok(_), _) => Ok(None),
            },
        }
    }))
}
