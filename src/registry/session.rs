//! Upload sessions: where an upload stands, and what a server remembers of it between requests.
//!
//! A session is one key, which has the *acknowledged* state: the one that a client was told. When a request breaks off, the bytes
//! that came are safe in the store as well. A second key says so, with the *arrived* state, which builds on an acknowledged one
//! and counts as long as that is the session's. So a broken request, which a server may notice late, never writes what a newer
//! request has acknowledged, also where the store has no conditions.
//!
//! A chunk without a range comes from a client that knows of the acknowledged state only, so the chunk goes there; a chunk with a
//! range may go on from either. An answer that tells the offset makes the arrived state the acknowledged one.
//!
//! A closing request writes down what it is about to commit, beside the acknowledged state: after a crash in between the stage may be
//! gone, and the commit can be done again. That counts as arrived, too.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::facts::{Progress, UploadFact};
use super::limits::SESSION_TRIES_MAX;
use super::{Error, Registry, Result, layout};
use crate::oci::{Algorithm, Digest, Hasher, RepositoryName};
use crate::store::{self, Body, Version, When};

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
    /// [`Error::UploadUnknown`] for what is no UUID: there can be no such session.
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

/// Where an upload stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The session.
    pub session: SessionId,
    /// How many bytes of the blob have come.
    pub offset: u64,
}

/// Bytes for an upload: a chunk, or a whole blob.
#[derive(Debug)]
pub struct Chunk {
    /// Where in the blob the bytes belong, where the client says so.
    pub range: Option<Range<u64>>,
    /// The bytes.
    pub body: Body,
}

impl Chunk {
    /// Whether it neither brings bytes nor claims a place.
    pub(super) fn is_nothing(&self) -> bool {
        self.range.is_none() && self.body.length() == Some(0)
    }

    /// The same chunk, whose body tells its length if it is empty. Some hosts do not say so before the body is read.
    pub(super) async fn peeked(mut self) -> Self {
        if self.range.is_none() && self.body.length().is_none() {
            self.body = self.body.peeked().await;
        }
        self
    }

    /// Whether it is likely to be what its upload begins with: it says so, or it is a stream, as which clients send whole blobs.
    pub(super) fn is_first(&self) -> bool {
        match &self.range {
            Some(range) => range.start == 0,
            None => self.body.length().is_none(),
        }
    }
}

/// A session as it was written or read.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) key: String,
    pub(super) fact: UploadFact,
    /// `None`: the store has no conditions.
    pub(super) version: Option<Version>,
}

impl Session {
    /// What the client knows of.
    pub(super) fn acknowledged(&self) -> Progress {
        Progress::of(&self.fact)
    }

    pub(super) fn status(&self) -> Status {
        Status { session: self.id.clone(), offset: self.fact.offset }
    }

    /// What a request is told that comes too late.
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
    /// Whether the content has this digest, as far as it was hashed by the digest's algorithm.
    pub(super) fn is(&self, digest: &Digest) -> Result<bool> {
        Ok(self.hasher()?.finish() == *digest)
    }

    fn of(fact: &UploadFact) -> Self {
        Self { stage: fact.stage.clone(), hasher: fact.hasher.clone(), offset: fact.offset }
    }

    pub(super) fn hasher(&self) -> Result<Hasher> {
        let foreign = || store::Error::Corrupt("the hasher of an upload".into());
        Ok(Hasher::resume(&self.hasher).ok_or_else(foreign)?)
    }

    /// The hasher to go on with for a digest of `algorithm`: before the first byte any algorithm will do.
    pub(super) fn hasher_for(&self, algorithm: Algorithm) -> Result<Hasher> {
        if self.offset == 0 { Ok(Hasher::new(algorithm)) } else { self.hasher() }
    }

    /// The same state with the hasher for a digest of `algorithm`.
    fn hashed_by(mut self, algorithm: Algorithm) -> Result<Self> {
        self.hasher = self.hasher_for(algorithm)?.state();
        Ok(self)
    }
}

