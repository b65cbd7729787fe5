//! `/healthz` and `/readyz`: who is told what, and what the probes cost the stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use eyot::auth::{Access, Policy};
use eyot::platform::{Platform, SystemPlatform};
use eyot::registry::Limits;
use eyot::store::counting::Counting;
use eyot::store::faulty::{Faults, Faulty};
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::store::readiness::WAIT_MAX;
use eyot::store::{self, BlobStore, Entry, KeyValue, Version, When};
use eyot::{Body, Handler, Registry};
use futures_executor::block_on;
use http::{Request, Response};

/// A platform whose clock moves only when a caller waits, or when the test moves the clock.
struct SteppedClock(AtomicU64);

#[async_trait]
impl Platform for SteppedClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn random(&self) -> [u8; 16] {
        SystemPlatform.random()
    }

    async fn sleep(&self, duration: Duration) {
        self.0.fetch_add(duration.as_millis() as u64, Ordering::Relaxed);
    }
}

/// A store that never answers.
struct Silent;

#[async_trait]
impl KeyValue for Silent {
    async fn get(&self, _: &str) -> store::Result<Option<Entry>> {
        std::future::pending().await
    }

    async fn put(&self, _: &str, _: Bytes, _: When) -> store::Result<Option<Version>> {
        std::future::pending().await
    }

    async fn delete(&self, _: &str) -> store::Result<()> {
        std::future::pending().await
    }

    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> store::Result<Vec<String>> {
        std::future::pending().await
    }
}

fn clock() -> Arc<SteppedClock> {
    Arc::new(SteppedClock(AtomicU64::new(1_700_000_000_000)))
}

/// A registry to which nobody has access: probes have no login.
fn closed(clock: &Arc<SteppedClock>, keys: Arc<dyn KeyValue>, blobs: Arc<dyn BlobStore>) -> Handler {
    Handler::new(Registry::new(keys, blobs, clock.clone(), Limits::default()), Access::without_login(Policy::default()))
}

fn get(handler: &Handler, path: &str) -> Response<Body> {
    block_on(handler.handle(Request::get(path).body(Body::empty()).expect("a request")))
}

fn text(response: Response<Body>) -> String {
    let bytes = block_on(response.into_body().collect_up_to(4096)).expect("a short body");
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn stores(clock: &Arc<SteppedClock>) -> (Arc<dyn KeyValue>, Arc<dyn BlobStore>) {
    (Arc::new(MemoryKeyValue::default()), Arc::new(MemoryBlobStore::new(clock.clone())))
}

#[test]
fn many_clients_cost_the_stores_one_probe_a_second() {
    let clock = clock();
    let (keys, blobs) = stores(&clock);
    let (keys, blobs) = (Arc::new(Counting::new(keys)), Arc::new(Counting::new(blobs)));
    let handler = closed(&clock, keys.clone(), blobs.clone());
    for second in 0..3 {
        for _ in 0..100 {
            assert_eq!(get(&handler, "/healthz").status(), 200);
            assert_eq!(get(&handler, "/readyz").status(), 200);
        }
        let (keys, blobs) = (keys.counts.take(), blobs.counts.take());
        assert_eq!((keys, blobs), ([1, 0, 0, 0], [0, 0, 0, 1]), "reads, writes, deletes, lists in second {second}");
        clock.0.fetch_add(1000, Ordering::Relaxed);
    }
}

#[test]
fn a_store_that_fails_makes_the_registry_unready_until_it_answers_again() {
    let clock = clock();
    for broken in ["keys", "blobs"] {
        let faults = Faults::new(1, 0);
        let (mut keys, mut blobs) = stores(&clock);
        if broken == "keys" {
            keys = Arc::new(Faulty::new(faults.clone(), keys));
        } else {
            blobs = Arc::new(Faulty::new(faults.clone(), blobs));
        }
        let handler = closed(&clock, keys, blobs);
        for (chance, has_faults) in [(0, false), (1000, true), (0, false)] {
            faults.set_chance(chance);
            // Some faults only delay or repeat a call, and such a store is ready.
            let unready = (0..100).filter(|_| {
                clock.0.fetch_add(1000, Ordering::Relaxed);
                assert_eq!(get(&handler, "/healthz").status(), 200, "{broken}");
                match get(&handler, "/readyz").status().as_u16() {
                    200 => false,
                    503 => true,
                    other => panic!("{broken}: {other}"),
                }
            });
            let unready = unready.count();
            assert_eq!(unready > 0, has_faults, "{broken}: {unready} of 100 probes found the registry unready");
        }
    }
}

#[test]
fn a_store_that_never_answers_is_given_up_and_not_named_to_the_client() {
    let clock = clock();
    let (_, blobs) = stores(&clock);
    let handler = closed(&clock, Arc::new(Silent), blobs);
    let before_ms = clock.now_ms();
    let response = get(&handler, "/readyz");
    assert_eq!((response.status().as_u16(), clock.now_ms() - before_ms), (503, WAIT_MAX.as_millis() as u64));
    let text = text(response);
    assert!(text.contains("a store of the registry does not answer; the registry's log says more"), "{text}");
    assert!(!text.contains("key-value"), "{text}");
}

#[test]
fn wkg_finds_the_packages_on_the_host_of_the_document() {
    let clock = clock();
    let (keys, blobs) = stores(&clock);
    let response = get(&closed(&clock, keys, blobs), "/.well-known/wasm-pkg/registry.json");
    assert_eq!(response.status(), 200);
    assert_eq!(text(response), r#"{"oci":{},"preferredProtocol":"oci"}"#);
}
