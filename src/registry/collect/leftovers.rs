//! Decides on keys that are in use as long as another key exists.

use super::Collector;
use super::candidates::Candidate;
use super::cursor::Phase;
use crate::registry::Result;
use crate::registry::layout::Kind;

impl Collector<'_> {
    /// Decides on the referrer entries. An entry is an orphan if its manifest is gone.
    pub(super) async fn referrers(&mut self) -> Result<()> {
        self.leftovers_of_manifests(Kind::Referrer, Phase::Large).await
    }

    /// Decides on the facts that say where the bytes of large manifests are. A fact is an orphan if
    /// its manifest is gone.
    pub(super) async fn large(&mut self) -> Result<()> {
        self.leftovers_of_manifests(Kind::Large, Phase::Repository).await
    }

    async fn leftovers_of_manifests(&mut self, kind: Kind, then: Phase) -> Result<()> {
        let after = self.cursor.after.clone();
        let (keys, more) = self.page(&self.keys_of(kind)).await?;
        let manifests = self.keys_of(Kind::Manifest);
        let manifests: Vec<_> = keys.iter().map(|key| manifests.key(key.digest())).collect();
        let exist = self.collection.facts.are_there(&manifests).await?;
        let candidates = keys.into_iter().zip(exist).map(|(key, exists)| Candidate::key(key, exists)).collect();
        self.collect_leftovers(after, candidates, more, then).await
    }

    pub(super) async fn collect_leftovers(
        &mut self,
        after: Option<String>,
        candidates: Vec<Candidate>,
        more: bool,
        then: Phase,
    ) -> Result<()> {
        let outcomes = self.collect_keys(after.as_deref(), &candidates).await?;
        outcomes.into_iter().for_each(|outcome| self.cursor.report.leftovers.add(outcome));
        if !more {
            self.cursor.enter(then);
        }
        Ok(())
    }
}
