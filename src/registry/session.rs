//! Upload sessions: where an upload stands, and what a server remembers of it between requests.
//!
//! A session is one key. Its fact has the *acknowledged* state, which a client was told, and sometimes an *arrived* state
//! beyond it: bytes of a request that broke off, or whose answer the client may never see. Both are safe in the store. A chunk
//! without a range comes from a client that knows of the acknowledged state only, so that state is where such a chunk goes;
//! a chunk with a range may go on from either. An answer that tells the offset makes the arrived state the acknowledged one.

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

/// What a change of a session makes of the bytes that a request brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The client is about to be told of them.
    Acknowledged,
    /// The client may never hear of them.
    Arrived,
}

impl Session {
    /// What the client knows of.
    pub(super) fn acknowledged(&self) -> Progress {
        let UploadFact { stage, hasher, offset, .. } = self.fact.clone();
        Progress { stage, hasher, offset }
    }

    /// Everything that is safe in the store.
    pub(super) fn arrived(&self) -> Progress {
        self.fact.arrived.clone().unwrap_or_else(|| self.acknowledged())
    }

    pub(super) fn status(&self) -> Status {
        Status { session: self.id.clone(), offset: self.arrived().offset }
    }

    /// The state that a chunk goes on from; `None` when the chunk is out of order.
    pub(super) fn start_of(&self, chunk: &Chunk) -> Option<Progress> {
        match &chunk.range {
            None => Some(self.acknowledged()),
            Some(range) => [self.arrived(), self.acknowledged()].into_iter().find(|state| state.offset == range.start),
        }
    }

    /// Whether `start` is still one of the states that a chunk may go on from.
    pub(super) fn has(&self, start: &Progress) -> bool {
        [self.arrived(), self.acknowledged()].iter().any(|state| state.stage == start.stage)
    }

    /// The state whose content has this digest; where no digest of the same algorithm is known or right, everything that has
    /// arrived.
    pub(super) fn best_for(&self, digest: &Digest) -> Result<Progress> {
        let [mut acknowledged, mut arrived] = [self.acknowledged(), self.arrived()];
        for state in [&mut acknowledged, &mut arrived] {
            state.hasher = state.hasher_for(digest.algorithm())?.state();
        }
        let is_it = acknowledged.hasher()?.finish() == *digest;
        Ok(if is_it { acknowledged } else { arrived })
    }

    /// What a request is told that comes too late.
    pub(super) fn overtaken(&self) -> Error {
        let Status { session, offset } = self.status();
        Error::ChunkOutOfOrder { session, offset }
    }

    fn advance(&mut self, progress: Progress, told: Told, now_ms: u64) {
        match told {
            Told::Acknowledged => {
                let Progress { stage, hasher, offset } = progress;
                self.fact = UploadFact { stage, hasher, offset, arrived: None, ..self.fact.clone() };
            }
            Told::Arrived => self.fact.arrived = Some(progress),
        }
        self.fact.revision += 1;
        self.fact.changed_ms = now_ms;
    }
}

impl Progress {
    /// The hasher to go on with for a digest of `algorithm`: before the first byte any algorithm will do.
    pub(super) fn hasher_for(&self, algorithm: Algorithm) -> Result<Hasher> {
        if self.offset == 0 { Ok(Hasher::new(algorithm)) } else { self.hasher() }
    }

    pub(super) fn hasher(&self) -> Result<Hasher> {
        let foreign = || store::Error::Corrupt("the hasher of an upload".into());
        Ok(Hasher::resume(&self.hasher).ok_or_else(foreign)?)
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
        Ok(self.blobs.discard(&session.fact.stage).await?)
    }

    /// Writes down that a session stands at `progress`, which a request made of the session's state `start`.
    ///
    /// # Errors
    /// [`Error::ChunkOutOfOrder`] when another request has taken the session on from `start`.
    pub(super) async fn write_down(
        &self,
        repository: &RepositoryName,
        mut session: Session,
        start: &Progress,
        progress: &Progress,
        told: Told,
    ) -> Result<Session> {
        for _ in 0..SESSION_TRIES_MAX {
            // The session may have been collected while the body came.
            self.check_age(&session).await?;
            let (acknowledged, replaced) = (session.acknowledged(), session.fact.arrived.clone());
            session.advance(progress.clone(), told, self.platform.now_ms());
            let when = session.version.clone().map_or(When::Always, When::Unchanged);
            match self.store(&session.key, &session.fact, when).await {
                Err(Error::Store(store::Error::Conflict(_))) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    if let Some(replaced) = replaced.filter(|replaced| replaced.stage != start.stage) {
                        let before = (told == Told::Arrived).then_some(&acknowledged);
                        self.abandon(&replaced, before).await;
                    }
                    return Ok(session);
                }
            }
            // A request that broke off beside this one changes the session and leaves `start` as it was.
            session = self.session(repository, &session.id).await?;
            // The store may have done this write twice, or another request may have brought the same bytes.
            if told == Told::Arrived && session.arrived().stage == progress.stage {
                return Ok(session);
            }
            if !session.has(start) {
                return Err(self.out_of_order(repository, session).await);
            }
        }
        Err(Error::Busy)
    }

    /// What a client is told of a session's offset. From then on the client may go on from there.
    pub(super) async fn tell(&self, repository: &RepositoryName, mut session: Session) -> Result<Status> {
        for _ in 0..SESSION_TRIES_MAX {
            let Some(arrived) = session.fact.arrived.clone() else { break };
            session.advance(arrived, Told::Acknowledged, session.fact.changed_ms);
            let when = session.version.clone().map_or(When::Always, When::Unchanged);
            match self.store(&session.key, &session.fact, when).await {
                Err(Error::Store(store::Error::Conflict(_))) => {
                    session = self.session(repository, &session.id).await?;
                }
                stored => stored?,
            }
        }
        Ok(session.status())
    }

    pub(super) async fn out_of_order(&self, repository: &RepositoryName, session: Session) -> Error {
        match self.tell(repository, session).await {
            Ok(Status { session, offset }) => Error::ChunkOutOfOrder { session, offset },
            Err(error) => error,
        }
    }
}
