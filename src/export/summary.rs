//! What an export did.

use super::limits::PROBLEMS_NAMED_MAX;

/// What an export has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The repositories that were looked at.
    pub repositories: u64,
    /// The tags that were looked at.
    pub tags: u64,
    /// The manifests that were looked at.
    pub manifests: u64,
    /// The different blobs that were looked at.
    pub blobs: u64,
    /// The files, links included, that were written.
    pub files_written: u64,
    /// The bytes that were written.
    pub bytes_written: u64,
    /// The blobs that were taken by a hard link.
    pub blobs_linked: u64,
    /// The files that were removed.
    pub files_removed: u64,
    /// How much could not be exported as it should be.
    pub problems: u64,
    /// The first problems, each a sentence.
    pub named_problems: Vec<String>,
}

impl Summary {
    /// Adds a problem, which is a sentence.
    pub(super) fn problem(&mut self, text: String) {
        self.problems += 1;
        if self.named_problems.len() < PROBLEMS_NAMED_MAX {
            self.named_problems.push(text);
        }
    }
}
