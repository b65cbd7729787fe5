//! The rules of a registry, without HTTP.
//!
//! A [`Registry`] keeps all facts in its two stores, one key per fact (`layout`), so any number of
//! registries may work over the same stores. Beyond a request an instance remembers only recent
//! upload sessions (`begun`), and checks each against the store on the next write. The order of
//! writes is bytes, then membership in a repository, then the manifest, then its referrer entry,
//! then its tag, so that a crash at any point leaves garbage at most, and never a dangling name.

mod appending;
mod begun;
mod blobs;
mod collect;
mod error;
mod facts;
mod guard;
mod intake;
mod layout;
mod limits;
mod manifests;
mod memory;
mod pages;
mod precondition;
mod references;
mod referrers;
mod segments;
mod session;
mod tags;
#[cfg(test)]
mod tests;
mod uploads;
mod warnings;

use std::sync::Arc;

pub use blobs::Blob;
pub use collect::{CollectRequest, Named, Report, Tally};
pub use error::{Error, Result};
pub use limits::Limits;
pub use manifests::{Manifest, Pushed};
pub(crate) use memory::Share;
pub use precondition::{Expected, Precondition};
pub use referrers::{Referrers, ReferrersRequest};
pub use session::{Chunk, SessionId, Status};
pub use tags::{Page, PageRequest};
pub use uploads::Mounted;

use crate::platform::Platform;
use crate::store::check::Finding;
use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};
use crate::store::{self, BlobStore, Expiring, KeyValue};
use begun::Begun;
use limits::{PAGES_MEMORY_BYTES, PUSHES_MEMORY_BYTES, RECEIVING_MEMORY_BYTES};
use memory::Memory;

/// An OCI registry over a pair of stores.
#[derive(Clone)]
pub struct Registry {
    keys: Arc<dyn KeyValue>,
    blobs: Arc<dyn BlobStore>,
    platform: Arc<dyn Platform>,
    limits: Limits,
    expiring: &'static [Expiring],
    begun: Arc<Begun>,
    appending: appending::Uploads,
    /// The memory that pages of referrers share.
    pages_memory: Arc<Memory>,
    /// The memory that the bytes of arriving manifests share.
    receiving_memory: Arc<Memory>,
    /// The memory that manifests share that have arrived and are being pushed.
    pushes_memory: Arc<Memory>,
}

impl Registry {
    /// A registry over these stores.
    pub fn new(
        keys: Arc<dyn KeyValue>,
        blobs: Arc<dyn BlobStore>,
        platform: Arc<dyn Platform>,
        limits: Limits,
    ) -> Self {
        Self {
            keys,
            blobs,
            platform,
            limits,
            expiring: &[],
            begun: Arc::default(),
            appending: Arc::default(),
            pages_memory: Memory::new(PAGES_MEMORY_BYTES),
            receiving_memory: Memory::new(RECEIVING_MEMORY_BYTES),
            pushes_memory: Memory::new(PUSHES_MEMORY_BYTES),
        }
    }

    /// A registry whose collections also remove the expired keys of other layers.
    #[must_use]
    pub fn with_expiring(self, expiring: &'static [Expiring]) -> Self {
        Self { expiring, ..self }
    }

    /// The same registry, which takes manifests that name absent content.
    #[must_use]
    pub fn with_sparse_manifests(self) -> Self {
        Self { limits: Limits { sparse_manifests: true, ..self.limits }, ..self }
    }

    /// A registry that forgets everything when it is dropped.
    pub fn in_memory(platform: Arc<dyn Platform>) -> Self {
        let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
        Self::new(Arc::new(MemoryKeyValue::default()), blobs, platform, Limits::default())
    }

    pub(crate) fn platform(&self) -> &dyn Platform {
        &*self.platform
    }

    /// Tests the stores of this host, and returns the findings about what the stores really
    /// guarantee.
    ///
    /// # Errors
    /// When a store cannot be reached.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        Ok(store::check::check(&self.keys, &self.blobs, &self.platform).await?)
    }

    /// The time, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        self.platform.now_ms()
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
