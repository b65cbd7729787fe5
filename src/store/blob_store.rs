//! The port for content: large, written once, read in ranges.

use std::ops::Range;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Body, Result};
use crate::oci::Digest;

/// Content on its way in. A small value that only its back end can read, stored by the registry between requests, so
/// that no server holds state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stage(pub String);

/// Where committed content is. A small value that only its back end can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Location(pub String);

/// A store of content.
///
/// Content is staged by any number of appends, each of which makes a new [`Stage`] of the one it was given, and then
/// committed. Two appends to one stage are two *forks*: they never disturb each other, and committing one yields exactly
/// its bytes or an error. `contract` holds the clauses in full.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// Begins new content with no bytes.
    async fn stage(&self) -> Result<Stage>;

    /// Adds the whole of `body` to what `stage` holds. Memory is bounded by a constant, whatever the body's size.
    ///
    /// # Errors
    /// An error in the middle of the body is an error of the append; `stage` stays as it was and can be appended to
    /// again. [`Conflict`](super::Error::Conflict) when the stage cannot be found any more.
    async fn append(&self, stage: &Stage, body: Body) -> Result<Stage>;

    /// Makes the staged bytes readable, under a location that belongs to `digest`. The caller knows that the digest is theirs:
    /// nothing is read again and nothing is copied. The stage and all its forks are gone afterwards. Doing it again after an
    /// answer was lost gives the location again or [`Conflict`](super::Error::Conflict).
    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location>;

    /// Gives up a stage with all its forks. Giving up one that is not there is no error.
    async fn discard(&self, stage: &Stage) -> Result<()>;

    /// The bytes of `range`, which must lie within the content. The body's length is exact.
    ///
    /// # Errors
    /// [`Corrupt`](super::Error::Corrupt) when the content is not there, or is shorter.
    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body>;

    /// Removes committed content; removing what is not there is no error.
    async fn delete(&self, location: &Location) -> Result<()>;
}
