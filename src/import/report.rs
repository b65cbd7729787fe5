//! What an import did, and what the import could not take.

use super::error::Error;
use super::limits::PROBLEMS_LISTED_MAX;
use crate::oci::Digest;

/// What an import did, or what a dry run would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many repositories were looked at.
    pub repositories: u64,
    /// How many tags were pointed.
    pub tags: u64,
    /// How many tags led to the same manifest before.
    pub tags_here: u64,
    /// How many manifests were stored.
    pub manifests: u64,
    /// How many manifests were here before.
    pub manifests_here: u64,
    /// How many blobs were read from the source.
    pub blobs: u64,
    /// How many blobs were here before: in the repository, or in another one.
    pub blobs_here: u64,
    /// How many bytes of blobs were read from the source, or would be read.
    pub bytes: u64,
    /// How many stored manifests have no tag, are in no index and refer to no other manifest. A
    /// collection removes such manifests.
    pub unnamed: u64,
    /// What could not be taken; at most `PROBLEMS_LISTED_MAX` problems.
    pub problems: Vec<Problem>,
    /// How many problems there were, listed or not.
    pub problems_total: u64,
    /// Why the import ended before its end, if it did. What was stored stays, and another import
    /// goes on from there.
    pub ended: Option<Error>,
}

/// Something that could not be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The image or repository.
    pub name: String,
    /// The reason.
    pub why: String,
}

/// A step of a running import.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The image or repository.
    pub name: &'a str,
    /// What happened.
    pub step: Step<'a>,
}

/// What happened in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step<'a> {
    /// The image is stored under its name.
    Taken,
    /// The image was stored under its name before.
    Here,
    /// The image is not stored, for this reason.
    Failed(&'a str),
    /// This many bytes of a large blob are stored.
    Blob {
        /// The blob.
        digest: &'a Digest,
        /// How many bytes are stored.
        stored: u64,
        /// The size of the blob, in bytes.
        size: u64,
    },
}

impl Report {
    /// Whether everything was taken.
    pub fn is_complete(&self) -> bool {
        self.problems_total == 0 && self.ended.is_none()
    }

    pub(super) fn add_problem(&mut self, name: &str, why: &str) {
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_LISTED_MAX {
            self.problems.push(Problem { name: name.to_owned(), why: why.to_owned() });
        }
    }
}