impl Registry {
    /// The session to add a chunk to, which may be its first.
    pub(super) async fn session_for(
        &self,
        repository: &RepositoryName,
        id: &SessionId,
        is_first: bool,
    ) -> Result<Session> {
        let begun = self.begun.take(&layout::upload(repository, &id.0), self.platform.now_ms());
        match begun {
            // Only what is written down afterwards shows whether the session is still what it was.
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

    /// Ends a session that has expired.
    async fn check_age(&self, session: &Session) -> Result<()> {
        let age_ms = self.platform.now_ms().saturating_sub(session.fact.changed_ms);
        if age_ms <= self.limits.upload_lifetime_ms {
            return Ok(());
        }
        self.end(session).await?;
        Err(Error::UploadUnknown)
    }

    /// Removes a session. The key goes first: what nobody can find is garbage and nothing more.
    pub(super) async fn end(&self, session: &Session) -> Result<()> {
        self.begun.take(&session.key, self.platform.now_ms());
        self.keys.delete(&session.key).await?;
        self.keys.delete(&layout::arrived(&session.key)).await?;
        Ok(self.blobs.discard(&session.fact.stage).await?)
    }

    /// The fact of what a broken request left, whether it counts or not.
    async fn left(&self, session: &Session) -> Result<Option<UploadFact>> {
        self.load(&layout::arrived(&session.key)).await
    }

    /// The arrived state, if there is one beyond what was acknowledged.
    async fn arrived(&self, session: &Session) -> Result<Option<Progress>> {
        if session.fact.ending.is_some() {
            return Ok(session.fact.ending.clone());
        }
        let left = self.left(session).await?;
        Ok(left.filter(|left| left.added_to.as_ref() == Some(&session.fact.stage)).map(|left| Progress::of(&left)))
    }

    /// The state that a chunk goes on from.
    ///
    /// # Errors
    /// [`Error::ChunkOutOfOrder`] when the chunk's range begins at no such state.
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

    /// The state whose content has the digest, to end an upload with; the acknowledged one where no state has.
    pub(super) async fn end_of(&self, session: &Session, digest: &Digest) -> Result<Progress> {
        let acknowledged = session.acknowledged().hashed_by(digest.algorithm())?;
        if acknowledged.is(digest)? {
            return Ok(acknowledged);
        }
        let Some(arrived) = self.arrived(session).await? else { return Ok(acknowledged) };
        let arrived = arrived.hashed_by(digest.algorithm())?;
        Ok(if arrived.is(digest)? { arrived } else { acknowledged })
    }

    /// Writes down that a session stands at `progress`, which a request made of the session's state `start`; or, with `is_ending`,
    /// that the request is about to commit `progress`.
    ///
    /// # Errors
    /// [`Error::ChunkOutOfOrder`] when another request has taken the session on from `start`.
    pub(super) async fn write_down(
        &self,
        repository: &RepositoryName,
        mut session: Session,
        start: &Progress,
        progress: &Progress,
        is_ending: bool,
    ) -> Result<Session> {
        for _ in 0..SESSION_TRIES_MAX {
            // The session may have been collected while the body came.
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
            // The store may have done this very write twice.
            if is_ending && session.fact.ending.as_ref() == Some(progress) {
                return Ok(session);
            }
            // A status that was asked for meanwhile may have made `start` the acknowledged state.
            if session.fact.stage != start.stage {
                return Err(self.out_of_order(repository, &session).await);
            }
        }
        Err(Error::Busy)
    }

    /// Notes what a broken request added to the session's state `start`, if nobody has gone on from there meanwhile.
    pub(super) async fn note_arrived(
        &self,
        repository: &RepositoryName,
        id: &SessionId,
        start: &Progress,
        progress: &Progress,
    ) -> Result<()> {
        // The session that the request began with was read when the body began to come, maybe an hour ago.
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
        // An earlier broken request's bytes are of no use any more.
        if let Some(left) = left.filter(|left| left.stage != start.stage) {
            let before = (left.added_to == fact.added_to).then_some(start);
            self.abandon(&Progress::of(&left), before).await;
        }
        Ok(())
    }

    /// What a client is told of a session's offset. From then on the client may go on from there.
    pub(super) async fn tell(&self, repository: &RepositoryName, session: &Session) -> Result<Status> {
        let Some(arrived) = self.arrived(session).await? else { return Ok(session.status()) };
        let Session { id, key, fact, version } = session;
        let mut told = Session { id: id.clone(), key: key.clone(), fact: fact.clone(), version: version.clone() };
        told.advance(arrived, fact.changed_ms);
        let when = version.clone().map_or(When::Always, When::Unchanged);
        match self.store(key, &told.fact, when).await {
            // Another request was faster, and where the upload stands then is as true.
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
