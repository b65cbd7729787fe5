//! The saved progress of a round between two steps.

use std::collections::HashSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::marks::{MarkStore, Marks};
use super::report::Report;
use super::{Collection, Collector};
use crate::registry::layout::{self, Key};
use crate::registry::{Result, facts};
use crate::store::{self, When};

/// How many bytes of the names in memory are saved in one value.
const PART_BYTES: usize = 256 * 1024;

/// The phases of a round, in order: first the phases of one repository, repeated for each
/// repository, then the phases for all repositories together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    #[default]
    NextRepository,
    /// Removes upload sessions that have expired.
    Uploads,
    /// Evicts cached tags that nobody pulls, and marks the manifests that other tags point to.
    Tags,
    /// Marks the manifests that pushes are about to tag.
    Pushes,
    /// Notes which manifests the repository has.
    Present,
    /// Notes which manifests each manifest keeps in use (the edges of the graph).
    Graph,
    /// Follows the graph by one edge from the manifests that were marked last. Only for a graph
    /// that does not fit into memory.
    Follow,
    /// Marks the manifests that the phase `Follow` reached.
    Reached,
    /// Decides on manifests, and marks the digests named by the manifests that stay.
    Manifests,
    /// Decides on blobs.
    Blobs,
    /// Reports which manifests name missing blobs.
    MissingBlobs,
    /// Decides on entries of the reverse index.
    ReverseIndex,
    /// Decides on referrer entries.
    Referrers,
    /// Decides on the facts that locate the bytes of large manifests.
    Large,
    /// Decides on the repository itself.
    Repository,
    /// Marks the stages of uploads. Runs before the phases that mark the content of manifests and
    /// blobs, so that an upload which is committed meanwhile is still found.
    ContentOfUploads,
    ContentOfManifests,
    ContentOfBlobs,
    /// Decides on the keys by which content is found (`content/<digest>`).
    Contents,
    /// Decides on the objects of the blob store.
    Objects,
    /// Chooses the cached manifests that the next round evicts because of the size of all.
    Evictable,
    /// Deletes the condemnations of keys that no longer exist.
    Condemned,
    /// Deletes the notes of pulls of manifests that no longer exist.
    Uses,
    /// Removes expired keys of other layers.
    Expired,
    /// Removes the remains of killed writers from the key-value store, and finds files that are
    /// foreign to the store.
    TidyKeys,
    /// Removes the remains of killed writers from the blob store, and finds files that are foreign
    /// to the store.
    TidyContent,
    /// Writes that the round is over, then deletes the protections that are over.
    Protections,
}

/// The progress of a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub phase: Phase,
    /// The repository of the current phase; in later phases the last repository.
    pub repository: Option<String>,
    /// The last key or name that the current phase has looked at.
    pub after: Option<String>,
    pub grace_ms: u64,
    pub untagged_lifetime_ms: Option<u64>,
    /// Which cached manifests the round evicts.
    pub evicting: Evicting,
    /// The manifests that the next round evicts, as far as the phase `Evictable` has chosen: the
    /// size of their blobs in bytes, and the time before which the manifests were last pulled.
    pub evictable_bytes: u64,
    pub evictable_before_ms: u64,
    /// Whether a fact or manifest could not be read: then unmarked content may be in use.
    pub unsure: bool,
    pub report: Report,
    /// How many times the graph was followed by one edge.
    pub follows: usize,
    /// How many families of expiring keys are finished.
    pub expiring: usize,
    /// How many times the cursor was saved. The number is part of the keys of the names in memory,
    /// so that a cursor never loads the names of another save.
    saves: u64,
    /// How many values the names in memory fill in the store.
    saved_parts: usize,
    pub sets: Sets,
}

/// The cached manifests that a round evicts.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Evicting {
    /// Manifests that were last pulled before this time go, in milliseconds since the Unix epoch.
    pub before_ms: u64,
    /// The grace period of keys of mirrored repositories, in milliseconds. The period of other keys
    /// protects pushes and allows for mistakes of clients. Cached content needs no such period,
    /// because the next pull fetches the content again.
    pub grace_ms: u64,
}

/// The marks of the round. All sets but the last three belong to one repository at a time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sets {
    /// The manifests in use, and the reverse-index entries (digest to tag) in use.
    pub kept: Marks,
    /// The manifests that the repository has.
    pub present: Marks,
    /// Pairs of manifests: if the first is in use, so is the second.
    pub edges: Marks,
    /// The manifests from which the graph is followed next. The set `reached` has the manifests
    /// that were found in the meantime.
    pub frontier: Marks,
    pub reached: Marks,
    /// The marks of digests that the remaining manifests name. A `!` after a mark: a manifest needs
    /// the digest as a blob.
    pub named: Marks,
    /// Blobs that manifests need and the repository lacks; at most as many as fit into memory.
    pub missing: Marks,
    /// The blobs that cached manifests name, each with the time of a manifest's last pull
    /// (`eviction.rs`).
    pub pulled: Marks,
    /// The blobs of mirrored repositories, each with the time of the last pull and the size.
    pub cached: Marks,
    /// The digests that repositories hold, as blobs or as large manifests.
    pub content: Marks,
    /// The objects of the blob store that facts refer to.
    pub objects: Marks,
}

