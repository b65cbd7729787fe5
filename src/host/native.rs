//! The native host: a process that serves the handler with hyper.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinError;
use tokio_rustls::TlsAcceptor;

use super::settings::Connections;
use super::slots::{Slot, Slots};
use super::stall::{PatientStream, ending, patient};
use super::tls::Certificate;
use super::unsent::bounded;
use crate::http::{Handler, Peer, Progress};
use crate::platform::Body;

/// The number of open files that one connection may need: its socket, and files of the stores.
const FILES_PER_CONNECTION: u64 = 4;
/// The number of open files reserved for the process itself: its listener and streams, the log, the
/// collection on a schedule.
const FILES_OF_PROCESS: u64 = 32;
/// The largest head of a request, in bytes: the 40 KiB of URL and headers that the handler accepts,
/// and the bytes between them. Also the most bytes of a body that one read takes.
const BUFFER_BYTES_MAX: usize = 48 * 1024;
/// The pause after a failed accept, so that open files can be closed meanwhile.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// The longest time that a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// Serves `handler` on `address` until the process gets SIGTERM or SIGINT. The connections use TLS
/// if there is a `certificate`. Calls `ready` with the bound address once the server listens.
///
/// # Errors
/// When the server cannot listen on the address, or cannot register its signal handlers.
pub async fn serve(
    handler: Handler,
    address: SocketAddr,
    limits: Connections,
    certificate: Option<Certificate>,
    ready: impl FnOnce(SocketAddr),
) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    ready(listener.local_addr()?);

    let connections = GracefulShutdown::new();
    let slots = Slots::new(connections_max(limits.most), limits.most_of_address as usize);
    loop {
        let accept = async {
            let (stream, peer) = listener.accept().await?;
            // A proxy carries many clients, so its connections are not counted by address.
            let address = Some(peer.ip()).filter(|address| !address.is_loopback() && !handler.is_proxy(*address));
            anyhow::Ok((slots.acquire(address).await, stream, peer))
        };
        tokio::select! {
            accepted = accept => match accepted {
                Ok((Some(slot), stream, _)) => {
                    let acceptor = certificate.as_ref().map(Certificate::acceptor);
                    let (handler, watcher) = (handler.clone(), connections.watcher());
                    tokio::spawn(async move {
                        let slot = Arc::new(slot);
                        let connection = slot.connection.clone();
                        tokio::select! {
                            served = connection_of(slot, handler, limits, stream, acceptor, watcher) => {
                                if let Err(error) = served {
                                    tracing::info!("a connection failed: {error:#}");
                                }
                            }
                            () = connection.wait_for_close() => {
                                tracing::info!("closed a connection to free a slot for another one");
                            }
                        }
                    });
                }
                Ok((None, _, peer)) => {
                    tracing::info!("refused a connection: {} has {} connections, as many as one address may have", peer.ip(), limits.most_of_address);
                }
                // Most likely the process is out of file descriptors. Other connections will free
                // some soon.
                Err(error) => {
                    tracing::error!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop(listener);
    if tokio::time::timeout(limits.stop_timeout, connections.shutdown()).await.is_err() {
        tracing::warn!("requests were cut off: they took longer than {} s to end", limits.stop_timeout.as_secs());
    }
    Ok(())
}

/// The number of connections to serve: `wanted`, or as many as the limit of open files allows.
fn connections_max(wanted: u64) -> usize {
    let files =
        rlimit::increase_nofile_limit(wanted * FILES_PER_CONNECTION + FILES_OF_PROCESS).unwrap_or_else(|error| {
            tracing::warn!("cannot raise the limit of open files: {error}");
            rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(256, |(soft, _)| soft)
        });
    connections_for(files, wanted)
}

fn connections_for(files: u64, wanted: u64) -> usize {
    (files.saturating_sub(FILES_OF_PROCESS) / FILES_PER_CONNECTION).clamp(1, wanted) as usize
}

async fn connection_of(
    slot: Arc<Slot>,
    handler: Handler,
    limits: Connections,
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    watcher: Watcher,
) -> Result<()> {
    // Without TCP_NODELAY the last small packet of an answer waits for the client's
    // acknowledgement, 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::warn!("cannot set TCP_NODELAY: {error}");
    }
    let address = stream.peer_addr().ok().map(|address| address.ip());
    let peer = Peer { address, is_tls: acceptor.is_some(), shows_host: true };
    match acceptor {
        Some(acceptor) => {
            let encrypted = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
            watcher.watch(http_connection(slot, handler, limits, encrypted, peer)).await?;
        }
        None => watcher.watch(http_connection(slot, handler, limits, stream, peer)).await?,
    }
    Ok(())
}

fn http_connection(
    slot: Arc<Slot>,
    handler: Handler,
    limits: Connections,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
) -> impl GracefulConnection<Error = hyper::Error> + Send + 'static {
    let stream = PatientStream::new(stream, limits.body_idle_timeout, slot.connection.clone());
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let (handler, connection, progress) = (handler.clone(), slot.connection.clone(), Progress::default());
        let slot = slot.clone();
        connection.begin(progress.clone());
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(progress.clone());
        let request = request.map(|body| patient(Body::new(body), &limits, progress, &connection));
        // The request runs in a task of its own. hyper drops the request when the client
        // disconnects, but the bytes of an upload that arrived before must still be recorded. The
        // task ends soon, because the body ends with an error. The task keeps the slot until its
        // end, so clients that disconnect and reconnect never have more tasks than slots.
        let answer = tokio::spawn(async move {
            let response = handler.handle(request).await;
            drop(slot);
            response
        });
        async move {
            let response = answer.await?;
            connection.answer();
            Ok::<_, JoinError>(response.map(|body| ending(bounded(body), connection)))
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_files_are_kept_for_the_process() {
        for (files, expected) in [(1 << 20, 4096), (4 * 4096 + 32, 4096), (1024, 248), (64, 8), (36, 1), (20, 1)] {
            assert_eq!(connections_for(files, 4096), expected, "{files}");
        }
    }
}
