//! Upload sessions: the state of an upload that is kept between requests.
//!
//! A session is one key, whose value is the *acknowledged* state: the state that the client was
//! told. When a request breaks off, the store keeps the bytes that arrived, and a second key holds
//! the *arrived* state. The arrived state builds on one acknowledged state and counts as long as
//! the session has that acknowledged state. A broken request, which a server may notice late,
//! therefore never overwrites what a newer request has acknowledged, even in a store without
//! conditional writes.
//!
//! A chunk without a range continues the acknowledged state, the only state that its client knows.
//! A chunk with a range may continue either state. An answer that tells the offset makes the
//! arrived state the acknowledged one.
//!
//! A closing request writes the state that it is about to commit beside the acknowledged state:
//! after a crash in between, the stage may be gone, and another request can repeat the commit. The
//! state of the closing request counts as arrived, too.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::facts::{Progress, UploadFact};
use super::layout::Key;
use super::limits::SESSION_TRIES_MAX;
use super::{Error, Registry, Result, layout};
use crate::oci::{Algorithm, Digest, Hasher, RepositoryName};
use crate::platform::Body;
use crate::store::{self, Version, When};

/// The name of an upload session: a UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionId(String);

impl SessionId {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = Error;

    /// # Errors
    /// [`Error::UploadUnknown`] when `text` is not a UUID, as every session's name is a UUID.
    fn from_str(text: &str) -> Result<Self> {
        let id = uuid::Uuid::try_parse(text).map_err(|_| Error::UploadUnknown)?;
        Ok(Self(id.to_string()))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The progress of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The name of the upload session.
    pub session: SessionId,
    /// How many bytes of the blob have arrived.
    pub offset: u64,
}

/// Bytes for an upload: a chunk, or a whole blob.
#[derive(Debug)]
pub struct Chunk {
    /// Where in the blob the bytes belong, if the client says so.
    pub range: Option<Range<u64>>,
    /// The bytes.
    pub body: Body,
}

impl Chunk {
    /// Whether the chunk has neither bytes nor a range.
    pub(super) fn is_nothing(&self) -> bool {
        self.range.is_none() && self.body.length() == Some(0)
    }

    /// The same chunk, whose body tells its length if the body is empty. Some hosts do not tell the
    /// length before the body is read.
    pub(super) async fn peeked(mut self) -> Self {
        if self.range.is_none() && self.body.length().is_none() {
            self.body = self.body.peeked().await;
        }
        self
    }

    /// Whether the chunk is likely to be the first of its upload: its range begins at byte 0 or,
    /// without a range, its body has no declared length, as clients send whole blobs.
    pub(super) fn is_first(&self) -> bool {
        match &self.range {
            Some(range) => range.start == 0,
            None => self.body.length().is_none(),
        }
    }
}

/// An upload session as written to the store or read from it.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) key: Key,
    pub(super) fact: UploadFact,
    /// `None` if the store has no conditional writes.
    pub(super) version: Option<Version>,
}

impl Session {
    /// The state that the client was told.
    pub(super) fn acknowledged(&self) -> Progress {
        Progress::of(&self.fact)
    }

    pub(super) fn status(&self) -> Status {
        Status { session: self.id.clone(), offset: self.fact.offset }
    }

    /// The error for a request that comes too late: another request has changed the session.
    pub(super) fn overtaken(&self) -> Error {
        Error::ChunkOutOfOrder { session: self.id.clone(), offset: self.fact.offset }
    }

    fn advance(&mut self, progress: Progress, now_ms: u64) {
        let Progress { stage, hasher, offset } = progress;
        let (revision, begun_ms) = (self.fact.revision + 1, self.fact.begun_ms);
        let (ending, added_to) = (None, None);
        self.fact = UploadFact { stage, hasher, offset, revision, begun_ms, changed_ms: now_ms, ending, added_to };
    }
}

impl Progress {
    /// Whether the content hashed so far has this digest. Always `false` for a digest of another
    /// algorithm than the hasher's.
    pub(super) fn is(&self, digest: &Digest) -> Result<bool> {
        Ok(self.hasher()?.finish() == *digest)
    }

    fn of(fact: &UploadFact) -> Self {
        Self { stage: fact.stage.clone(), hasher: fact.hasher.clone(), offset: fact.offset }
    }

