//! The phases that end a round: condemnations of keys that are gone, expired keys, left-over files,
//! and protections of pushes.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::Collector;
use super::cursor::Phase;
use super::report::Outcome;
use crate::registry::Result;
use crate::registry::guard::{Activity, CollectionState, ProtectionFact};
use crate::registry::layout::{self, Collectable, Key, Kind};
use crate::registry::limits::CALLS_AT_ONCE_MAX;
use crate::store::{Entry, Tidied, TidyRequest};

impl Collector<'_> {
    /// Deletes the condemnations of keys that no longer exist. The phase `Objects` does the same
    /// for objects.
    pub(super) async fn condemned(&mut self) -> Result<()> {
        let condemned = Collectable::condemned_keys();
        let (condemnations, more) = self.page(&condemned).await?;
        let keys: Vec<Key> = condemnations.iter().map(|key| Key::listed(condemned.rest(key).to_owned())).collect();
        let exist = self.collection.facts.are_there(&keys).await?;
        for (key, _) in keys.into_iter().zip(exist).filter(|(_, exists)| !exists) {
            self.forget_condemnation(&Collectable::Key(key)).await?;
        }
        if !more {
            self.cursor.enter(Phase::Uses);
        }
        Ok(())
    }

    /// Deletes the notes of pulls of manifests that no longer exist.
    pub(super) async fn uses(&mut self) -> Result<()> {
        let used = Kind::Used.everywhere();
        let (notes, more) = self.page(&used).await?;
        let manifests: Vec<Key> = notes.iter().map(|note| layout::of_kind(note, &used, Kind::Manifest)).collect();
        let exist = self.collection.facts.are_there(&manifests).await?;
        for (note, _) in notes.iter().zip(exist).filter(|(_, exists)| !exists) {
            self.remove_leftover(note).await?;
        }
        if !more {
            self.cursor.enter(Phase::Expired);
        }
        Ok(())
    }

    async fn remove_leftover(&mut self, key: &Key) -> Result<()> {
        self.cursor.report.leftovers.add(Outcome::Removed);
        if !self.is_dry() {
            self.check_lease()?;
            self.collection.facts.keys.delete(key).await?;
        }
        Ok(())
    }

    /// Removes expired keys of other layers: a page of one family of keys at a time.
    pub(super) async fn expired(&mut self) -> Result<()> {
        let collection = self.collection;
        let Some(family) = collection.expiring.get(self.cursor.expiring) else {
            self.cursor.enter(Phase::TidyKeys);
            return Ok(());
        };
        let prefix = layout::other_layer(family.prefix);
        let (keys, more) = self.page(&prefix).await?;
        let reads =
            keys.into_iter().map(|key| async move { collection.facts.keys.get(&key).await.map(|entry| (key, entry)) });
        let reads: Vec<_> = reads.collect();
        let entries: Vec<_> = stream::iter(reads).buffered(CALLS_AT_ONCE_MAX).try_collect().await?;
        let now_ms = collection.platform.now_ms();
        let mut with_tag = Vec::new();
        for (key, entry) in entries {
            let Some(Entry { value, .. }) = entry else { continue };
            if (family.is_expired)(&value, now_ms) {
                self.remove_leftover(&key).await?;
            } else if family.needs_tag.is_some_and(|needs_tag| needs_tag(&value)) {
                with_tag.push(key);
            }
        }
        let tags: Vec<Key> = with_tag.iter().map(|key| layout::of_kind(key, &prefix, Kind::Tag)).collect();
        let exist = collection.facts.are_there(&tags).await?;
        for (key, _) in with_tag.iter().zip(exist).filter(|(_, exists)| !exists) {
            self.remove_leftover(key).await?;
        }
        if !more {
            self.cursor.expiring += 1;
            self.cursor.enter(Phase::Expired);
        }
        Ok(())
    }

    pub(super) async fn tidy_keys(&mut self) -> Result<()> {
        let tidied = self.collection.facts.keys.tidy(&self.tidy_request()?).await?;
        self.note_tidied(tidied, Phase::TidyContent);
        Ok(())
    }

    pub(super) async fn tidy_content(&mut self) -> Result<()> {
        let tidied = self.collection.content.blobs.tidy(&self.tidy_request()?).await?;
        self.note_tidied(tidied, Phase::Protections);
        Ok(())
    }

    fn tidy_request(&self) -> Result<TidyRequest> {
        if !self.is_dry() {
            self.check_lease()?;
        }
        Ok(TidyRequest {
            now_ms: self.collection.platform.now_ms(),
            grace_ms: self.cursor.grace_ms,
            dry_run: self.is_dry(),
            after: self.cursor.after.clone(),
            limit: self.collection.limits.collect_page_entries_max,
        })
    }

    fn note_tidied(&mut self, tidied: Tidied, then: Phase) {
        let report = &mut self.cursor.report;
        report.looked_at += tidied.looked_at as u64;
        report.leftovers.removed += tidied.removed;
        for path in tidied.foreign {
            tracing::warn!("{path} does not belong to the store, and the collection leaves the file alone");
            report.unknown.add(path);
        }
        self.cursor.after = tidied.after;
        if !tidied.more {
            self.cursor.enter(then);
        }
    }

    /// Writes that the round is over, so that pushes no longer protect their keys. Then deletes the
    /// protections that are over. The protections of this round stay: their pushes may not know yet
    /// that the round is over and that another round has begun.
    pub(super) async fn protections(&mut self) -> Result<()> {
        if self.is_dry() {
            self.cursor.report.done = true;
            return Ok(());
        }
        let (round, now_ms) = (self.cursor.report.round, self.collection.platform.now_ms());
        let idle = CollectionState { round, activity: Activity::Idle { since_ms: now_ms } };
        self.collection.write_state(&idle, self.deadline).await?;
        let (keys, more) = self.page(&layout::protections()).await?;
        for (key, fact) in self.read_all::<ProtectionFact>(keys).await? {
            if fact.is_none_or(|(fact, _)| fact.is_over(round, now_ms)) {
                self.check_lease()?;
                self.collection.facts.keys.delete(&key).await?;
            }
        }
        self.cursor.report.done = !more;
        Ok(())
    }
}
