//! The phases of a round that look at the blob store, for all repositories at once, and the phases
//! that end the round.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::Collector;
use super::cursor::Phase;
use super::judge::Thing;
use super::report::Fate;
use super::repository::mark_of;
use crate::registry::facts::{BlobFact, UploadFact};
use crate::registry::hold::CollectionFact;
use crate::registry::limits::CALLS_AT_ONCE_MAX;
use crate::registry::{Result, layout};
use crate::store::{self, Tidied, TidyRequest, When};

impl Collector<'_> {
    pub(super) async fn content_of_uploads(&mut self) -> Result<()> {
        let (keys, more) = self.page("upload/").await?;
        for (key, fact) in self.read_all::<UploadFact>(keys).await? {
            let names = match fact {
                Some((fact, _)) => self.registry.blobs.names_of_stage(&fact.stage).await,
                None => Err(store::Error::corrupt(format!("cannot read key {key}"))),
            };
            self.mark_names(&key, names).await?;
        }
        if !more {
            self.cursor.go_on(Phase::ContentOfManifests);
        }
        Ok(())
    }

    /// Marks the digests of the facts under `prefix`, and the objects of the blob store that hold
    /// their content.
    pub(super) async fn content_of_facts(&mut self, prefix: &str, then: Phase) -> Result<()> {
        let (keys, more) = self.page(prefix).await?;
        for (key, fact) in self.read_all::<BlobFact>(keys).await? {
            let digest = key.rsplit_once('!').unwrap_or_default().1;
            self.cursor.sets.content.mark(&self.shelf(), [mark_of(digest)]).await?;
            let names = match fact {
                Some((fact, _)) => self.registry.blobs.names_of(&fact.location).await,
                None => Err(store::Error::corrupt(format!("cannot read key {key}"))),
            };
            self.mark_names(&key, names).await?;
        }
        if !more {
            self.cursor.go_on(then);
        }
        Ok(())
    }

    async fn mark_names(&mut self, key: &str, names: store::Result<Vec<String>>) -> Result<()> {
        match names {
            Ok(names) => self.cursor.sets.stored.mark(&self.shelf(), names).await?,
            Err(store::Error::Corrupt(_)) => {
                self.cursor.unsure = true;
                self.cursor.report.unknown.add(key.to_owned());
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Judges the keys `content/<digest>`. Once the key of unused content is removed, the registry
    /// no longer finds the content by its digest, so a mount becomes an upload.
    pub(super) async fn contents(&mut self) -> Result<()> {
        let after = self.cursor.after.clone();
        let (keys, more) = self.page("content/").await?;
        let shelf = self.shelf();
        let mut things = Vec::new();
        for key in keys {
            let digest = key.split_once('/').unwrap_or_default().1;
            let live = self.cursor.sets.content.has(&shelf, &mark_of(digest)).await?;
            things.push(Thing::new(key, live));
        }
        let fates = self.judge(after.as_deref(), &things).await?;
        fates.into_iter().for_each(|fate| self.cursor.report.leftovers.add(fate));
        if !more {
            self.cursor.go_on(Phase::Stored);
        }
        Ok(())
    }

    pub(super) async fn stored(&mut self) -> Result<()> {
        let after = self.cursor.after.clone();
        let stored = self.registry.blobs.list(after.as_deref(), self.registry.limits.collect_page_entries_max).await?;
        self.cursor.report.looked_at += stored.len() as u64;
        let more = stored.len() == self.registry.limits.collect_page_entries_max;
        self.cursor.after = stored.last().map(|last| last.name.clone());
        let listed: Vec<String> = stored.iter().map(|stored| stored.name.clone()).collect();
        let (shelf, unsure) = (self.shelf(), self.cursor.unsure);
        let (mut things, mut sizes) = (Vec::new(), Vec::new());
        let mut family = (String::new(), false);
        for stored in stored {
            let marks = &mut self.cursor.sets.stored;
            // A mark that ends in `!` stands for all names that begin with the mark.
            let of = stored.name.split_inclusive('!').next().unwrap_or_default();
            if family.0 != of {
                family = (of.to_owned(), marks.has(&shelf, of).await?);
            }
            let live = unsure || family.1 || marks.has(&shelf, &stored.name).await?;
            things.push(Thing::new(layout::stored(&stored.name), live));
            sizes.push(stored.bytes.unwrap_or(0));
        }
        self.forget_gone(after.as_deref(), &listed, more).await?;
        let after = after.map(|after| layout::stored(&after));
        let fates = self.judge_stored(after.as_deref(), &things).await?;
        for (fate, bytes) in fates.into_iter().zip(sizes) {
            self.cursor.report.content.add(fate);
            if fate == Fate::Removed {
                self.cursor.report.bytes_freed += bytes;
            }
        }
        if !more {
            self.cursor.go_on(Phase::Condemned);
        }
        Ok(())
    }

    /// Deletes the condemnations of objects that no longer exist, from `after` to the last listed
    /// object, or to the end if `more` is false.
    async fn forget_gone(&self, after: Option<&str>, listed: &[String], more: bool) -> Result<()> {
        let prefix = layout::condemned(&layout::stored(""));
        let mut after = after.map(|after| format!("{prefix}{after}"));
        loop {
            let keys = self
                .registry
                .keys
                .list(&prefix, after.as_deref(), self.registry.limits.collect_page_entries_max)
                .await?;
            for key in &keys {
                let name = key[prefix.len()..].to_owned();
                if more && listed.last().is_some_and(|last| name > *last) {
                    return Ok(());
                }
                if listed.binary_search(&name).is_err() {
                    self.acquit(&layout::stored(&name)).await?;
                }
            }
            if keys.len() < self.registry.limits.collect_page_entries_max {
                return Ok(());
            }
            after = keys.last().cloned();
        }
    }

    /// Deletes the condemnations of keys that no longer exist.
    pub(super) async fn condemned(&mut self) -> Result<()> {
        let (keys, more) = self.page(layout::CONDEMNED).await?;
        let keys: Vec<&str> = keys.iter().filter_map(|key| key.strip_prefix(layout::CONDEMNED)).collect();
        // Skip objects of the blob store: the phase `Stored` deletes their stale condemnations.
        let keys: Vec<&str> = keys.into_iter().filter(|key| !key.starts_with("stored/")).collect();
        let there = self.registry.are_there(keys.iter().map(|key| (*key).to_owned()).collect()).await?;
        for (key, there) in keys.into_iter().zip(there) {
            if !there {
                self.acquit(key).await?;
            }
        }
        if !more {
            self.cursor.go_on(Phase::Expired);
        }
        Ok(())
    }

    /// Removes expired keys of other layers: a page of one family of keys at a time.
    pub(super) async fn expired(&mut self) -> Result<()> {
        let registry = self.registry;
        let Some(family) = registry.expiring.get(self.cursor.expiring) else {
            self.cursor.go_on(Phase::TidyKeys);
            return Ok(());
        };
        let (keys, more) = self.page(family.prefix).await?;
        let reads = keys.into_iter().map(|key| async move { registry.keys.get(&key).await.map(|entry| (key, entry)) });
        let reads: Vec<_> = reads.collect();
        let entries: Vec<_> = stream::iter(reads).buffered(CALLS_AT_ONCE_MAX).try_collect().await?;
        let now_ms = registry.platform.now_ms();
        for (key, entry) in entries {
            if entry.is_some_and(|entry| (family.is_expired)(&entry.value, now_ms)) {
                self.cursor.report.leftovers.add(Fate::Removed);
                if !self.is_dry() {
                    self.check_lease()?;
                    registry.keys.delete(&key).await?;
                }
            }
        }
        if !more {
            self.cursor.expiring += 1;
            self.cursor.go_on(Phase::Expired);
        }
        Ok(())
    }

    pub(super) async fn tidy_keys(&mut self) -> Result<()> {
        let tidied = self.registry.keys.tidy(&self.tidy_request()?).await?;
        self.note_tidied(tidied, Phase::TidyContent);
        Ok(())
    }

    pub(super) async fn tidy_content(&mut self) -> Result<()> {
        let tidied = self.registry.blobs.tidy(&self.tidy_request()?).await?;
        self.note_tidied(tidied, Phase::Rescued);
        Ok(())
    }

    fn tidy_request(&self) -> Result<TidyRequest> {
        if !self.is_dry() {
            self.check_lease()?;
        }
        Ok(TidyRequest {
            now_ms: self.registry.platform.now_ms(),
            grace_ms: self.cursor.grace_ms,
            dry_run: self.is_dry(),
            after: self.cursor.after.clone(),
            limit: self.registry.limits.collect_page_entries_max,
        })
    }

    fn note_tidied(&mut self, tidied: Tidied, then: Phase) {
        let report = &mut self.cursor.report;
        report.looked_at += tidied.looked_at as u64;
        report.leftovers.removed += tidied.removed;
        for path in tidied.foreign {
            tracing::warn!("{path} is not the store's own and is left alone");
            report.unknown.add(path);
        }
        self.cursor.after = tidied.after;
        if !tidied.more {
            self.cursor.go_on(then);
        }
    }

    /// Tells pushes that the round is over, so pushes no longer protect keys. Then deletes the
    /// rescue keys of earlier rounds.
    pub(super) async fn rescued(&mut self) -> Result<()> {
        if self.is_dry() {
            self.cursor.report.done = true;
            return Ok(());
        }
        let (round, ended_ms) = (self.cursor.report.round, self.registry.platform.now_ms());
        let collection = CollectionFact { round, ended_ms, ..CollectionFact::default() };
        self.check_lease()?;
        self.registry.store(layout::COLLECTION, &collection, When::Always).await?;
        let (keys, more) = self.page(layout::RESCUED).await?;
        for (key, rescued) in self.read_all::<u64>(keys).await? {
            // Rescue keys of the current round stay. A push that has just written one may not know
            // yet that the round is over and that another round has begun.
            if rescued.is_none_or(|(in_round, _)| in_round < round) {
                self.check_lease()?;
                self.registry.keys.delete(&key).await?;
            }
        }
        self.cursor.report.done = !more;
        Ok(())
    }
}
