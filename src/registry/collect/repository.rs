//! The phases of a round that look at one repository after another: the repository itself, and its
//! uploads.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;

use super::Collector;
use super::candidates::Candidate;
use super::cursor::{Phase, Sets};
use super::report::Outcome;
use crate::registry::facts::UploadFact;
use crate::registry::layout::{self, Key, Kind, Prefix};
use crate::registry::limits::CALLS_AT_ONCE_MAX;
use crate::registry::{Error, Result};
use crate::store;

/// Every repository has a key of at least one of these kinds. Keys of other kinds are written after
/// the first key of these kinds and deleted before the last.
const KINDS_IN_EVERY_REPOSITORY: [Kind; 4] = [Kind::Repository, Kind::Manifest, Kind::Blob, Kind::Upload];
/// The kinds of keys that keep a repository in the catalog. Leftovers are included, because the
/// collector finds leftovers only in repositories that it finds.
const KINDS_THAT_KEEP_A_REPOSITORY: [Kind; 8] =
    [Kind::Manifest, Kind::Blob, Kind::Upload, Kind::Tag, Kind::Warning, Kind::Tagged, Kind::Large, Kind::Referrer];

/// A fact with the bytes that are stored after it.
pub(super) type FactAndBytes<T> = (T, Bytes);

impl Collector<'_> {
    pub(super) async fn next_repository(&mut self) -> Result<()> {
        let mut found: Vec<String> = Vec::new();
        for kind in KINDS_IN_EVERY_REPOSITORY {
            let after = self.cursor.repository.as_ref().map(|repository| kind.within(repository).end());
            let first = self.collection.facts.keys.list(&kind.everywhere(), after.as_deref(), 1).await?;
            found.extend(first.first().and_then(|key| kind.repository_in(key)).map(str::to_owned));
        }
        // Compare names as their keys sort, which end each name.
        let next = found.into_iter().min_by_key(|name| layout::repository(name));
        let cursor = &mut self.cursor;
        let cached = std::mem::take(&mut cursor.sets.cached);
        (cursor.sets, cursor.unsure, cursor.follows) = (Sets { cached, ..Sets::default() }, false, 0);
        let Some(next) = next else {
            cursor.enter(Phase::ContentOfUploads);
            return Ok(());
        };
        cursor.repository = Some(next);
        cursor.report.repositories += 1;
        // Count the repository itself, so that a step also ends among many empty repositories.
        cursor.report.looked_at += 1;
        cursor.enter(Phase::Uploads);
        Ok(())
    }

    /// The keys of one kind in the current repository.
    pub(super) fn keys_of(&self, kind: Kind) -> Prefix {
        kind.within(self.cursor.repository.as_deref().unwrap_or_default())
    }

    pub(super) async fn uploads(&mut self) -> Result<()> {
        let (keys, more) = self.page(&self.keys_of(Kind::Upload)).await?;
        let now_ms = self.collection.platform.now_ms();
        let lifetime_ms = self.collection.limits.upload_lifetime_ms;
        for (key, fact) in self.read_all::<UploadFact>(keys).await? {
            let Some((fact, _)) = fact else { continue };
            if now_ms.saturating_sub(fact.changed_ms) <= lifetime_ms {
                self.cursor.report.uploads.add(Outcome::Kept);
                continue;
            }
            self.cursor.report.uploads.add(Outcome::Removed);
            if !self.is_dry() {
                self.check_lease()?;
                // Delete the session first. If the step is cut off before `discard`, the phase
                // `Objects` finds the stage.
                self.collection.facts.keys.delete(&key).await?;
                // A fact with `added_to` records bytes that a broken request left in an upload's
                // stage. The upload may still be live, so keep the stage.
                if fact.added_to.is_none() {
                    self.collection.content.blobs.discard(&fact.stage).await?;
                }
            }
        }
        if !more {
            self.cursor.enter(Phase::Tags);
        }
        Ok(())
    }

    pub(super) async fn repository(&mut self) -> Result<()> {
        let mut in_use = false;
        for kind in KINDS_THAT_KEEP_A_REPOSITORY {
            in_use = in_use || !self.collection.facts.keys.list(&self.keys_of(kind), None, 1).await?.is_empty();
        }
        let key = layout::repository(self.cursor.repository.as_deref().unwrap_or_default());
        if self.collection.facts.keys.get(&key).await?.is_some() {
            let outcomes = self.collect_keys(None, &[Candidate::key(key, in_use)]).await?;
            let tally = &mut self.cursor.report.leftovers;
            outcomes.into_iter().filter(|outcome| *outcome != Outcome::Kept).for_each(|outcome| tally.add(outcome));
        }
        self.cursor.enter(Phase::NextRepository);
        Ok(())
    }

    /// Reads facts together with the bytes stored after each fact. Keys that were deleted since the
    /// listing are left out. A fact that cannot be read gives `None`.
    pub(super) async fn read_all<T: DeserializeOwned>(
        &mut self,
        keys: Vec<Key>,
    ) -> Result<Vec<(Key, Option<FactAndBytes<T>>)>> {
        let facts = &self.collection.facts;
        let reads = keys.into_iter().map(|key| async move {
            let read = facts.load_version::<T>(&key).await;
            (key, read)
        });
        let reads: Vec<_> = stream::iter(reads.collect::<Vec<_>>()).buffered(CALLS_AT_ONCE_MAX).collect().await;
        let mut all = Vec::new();
        for (key, read) in reads {
            match read {
                Ok(Some((fact, bytes, _))) => all.push((key, Some((fact, bytes)))),
                Ok(None) => {}
                Err(Error::Store(store::Error::Corrupt(_))) => all.push((key, None)),
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}
