//! When cached manifests were last pulled.
//!
//! The fetch of a manifest counts as a pull, and the time of the fetch is in the manifest's fact.
//! Later pulls are noted under a key of their own, because a pull that wrote the manifest's fact
//! could bring a manifest back that another request deletes. The collector reads the time of the
//! last pull to decide which cached manifests go (`collect/eviction.rs`).

use std::fmt::Display;
use std::sync::Arc;

use super::facts::{Facts, UseFact};
use super::{Error, Limits, Result, layout};
use crate::platform::Platform;
use crate::store::{self, When};

/// The last uses of all cached manifests.
#[derive(Clone)]
pub(super) struct Uses {
    pub facts: Facts,
    pub limits: Arc<Limits>,
    pub platform: Arc<dyn Platform>,
}

impl Uses {
    /// Notes that a cached manifest, fetched at `fetched_ms`, is pulled now. Costs at most one key
    /// read, and one write in `use_noted_ms` (see the limits).
    pub(super) async fn note(
        &self,
        repository: impl Display + Copy,
        digest: impl Display + Copy,
        fetched_ms: u64,
    ) -> Result<()> {
        let now_ms = self.platform.now_ms();
        let is_noted = |used_ms: u64| now_ms.abs_diff(used_ms) < self.limits.use_noted_ms;
        if is_noted(fetched_ms) || is_noted(self.last_ms(repository, digest, fetched_ms).await?) {
            return Ok(());
        }
        self.facts.store(&layout::last_use(repository, digest), &UseFact { used_ms: now_ms }, When::Always).await
    }

    /// The time of the last noted pull of a cached manifest that was fetched at `fetched_ms`, in
    /// milliseconds since the Unix epoch. Costs one key read.
    pub(super) async fn last_ms(&self, repository: impl Display, digest: impl Display, fetched_ms: u64) -> Result<u64> {
        match self.facts.load::<UseFact>(&layout::last_use(repository, digest)).await {
            Ok(Some(noted)) => Ok(noted.used_ms.max(fetched_ms)),
            // A damaged note counts as absent, and the next pull writes another note.
            Ok(None) | Err(Error::Store(store::Error::Corrupt(_))) => Ok(fetched_ms),
            Err(error) => Err(error),
        }
    }
}
