//! Code that both components (`wasi`, `spin`) share: converts WASI HTTP requests and answers.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, StatusCode};
use wasip3::http::types::{ErrorCode, Fields, Request as WasiRequest, Response as WasiResponse, Trailers};
use wasip3::http_compat::http_from_wasi_request;
use wasip3::wit_bindgen::{FutureWriter, StreamResult, StreamWriter, spawn};
use wasip3::{wit_future, wit_stream};

use super::config::{Stores, names_a_setting};
use super::log::{visible, write_error};
use crate::http::Peer;
use crate::platform::{Body, BodyError, ClientPace, Platform as _, SystemPlatform};

/// The most bytes of a request body that one read takes from the host.
const READ_BYTES: usize = 128 * 1024;

/// The most bytes that one write gives to the host, for a client that may be slow. For each client
/// the HTTP server of wasmtime holds up to 16 writes that the client has not taken yet.
const WRITE_BYTES: usize = 16 * 1024;
/// The most bytes of one write for a client that keeps up.
const LARGE_WRITE_BYTES: usize = 256 * 1024;

/// The stores of this instance, shared by all requests that the host gives the instance at once.
/// Several first requests may each open the stores, because a request cannot wait for another one;
/// the stores that are opened first are kept.
static OPENED: OnceLock<Opened> = OnceLock::new();

/// Whether this instance has already logged a wrong setting.
static LOGGED: AtomicBool = AtomicBool::new(false);

/// The stores of an instance, and whether calls to the stores block the host.
pub(super) struct Opened {
    pub stores: Stores,
    /// Whether calls to the store block the host's thread, see [`pause`].
    pub blocking: bool,
}

/// Answers a request. While this instance has no open stores, calls `open`, which reads the
/// settings and opens the stores.
pub(super) async fn answer(
    request: WasiRequest,
    open: impl AsyncFnOnce() -> Result<Opened>,
) -> Result<WasiResponse, ErrorCode> {
    let opened = match OPENED.get() {
        Some(opened) => opened,
        None => match open().await {
            Ok(opened) => OPENED.get_or_init(|| opened),
            Err(error) => return respond(unusable(&error)),
        },
    };
    let request = match receive(request) {
        Ok(request) => request,
        Err(error) => {
            tracing::info!("cannot read a request: {error}");
            return Err(error);
        }
    };
    let response = handle(&opened.stores, request).await;
    if opened.blocking {
        pause().await;
    }
    respond(response)
}

/// Gives the host's thread back for a moment after store calls that have blocked the thread.
///
/// While a store call blocks, the host moves its HTTP server to another thread. The server would
/// then send the head of an answer at once and the body a moment later. Without TCP_NODELAY the
/// kernel holds the second segment back until the client has acknowledged the first, 40 ms later.
/// After a pause both run on one thread again, and the server sends head and body together.
async fn pause() {
    // 1 ns is the shortest wait; the timers of hosts round 1 ns up to about a millisecond.
    wasip3::clocks::monotonic_clock::wait_for(1).await;
}

#[cfg(not(contract))]
async fn handle(stores: &Stores, request: Request<Body>) -> Response<Body> {
    stores.handler().handle(request).await
}

/// Variant of the component that only tests build: every request runs the contract of the stores. A
/// broken clause traps.
#[cfg(contract)]
async fn handle(stores: &Stores, _request: Request<Body>) -> Response<Body> {
    use crate::store::contract;
    let mut kept = String::new();
    for (name, clause) in contract::KEY_VALUE {
        eprintln!("key-value: {name}");
        clause(stores.keys.clone()).await;
        kept += &format!("key-value: {name}\n");
    }
    for (name, clause) in contract::BLOB_STORE {
        eprintln!("blob store: {name}");
        clause(stores.blobs.clone()).await;
        kept += &format!("blob store: {name}\n");
    }
    let length = kept.len();
    let mut response = Response::new(Body::from(kept.into_bytes()));
    response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    response
}

