//! Pulls through an upstream, on hosts: the upstream's requests and bytes are counted.

use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::join_all;
use http::StatusCode;
use http_body_util::BodyExt as _;

use super::support::host::{Host, Kind};
use super::support::upstream::{Upstream, goes_on_after_kills};
use super::support::value::sha256;

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn natively_many_clients_share_one_fetch() {
    let upstream = Upstream::start(64 * MIB);
    upstream.served.pause_ms.store(5, Relaxed);
    let host = Host::start_with(Kind::Native, &upstream.settings());
    let memory = host.memory();
    memory.reset_peak();
    let idle_bytes = memory.now_bytes();
    let fetches = join_all((0..50).map(|_| async {
        let body = host.client.open(upstream.request()).await.unwrap().into_body();
        sha256(&body.collect().await.unwrap().to_bytes())
    }));
    assert!(fetches.await.iter().all(|digest| *digest == upstream.digest));
    assert_eq!(upstream.take(), (vec!["GET 0".to_owned()], upstream.blob.len() as u64));
    let grown_bytes = memory.peak_bytes().saturating_sub(idle_bytes);
    assert!(grown_bytes < 60 * MIB as u64, "{grown_bytes} bytes above idle");
    let again = host.client.fetch(upstream.request()).await.unwrap();
    assert_eq!((again.status(), again.body().len()), (StatusCode::OK, upstream.blob.len()));
    assert_eq!(upstream.take(), (vec![], 0));
}

#[tokio::test]
async fn natively_a_fill_goes_on_after_a_kill() {
    goes_on_after_kills(Kind::Native, &[]).await;
}

#[tokio::test]
async fn under_wasmtime_a_fill_goes_on_after_a_kill() {
    goes_on_after_kills(Kind::Wasi, &[]).await;
}
