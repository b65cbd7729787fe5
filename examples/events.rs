//! A program that is told of pushes and deletions.

use axum::Router;
use eyot::Handler;
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The observer must not block, so events go into a channel. A full channel drops events here; a
    // program that needs every event looks at the registry again after a gap.
    let (send, mut receive) = mpsc::channel(1000);
    let handler = Handler::in_memory().with_observer(move |event| {
        let _ = send.try_send(event.clone());
    });
    tokio::spawn(async move {
        while let Some(event) = receive.recv().await {
            let repository = event.repository.map(|name| name.to_string()).unwrap_or_default();
            let tags: Vec<String> = event.tags.iter().map(ToString::to_string).collect();
            let digest = event.digest.map(|digest| digest.to_string()).unwrap_or_default();
            println!("{} {repository} {} {digest}", event.action, tags.join(","));
        }
    });

    let port = std::env::var("PORT").unwrap_or("3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, Router::new().fallback_service(handler)).await?;
    Ok(())
}
