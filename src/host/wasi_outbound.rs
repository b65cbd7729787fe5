//! The way out of a component: the host's HTTP client.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream;
use http::{HeaderName, HeaderValue, Request, Response};
use wasip3::clocks::monotonic_clock;
use wasip3::http::client;
use wasip3::http::types::{
    ErrorCode, Fields, Request as WasiRequest, RequestOptions, Response as WasiResponse, Scheme, Trailers,
};
use wasip3::wit_bindgen::{FutureWriter, StreamResult, StreamWriter};
use wasip3::{wit_future, wit_stream};

use crate::store::{Body, BodyError, Error, Platform, Result, SystemPlatform};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer's body may rest.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// The speed, in bytes a second, at which a body must go out at least: a host counts its time as well.
const BODY_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// How many bytes of an answer's body are taken from the host at a time.
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

    async fn send(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let timeout = timeout + Duration::from_secs(body.length().unwrap_or(0) / BODY_BYTES_PER_SECOND_MIN);
        let unusable = |what: &str| Error::Unavailable(format!("a request that the host does not take: {what}"));
        let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        let headers = Fields::from_list(&headers.collect::<Vec<_>>()).map_err(|_| unusable("headers"))?;
        let (writer, reader) = wit_stream::new();
        // What the host is told of a body that nobody goes on with. One without bytes is at its end.
        let has_bytes = body.length() != Some(0);
        let unfinished: fn() -> Sent = match has_bytes {
            true => || Err(ErrorCode::InternalError(Some("the body broke off".into()))),
            false => || Ok(None),
        };
        let (end, trailers) = wit_future::new(unfinished);
        let contents = has_bytes.then_some(reader);
        let (request, sent) = WasiRequest::new(headers, contents, trailers, Some(options(timeout)));
        request.set_method(&(&head.method).into()).map_err(|()| unusable("method"))?;
        let is_plain = head.uri.scheme_str() == Some("http");
        let scheme = if is_plain { Scheme::Http } else { Scheme::Https };
        request.set_scheme(Some(&scheme)).map_err(|()| unusable("scheme"))?;
        request.set_authority(head.uri.authority().map(|name| name.as_str())).map_err(|()| unusable("authority"))?;
        let path = head.uri.path_and_query().map(|path| path.as_str());
        request.set_path_with_query(path).map_err(|()| unusable("path"))?;

        let failed = |error: ErrorCode| Error::Unavailable(error.to_string());
        let answer = Box::pin(client::send(request));
        if !has_bytes {
            drop((writer, end));
            return receive(answer.await.map_err(failed)?, Box::new(sent));
        }
        // The body goes out while the answer is awaited. One that comes before is the answer all the same.
        match select(answer, Box::pin(write(body, writer, end))).await {
            Either::Left((response, writing)) => receive(response.map_err(failed)?, Box::new((writing, sent))),
            Either::Right(((), answer)) => receive(answer.await.map_err(failed)?, Box::new(sent)),
        }
    }

    async fn sleep(&self, duration: Duration) {
        monotonic_clock::wait_for(duration.as_nanos() as u64).await;
    }
}

/// How a request's body ended.
type Sent = Result<Option<Trailers>, ErrorCode>;
/// What must live as long as the answer is read: the word of how the request went, without which wasmtime closes the connection
/// behind the first bytes, and a body that is still on its way out.
type Kept = Box<dyn std::any::Any + Send>;

/// Timeouts where the host knows them.
fn options(timeout: Duration) -> RequestOptions {
    let options = RequestOptions::new();
    let nanoseconds = |duration: Duration| Some(duration.as_nanos() as u64);
    for refused in [
        options.set_connect_timeout(nanoseconds(CONNECT_TIMEOUT)),
        options.set_first_byte_timeout(nanoseconds(timeout)),
        options.set_between_bytes_timeout(nanoseconds(READ_TIMEOUT)),
    ] {
        if let Err(error) = refused {
            log::debug!("the host takes no timeout: {error}");
        }
    }
    options
}

async fn write(mut body: Body, mut writer: StreamWriter<u8>, end: FutureWriter<Sent>) {
    while let Some(data) = body.next().await {
        match data {
            Ok(data) => {
                if !writer.write_all(data.into()).await.is_empty() {
                    // The host has given up, or has its answer.
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

fn receive(response: WasiResponse, kept: Kept) -> Result<Response<Body>> {
    let mut received = Response::new(Body::empty());
    let unreadable = |what: &str| Error::Unavailable(format!("an answer with an unreadable {what}"));
    *received.status_mut() = response.get_status_code().try_into().map_err(|_| unreadable("status"))?;
    for (name, value) in response.get_headers().copy_all() {
        let name = HeaderName::try_from(name).map_err(|_| unreadable("header"))?;
        received.headers_mut().append(name, HeaderValue::try_from(value).map_err(|_| unreadable("header"))?);
    }
    *received.body_mut() = read(response, kept);
    Ok(received)
}

fn read(response: WasiResponse, kept: Kept) -> Body {
    // What we make of the body is nobody's concern.
    let (_, result) = wit_future::new(|| Ok(()));
    let (reader, trailers) = WasiResponse::consume_body(response, result);
    Body::from_stream(stream::try_unfold(Some((reader, trailers, kept)), |state| async move {
        let Some((mut reader, trailers, kept)) = state else { return Ok(None) };
        let (result, bytes) = reader.read(Vec::with_capacity(READ_BYTES)).await;
        match result {
            StreamResult::Complete(_) => Ok(Some((Bytes::from(bytes), Some((reader, trailers, kept))))),
            // The stream's end alone does not say whether the body is whole.
            _ => match trailers.await {
                Ok(_) => Ok(None),
                Err(error) => Err(BodyError::Interrupted(error.to_string())),
            },
        }
    }))
}
