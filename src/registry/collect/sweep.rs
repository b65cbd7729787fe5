//! Removes the candidates on which a round has decided.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::Collector;
use super::candidates::{Candidate, Decision, Earliest};
use super::report::Outcome;
use crate::platform::Causes;
use crate::registry::guard::{Activity, CollectionState, Deadline, Window};
use crate::registry::layout::{self, Collectable, Key};
use crate::registry::limits::{CALLS_AT_ONCE_MAX, SWEEPING_MS_MAX};
use crate::registry::{Error, Result};
use crate::store;

impl Collector<'_> {
    /// Decides on keys, and removes the unused ones that no push has protected. The candidates are
    /// sorted by key. `after` is the last key of the page before.
    pub(super) async fn collect_keys(&mut self, after: Option<&str>, candidates: &[Candidate]) -> Result<Vec<Outcome>> {
        let after = after.map(|after| Collectable::Key(Key::listed(after.to_owned())));
        let decisions = self.decide(after.as_ref(), candidates, Earliest::SameRound).await?;
        let due: Vec<Candidate> = candidates
            .iter()
            .zip(&decisions)
            .filter(|(_, decision)| **decision == Decision::Remove)
            .map(|(candidate, _)| candidate.clone())
            .collect();
        let mut swept = self.sweep(&due).await?.into_iter();
        let outcome = |decision| match decision {
            Decision::Remove => swept.next().unwrap_or(Outcome::Condemned),
            decision => decision.into(),
        };
        Ok(decisions.into_iter().map(outcome).collect())
    }

    /// Decides on objects of the blob store, and removes the unused ones. The candidates are sorted
    /// by name. `after` is the last name of the page before.
    ///
    /// The round that condemned an object never removes the object, even without a grace period. A
    /// push references an object only when the push ends, so an object that was just written looks
    /// unused.
    pub(super) async fn collect_objects(
        &mut self,
        after: Option<String>,
        candidates: &[Candidate],
    ) -> Result<Vec<Outcome>> {
        let after = after.map(Collectable::Object);
        let decisions = self.decide(after.as_ref(), candidates, Earliest::LaterRound).await?;
        let mut outcomes = Vec::new();
        for (candidate, decision) in candidates.iter().zip(decisions) {
            let may_remove = self.is_dry() || !self.deadline.is_over(self.collection.platform.now_ms());
            outcomes.push(match decision {
                Decision::Remove if !may_remove => Outcome::Condemned,
                Decision::Remove if !self.is_dry() => self.remove_object(&candidate.item).await?,
                decision => decision.into(),
            });
        }
        Ok(outcomes)
    }

    async fn remove_object(&mut self, item: &Collectable) -> Result<Outcome> {
        let name = item.to_string();
        match self.collection.content.blobs.remove(&name).await {
            // Continue with the other objects if one object cannot be removed.
            Err(store::Error::Corrupt(why)) => {
                tracing::error!("the object {name} cannot be removed: {}", Causes(&why));
                self.cursor.report.unknown.add(format!("{name}: {}", Causes(&why)));
                Ok(Outcome::Condemned)
            }
            removed => {
                removed?;
                self.collection.facts.keys.delete(&item.condemned()).await?;
                Ok(Outcome::Removed)
            }
        }
    }

    /// Removes keys, unless a push has protected them.
    async fn sweep(&mut self, due: &[Candidate]) -> Result<Vec<Outcome>> {
        if self.is_dry() || due.is_empty() {
            return Ok(vec![Outcome::Removed; due.len()]);
        }
        let since_ms = self.collection.platform.now_ms();
        let deadline = Window::new(since_ms, SWEEPING_MS_MAX).deadline();
        // The collector first announces the keys and then reads the protections. A push first
        // writes its protections and then reads the announcement. So at least one of the two sees
        // the other.
        let keys = due.iter().filter_map(|candidate| candidate.item.as_key().cloned()).collect();
        self.announce(Activity::Sweeping { keys, since_ms }).await?;
        let sweeps: Vec<_> = due.iter().map(|candidate| self.sweep_one(candidate, deadline)).collect();
        let outcomes = stream::iter(sweeps).buffered(CALLS_AT_ONCE_MAX).try_collect().await?;
        self.announce(Activity::Marking).await?;
        Ok(outcomes)
    }

    async fn announce(&self, activity: Activity) -> Result<()> {
        let state = CollectionState { round: self.cursor.report.round, activity };
        self.collection.write_state(&state, self.deadline).await
    }

    /// Removes one key, unless a push has protected the key. Pushes respect the announcement of the
    /// sweep for a limited time, and `deadline` is in the middle of that time.
    async fn sweep_one(&self, candidate: &Candidate, deadline: Deadline) -> Result<Outcome> {
        let Some(key) = candidate.item.as_key() else { return Ok(Outcome::Condemned) };
        let keys = &self.collection.facts.keys;
        if !keys.list(&layout::protections_of(key), None, 1).await?.is_empty() {
            self.forget_condemnation(&candidate.item).await?;
            return Ok(Outcome::Kept);
        }
        let now_ms = self.collection.platform.now_ms();
        if self.deadline.is_over(now_ms) || deadline.is_over(now_ms) {
            return Err(Error::Busy);
        }
        for name in &candidate.index_keys {
            keys.delete(name).await?;
        }
        let removed = match &candidate.version {
            Some(version) => match keys.delete_unchanged(key, version).await {
                Err(store::Error::Unsupported(_)) => keys.delete(key).await,
                removed => removed,
            },
            None => keys.delete(key).await,
        };
        if let Err(store::Error::Conflict(_)) = removed {
            self.forget_condemnation(&candidate.item).await?;
            return Ok(Outcome::Kept);
        }
        removed?;
        self.forget_condemnation(&candidate.item).await?;
        Ok(Outcome::Removed)
    }
}