/// The answer (500) when the stores cannot be opened. If a setting is wrong, the client sees the
/// cause too, because an operator sees the answer before the log, and the text has no secret in it.
/// The log gets a wrong setting once per instance, and every failure of a store.
fn unusable(error: &anyhow::Error) -> Response<Body> {
    let cause = format!("{error:#}");
    let message = if names_a_setting(error) {
        if !LOGGED.swap(true, Relaxed) {
            write_error(&cause);
        }
        format!("the registry is not set up: {}", visible(&cause))
    } else {
        write_error(&cause);
        "cannot open the registry's stores; the log of the registry has the cause".into()
    };
    let text = serde_json::json!({"errors": [{"code": "UNKNOWN", "message": message}]}).to_string();
    let length = text.len();
    let mut response = Response::new(Body::from(text.into_bytes()));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    response.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn receive(request: WasiRequest) -> Result<Request<Body>, ErrorCode> {
    let (mut head, mut body) = http_from_wasi_request(request)?.into_parts();
    head.extensions.insert(Peer { address: peer_address(&head), ..Peer::default() });
    // RFC 9112, section 6.3: a transfer coding overrides a length.
    let coded = head.headers.contains_key(http::header::TRANSFER_ENCODING);
    let length = head.headers.get(http::header::CONTENT_LENGTH).filter(|_| !coded);
    let length = length.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let incoming = body.take_unstarted().ok_or(ErrorCode::InternalError(None))?;
    let body = read_body(incoming);
    Ok(Request::from_parts(
        head,
        match length {
            Some(length) => body.with_length(length),
            None => body,
        },
    ))
}

/// The client's address, which only Spin passes on. Spin appends its header after any header of
/// that name from the client, so the last value is Spin's.
fn peer_address(head: &http::request::Parts) -> Option<IpAddr> {
    let value = head.headers.get_all("spin-client-addr").iter().next_back().filter(|_| cfg!(feature = "spin"))?;
    value.to_str().ok()?.parse().ok().map(|address: SocketAddr| address.ip())
}

fn read_body(request: WasiRequest) -> Body {
    // The result future reports success at once: how the registry used the body appears only in the
    // answer.
    let (_, result) = wit_future::new(|| Ok(()));
    let (reader, trailers) = WasiRequest::consume_body(request, result);
    Body::from_stream(stream::try_unfold(Some((reader, trailers)), |state| async move {
        let Some((mut reader, trailers)) = state else { return Ok(None) };
        let (result, bytes) = reader.read(Vec::with_capacity(READ_BYTES)).await;
        match result {
            StreamResult::Complete(_) => {
                // Small reads are copied, so that a slow client does not hold a whole read buffer
                // per read.
                let bytes = if bytes.len() < READ_BYTES / 2 { Bytes::copy_from_slice(&bytes) } else { bytes.into() };
                Ok(Some((bytes, Some((reader, trailers)))))
            }
            // A stream that ends may be cut off: only the trailers tell whether the body is
            // complete.
            _ => match trailers.await {
                Ok(_) => Ok(None),
                Err(error) => Err(BodyError::Interrupted(error.to_string())),
            },
        }
    }))
}

fn respond(response: Response<Body>) -> Result<WasiResponse, ErrorCode> {
    let (head, body) = response.into_parts();
    let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let headers = Fields::from_list(&headers.collect::<Vec<_>>()).map_err(internal)?;
    let cut_off = || Err(ErrorCode::InternalError(Some("the body broke off".into())));
    let (writer, reader) = wit_stream::new();
    let (end, trailers) = wit_future::new(cut_off);
    let (response, sent) = WasiResponse::new(headers, Some(reader), trailers);
    response.set_status_code(head.status.as_u16()).map_err(|()| internal("status code"))?;
    spawn(async move {
        send(body, writer, end).await;
        // Wait until the answer is sent: once no task is left, the host may drop this instance with
        // its unsent bytes.
        if let Err(error) = sent.await {
            tracing::info!("cannot send an answer: {error}");
        }
    });
    Ok(response)
}

type End = FutureWriter<Result<Option<Trailers>, ErrorCode>>;

async fn send(mut body: Body, mut writer: StreamWriter<u8>, end: End) {
    let mut pace = ClientPace::new(WRITE_BYTES, LARGE_WRITE_BYTES);
    while let Some(data) = body.next().await {
        match data {
            Ok(mut data) => {
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(pace.next_bytes(SystemPlatform.now_ms())));
                    if !writer.write_all(piece.into()).await.is_empty() {
                        // The client has disconnected.
                        return;
                    }
                }
            }
            Err(error) => {
                let _ = end.write(Err(internal(error))).await;
                return;
            }
        }
    }
    drop(writer);
    let _ = end.write(Ok(None)).await;
}

fn internal(error: impl std::fmt::Display) -> ErrorCode {
    ErrorCode::InternalError(Some(error.to_string()))
}
