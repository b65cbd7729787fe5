//! A registry in a program that uses hyper without a framework.

use std::convert::Infallible;

use eyot::http::Peer;
use eyot::{Body, Handler};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let handler = Handler::in_memory();
    let port = std::env::var("PORT").unwrap_or("3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, address) = listener.accept().await?;
        let handler = handler.clone();
        let answer = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Peer { address: Some(address.ip()), is_tls: false, shows_host: true });
            let handler = handler.clone();
            async move { Ok::<_, Infallible>(handler.handle(request.map(Body::new)).await) }
        });
        tokio::spawn(async move {
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await {
                eprintln!("a connection failed: {error}");
            }
        });
    }
}
