//! The port for content: large, written once, read in ranges.

use std::fmt::Display;
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Result, Tidied, TidyRequest};
use crate::oci::Digest;
use crate::platform::Body;

/// Content on its way in: a small value that only its back end can read. The registry stores the
/// value between requests, so that no server holds state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stage(pub String);

/// The place of committed content: a small value that only its back end can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Location(pub String);

/// An object in a bucket of an S3 server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The URL of the server.
    pub server: String,
    /// The bucket.
    pub bucket: String,
    /// The full name of the object in the bucket.
    pub name: String,
}

/// All objects of one upload: its stages, and the content that is committed from them. The names of
/// these objects begin with the name of the family and a `!`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family(String);

impl Family {
    /// The family with this name, which has no `!`.
    pub fn named(name: impl Display) -> Self {
        Self(format!("{name}!"))
    }

    /// The family of the object with this name. An object whose name has no `!` is in a family of
    /// its own.
    pub fn of(object: &str) -> Self {
        Self(object.split_inclusive('!').next().unwrap_or_default().to_owned())
    }

    /// The common beginning of the names of all objects in the family.
    pub fn prefix(&self) -> &str {
        &self.0
    }
}

/// An object in a store: content, content on its way in, or a remainder of either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The object's name in the store, for [`BlobStore::remove`].
    pub name: String,
    /// The object's size in bytes, where the store knows the size without reading the object.
    pub bytes: Option<u64>,
}

/// A store of content.
///
/// Content is staged by any number of appends and then committed. Each append takes a [`Stage`] and
/// returns a new one. Two appends to one stage make two *forks*. Forks never disturb each other:
/// committing a fork yields exactly the bytes of that fork or an error. `contract` holds the
/// clauses in full.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// Begins new content with no bytes.
    async fn stage(&self) -> Result<Stage>;

    /// Adds the whole of `body` after the bytes of `stage`. Memory is bounded by a constant,
    /// whatever the body's size.
    ///
    /// # Errors
    /// An error in the middle of the body is an error of the append; `stage` is unchanged and can
    /// be appended to again. [`Conflict`](super::Error::Conflict) when the stage can no longer be
    /// found.
    async fn append(&self, stage: &Stage, body: Body) -> Result<Stage>;

    /// The most bytes that one append should bring if its body may break off. A back end with such
    /// a limit keeps nothing of an append whose body ends before its declared length. `None` where
    /// the back end keeps the bytes that arrived.
    fn kept_append_bytes(&self) -> Option<u64> {
        None
    }

    /// Makes the staged bytes readable, under a location that belongs to `digest`. The caller
    /// guarantees that `digest` is the digest of the bytes: the store neither reads nor copies
    /// bytes again. A commit ends the stage and all its forks. A commit that is repeated after a
    /// lost answer gives the location again or [`Conflict`](super::Error::Conflict).
    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location>;

    /// Gives up a stage with all its forks. Giving up an absent stage is no error.
    async fn discard(&self, stage: &Stage) -> Result<()>;

    /// Gives up the result of one append: `stage`, from which no request continues. `before` is the
    /// stage that the append was given, if other requests may still continue from `before`; the
    /// back end can then spare these requests a copy of the bytes. Best effort: a back end that
    /// keeps forks without cost does nothing.
    async fn abandon(&self, stage: &Stage, before: Option<&Stage>) -> Result<()> {
        let _ = (stage, before);
        Ok(())
    }

    /// The bytes of `range`, which must lie within the content. The body's length is exact.
    ///
    /// # Errors
    /// [`Corrupt`](super::Error::Corrupt) when the content is missing or shorter than the range
    /// needs.
    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body>;

    /// The bytes of `range` of a stage, which must lie within the bytes of the stage. The body's
    /// length is exact. `None` where the store can only read committed content.
    ///
    /// # Errors
    /// [`Conflict`](super::Error::Conflict) when the stage can no longer be found, for example
    /// because the stage was committed. The body may fail in the same case.
    async fn read_stage(&self, stage: &Stage, range: Range<u64>) -> Result<Option<Body>> {
        let _ = (stage, range);
        Ok(None)
    }

    /// A URL from which a client can read committed content directly, with any `Range`. `None`
    /// where the store offers no URL.
    async fn redirect(&self, location: &Location) -> Result<Option<String>> {
        let _ = location;
        Ok(None)
    }

    /// The file on this machine that holds exactly the bytes of committed content, and that never
    /// changes. `None` where the content is not a file of its own.
    fn file(&self, location: &Location) -> Option<PathBuf> {
        let _ = location;
        None
    }

    /// The object in a bucket that holds exactly the bytes of committed content, and that never
    /// changes. `None` where the content is not an object of its own.
    fn object(&self, location: &Location) -> Option<Object> {
        let _ = location;
        None
    }

    /// The family of a stage. [`list`](Self::list) shows the objects of the stage under names of
    /// this family, now and after more appends and a commit.
    async fn family(&self, stage: &Stage) -> Result<Family>;

    /// The names under which [`list`](Self::list) shows committed content. No other stage or
    /// content has these names.
    async fn names_of(&self, location: &Location) -> Result<Vec<String>>;

    /// At most `limit` of all objects in the store whose names sort after `after`, in byte order of
    /// the names. Fewer than `limit` objects mean that no more objects follow.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>>;

    /// Asks the store whether it answers, by one read without an effect. The default lists one
    /// object. A store that keeps its content in another store does nothing.
    async fn probe(&self) -> Result<()> {
        self.list(None, 1).await.map(drop)
    }

    /// Removes the object with this name. Removing an absent object is no error. A concurrent
    /// append to the object, or a read of the object, either fails or completes in full.
    ///
    /// # Errors
    /// [`Corrupt`](super::Error::Corrupt) when this object cannot be removed although other objects
    /// can.
    async fn remove(&self, name: &str) -> Result<()>;

    /// Tidies a part of the store: removes leftovers of killed writers, and reports entries that
    /// are not the store's own. The default implementation does nothing.
    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied> {
        let _ = request;
        Ok(Tidied::default())
    }
}
