//! The outcome for each key and object that a round looks at: kept, condemned or removed.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::Collector;
use super::report::Fate;
use crate::platform::Causes;
use crate::registry::hold::CollectionFact;
use crate::registry::limits::{CALLS_AT_ONCE_MAX, SWEEPING_MS_MAX};
use crate::registry::{Error, Result, layout};
use crate::store::{self, When};

/// A candidate for removal: a key, or an object of the blob store.
#[derive(Clone, Debug)]
pub(super) struct Thing {
    /// The candidate's key. Objects of the blob store have the name `stored/<name>` here.
    pub key: String,
    /// Whether the candidate is in use.
    pub live: bool,
    /// Index keys that lead to the candidate. A removal deletes the index keys first.
    pub names: Vec<String>,
}

impl Thing {
    pub(super) fn new(key: impl Into<String>, live: bool) -> Self {
        Self { key: key.into(), live, names: Vec::new() }
    }
}

/// Records that a key or object was found unused: in which round, and since when, in milliseconds
/// since the Unix epoch.
#[derive(Debug, Serialize, Deserialize)]
struct CondemnedFact {
    round: u64,
    since_ms: u64,
}

/// The decision about a candidate, before any removal.
enum Verdict {
    Fate(Fate),
    /// The candidate may be removed: unused now, and unused when its grace period began.
    Due,
}

