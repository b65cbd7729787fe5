//! Where a round stands, between its steps.

use std::collections::HashSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Collector;
use super::marks::{Marks, Shelf};
use super::report::Report;
use crate::registry::{Registry, Result, facts, layout};
use crate::store::{self, When};

/// How many bytes of the names that were in memory lie in one value.
const FRESH_VALUE_BYTES: usize = 256 * 1024;

/// What a round does, in this order: what is of one repository, for each of them; then what is of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    #[default]
    NextRepository,
    /// Removes sessions that have expired.
    Uploads,
    /// Marks what is tagged.
    Tags,
    /// Marks what is about to be tagged.
    Pushes,
    /// Notes which manifests there are.
    Present,
    /// Notes which manifest holds which.
    Graph,
    /// Follows the graph by one edge from what was marked last, where the graph does not fit into memory.
    Follow,
    /// Marks what was reached so.
    Reached,
    /// Judges manifests, and marks everything that those name that stay.
    Manifests,
    /// Judges blobs.
    Blobs,
    /// Finds out which manifests name blobs that are not there.
    Holes,
    Ways,
    Referrers,
    Adopted,
    Large,
    /// Judges the repository itself.
    Repository,
    /// Marks what uploads hold; before anything that an upload may become.
    ContentOfUploads,
    ContentOfManifests,
    ContentOfBlobs,
    /// Judges the keys by which content is found.
    Contents,
    /// Judges what the blob store holds.
    Stored,
    /// Forgets the condemnation of what is no longer there.
    Condemned,
    /// Removes what killed writers left in the key-value store, and finds what is not its own.
    TidyKeys,
    /// The same in the blob store.
    TidyContent,
    /// Lets pushes go on without care, then forgets what they rescued.
    Rescued,
}

/// Where a round stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub phase: Phase,
    /// The repository that is looked at, or was last.
    pub repository: Option<String>,
    /// The last key or name of the phase that was looked at.
    pub after: Option<String>,
    pub grace_ms: u64,
    pub untagged_lifetime_ms: Option<u64>,
    /// Whether something could not be read, so that what is not marked may be in use.
    pub unsure: bool,
    pub report: Report,
    /// How often the graph was followed by one edge.
    pub follows: usize,
    /// How often it was written down; names of another time are never taken for its own.
    saves: u64,
    /// How many values the names in memory fill.
    fresh_values: usize,
    pub sets: Sets,
}

/// What was seen, of one repository at a time but for the last two.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sets {
    /// Which manifests are in use, and which ways to them.
    pub kept: Marks,
    /// Which manifests the repository has.
    pub present: Marks,
    /// Which manifest is in use if which other is.
    pub edges: Marks,
    /// The manifests from which the graph is followed next, and those that were reached.
    pub frontier: Marks,
    pub reached: Marks,
    /// What manifests name that stay; with a `!` behind it what they need as a blob.
    pub named: Marks,
    /// Blobs that are needed and are not there; no more than fit into memory.
    pub missing: Marks,
    /// Digests that repositories hold, as blobs or as large manifests.
    pub content: Marks,
    /// Objects of the blob store that something leads to.
    pub stored: Marks,
}

impl Sets {
    fn all(&self) -> [&Marks; 9] {
        let Self { kept, present, edges, frontier, reached, named, missing, content, stored } = self;
        [kept, present, edges, frontier, reached, named, missing, content, stored]
    }

    fn all_mut(&mut self) -> [&mut Marks; 9] {
        let Self { kept, present, edges, frontier, reached, named, missing, content, stored } = self;
        [kept, present, edges, frontier, reached, named, missing, content, stored]
    }

    fn fresh_text(&self) -> String {
        self.all().map(Marks::fresh_text).join("\0")
    }

    fn restore(&mut self, text: &str) {
        for (set, text) in self.all_mut().into_iter().zip(text.split('\0')) {
            set.restore(text);
        }
    }
}

