//! The report of a round of garbage collection.

use serde::{Deserialize, Serialize};

use crate::registry::limits::NAMED_IN_REPORT_MAX;

/// The findings and removals of a round so far. The administrator's endpoint answers with the
/// report as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// The number of the round, counted from 1.
    pub round: u64,
    /// Whether the round is a dry run, which reports removals but changes nothing.
    pub dry_run: bool,
    /// Whether the round is over. If not, the next step continues the round.
    pub done: bool,
    /// The current phase and, where it has one, the repository; `done` at the end.
    pub phase: String,
    /// How many keys and objects the round has looked at.
    pub looked_at: u64,
    /// How many repositories the round has looked at.
    pub repositories: u64,
    /// Upload sessions. Expired sessions are removed.
    pub uploads: Tally,
    /// Manifests, counted once for each repository.
    pub manifests: Tally,
    /// Blobs, counted once for each repository.
    pub blobs: Tally,
    /// Tags of mirrored repositories. Tags that nobody pulls are removed.
    #[serde(default)]
    pub cached_tags: Tally,
    /// The size of the blobs that cached manifests keep, in bytes. Counted only if the setting
    /// `mirror_bytes_max` sets a limit.
    #[serde(default)]
    pub cached_bytes: u64,
    /// Dangling keys, unused files and empty folders, left behind by pushes and deletions that were
    /// cut off or overtaken.
    pub leftovers: Tally,
    /// Objects of the blob store (stages and content), for all repositories.
    pub content: Tally,
    /// The size of the removed content in bytes, as far as the store knows sizes.
    pub bytes_freed: u64,
    /// When the first condemned key or object may be removed, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due_ms: Option<u64>,
    /// Missing blobs: a manifest names the blob, but its repository does not hold the blob.
    pub missing_blobs: Named,
    /// Keys and objects that cannot be read or removed, and paths of files that are foreign to the
    /// store. Anything that an unreadable key may refer to is kept.
    pub unknown: Named,
}

/// Counts of one kind of keys or objects, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tally {
    /// How many are in use.
    pub kept: u64,
    /// How many are unused and stay for now. A later round that finds the same keys or objects
    /// unused after the grace period removes them.
    pub condemned: u64,
    /// How many were removed.
    pub removed: u64,
}

/// A count, and the names of the first 100 that were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Named {
    /// How many were found.
    pub count: u64,
    /// The names of the first 100.
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

/// The outcome for one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Kept,
    Condemned,
    Removed,
}

impl Tally {
    pub(super) fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Kept => self.kept += 1,
            Outcome::Condemned => self.condemned += 1,
            Outcome::Removed => self.removed += 1,
        }
    }
}
