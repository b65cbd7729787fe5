//! Sharing content: a second fact refers to content that is stored already, beside a collection
//! that may be about to remove the content.

use super::content::Content;
use super::facts::{BlobFact, Facts};
use super::guard::CollectionGuard;
use super::layout::{Collectable, Key};
use super::{Error, Result};
use crate::store::{self, When};

/// How many steps a request makes to share content while rounds or other pushes interfere.
const SHARE_STEPS_MAX: usize = 4;

/// How far a request has come in sharing content.
enum Step {
    /// No fact is written.
    Copy,
    /// This fact is under the key: written by this request, or by another push. A round that began
    /// before the write may be about to remove the content.
    Check(BlobFact),
    /// The key refers to the content, and every later round sees the fact.
    Shared,
    /// The content is missing or about to be removed.
    Missing,
}

/// Makes several facts refer to one copy of content.
#[derive(Clone)]
pub(super) struct Sharing {
    pub facts: Facts,
    pub content: Content,
    pub guard: CollectionGuard,
}

impl Sharing {
    /// Copies the fact under `source` to `key`, so that `key` refers to the same content. Returns
    /// `false` when the fact or its content is missing or about to be removed, or when the content
    /// does not have `size` bytes.
    ///
    /// # Errors
    /// [`Error::Busy`] when rounds or other pushes interfere with every step.
    pub(super) async fn share(&self, key: &Key, source: &Key, size: Option<u64>) -> Result<bool> {
        let mut step = Step::Copy;
        for _ in 0..SHARE_STEPS_MAX {
            step = match step {
                Step::Copy => self.copy_fact(key, source, size).await?,
                Step::Check(fact) => self.check_fact(key, fact).await?,
                ended => ended,
            };
            match step {
                Step::Shared => return Ok(true),
                Step::Missing => return Ok(false),
                Step::Copy | Step::Check(_) => {}
            }
        }
        self.guard.note_refused_push().await?;
        Err(Error::Busy)
    }

    async fn copy_fact(&self, key: &Key, source: &Key, size: Option<u64>) -> Result<Step> {
        if self.facts.load::<BlobFact>(source).await?.is_none() {
            return Ok(Step::Missing);
        }
        let state = self.guard.collection_state().await?;
        // Read the fact again: a whole round may have passed before the state was read.
        let known: Option<BlobFact> = self.facts.load(source).await?;
        let Some(fact) = known.filter(|known| size.is_none_or(|size| known.size == size)) else {
            return Ok(Step::Missing);
        };
        // The round under way may remove condemned content before the round sees the key written
        // here.
        if state.is_active() && self.is_condemned(&fact).await? || !self.content.is_readable(&fact).await? {
            return Ok(Step::Missing);
        }
        // Do not overwrite the fact of another push: the content of this fact may be gone by the
        // time of the write.
        match self.facts.store(key, &fact, When::Absent).await {
            Err(Error::Store(store::Error::Conflict(_))) => {
                let other: Option<BlobFact> = self.facts.load(key).await?;
                return Ok(other.map_or(Step::Copy, Step::Check));
            }
            result => result?,
        }
        let now = self.guard.collection_state().await?;
        let is_unchanged = now.round == state.round && now.is_active() == state.is_active();
        Ok(if is_unchanged { Step::Shared } else { Step::Check(fact) })
    }

    /// Checks a fact that is under `key` already. The rounds that begin after the state is read see
    /// the fact, so only the round under way can remove its content.
    async fn check_fact(&self, key: &Key, fact: BlobFact) -> Result<Step> {
        let state = self.guard.collection_state().await?;
        // Read the condemnation before the content. In the other order, the collector could remove
        // the content and then the condemnation between the two reads.
        let is_condemned = state.is_active() && self.is_condemned(&fact).await?;
        if !self.content.is_readable(&fact).await? {
            // Another push may already use the fact under `key`, even for the same content. Delete
            // the fact only if its content is gone.
            if self.facts.load::<BlobFact>(key).await?.as_ref() == Some(&fact) {
                self.facts.keys.delete(key).await?;
            }
            return Ok(Step::Missing);
        }
        if is_condemned {
            return Ok(Step::Check(fact));
        }
        let is_there = self.facts.keys.get(key).await?.is_some();
        Ok(if is_there { Step::Shared } else { Step::Copy })
    }

    async fn is_condemned(&self, fact: &BlobFact) -> Result<bool> {
        for name in self.content.blobs.names_of(&fact.location).await? {
            if self.facts.keys.get(&Collectable::Object(name).condemned()).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
