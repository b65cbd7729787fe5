//! Tags: pointing, deleting, and the reverse index (digest to tag).
//!
//! A push writes the reverse index entry of a tag before the tag, so that the deletion of a
//! manifest finds all tags that point to the manifest. An entry may be stale, so every reader looks
//! at the tag itself. Only the collector removes entries: a push may be writing the same entry.

use std::sync::Arc;

use super::facts::{Facts, TagFact};
use super::guard::{Deadline, TagNote, Window};
use super::layout::Key;
use super::limits::{PUSH_MS_MAX, TAG_TRIES_MAX};
use super::pages::KeyPages;
use super::{Error, Limits, Precondition, Result, layout};
use crate::oci::{Digest, RepositoryName, Tag};
use crate::platform::{Causes, Platform};
use crate::store::{self, When};

/// The tags of all repositories.
#[derive(Clone)]
pub(super) struct Tags {
    pub facts: Facts,
    pub limits: Arc<Limits>,
    pub platform: Arc<dyn Platform>,
}

impl Tags {
    /// The digest that a tag points to; `None` if the tag does not exist.
    pub(super) async fn digest(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<Digest>> {
        let fact: Option<TagFact> = self.facts.load(&layout::tag(repository, tag)).await?;
        Ok(fact.map(|fact| fact.digest))
    }

    /// Points a tag.
    ///
    /// # Errors
    /// [`Error::Busy`] after the deadline.
    pub(super) async fn point(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        fact: &TagFact,
        deadline: Deadline,
        when: When,
    ) -> Result<()> {
        deadline.check(self.platform.now_ms())?;
        self.facts.store(&layout::tag(repository, tag), fact, when).await
    }

    /// Points a tag if the precondition holds for the digest that the tag points to. The change is
    /// a compare-and-swap if the store has conditional writes: of two requests that may each point
    /// only an absent tag, one succeeds.
    pub(super) async fn point_if(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        fact: &TagFact,
        deadline: Deadline,
        precondition: &Precondition,
    ) -> Result<()> {
        if precondition.is_empty() {
            return self.point(repository, tag, fact, deadline, When::Always).await;
        }
        for _ in 0..TAG_TRIES_MAX {
            let found = self.facts.load_version::<TagFact>(&layout::tag(repository, tag)).await?;
            precondition.check(found.as_ref().map(|(current, _, _)| &current.digest))?;
            let when = found.map_or(When::Absent, |(_, _, version)| When::Unchanged(version));
            match self.point(repository, tag, fact, deadline, when).await {
                Err(Error::Store(store::Error::Conflict(_))) => {}
                pointed => return pointed,
            }
        }
        Err(Error::Busy)
    }

    /// Points tags, each tag once, until one fails. Returns the tags that were pointed, or the
    /// error if the first tag fails.
    pub(super) async fn point_all(
        &self,
        repository: &RepositoryName,
        tags: &[Tag],
        fact: &TagFact,
        deadline: Deadline,
    ) -> Result<Vec<Tag>> {
        let mut pointed = Vec::new();
        for tag in tags {
            if pointed.contains(tag) {
                continue;
            }
            match self.point(repository, tag, fact, deadline, When::Always).await {
                Ok(()) => pointed.push(tag.clone()),
                Err(error) if pointed.is_empty() => return Err(error),
                Err(error) => {
                    let (digest, causes) = (&fact.digest, Causes(&error));
                    tracing::error!("a push of {digest} to {repository} did not point all of its tags: {causes}");
                    break;
                }
            }
        }
        Ok(pointed)
    }

    /// Removes a tag.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] when the tag does not exist.
    pub(super) async fn delete(&self, repository: &RepositoryName, tag: &Tag) -> Result<()> {
        let key = layout::tag(repository, tag);
        self.facts.keys.get(&key).await?.ok_or_else(|| Error::ManifestUnknown(tag.to_string()))?;
        Ok(self.facts.keys.delete(&key).await?)
    }

    /// Removes a tag if the precondition holds for the digest that the tag points to. The deletion
    /// is a compare-and-swap where the store has conditional deletes.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] when the tag does not exist, whatever the precondition;
    /// [`Error::PreconditionFailed`]; [`Error::Busy`] when pushes move the tag during each of
    /// `TAG_TRIES_MAX` tries.
    pub(super) async fn delete_if(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        precondition: &Precondition,
    ) -> Result<()> {
        if precondition.is_empty() {
            return self.delete(repository, tag).await;
        }
        let key = layout::tag(repository, tag);
        for _ in 0..TAG_TRIES_MAX {
            let found = self.facts.load_version::<TagFact>(&key).await?;
            let (current, _, version) = found.ok_or_else(|| Error::ManifestUnknown(tag.to_string()))?;
            precondition.check(Some(&current.digest))?;
            match self.facts.keys.delete_unchanged(&key, &version).await {
                Err(store::Error::Conflict(_)) => {}
                Err(store::Error::Unsupported(_)) => return Ok(self.facts.keys.delete(&key).await?),
                deleted => return Ok(deleted?),
            }
        }
        Err(Error::Busy)
    }

    /// Removes the tags that point to a digest.
    pub(super) async fn delete_all_of(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let entries = layout::tags_of(repository, digest);
        let mut pages = KeyPages::new(&*self.facts.keys, entries.clone(), None, self.limits.page_entries_max);
        while let Some(keys) = pages.next().await? {
            for key in &keys {
                let Ok(tag) = entries.rest(key).parse() else { continue };
                // The tag may point to another digest by now.
                if self.digest(repository, &tag).await?.as_ref() == Some(digest) {
                    self.facts.keys.delete(&layout::tag(repository, &tag)).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether a tag points to a digest.
    pub(super) async fn has_any_of(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        let entries = layout::tags_of(repository, digest);
        for key in self.facts.keys.list(&entries, None, self.limits.page_entries_max).await? {
            let Ok(tag) = entries.rest(&key).parse() else { continue };
            if self.digest(repository, &tag).await?.as_ref() == Some(digest) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes reverse index entries for tags that a push is about to point. A round that begins
    /// before the tags exist sees by the entries that the tags will exist. Returns the deadline for
    /// pointing the tags.
    pub(super) async fn announce(&self, reverse_entries: &[Key]) -> Result<Deadline> {
        let since_ms = self.platform.now_ms();
        for entry in reverse_entries {
            self.facts.store(entry, &TagNote::Pending { since_ms }, When::Always).await?;
        }
        Ok(Window::new(since_ms, PUSH_MS_MAX).deadline())
    }

    /// Marks the reverse index entries of tags as done, so that a collection does not wait for the
    /// tags. Best effort: a collection waits only for a limited time.
    pub(super) async fn mark_done(&self, repository: &RepositoryName, digest: &Digest, tags: &[&Tag]) {
        for tag in tags {
            if let Err(error) =
                self.facts.store(&layout::tag_of(repository, digest, tag), &TagNote::Done, When::Always).await
            {
                tracing::warn!("a collection will wait for the tag {tag} of {repository}: {}", Causes(&error));
            }
        }
    }
}
