//! Requests of a WASI 0.3 host and the answers to them, for the components `wasi` and `spin`.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use wasip3::http::types::{ErrorCode, Fields, Request as WasiRequest, Response as WasiResponse, Trailers};
use wasip3::http_compat::http_from_wasi_request;
use wasip3::wit_bindgen::{FutureWriter, StreamResult, StreamWriter, spawn};
use wasip3::{wit_future, wit_stream};

use super::component::{Opened, handle, opened};
use crate::http::Peer;
use crate::platform::{Body, BodyError, ClientPace, Platform as _, SystemPlatform};

/// The most bytes of a request body that one read takes from the host.
const READ_BYTES: usize = 128 * 1024;

/// The most bytes that one write gives to the host, for a client that may be slow. For each client
/// the HTTP server of wasmtime holds up to 16 writes that the client has not taken yet.
const WRITE_BYTES: usize = 16 * 1024;
/// The most bytes of one write for a client that keeps up.
const LARGE_WRITE_BYTES: usize = 256 * 1024;

/// Answers a request. While this instance has no open stores, calls `open`, which reads the
/// settings and opens the stores.
pub(super) async fn answer(
    request: WasiRequest,
    open: impl AsyncFnOnce() -> Result<Opened>,
) -> Result<WasiResponse, ErrorCode> {
    let opened = match opened(open).await {
        Ok(opened) => opened,
        Err(unusable) => return respond(*unusable),
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
