//! A registry as a tower service with middleware: each request is traced, and waits for one of 64
//! places.
//!
//! Leave out middleware that compresses answers: layers are compressed already, and a client checks
//! the digest of the bytes that the registry has.

use axum::Router;
use eyot::Handler;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::trace::TraceLayer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).init();
    let registry = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(GlobalConcurrencyLimitLayer::new(64))
        .service(Handler::in_memory());

    let port = std::env::var("PORT").unwrap_or("3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, Router::new().fallback_service(registry)).await?;
    Ok(())
}
