//! Marks the manifests that tags keep in use, evicts cached tags, and decides on the entries of the
//! reverse index (digest to tag).

use super::Collector;
use super::candidates::Candidate;
use super::cursor::Phase;
use super::marks::mark_of;
use crate::registry::Result;
use crate::registry::facts::TagFact;
use crate::registry::guard::TagNote;
use crate::registry::layout::{self, Key, Kind};
use crate::registry::limits::PUSH_MS_MAX;

impl Collector<'_> {
    pub(super) async fn tags(&mut self) -> Result<()> {
        let after = self.cursor.after.clone();
        let (mut keys, more) = self.page(&self.keys_of(Kind::Tag)).await?;
        if self.evicts() {
            keys = self.evict_tags(after.as_deref(), keys).await?;
        }
        self.mark_tags(keys).await?;
        if !more {
            self.cursor.enter(Phase::Pushes);
        }
        Ok(())
    }

    /// Marks the manifests to which the tags point, and the tags' entries in the reverse index.
    async fn mark_tags(&mut self, keys: Vec<Key>) -> Result<()> {
        let tags = self.keys_of(Kind::Tag);
        for (key, fact) in self.read_all::<TagFact>(keys).await? {
            let Some((fact, _)) = fact else { continue };
            self.mark_tagged(fact.digest.as_str(), tags.rest(&key)).await?;
        }
        Ok(())
    }

    async fn mark_tagged(&mut self, digest: &str, tag: &str) -> Result<()> {
        let store = self.mark_store();
        self.cursor.sets.kept.mark(&store, [mark_of(digest), layout::reverse_entry(digest, tag)]).await
    }

    /// Keeps the manifests of pushes that are about to set a tag. A push writes the reverse-index
    /// entry before the tag. In a round that begins between the two writes, the manifest must not
    /// count as untagged, nor the entry as an orphan. If the entry says that the push is done, or
    /// is older than `PUSH_MS_MAX`, the tag is read again: the phase `Tags` may have read the tag
    /// too early.
    pub(super) async fn pushes(&mut self) -> Result<()> {
        let (store, entries) = (self.mark_store(), self.keys_of(Kind::Tagged));
        let (keys, more) = self.page(&entries).await?;
        let mut unmarked = Vec::new();
        for key in keys {
            if !self.cursor.sets.kept.has(&store, entries.rest(&key)).await? {
                unmarked.push(key);
            }
        }
        let now_ms = self.collection.platform.now_ms();
        let mut done = Vec::new();
        for (key, note) in self.read_all::<TagNote>(unmarked).await? {
            let (digest, tag) = layout::digest_and_tag(entries.rest(&key));
            if note.is_some_and(|(note, _)| note.is_pending(now_ms)) {
                self.note_due(now_ms + PUSH_MS_MAX);
                self.mark_tagged(digest, tag).await?;
            } else {
                done.push(self.keys_of(Kind::Tag).key(tag));
            }
        }
        if self.is_dry() && self.evicts() {
            // A dry run removes no tag.
            done = self.not_evicted(done).await?;
        }
        self.mark_tags(done).await?;
        if !more {
            let keeps_all = self.cursor.untagged_lifetime_ms.is_none() && !self.evicts();
            self.cursor.enter(if keeps_all { Phase::Manifests } else { Phase::Present });
        }
        Ok(())
    }

    /// Decides on the entries of the reverse index. An entry is an orphan if the tag points to
    /// another digest.
    pub(super) async fn reverse_index(&mut self) -> Result<()> {
        let (store, entries) = (self.mark_store(), self.keys_of(Kind::Tagged));
        let after = self.cursor.after.clone();
        let (keys, more) = self.page(&entries).await?;
        let mut candidates = Vec::new();
        for key in keys {
            let in_use = self.cursor.sets.kept.has(&store, entries.rest(&key)).await?;
            candidates.push(Candidate::key(key, in_use));
        }
        self.collect_leftovers(after, candidates, more, Phase::Referrers).await
    }
}
