//! The port for content: large, written once, read in ranges.

use std::ops::Range;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Body, Result, Tidied, TidyRequest};
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

/// Something that a store holds: content, content on its way in, or what is left of either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name in the store, for [`BlobStore::remove`].
    pub name: String,
    /// How many bytes it has, where the store can tell without reading it.
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

    /// How many bytes an append should bring at most, where its body may break off: the back end keeps nothing of an append whose
    /// body ends before the length that it told. `None` where what came is kept.
    fn kept_append_bytes(&self) -> Option<u64> {
        None
    }

    /// Makes the staged bytes readable, under a location that belongs to `digest`. The caller knows that the digest is theirs:
    /// nothing is read again and nothing is copied. The stage and all its forks are gone afterwards. Doing it again after an
    /// answer was lost gives the location again or [`Conflict`](super::Error::Conflict).
    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location>;

    /// Gives up a stage with all its forks. Giving up one that is not there is no error.
    async fn discard(&self, stage: &Stage) -> Result<()>;

    /// Gives up what one append made: `stage`, which nobody goes on with. `before` is the stage that the append was given, where
    /// others may still go on with that one; the back end need not copy its bytes for them then. Best effort: a back end that
    /// keeps forks without cost does nothing.
    async fn abandon(&self, stage: &Stage, before: Option<&Stage>) -> Result<()> {
        let _ = (stage, before);
        Ok(())
    }

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

    /// The names under which [`list`](Self::list) shows what a stage holds, now and after more appends and a commit. One
    /// that ends in `!` stands for all names that begin with it.
    async fn names_of_stage(&self, stage: &Stage) -> Result<Vec<String>>;

    /// The names under which [`list`](Self::list) shows committed content. No other stage or content has them.
    async fn names_of(&self, location: &Location) -> Result<Vec<String>>;

    /// At most `limit` of all that the store holds, whose names sort after `after`, in byte order of the names. Fewer than `limit`
    /// means that there is no more.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>>;

    /// Removes what has this name; removing what is not there is no error. What is being appended to it or read from it fails or is
    /// whole.
    ///
    /// # Errors
    /// [`Corrupt`](super::Error::Corrupt) when this object cannot be removed, and others can.
    async fn remove(&self, name: &str) -> Result<()>;

    /// Removes what writers left behind when they were killed, and names what is not the store's own, for a part of the store.
    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied> {
        let _ = request;
        Ok(Tidied::default())
    }
}
