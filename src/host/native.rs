//! A plain process: the handler over hyper.

use std::convert::Infallible;
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
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::config::Offer;
use super::tls::Certificate;
use crate::http::{Handler, Peer};
use crate::store::Body;

/// What this host offers.
pub const OFFER: Offer = Offer { keys: &["files", "memory"], blobs: &["files", "memory", "packed"], data_dir: "data" };

/// How many connections are served at once where the system allows as many files; more wait in the kernel's queue.
const CONNECTIONS_MAX: u64 = 4096;
/// How many files a connection may need: its own, and those of the stores.
const FILES_PER_CONNECTION: u64 = 4;
/// How much of a request's head is read before hyper refuses it; and the most that is read of a body at a time.
const READ_BUFFER_BYTES_MAX: usize = 512 * 1024;
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long requests under way may go on when the process is told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves `handler` on `address`, over TLS if there is a certificate, until the process is told to stop (SIGTERM, SIGINT). When it is ready, the address goes to
/// `ready`.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(
    handler: Handler,
    address: SocketAddr,
    certificate: Option<Certificate>,
    ready: impl FnOnce(SocketAddr),
) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    ready(listener.local_addr()?);

    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(connections_max()));
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await?;
            anyhow::Ok((listener.accept().await?, place))
        };
        tokio::select! {
            accepted = accept => match accepted {
                Ok(((stream, _), place)) => {
                    let acceptor = certificate.as_ref().map(Certificate::acceptor);
                    let (handler, watcher) = (handler.clone(), connections.watcher());
                    tokio::spawn(async move {
                        if let Err(error) = connection(handler, stream, acceptor, watcher).await {
                            log::info!("a connection broke off: {error:#}");
                        }
                        drop(place);
                    });
                }
                // Out of file descriptors, most likely: some will be closed.
                Err(error) => {
                    log::error!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop(listener);
    if tokio::time::timeout(STOP_TIMEOUT, connections.shutdown()).await.is_err() {
        log::warn!("requests were cut off: they took longer than {} s to end", STOP_TIMEOUT.as_secs());
    }
    Ok(())
}

/// As many connections as there can be files for.
fn connections_max() -> usize {
    let files = rlimit::increase_nofile_limit(CONNECTIONS_MAX * FILES_PER_CONNECTION).unwrap_or_else(|error| {
        log::warn!("cannot raise the limit of open files: {error}");
        rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(256, |(soft, _)| soft)
    });
    (files / FILES_PER_CONNECTION).clamp(1, CONNECTIONS_MAX) as usize
}

async fn connection(
    handler: Handler,
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    watcher: Watcher,
) -> Result<()> {
    // Otherwise the last small packet of an answer waits for the client's acknowledgement, 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        log::warn!("cannot set TCP_NODELAY: {error}");
    }
    let peer = Peer { address: stream.peer_addr().ok().map(|address| address.ip()), is_tls: acceptor.is_some() };
    match acceptor {
        Some(acceptor) => {
            let encrypted = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
            watcher.watch(http_connection(handler, encrypted, peer)).await?;
        }
        None => watcher.watch(http_connection(handler, stream, peer)).await?,
    }
    Ok(())
}

fn http_connection(
    handler: Handler,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
) -> impl GracefulConnection<Error = hyper::Error> + Send + 'static {
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let handler = handler.clone();
        request.extensions_mut().insert(peer);
        async move { Ok::<_, Infallible>(handler.handle(request.map(Body::new)).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
}