impl Cursor {
    pub(super) fn new(report: Report, grace_ms: u64, untagged_lifetime_ms: Option<u64>) -> Self {
        Self {
            phase: Phase::default(),
            repository: None,
            after: None,
            grace_ms,
            untagged_lifetime_ms,
            unsure: false,
            report,
            follows: 0,
            saves: 0,
            fresh_values: 0,
            sets: Sets::default(),
        }
    }

    /// Goes on with `phase`, from its beginning.
    pub(super) fn go_on(&mut self, phase: Phase) {
        self.phase = phase;
        self.after = None;
        self.sets.all_mut().into_iter().for_each(Marks::rewind);
    }

    fn fresh_key(&self, number: usize) -> String {
        format!("{}{}!{number:04}", layout::collection_marks(self.report.dry_run), self.saves)
    }
}

impl Registry {
    pub(super) async fn load_cursor(&self, dry_run: bool) -> Result<Option<Cursor>> {
        let key = layout::collection_cursor(dry_run);
        let Some(mut cursor) = self.load::<Cursor>(key).await? else { return Ok(None) };
        let corrupt = || store::Error::Corrupt(format!("the marks of {key}"));
        let mut bytes = Vec::new();
        for number in 0..cursor.fresh_values {
            bytes.extend_from_slice(&self.keys.get(&cursor.fresh_key(number)).await?.ok_or_else(corrupt)?.value);
        }
        cursor.sets.restore(&String::from_utf8(bytes).map_err(|_| corrupt())?);
        Ok(Some(cursor))
    }
}

impl<'a> Collector<'a> {
    /// Where the marks of this round lie.
    pub(super) fn shelf(&self) -> Shelf<'a> {
        Shelf { registry: self.registry, dry_run: self.is_dry(), deadline_ms: self.deadline_ms }
    }

    /// The marks first: a cursor never speaks of marks that are not there.
    pub(super) async fn save_cursor(&mut self) -> Result<()> {
        let cursor = &mut self.cursor;
        let fresh = cursor.sets.fresh_text();
        cursor.saves += 1;
        cursor.fresh_values = fresh.len().div_ceil(FRESH_VALUE_BYTES);
        let cursor = &self.cursor;
        for (number, value) in fresh.as_bytes().chunks(FRESH_VALUE_BYTES).enumerate() {
            self.check_lease()?;
            let value = Bytes::copy_from_slice(value);
            self.registry.keys.put(&cursor.fresh_key(number), value, When::Always).await?;
        }
        let key = layout::collection_cursor(cursor.report.dry_run);
        self.check_lease()?;
        self.registry.keys.put(key, facts::to_line(key, cursor, &[])?, When::Always).await?;
        let mut mine: HashSet<String> = (0..cursor.fresh_values).map(|number| cursor.fresh_key(number)).collect();
        let shelf = self.shelf();
        mine.extend(cursor.sets.all().into_iter().flat_map(|set| set.keys(&shelf)));
        self.forget_marks(&mine).await
    }

    pub(super) async fn forget_cursor(&self) -> Result<()> {
        self.check_lease()?;
        self.registry.keys.delete(layout::collection_cursor(self.cursor.report.dry_run)).await?;
        self.forget_marks(&HashSet::new()).await
    }

    /// Forgets all marks but these, also what a step that was cut off left.
    async fn forget_marks(&self, but: &HashSet<String>) -> Result<()> {
        let prefix = layout::collection_marks(self.cursor.report.dry_run);
        let most = self.registry.limits.page_entries_max;
        let mut after: Option<String> = None;
        loop {
            let keys = self.registry.keys.list(&prefix, after.as_deref(), most).await?;
            for key in keys.iter().filter(|key| !but.contains(*key)) {
                self.check_lease()?;
                self.registry.keys.delete(key).await?;
            }
            if keys.len() < most {
                return Ok(());
            }
            after = keys.last().cloned();
        }
    }
}
