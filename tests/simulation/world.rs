//! Two registry instances over gated, faulty stores, and another registry over the bare stores,
//! which sees the true state.

use std::sync::{Arc, Mutex};

use eyot::Registry;
use eyot::oci::{RepositoryName, Tag};
use eyot::registry::{CollectRequest, Limits, SessionId};
use eyot::store::faulty::{Dice, Faults, Faulty};
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::store::packed::{CHUNK_BYTES_MIN, PackedBlobStore};
use eyot::store::{BlobStore, KeyValue};

use crate::contents::INLINE_BYTES_MAX;
use crate::executor::Scheduler;
use crate::model::Model;
use crate::stores::{Gated, Unconditional};
use crate::upstream::{self, Cache, Caching};

/// The parameters that differ from seed to seed.
#[derive(Clone, Debug)]
pub struct Setting {
    pub conditions: bool,
    pub packed: bool,
    pub faults_per_mille: u32,
    pub crashes_per_mille: u32,
    pub repositories: usize,
    pub tags: usize,
    /// The first manifest that clients use, and the number of manifests.
    pub manifests: (usize, usize),
    pub clients: usize,
    pub operations: usize,
    pub collectors: usize,
    pub deletes: bool,
    pub grace_ms: u64,
    pub untagged_lifetime_ms: Option<u64>,
    /// The cache of an upstream, if the world has an upstream.
    pub caching: Option<Caching>,
    pub limits: Limits,
}

impl Setting {
    pub fn new(dice: &mut Dice) -> Self {
        let conditions = dice.below(3) > 0;
        let untagged_lifetime_ms = [None, Some(0), Some(0), Some(1_000), Some(60_000)][dice.below(5)];
        let caching = Caching::of_a_fifth(dice);
        Self {
            conditions,
            packed: dice.below(3) == 0,
            faults_per_mille: [0, 0, 5, 30][dice.below(4)],
            crashes_per_mille: [0, 0, 3, 15][dice.below(4)],
            repositories: 1 + dice.below(2),
            tags: 1 + dice.below(3),
            manifests: [(0, 10), (0, 2), (0, 5), (2, 3), (6, 4), (0, 19), (10, 9), (10, 4), (14, 4), (17, 2)]
                [dice.below(10)],
            clients: 2 + dice.below(4),
            operations: 1 + dice.below(4),
            // Without conditional writes the lease is best effort, so only one collector runs.
            collectors: if conditions { 1 + dice.below(2) } else { 1 },
            deletes: dice.below(3) > 0,
            grace_ms: [0, 0, 0, 1_000, 60_000][dice.below(5)],
            untagged_lifetime_ms,
            caching,
            limits: Limits {
                manifest_inline_bytes_max: INLINE_BYTES_MAX,
                page_entries_max: [1, 2, 1000][dice.below(3)],
                upload_lifetime_ms: [60_000, 3_600_000][dice.below(2)],
                collect_step_keys_max: [1, 1, 5, 1000][dice.below(4)],
                collect_page_entries_max: [1, 2, 5, 250][dice.below(4)],
                marks_max: [1, 4, 1000, 1000][dice.below(4)],
                ..Limits::default()
            },
        }
    }

    pub fn request(&self) -> CollectRequest {
        CollectRequest { grace_ms: self.grace_ms, untagged_lifetime_ms: self.untagged_lifetime_ms, dry_run: false }
    }
}

/// The state that all tasks share.
#[derive(Clone)]
pub struct World {
    pub setting: Arc<Setting>,
    pub scheduler: Scheduler,
    pub faults: Arc<Faults>,
    pub model: Arc<Mutex<Model>>,
    /// Two instances over the same stores.
    pub registries: [Registry; 2],
    /// A registry over the bare stores: each of its futures is ready at once.
    pub bare: Registry,
    pub keys: Arc<dyn KeyValue>,
    pub blobs: Arc<dyn BlobStore>,
    /// Uploads in progress, for other clients to interfere with.
    pub sessions: Arc<Mutex<Vec<(usize, SessionId)>>>,
    pub cache: Option<Cache>,
}

impl World {
    pub fn new(seed: u64, traced: bool) -> Self {
        let mut dice = Dice::new(seed ^ 0x00c0_ffee);
        let mut setting = Setting::new(&mut dice);
        if let Some(caching) = &setting.caching {
            setting.limits = caching.limit(setting.limits);
        }
        let scheduler = Scheduler::new(seed, traced);
        let platform = scheduler.platform.clone();
        let reads_stages = setting.caching.as_ref().is_none_or(|caching| caching.reads_stages);
        let faults = Faults::new(seed ^ 0xfa17, setting.faults_per_mille);

        let exact: Arc<dyn KeyValue> = Arc::new(MemoryKeyValue::default());
        let keys: Arc<dyn KeyValue> = if setting.conditions { exact } else { Arc::new(Unconditional(exact)) };
        let behind_gates: Arc<dyn KeyValue> = Arc::new(Gated {
            scheduler: scheduler.clone(),
            inner: Arc::new(Faulty::new(faults.clone(), keys.clone())) as Arc<dyn KeyValue>,
            reads_stages,
        });
        let (blobs, blobs_behind_gates): (Arc<dyn BlobStore>, Arc<dyn BlobStore>) = if setting.packed {
            let pack = |keys| Arc::new(PackedBlobStore::new(keys, platform.clone(), CHUNK_BYTES_MIN));
            (pack(keys.clone()), pack(behind_gates.clone()))
        } else {
            let blobs: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::new(platform.clone()));
            let faulty = Arc::new(Faulty::new(faults.clone(), blobs.clone())) as Arc<dyn BlobStore>;
            (blobs, Arc::new(Gated { scheduler: scheduler.clone(), inner: faulty, reads_stages }))
        };
        let has_upstream = setting.caching.is_some();
        let mirroring = |registry| if has_upstream { upstream::mirroring(registry) } else { registry };
        let registries = std::array::from_fn(|_| {
            let (keys, blobs) = (behind_gates.clone(), blobs_behind_gates.clone());
            mirroring(Registry::new(keys, blobs, platform.clone(), setting.limits.clone()))
        });
        let bare = mirroring(Registry::new(
            keys.clone(),
            blobs.clone(),
            platform,
            Limits {
                page_entries_max: 1000,
                collect_step_keys_max: 1000,
                collect_page_entries_max: 250,
                // At the end all cached content is evicted.
                mirror_lifetime_ms: Some(0),
                ..setting.limits.clone()
            },
        ));
        let cache = setting.caching.as_ref().map(|caching| Cache::new(caching, &scheduler, &registries, &bare));
        Self {
            setting: Arc::new(setting),
            scheduler,
            faults,
            model: Arc::default(),
            registries,
            bare,
            keys,
            blobs,
            sessions: Arc::default(),
            cache,
        }
    }

    /// Ends the simulation with a failure.
    pub fn fail(&self, why: impl Into<String>) {
        self.scheduler.fail(why.into());
    }

    /// A random instance.
    pub fn registry(&self) -> &Registry {
        &self.registries[self.scheduler.below(self.registries.len())]
    }

    /// The numbers of all repositories.
    pub fn repositories(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.setting.repositories).chain(self.cache.as_ref().map(|_| upstream::MIRRORED))
    }

    pub fn repository(&self, number: usize) -> RepositoryName {
        ["a", "a/b", "up/app"][number].parse().unwrap()
    }

    pub fn tag(&self, number: usize) -> Tag {
        ["v1", "v2", "latest"][number].parse().unwrap()
    }
}