    pub(super) fn hasher(&self) -> Result<Hasher> {
        let foreign = || store::Error::corrupt("cannot read the hasher of an upload");
        Ok(Hasher::resume(&self.hasher).ok_or_else(foreign)?)
    }

    /// The hasher that continues this state. Before the first byte the hasher is of `algorithm`;
    /// afterwards the algorithm cannot change.
    pub(super) fn hasher_for(&self, algorithm: Algorithm) -> Result<Hasher> {
        if self.offset == 0 { Ok(Hasher::new(algorithm)) } else { self.hasher() }
    }

    /// The same state with the hasher of `hasher_for`.
    fn hashed_by(mut self, algorithm: Algorithm) -> Result<Self> {
        self.hasher = self.hasher_for(algorithm)?.state();
        Ok(self)
    }
}

impl Registry {
    /// The session to add a chunk to. For the chunk that is likely the first, the session may come
    /// from this instance's memory.
    pub(super) async fn session_for(
        &self,
        repository: &RepositoryName,
        id: &SessionId,
        is_first: bool,
    ) -> Result<Session> {
        let begun = self.begun.take(&layout::upload(repository, &id.0), self.platform.now_ms());
        match begun {
            // A remembered session may be outdated. The conditional write after the chunk detects
            // an outdated session.
            Some(session) if is_first => Ok(session),
            _ => self.session(repository, id).await,
        }
    }

    /// Reads a session.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when the session has ended, was cancelled or has expired.
    pub(super) async fn session(&self, repository: &RepositoryName, id: &SessionId) -> Result<Session> {
        let key = layout::upload(repository, &id.0);
        let found = self.load_version::<UploadFact>(&key).await?;
        let (fact, _, version) = found.ok_or(Error::UploadUnknown)?;
        let session = Session { id: id.clone(), key, fact, version: Some(version) };
        self.check_age(&session).await?;
        Ok(session)
    }

    /// Ends a session that has expired, and returns [`Error::UploadUnknown`] for it.
    async fn check_age(&self, session: &Session) -> Result<()> {
        let age_ms = self.platform.now_ms().saturating_sub(session.fact.changed_ms);
        if age_ms <= self.limits.upload_lifetime_ms {
            return Ok(());
        }
        self.end(session).await?;
        Err(Error::UploadUnknown)
    }

    /// Removes a session. The key is deleted first: after a crash in between, the rest is garbage
    /// that no request can find.
    pub(super) async fn end(&self, session: &Session) -> Result<()> {
        self.begun.take(&session.key, self.platform.now_ms());
        self.keys.delete(&session.key).await?;
        self.keys.delete(&layout::arrived(&session.key)).await?;
        Ok(self.blobs.discard(&session.fact.stage).await?)
    }

    /// The fact that a broken request left, whether or not the fact still counts.
    async fn left(&self, session: &Session) -> Result<Option<UploadFact>> {
        self.load(&layout::arrived(&session.key)).await
    }

    /// The arrived state, if there is a state beyond the acknowledged one: the state that a closing
    /// request was about to commit, or else the state that a broken request left.
    async fn arrived(&self, session: &Session) -> Result<Option<Progress>> {
        if session.fact.ending.is_some() {
            return Ok(session.fact.ending.clone());
        }
        let left = self.left(session).await?;
        Ok(left.filter(|left| left.added_to.as_ref() == Some(&session.fact.stage)).map(|left| Progress::of(&left)))
    }

    /// The state that a chunk continues.
    ///
    /// # Errors
    /// [`Error::ChunkOutOfOrder`] when the chunk's range begins at the offset of neither state.
    pub(super) async fn start_of(
        &self,
        repository: &RepositoryName,
        session: &Session,
        range: Option<&Range<u64>>,
    ) -> Result<Progress> {
        let acknowledged = session.acknowledged();
        match range {
            Some(range) if range.start != acknowledged.offset => match self.arrived(session).await? {
                Some(arrived) if arrived.offset == range.start => Ok(arrived),
                _ => Err(self.out_of_order(repository, session).await),
            },
            _ => Ok(acknowledged),
        }
    }

    /// The state to end an upload with: the state whose content has the digest, or else the
    /// acknowledged state.
    pub(super) async fn end_of(&self, session: &Session, digest: &Digest) -> Result<Progress> {
        let acknowledged = session.acknowledged().hashed_by(digest.algorithm())?;
        if acknowledged.is(digest)? {
            return Ok(acknowledged);
        }
        let Some(arrived) = self.arrived(session).await? else { return Ok(acknowledged) };
        let arrived = arrived.hashed_by(digest.algorithm())?;
        Ok(if arrived.is(digest)? { arrived } else { acknowledged })
    }

