//! Health, for the probes of schedulers and load balancers, which have no login: whether the process
//! answers, and whether the stores answer. An extension of eyot's own, outside `/v2/`.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use http::header::CACHE_CONTROL;
use serde_json::json;

use super::{Call, Endpoint, Operation, operation};
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::limits::READY_PROBE_EVERY_MS;
use crate::http::permission::Permission;
use crate::http::reply::Reply;
use crate::registry::Registry;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint { method: "GET", path: "/healthz", parse: |_| operation(GetHealth) },
    Endpoint { method: "GET", path: "/readyz", parse: |_| operation(GetReadiness) },
];

fn fine(status: &str) -> Reply {
    Reply::json(&json!({ "status": status })).with(CACHE_CONTROL, "no-store")
}

struct GetHealth;

#[async_trait]
impl Operation for GetHealth {
    fn permission(&self) -> Permission<'_> {
        Permission::None
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, _: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        Ok(fine("ok"))
    }
}

struct GetReadiness;

#[async_trait]
impl Operation for GetReadiness {
    fn permission(&self) -> Permission<'_> {
        Permission::None
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        if handler.readiness.is_ready(&handler.registry).await { Ok(fine("ready")) } else { Err(Error::NotReady) }
    }
}

/// The result of the last probe of the stores. Anyone may ask, so an instance probes its stores at
/// most once in [`READY_PROBE_EVERY_MS`]. Requests in between get the last result. Before the first
/// result each request probes the stores, because an instance that nobody has probed yet is not
/// known to be out of order.
#[derive(Clone, Default)]
pub(in crate::http) struct Readiness(Arc<Mutex<LastProbe>>);

#[derive(Default)]
struct LastProbe {
    begun_ms: u64,
    /// `None` until the first probe of this instance has ended.
    is_ready: Option<bool>,
}

impl Readiness {
    async fn is_ready(&self, registry: &Registry) -> bool {
        if let Some(is_ready) = self.begin(registry.now_ms()) {
            return is_ready;
        }
        let problems = registry.not_ready().await;
        for problem in &problems {
            tracing::warn!("{problem}");
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_ready = Some(problems.is_empty());
        problems.is_empty()
    }

    /// The last result, if it is fresh. Otherwise the caller has begun a probe.
    fn begin(&self, now_ms: u64) -> Option<bool> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_ready.is_some() && now_ms.abs_diff(last.begun_ms) < READY_PROBE_EVERY_MS {
            return last.is_ready;
        }
        last.begun_ms = now_ms;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_probes_of_a_new_instance_at_once_wait_for_the_stores() {
        let readiness = Readiness::default();
        assert_eq!([readiness.begin(5000), readiness.begin(5000)], [None, None]);
        readiness.0.lock().unwrap().is_ready = Some(true);
        assert_eq!(readiness.begin(5000), Some(true));
        assert_eq!(readiness.begin(5000 + READY_PROBE_EVERY_MS), None);
        assert_eq!(readiness.begin(5000 + READY_PROBE_EVERY_MS), Some(true), "the last result, while a probe runs");
    }
}
