//! All bounds of an export.

use super::error::{Error, Result};

/// The most problems that a summary names. Further problems are counted.
pub(super) const PROBLEMS_NAMED_MAX: usize = 100;
/// The most names that an export keeps in memory for each purpose: manifests, subjects and tags of
/// one repository, content of all repositories. A name takes less than 200 bytes.
pub(super) const NAMES_MAX: usize = 10_000_000;
/// How many folders of a bucket are kept listed in memory: those of one repository, and those that
/// all repositories share.
pub(super) const FOLDERS_LISTED_MAX: usize = 8;
/// The largest list that an export writes, in bytes: the tags of a repository, the referrers of a
/// manifest, the index of an OCI layout, or the catalog. A list is put together in memory.
pub(super) const LIST_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Fails when there are more than [`NAMES_MAX`] names of this kind.
pub(super) fn limit(count: usize, what: &'static str, repository: impl ToString) -> Result<()> {
    if count > NAMES_MAX { Err(Error::TooMany { what, repository: repository.to_string() }) } else { Ok(()) }
}