    /// Writes that a session is at `progress`, which a request made from the session's state
    /// `start`. With `is_ending`, writes instead that the request is about to commit `progress`.
    ///
    /// # Errors
    /// [`Error::ChunkOutOfOrder`] when another request has continued the session from `start`;
    /// [`Error::Busy`] when the session changes during each of `SESSION_TRIES_MAX` tries.
    pub(super) async fn write_down(
        &self,
        repository: &RepositoryName,
        mut session: Session,
        start: &Progress,
        progress: &Progress,
        is_ending: bool,
    ) -> Result<Session> {
        for _ in 0..SESSION_TRIES_MAX {
            // The session may have expired while the body arrived.
            self.check_age(&session).await?;
            let state = if is_ending { session.acknowledged() } else { progress.clone() };
            session.advance(state, self.platform.now_ms());
            session.fact.ending = is_ending.then(|| progress.clone());
            let when = session.version.clone().map_or(When::Always, When::Unchanged);
            match self.store(&session.key, &session.fact, when).await {
                Err(Error::Store(store::Error::Conflict(_))) => {}
                stored => return stored.map(|()| session),
            }
            session = self.session(repository, &session.id).await?;
            // The store may have done this write twice, so that the second one met a conflict with
            // the first.
            if is_ending && session.fact.ending.as_ref() == Some(progress) {
                return Ok(session);
            }
            // Try again if `start` is the acknowledged state: a status request may have made it so
            // in the meantime.
            if session.fact.stage != start.stage {
                return Err(self.out_of_order(repository, &session).await);
            }
        }
        Err(Error::Busy)
    }

    /// Notes what a broken request added to the session's state `start`, unless another request has
    /// continued the session from `start` in the meantime.
    pub(super) async fn note_arrived(
        &self,
        repository: &RepositoryName,
        id: &SessionId,
        start: &Progress,
        progress: &Progress,
    ) -> Result<()> {
        // Read the session again: the request read the session before the body arrived, maybe an
        // hour ago.
        let session = self.session(repository, id).await?;
        let left = self.left(&session).await?;
        let added_to = Some(session.fact.stage.clone());
        let starts_at_arrived =
            left.as_ref().is_some_and(|left| left.stage == start.stage && left.added_to == added_to);
        if session.fact.stage != start.stage && !starts_at_arrived {
            return Err(session.overtaken());
        }
        let Progress { stage, hasher, offset } = progress.clone();
        let changed_ms = self.platform.now_ms();
        let fact = UploadFact { stage, hasher, offset, added_to, changed_ms, ending: None, ..session.fact };
        self.store(&layout::arrived(&session.key), &fact, When::Always).await?;
        // The bytes of an earlier broken request are of no use any more.
        if let Some(left) = left.filter(|left| left.stage != start.stage) {
            let before = (left.added_to == fact.added_to).then_some(start);
            self.abandon(&Progress::of(&left), before).await;
        }
        Ok(())
    }

    /// The status to tell a client. The client may continue from the told offset, so an arrived
    /// state becomes the acknowledged one.
    pub(super) async fn tell(&self, repository: &RepositoryName, session: &Session) -> Result<Status> {
        let Some(arrived) = self.arrived(session).await? else { return Ok(session.status()) };
        let Session { id, key, fact, version } = session;
        let mut told = Session { id: id.clone(), key: key.clone(), fact: fact.clone(), version: version.clone() };
        told.advance(arrived, fact.changed_ms);
        let when = version.clone().map_or(When::Always, When::Unchanged);
        match self.store(key, &told.fact, when).await {
            // Another request has changed the session in the meantime. Tell the client the newer
            // state.
            Err(Error::Store(store::Error::Conflict(_))) => Ok(self.session(repository, id).await?.status()),
            Err(error) => Err(error),
            Ok(()) => {
                self.keys.delete(&layout::arrived(key)).await?;
                Ok(told.status())
            }
        }
    }

    pub(super) async fn out_of_order(&self, repository: &RepositoryName, session: &Session) -> Error {
        match self.tell(repository, session).await {
            Ok(Status { session, offset }) => Error::ChunkOutOfOrder { session, offset },
            Err(error) => error,
        }
    }
}
