//! What a round of the collection found and did.

use serde::{Deserialize, Serialize};

use crate::registry::limits::NAMED_IN_REPORT_MAX;

/// What a round of the collection found and did so far; as JSON the answer of the administrator's endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which round; they are counted from 1.
    pub round: u64,
    /// Whether nothing is changed and removals are only told.
    pub dry_run: bool,
    /// Whether the round is over. If not, the next step goes on with it.
    pub done: bool,
    /// What is being looked at.
    pub phase: String,
    /// How many keys and objects were looked at.
    pub looked_at: u64,
    /// How many repositories.
    pub repositories: u64,
    /// Upload sessions; those that have expired are removed.
    pub uploads: Tally,
    /// Manifests, by repository.
    pub manifests: Tally,
    /// Blobs, by repository.
    pub blobs: Tally,
    /// Keys that lead nowhere, and files and empty folders: left behind by pushes and deletions that were cut off or overtaken.
    pub leftovers: Tally,
    /// What lies in the blob store, stages and content, for all repositories.
    pub content: Tally,
    /// How many bytes the removed content had, where the store knows.
    pub bytes_freed: u64,
    /// When the first of what is condemned may be removed, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due_ms: Option<u64>,
    /// Blobs that a manifest names and its repository does not hold.
    pub holes: Named,
    /// Keys and objects that cannot be read or removed, and paths of what is not the store's own. Nothing that they may lead to is
    /// removed.
    pub unknown: Named,
}

/// How many of a kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// In use.
    pub kept: u64,
    /// Not in use; removed when they are found so again after the grace period.
    pub condemned: u64,
    /// Removed.
    pub removed: u64,
}

/// Things by name, as far as there is room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first: Vec<String>,
}

impl Named {
    pub(super) fn add(&mut self, name: String) {
        self.count += 1;
        if self.first.len() < NAMED_IN_REPORT_MAX {
            self.first.push(name);
        }
    }
}

/// What became of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Kept,
    Condemned,
    Removed,
}

impl Tally {
    pub(super) fn add(&mut self, fate: Fate) {
        match fate {
            Fate::Kept => self.kept += 1,
            Fate::Condemned => self.condemned += 1,
            Fate::Removed => self.removed += 1,
        }
    }
}
