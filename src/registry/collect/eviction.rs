//! Evicts cached content that nobody pulls.
//!
//! A tag of a mirrored repository goes when its manifest was last pulled before a time that is
//! chosen when the round begins. A cached manifest without a tag stays for as long, or for as long
//! as another manifest in use refers to the manifest. Everything else follows from the rules of
//! pushed content: the blobs of a manifest that is gone are unused. Manifests that clients pushed,
//! before their repository mirrored an upstream, count as before.
//!
//! The time is the latest of two: by the lifetime of cached manifests, and by the size of all
//! cached blobs. A round measures the blobs that stay, from the one that was not pulled for the
//! longest time to the newest, and chooses the time for the next round. A manifest whose pull
//! is noted between the two rounds is therefore not evicted because of the size.

use super::candidates::Candidate;
use super::cursor::Phase;
use super::manifests::needed_blobs;
use super::marks::mark_of;
use super::report::Outcome;
use super::{Collection, Collector};
use crate::oci;
use crate::registry::facts::{BlobFact, EvictionFact, ManifestFact, TagFact};
use crate::registry::layout::{self, Key, Kind};
use crate::registry::{Error, Result};
use crate::store::{self, When};

impl Collection {
    /// The time before which the last pull of a manifest must be for a round that begins now to
    /// evict the manifest.
    pub(super) async fn evict_before_ms(&self) -> Result<u64> {
        let limits = &self.limits;
        // A pull may be noted up to `use_noted_ms` before the last pull.
        let age_ms = limits.mirror_lifetime_ms.map(|lifetime_ms| lifetime_ms.saturating_add(limits.use_noted_ms));
        let by_age = age_ms.map_or(0, |age_ms| self.platform.now_ms().saturating_sub(age_ms));
        let by_size = match self.facts.load::<EvictionFact>(layout::COLLECTION_EVICTION).await {
            // A time that was chosen for another limit does not count.
            Ok(chosen) => chosen.filter(|chosen| limits.mirror_bytes_max == Some(chosen.bytes_max)),
            Err(Error::Store(store::Error::Corrupt(_))) => None,
            Err(error) => return Err(error),
        };
        Ok(by_size.map_or(by_age, |chosen| chosen.before_ms.max(by_age)))
    }
}

