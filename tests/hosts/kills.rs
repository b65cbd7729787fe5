//! Fills of the cache after a kill of the host, byte by byte: the upstream keeps close to its client.

use super::support::host::Kind;
use super::support::upstream::goes_on_after_kills;

#[tokio::test]
async fn natively_a_fill_goes_on_after_a_kill() {
    goes_on_after_kills(Kind::Native, &[]).await;
}

#[tokio::test]
async fn under_wasmtime_a_fill_goes_on_after_a_kill() {
    goes_on_after_kills(Kind::Wasi, &[]).await;
}

#[tokio::test]
async fn under_spin_a_fill_goes_on_after_a_kill() {
    goes_on_after_kills(Kind::SpinHost("spin-sqlite"), &[]).await;
}
