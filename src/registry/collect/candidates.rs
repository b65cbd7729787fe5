//! The decision about each key and object that a round looks at: kept, condemned or removed.

use serde::{Deserialize, Serialize};

use super::Collector;
use super::report::Outcome;
use crate::platform::Causes;
use crate::registry::layout::{Collectable, Key};
use crate::registry::{Error, Result};
use crate::store::{self, Version, When};

/// A key or object that a round has looked at.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub item: Collectable,
    /// Whether the item is in use.
    pub in_use: bool,
    /// Keys of indexes that lead to the item. A removal deletes these keys first.
    pub index_keys: Vec<Key>,
    /// The version of the key's value that the decision is about. Where the store has conditional
    /// deletes, a key with another version stays.
    pub version: Option<Version>,
}

impl Candidate {
    pub(super) fn key(key: Key, in_use: bool) -> Self {
        Self { item: Collectable::Key(key), in_use, index_keys: Vec::new(), version: None }
    }

    pub(super) fn object(name: String, in_use: bool) -> Self {
        Self { item: Collectable::Object(name), in_use, index_keys: Vec::new(), version: None }
    }
}

/// The value under `condemned/…`: an item was found unused.
#[derive(Debug, Serialize, Deserialize)]
struct CondemnedFact {
    /// The round that found the item unused.
    round: u64,
    /// When the round found the item unused, in milliseconds since the Unix epoch.
    since_ms: u64,
}

/// The decision about a candidate, before any removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Keep,
    /// The candidate is unused, and its grace period is not over.
    Condemn,
    /// The candidate is unused now, and was unused when its grace period began.
    Remove,
}

/// Which round may remove an unused item when there is no grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Earliest {
    /// The round that finds the item unused for the first time.
    SameRound,
    /// A round after the one that condemned the item, because the item may have come into use since
    /// the first round looked for references.
    LaterRound,
}

impl Collector<'_> {
    /// Decides on candidates, which are sorted by key or name. `after` is the last item of the page
    /// before.
    pub(super) async fn decide(
        &mut self,
        after: Option<&Collectable>,
        candidates: &[Candidate],
        earliest: Earliest,
    ) -> Result<Vec<Decision>> {
        let condemned = self.condemned_among(after, candidates).await?;
        let at_once = earliest == Earliest::SameRound && self.grace_ms() == 0;
        let mut decisions = Vec::new();
        for Candidate { item, in_use, .. } in candidates {
            let was_condemned = condemned.binary_search(&item.condemned()).is_ok();
            decisions.push(match (in_use, was_condemned) {
                (true, true) => {
                    self.forget_condemnation(item).await?;
                    Decision::Keep
                }
                (true, false) => Decision::Keep,
                (false, _) if at_once => Decision::Remove,
                (false, true) => self.decide_on_condemned(item).await?,
                (false, false) => {
                    self.condemn(item).await?;
                    Decision::Condemn
                }
            });
        }
        Ok(decisions)
    }

    /// The condemnations of the candidates, sorted. The list may also have condemnations of other
    /// items.
    async fn condemned_among(&self, after: Option<&Collectable>, candidates: &[Candidate]) -> Result<Vec<Key>> {
        let (Some(first), Some(last)) = (candidates.first(), candidates.last()) else { return Ok(Vec::new()) };
        let last = last.item.condemned();
        // The common prefix of the first and the last key narrows the listing.
        let prefix = first.item.condemned().common_prefix(&last);
        let after = after.map(|after| after.condemned().into_string());
        let mut pages = self.pages(prefix, after);
        let mut found = Vec::new();
        while let Some(keys) = pages.next().await? {
            let is_beyond = keys.last().is_some_and(|key| *key >= last);
            found.extend(keys);
            if is_beyond {
                break;
            }
        }
        Ok(found)
    }

    async fn condemn(&mut self, item: &Collectable) -> Result<()> {
        let since_ms = self.collection.platform.now_ms();
        self.note_due(since_ms);
        if self.is_dry() {
            return Ok(());
        }
        self.check_lease()?;
        let fact = CondemnedFact { round: self.cursor.report.round, since_ms };
        match self.collection.facts.store(&item.condemned(), &fact, When::Always).await {
            // The store is full: leave the item to a later round. The round must continue, because
            // removing the items that earlier rounds condemned frees space.
            Err(Error::Store(store::Error::Full(why))) => {
                tracing::warn!("{item} is unused and cannot be condemned: {}", Causes(&why));
                Ok(())
            }
            result => result,
        }
    }

    pub(super) async fn forget_condemnation(&self, item: &Collectable) -> Result<()> {
        if self.is_dry() {
            return Ok(());
        }
        self.check_lease()?;
        Ok(self.collection.facts.keys.delete(&item.condemned()).await?)
    }

    async fn decide_on_condemned(&mut self, item: &Collectable) -> Result<Decision> {
        let fact: Option<CondemnedFact> = match self.collection.facts.load(&item.condemned()).await {
            // Replace the damaged condemnation. The grace period begins again.
            Err(Error::Store(store::Error::Corrupt(why))) => {
                tracing::warn!("the grace period of {item} begins again: {}", Causes(&why));
                self.condemn(item).await?;
                None
            }
            fact => fact?,
        };
        let Some(fact) = fact else { return Ok(Decision::Condemn) };
        let now_ms = self.collection.platform.now_ms();
        if fact.since_ms > now_ms {
            // The clock was set back since the condemnation. The grace period begins again.
            self.condemn(item).await?;
            return Ok(Decision::Condemn);
        }
        let is_over = fact.since_ms.saturating_add(self.grace_ms()) <= now_ms;
        // Remove only items that an earlier round condemned: since then this round has looked at
        // all possible references again.
        if is_over && fact.round < self.cursor.report.round {
            return Ok(Decision::Remove);
        }
        self.note_due(fact.since_ms);
        Ok(Decision::Condemn)
    }

    /// How long a candidate must have been condemned before its removal, in milliseconds.
    fn grace_ms(&self) -> u64 {
        if self.evicts() { self.cursor.evicting.grace_ms } else { self.cursor.grace_ms }
    }

    pub(super) fn note_due(&mut self, since_ms: u64) {
        let due_ms = since_ms.saturating_add(self.grace_ms());
        let next = &mut self.cursor.report.next_due_ms;
        *next = Some(next.map_or(due_ms, |next| next.min(due_ms)));
    }
}

impl From<Decision> for Outcome {
    /// The outcome when the decision is carried out in full.
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Keep => Self::Kept,
            Decision::Condemn => Self::Condemned,
            Decision::Remove => Self::Removed,
        }
    }
}