impl Collector<'_> {
    /// Whether the round is at a repository whose cached manifests are evicted.
    pub(super) fn evicts(&self) -> bool {
        let limits = &self.collection.limits;
        let repository = self.cursor.repository.as_ref().filter(|_| self.cursor.phase < Phase::ContentOfUploads);
        (limits.mirror_lifetime_ms.is_some() || limits.mirror_bytes_max.is_some())
            && repository.is_some_and(|repository| self.collection.mirrored.contain(repository))
    }

    /// Whether the blobs of the current repository are measured.
    fn measures(&self) -> bool {
        self.collection.limits.mirror_bytes_max.is_some() && self.evicts()
    }

    /// Whether a cached manifest was pulled recently enough to stay.
    pub(super) async fn is_pulled(&self, digest: &str, fact: &ManifestFact) -> Result<bool> {
        let before_ms = self.cursor.evicting.before_ms;
        Ok(fact.pushed_ms >= before_ms || self.last_pull_ms(digest, fact).await? >= before_ms)
    }

    async fn last_pull_ms(&self, digest: &str, fact: &ManifestFact) -> Result<u64> {
        let repository = self.cursor.repository.as_deref().unwrap_or_default();
        self.collection.uses.last_ms(repository, digest, fact.pushed_ms).await
    }

    /// Removes the tags of cached manifests that nobody pulls. Returns the tags that stay.
    pub(super) async fn evict_tags(&mut self, after: Option<&str>, keys: Vec<Key>) -> Result<Vec<Key>> {
        let mut candidates = Vec::new();
        for key in keys {
            candidates.push(self.tag_candidate(key).await?);
        }
        let outcomes = self.collect_keys(after, &candidates).await?;
        outcomes.iter().for_each(|outcome| self.cursor.report.cached_tags.add(*outcome));
        let staying = candidates.into_iter().zip(outcomes).filter(|(_, outcome)| *outcome != Outcome::Removed);
        Ok(staying.filter_map(|(candidate, _)| candidate.item.as_key().cloned()).collect())
    }

    /// The tags that are not evicted.
    pub(super) async fn not_evicted(&self, keys: Vec<Key>) -> Result<Vec<Key>> {
        let mut staying = Vec::new();
        for key in keys {
            if self.tag_candidate(key.clone()).await?.in_use {
                staying.push(key);
            }
        }
        Ok(staying)
    }

    /// A tag as a candidate. A tag stays if its fact or its manifest is missing or damaged.
    async fn tag_candidate(&self, key: Key) -> Result<Candidate> {
        let facts = &self.collection.facts;
        let read = async {
            let Some((tag, _, version)) = facts.load_version::<TagFact>(&key).await? else { return Ok(None) };
            let manifest = facts.load::<ManifestFact>(&self.keys_of(Kind::Manifest).key(&tag.digest)).await?;
            Ok(manifest.filter(|fact| fact.cached).map(|fact| (tag.digest, fact, version)))
        };
        match read.await {
            Ok(Some((digest, fact, version))) => {
                let in_use = self.is_pulled(digest.as_str(), &fact).await?;
                Ok(Candidate { version: Some(version), ..Candidate::key(key, in_use) })
            }
            Ok(None) | Err(Error::Store(store::Error::Corrupt(_))) => Ok(Candidate::key(key, true)),
            Err(error) => Err(error),
        }
    }

    /// Marks the blobs of a manifest that stays with the time of the last pull. The blobs of pushed
    /// manifests are not measured, and get the end of time.
    pub(super) async fn mark_pulled(&mut self, key: &Key, fact: &ManifestFact, manifest: &oci::Manifest) -> Result<()> {
        if !self.measures() {
            return Ok(());
        }
        let pulled_ms = match fact.cached {
            true => self.last_pull_ms(key.digest(), fact).await?,
            false => u64::MAX,
        };
        // A manifest that should be gone is in use by another manifest. Its blobs go last.
        let is_needed = pulled_ms < self.cursor.evicting.before_ms;
        let pulled_ms = if is_needed { self.collection.platform.now_ms() } else { pulled_ms };
        let names = needed_blobs(manifest).map(|blob| pulled_mark(&mark_of(blob.digest.as_str()), pulled_ms));
        let store = self.mark_store();
        self.cursor.sets.pulled.mark(&store, names.collect::<Vec<_>>()).await
    }

    /// Notes the sizes and last pulls of the blobs that stay because of cached manifests.
    pub(super) async fn measure_blobs(&mut self, candidates: &[Candidate], outcomes: &[Outcome]) -> Result<()> {
        if !self.measures() {
            return Ok(());
        }
        let staying = candidates.iter().zip(outcomes).filter(|(_, outcome)| **outcome != Outcome::Removed);
        let staying = staying.filter_map(|(candidate, _)| candidate.item.as_key().cloned()).collect();
        let store = self.mark_store();
        for (key, fact) in self.read_all::<BlobFact>(staying).await? {
            let Some((BlobFact { size, .. }, _)) = fact else { continue };
            let mark = mark_of(key.digest());
            let latest = self.cursor.sets.pulled.first_after(&store, &pulled_begin(&mark)).await?;
            let Some(pulled_ms) = latest.and_then(|name| pulled_ms(&name, &mark)).filter(|ms| *ms < u64::MAX) else {
                continue;
            };
            // The number of the repository makes the name unique.
            let name = format!("{pulled_ms:016x} {size:x} {} {mark}", self.cursor.report.repositories);
            self.cursor.sets.cached.mark(&store, [name]).await?;
            self.cursor.report.cached_bytes += size;
        }
        Ok(())
    }

    /// Chooses the manifests that the next round evicts, so that the rest is within the limit.
    pub(super) async fn evictable(&mut self) -> Result<()> {
        let Some(bytes_max) = self.collection.limits.mirror_bytes_max else {
            self.cursor.enter(Phase::Condemned);
            return Ok(());
        };
        let store = self.mark_store();
        let after = self.cursor.after.take().unwrap_or_default();
        let names = self.cursor.sets.cached.after(&store, &after).await?;
        self.cursor.report.looked_at += names.len() as u64;
        self.cursor.after = names.last().cloned();
        let excess = self.cursor.report.cached_bytes.saturating_sub(bytes_max);
        let (mut before_ms, mut is_enough) = (0, names.is_empty());
        for name in &names {
            if self.cursor.evictable_bytes >= excess {
                is_enough = true;
                break;
            }
            let mut parts = name.split(' ').map(|part| u64::from_str_radix(part, 16).unwrap_or_default());
            before_ms = parts.next().unwrap_or_default() + 1;
            self.cursor.evictable_bytes += parts.next().unwrap_or_default();
        }
        self.cursor.evictable_before_ms = self.cursor.evictable_before_ms.max(before_ms);
        if is_enough {
            self.save_evictable(EvictionFact { bytes_max, before_ms: self.cursor.evictable_before_ms }).await?;
            self.cursor.sets.cached = Default::default();
            self.cursor.enter(Phase::Condemned);
        }
        Ok(())
    }

    async fn save_evictable(&mut self, chosen: EvictionFact) -> Result<()> {
        if self.is_dry() {
            return Ok(());
        }
        self.check_lease()?;
        if chosen.before_ms > self.cursor.evicting.before_ms {
            // The next round has something to evict at once.
            let next = &mut self.cursor.report.next_due_ms;
            *next = Some(next.unwrap_or(u64::MAX).min(self.collection.platform.now_ms()));
        }
        self.collection.facts.store(layout::COLLECTION_EVICTION, &chosen, When::Always).await
    }
}

/// The mark of a blob with the time of a pull. Later pulls sort first.
fn pulled_mark(mark: &str, pulled_ms: u64) -> String {
    format!("{}{:016x}", pulled_begin(mark), u64::MAX - pulled_ms)
}

fn pulled_begin(mark: &str) -> String {
    format!("{mark} ")
}

/// The time of the pull in a mark of the blob `mark`.
fn pulled_ms(name: &str, mark: &str) -> Option<u64> {
    let hex = name.strip_prefix(pulled_begin(mark).as_str())?;
    Some(u64::MAX - u64::from_str_radix(hex, 16).ok()?)
}