impl Sets {
    fn all(&self) -> [&Marks; 11] {
        let Self { kept, present, edges, frontier, reached, named, missing, pulled, cached, content, objects } = self;
        [kept, present, edges, frontier, reached, named, missing, pulled, cached, content, objects]
    }

    fn all_mut(&mut self) -> [&mut Marks; 11] {
        let Self { kept, present, edges, frontier, reached, named, missing, pulled, cached, content, objects } = self;
        [kept, present, edges, frontier, reached, named, missing, pulled, cached, content, objects]
    }

    fn text(&self) -> String {
        self.all().map(Marks::text).join("\0")
    }

    fn restore(&mut self, text: &str) {
        for (set, text) in self.all_mut().into_iter().zip(text.split('\0')) {
            set.restore(text);
        }
    }
}

impl Cursor {
    pub(super) fn new(report: Report, grace_ms: u64, untagged_lifetime_ms: Option<u64>, evicting: Evicting) -> Self {
        Self {
            phase: Phase::default(),
            repository: None,
            after: None,
            grace_ms,
            untagged_lifetime_ms,
            evicting,
            evictable_bytes: 0,
            evictable_before_ms: 0,
            unsure: false,
            report,
            follows: 0,
            expiring: 0,
            saves: 0,
            saved_parts: 0,
            sets: Sets::default(),
        }
    }

    /// Moves to the beginning of `phase`.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.after = None;
        self.sets.all_mut().into_iter().for_each(Marks::rewind);
    }

    /// The key of a part of the names in memory.
    fn part_key(&self, part: usize) -> Key {
        layout::saved_marks(self.report.dry_run, self.saves, part)
    }
}

impl Collection {
    pub(super) async fn load_cursor(&self, dry_run: bool) -> Result<Option<Cursor>> {
        let key = layout::cursor(dry_run);
        let Some(mut cursor) = self.facts.load::<Cursor>(key).await? else { return Ok(None) };
        let corrupt = || store::Error::corrupt(format!("cannot read the marks in key {key}"));
        let mut bytes = Vec::new();
        for number in 0..cursor.saved_parts {
            bytes.extend_from_slice(&self.facts.keys.get(&cursor.part_key(number)).await?.ok_or_else(corrupt)?.value);
        }
        cursor.sets.restore(&String::from_utf8(bytes).map_err(|_| corrupt())?);
        Ok(Some(cursor))
    }
}

impl<'a> Collector<'a> {
    /// Where the marks of the round are stored.
    pub(super) fn mark_store(&self) -> MarkStore<'a> {
        MarkStore { collection: self.collection, dry_run: self.is_dry(), deadline: self.deadline }
    }

    /// Saves the marks and then the cursor, so that a saved cursor never refers to missing marks.
    pub(super) async fn save_cursor(&mut self) -> Result<()> {
        let cursor = &mut self.cursor;
        let names = cursor.sets.text();
        cursor.saves += 1;
        cursor.saved_parts = names.len().div_ceil(PART_BYTES);
        let cursor = &self.cursor;
        for (number, value) in names.as_bytes().chunks(PART_BYTES).enumerate() {
            self.check_lease()?;
            let value = Bytes::copy_from_slice(value);
            self.collection.facts.keys.put(&cursor.part_key(number), value, When::Always).await?;
        }
        let key = layout::cursor(cursor.report.dry_run);
        self.check_lease()?;
        self.collection.facts.keys.put(key, facts::to_line(key, cursor, &[])?, When::Always).await?;
        let mut mine: HashSet<Key> = (0..cursor.saved_parts).map(|number| cursor.part_key(number)).collect();
        let store = self.mark_store();
        mine.extend(cursor.sets.all().into_iter().flat_map(|set| set.keys(&store)));
        self.forget_marks(&mine).await
    }

    pub(super) async fn forget_cursor(&self) -> Result<()> {
        self.check_lease()?;
        self.collection.facts.keys.delete(layout::cursor(self.cursor.report.dry_run)).await?;
        self.forget_marks(&HashSet::new()).await
    }

    /// Deletes all stored marks except `but`, including the marks left by a step that was cut off.
    async fn forget_marks(&self, but: &HashSet<Key>) -> Result<()> {
        let mut pages = self.pages(layout::marks(self.cursor.report.dry_run), None);
        while let Some(keys) = pages.next().await? {
            for key in keys.iter().filter(|key| !but.contains(*key)) {
                self.check_lease()?;
                self.collection.facts.keys.delete(key).await?;
            }
        }
        Ok(())
    }
}
