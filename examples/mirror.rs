//! A read-only mirror: images of another registry are pulled through, and stay in a folder. Clients
//! push nothing.
//!
//!     cargo run --example mirror
//!     skopeo copy --src-tls-verify=false docker://127.0.0.1:3000/docker.io/library/alpine dir:alpine
//!
//! The variable `UPSTREAM` names another registry than Docker Hub, by its URL.

use std::sync::Arc;

use axum::Router;
use eyot::auth::{Access, Seal};
use eyot::mirror::{Mirroring, Mirrors};
use eyot::platform::Platform;
use eyot::registry::Limits;
use eyot::store::file::{FileBlobStore, FileKeyValue};
use eyot::{Handler, NativePlatform, Registry};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The platform sends the requests to the upstream.
    let platform: Arc<dyn Platform> = Arc::new(NativePlatform::default());
    let folder = std::env::var("DATA").unwrap_or("data".into());
    let keys = Arc::new(FileKeyValue::open(folder.as_ref(), platform.clone())?);
    let blobs = Arc::new(FileBlobStore::open(folder.as_ref(), platform.clone())?);

    // Repositories below the prefix docker.io are those of the upstream. Plain names mean the same
    // repositories, because the upstream is the default.
    let upstream = std::env::var("UPSTREAM").unwrap_or("https://registry-1.docker.io".into());
    let mirroring: Mirroring = format!("docker.io {upstream} default fresh=600").parse()?;
    // A collection evicts content that nobody has pulled for a week.
    let limits = Limits { mirror_lifetime_ms: Some(7 * 24 * 60 * 60 * 1000), ..Limits::default() };
    let registry = Registry::new(keys, blobs, platform.clone(), limits);
    let registry = registry.with_expiring(&eyot::mirror::EXPIRING).with_mirrored_prefixes(mirroring.prefixes());

    // The seal encrypts the upstream's tokens in the store. A program with several instances, or
    // with restarts, takes the key from its secrets.
    let mut key = [0; 32];
    key[..16].copy_from_slice(&platform.random());
    key[16..].copy_from_slice(&platform.random());
    let mirrors = Mirrors::new(mirroring, &registry, &Seal::new(key));
    let handler = Handler::new(registry, Access::read_only()).with_mirrors(mirrors);

    let port = std::env::var("PORT").unwrap_or("3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, Router::new().fallback_service(handler)).await?;
    Ok(())
}
