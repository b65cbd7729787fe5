//! A registry in an axum program, beside other routes.
//!
//! Run the program, then push and pull:
//!
//!     cargo run --example axum
//!     skopeo copy --dest-tls-verify=false docker://docker.io/library/alpine docker://127.0.0.1:3000/alpine

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use eyot::Handler;
use eyot::http::Peer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Container clients look for a registry at the root of a host, so the registry answers all paths
    // that no route of the program has.
    let registry = Handler::in_memory();
    // Clients of your own can also use a registry below a path.
    let internal = Handler::in_memory().with_path_prefix("/internal")?;
    let program = Router::new()
        .route("/hello", get(|| async { "hello from beside the registry" }))
        .nest_service("/internal", internal)
        .fallback_service(registry)
        .layer(middleware::from_fn(with_peer));

    let port = std::env::var("PORT").unwrap_or("3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, program.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

/// Tells eyot the address of the client, for its limits on failed logins and for its audit log.
async fn with_peer(ConnectInfo(address): ConnectInfo<SocketAddr>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Peer { address: Some(address.ip()), is_tls: false, shows_host: true });
    next.run(request).await
}
