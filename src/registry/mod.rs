//! Every rule of a registry, without HTTP.
//!
//! A [`Registry`] is stateless: all that matters lies in the two stores, one key per fact (`layout`). Any number of them may work
//! over the same stores. The order of writes is bytes, then membership, then the manifest, then its referrer, then its tag, so that a crash at
//! any point leaves garbage and never a name that leads nowhere.

mod appending;
mod begun;
mod blobs;
mod collect;
mod error;
mod facts;
mod hold;
mod intake;
mod layout;
mod limits;
mod manifests;
mod memory;
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

use crate::store::check::Finding;
use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};
use crate::store::{self, BlobStore, KeyValue, Platform};
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
    begun: Arc<Begun>,
    appending: appending::Uploads,
    /// What pages of referrers share.
    pages_memory: Arc<Memory>,
    /// What the bytes of manifests on their way in share.
    receiving_memory: Arc<Memory>,
    /// What manifests share that have arrived.
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
            begun: Arc::default(),
            appending: Arc::default(),
            pages_memory: Memory::new(PAGES_MEMORY_BYTES),
            receiving_memory: Memory::new(RECEIVING_MEMORY_BYTES),
            pushes_memory: Memory::new(PUSHES_MEMORY_BYTES),
        }
    }

    /// A registry that forgets everything when it is dropped.
    pub fn in_memory(platform: Arc<dyn Platform>) -> Self {
        let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
        Self::new(Arc::new(MemoryKeyValue::default()), blobs, platform, Limits::default())
    }

    pub(crate) fn platform(&self) -> &dyn Platform {
        &*self.platform
    }

    /// Tries what the stores of this host really give.
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