impl Collector<'_> {
    /// Judges candidates that are keys, and removes the due ones that no push has protected. The
    /// candidates are sorted by key and come after `after`, the last key of the page before.
    pub(super) async fn judge(&mut self, after: Option<&str>, things: &[Thing]) -> Result<Vec<Fate>> {
        let verdicts = self.verdicts(after, things, true).await?;
        let due: Vec<Thing> = things
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| matches!(verdict, Verdict::Due))
            .map(|(thing, _)| thing.clone())
            .collect();
        let mut swept = self.sweep(&due).await?.into_iter();
        let fate = |verdict| match verdict {
            Verdict::Fate(fate) => fate,
            Verdict::Due => swept.next().unwrap_or(Fate::Condemned),
        };
        Ok(verdicts.into_iter().map(fate).collect())
    }

    /// Judges objects of the blob store as [`Collector::judge`] judges keys, with one difference:
    /// the round that condemned an object never removes the object, even without a grace period. A
    /// push references an object only when the push ends, so an object that was just written looks
    /// unused. A later round searches for references again.
    pub(super) async fn judge_stored(&mut self, after: Option<&str>, things: &[Thing]) -> Result<Vec<Fate>> {
        let verdicts = self.verdicts(after, things, false).await?;
        let mut fates = Vec::new();
        for (thing, verdict) in things.iter().zip(verdicts) {
            fates.push(match verdict {
                Verdict::Fate(fate) => fate,
                Verdict::Due if self.is_dry() => Fate::Removed,
                Verdict::Due if self.registry.platform.now_ms() > self.deadline_ms => Fate::Condemned,
                Verdict::Due => {
                    let name = thing.key.strip_prefix("stored/").unwrap_or(&thing.key);
                    match self.registry.blobs.remove(name).await {
                        // Continue with the other objects if one object cannot be removed.
                        Err(store::Error::Corrupt(why)) => {
                            tracing::error!("content {name} cannot be removed: {}", Causes(&why));
                            self.cursor.report.unknown.add(format!("{name}: {}", Causes(&why)));
                            Fate::Condemned
                        }
                        removed => {
                            removed?;
                            self.registry.keys.delete(&layout::condemned(&thing.key)).await?;
                            Fate::Removed
                        }
                    }
                }
            });
        }
        Ok(fates)
    }

    async fn verdicts(&mut self, after: Option<&str>, things: &[Thing], at_once: bool) -> Result<Vec<Verdict>> {
        let condemned = self.condemned_among(after, things).await?;
        let at_once = at_once && self.cursor.grace_ms == 0;
        let mut verdicts = Vec::new();
        for thing in things {
            let was_condemned = condemned.binary_search(&thing.key).is_ok();
            verdicts.push(match (thing.live, was_condemned) {
                (true, true) => {
                    self.acquit(&thing.key).await?;
                    Verdict::Fate(Fate::Kept)
                }
                (true, false) => Verdict::Fate(Fate::Kept),
                (false, _) if at_once => Verdict::Due,
                (false, true) => self.verdict_of_condemned(&thing.key).await?,
                (false, false) => {
                    self.condemn(&thing.key).await?;
                    Verdict::Fate(Fate::Condemned)
                }
            });
        }
        Ok(verdicts)
    }

    /// Returns the keys of the condemned candidates, sorted. The list may also contain other
    /// condemned keys.
    async fn condemned_among(&self, after: Option<&str>, things: &[Thing]) -> Result<Vec<String>> {
        let (Some(first), Some(last)) = (things.first(), things.last()) else { return Ok(Vec::new()) };
        let (first, last) = (layout::condemned(&first.key), layout::condemned(&last.key));
        // The common prefix of the first and the last key narrows the listing.
        let common = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
        let prefix = &first[..common];
        let mut after = after.map(layout::condemned);
        let mut found = Vec::new();
        loop {
            let keys = self
                .registry
                .keys
                .list(prefix, after.as_deref(), self.registry.limits.collect_page_entries_max)
                .await?;
            let is_beyond = keys.last().is_none_or(|key| *key >= last)
                || keys.len() < self.registry.limits.collect_page_entries_max;
            after = keys.last().cloned();
            found.extend(keys.into_iter().map(|key| key[layout::CONDEMNED.len()..].to_owned()));
            if is_beyond {
                return Ok(found);
            }
        }
    }

    async fn condemn(&mut self, key: &str) -> Result<()> {
        let since_ms = self.registry.platform.now_ms();
        self.note_due(since_ms);
        if self.is_dry() {
            return Ok(());
        }
        self.check_lease()?;
        let fact = CondemnedFact { round: self.cursor.report.round, since_ms };
        match self.registry.store(&layout::condemned(key), &fact, When::Always).await {
            // The store is full: leave the key to a later round. The round must continue, because
            // removing what earlier rounds condemned frees space.
            Err(Error::Store(store::Error::Full(why))) => {
                tracing::warn!("{key} is not in use and could not be condemned: {}", Causes(&why));
                Ok(())
            }
            result => result,
        }
    }

    pub(super) async fn acquit(&self, key: &str) -> Result<()> {
        if self.is_dry() {
            return Ok(());
        }
        self.check_lease()?;
        Ok(self.registry.keys.delete(&layout::condemned(key)).await?)
    }

    async fn verdict_of_condemned(&mut self, key: &str) -> Result<Verdict> {
        let fact: Option<CondemnedFact> = match self.registry.load(&layout::condemned(key)).await {
            // Replace the damaged condemnation. The grace period begins again.
            Err(Error::Store(store::Error::Corrupt(why))) => {
                tracing::warn!("a condemnation is forgotten: {}", Causes(&why));
                self.condemn(key).await?;
                None
            }
            fact => fact?,
        };
        let Some(fact) = fact else { return Ok(Verdict::Fate(Fate::Condemned)) };
        if fact.since_ms > self.registry.platform.now_ms() {
            // The clock was set back since the condemnation. The grace period begins again.
            self.condemn(key).await?;
            return Ok(Verdict::Fate(Fate::Condemned));
        }
        let is_over = fact.since_ms.saturating_add(self.cursor.grace_ms) <= self.registry.platform.now_ms();
        // Remove only what an earlier round condemned: since then all possible references were
        // looked at again.
        if is_over && fact.round < self.cursor.report.round {
            return Ok(Verdict::Due);
        }
        self.note_due(fact.since_ms);
        Ok(Verdict::Fate(Fate::Condemned))
    }

    pub(super) fn note_due(&mut self, since_ms: u64) {
        let due_ms = since_ms.saturating_add(self.cursor.grace_ms);
        let next = &mut self.cursor.report.next_due_ms;
        *next = Some(next.map_or(due_ms, |next| next.min(due_ms)));
    }

    /// Removes keys that are due, unless a push has protected them.
    async fn sweep(&mut self, due: &[Thing]) -> Result<Vec<Fate>> {
        if self.is_dry() || due.is_empty() {
            return Ok(vec![Fate::Removed; due.len()]);
        }
        let began_ms = self.registry.platform.now_ms();
        // The collector first announces the keys and then reads the rescue keys. A push first
        // writes its rescue keys and then reads the announcement. So at least one of the two sees
        // the other.
        self.announce(due.iter().map(|thing| thing.key.clone()).collect()).await?;
        let sweeps = due.iter().map(|thing| self.sweep_one(thing, began_ms));
        let sweeps: Vec<_> = sweeps.collect();
        let fates = stream::iter(sweeps).buffered(CALLS_AT_ONCE_MAX).try_collect().await?;
        self.announce(Vec::new()).await?;
        Ok(fates)
    }

    async fn announce(&self, sweeping: Vec<String>) -> Result<()> {
        self.check_lease()?;
        let sweeping_ms = self.registry.platform.now_ms();
        let round = self.cursor.report.round;
        let collection = CollectionFact { round, active: true, sweeping, sweeping_ms, ..CollectionFact::default() };
        self.registry.store(layout::COLLECTION, &collection, When::Always).await
    }

    async fn sweep_one(&self, thing: &Thing, began_ms: u64) -> Result<Fate> {
        let keys = &self.registry.keys;
        if keys.get(&layout::rescued(&thing.key)).await?.is_some() {
            self.acquit(&thing.key).await?;
            return Ok(Fate::Kept);
        }
        let now_ms = self.registry.platform.now_ms();
        // Pushes believe an announcement for `SWEEPING_MS_MAX` milliseconds. Stop after half of
        // that time.
        if now_ms > self.deadline_ms || now_ms.saturating_sub(began_ms) > SWEEPING_MS_MAX / 2 {
            return Err(Error::Busy);
        }
        for name in &thing.names {
            keys.delete(name).await?;
        }
        keys.delete(&thing.key).await?;
        self.acquit(&thing.key).await?;
        Ok(Fate::Removed)
    }
}
