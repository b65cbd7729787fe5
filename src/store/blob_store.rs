//! The port for content: large, written once, read in ranges.

use std::ops::Range;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Body, Error, Result};
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

/// What a store holds under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name, which only its back end makes.
    pub name: String,
    /// How many bytes it has, where the store knows.
    pub bytes: Option<u64>,
}

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

    /// A URL by which a client can read committed content itself, with any `Range`; `None` where there is none.
    async fn redirect(&self, location: &Location) -> Result<Option<String>> {
        let _ = location;
        Ok(None)
    }

    /// The name under which [`list`](Self::list) shows what a stage holds; content committed from it may have the same.
    fn stage_name(&self, stage: &Stage) -> Result<String> {
        let _ = stage;
        Err(Error::Unsupported("this store does not list what it holds"))
    }

    /// The name under which [`list`](Self::list) shows committed content.
    fn content_name(&self, location: &Location) -> Result<String> {
        let _ = location;
        Err(Error::Unsupported("this store does not list what it holds"))
    }

    /// Everything that the store holds, stages and committed content, in byte order of names, after `after`. Fewer than
    /// `limit` means that there is no more.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>> {
        let _ = (after, limit);
        Err(Error::Unsupported("this store does not list what it holds"))
    }

    /// Removes whatever lies under a name; removing what is not there is no error.
    async fn remove(&self, name: &str) -> Result<()> {
        let _ = name;
        Err(Error::Unsupported("this store does not list what it holds"))
    }

    /// Removes committed content; removing what is not there is no error.
    async fn delete(&self, location: &Location) -> Result<()>;
}
