//! Reading and writing the state of uploads.
//!
//! A session is one key, whose value is the *acknowledged* state: the state that the client knows
//! from an answer. When a request breaks off, the store keeps the bytes that arrived, and a second
//! key holds the *arrived* state. The arrived state builds on one acknowledged state and counts as
//! long as the session has that acknowledged state. A broken request, which a server may notice
//! late, therefore never overwrites what a newer request has acknowledged, even in a store without
//! conditional writes. `docs/design/uploads.md` explains the steps.

use std::ops::Range;
use std::sync::Arc;

use super::recent::RecentSessions;
use super::session::{Session, Status};
use crate::oci::{Algorithm, Digest, Hasher, RepositoryName};
use crate::platform::Platform;
use crate::registry::content::Content;
use crate::registry::facts::{self, Facts, Progress, UploadFact};
use crate::registry::limits::SESSION_TRIES_MAX;
use crate::registry::session_id::SessionId;
use crate::registry::{Error, Limits, Result, layout};
use crate::store::{self, When};

/// How a session was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// No other request had changed the session.
    Unchanged,
    /// Another request had changed or removed the session.
    Changed,
    /// The store cannot say whether another request had changed the session.
    Unconditionally,
}

/// The sessions of all uploads.
#[derive(Clone)]
pub(super) struct Sessions {
    pub facts: Facts,
    pub content: Content,
    pub platform: Arc<dyn Platform>,
    pub limits: Arc<Limits>,
    pub recent: RecentSessions,
}

impl Sessions {
    /// Begins a session whose content is hashed by `algorithm`.
    pub(super) async fn begin(&self, repository: &RepositoryName, algorithm: Algorithm) -> Result<Session> {
        let id = SessionId::new(self.platform.uuid());
        let key = layout::upload(repository, id.as_str());
        let now = self.platform.now_ms();
        let fact = UploadFact {
            stage: self.content.blobs.stage().await?,
            hasher: Hasher::new(algorithm).state(),
            offset: 0,
            revision: 0,
            begun_ms: now,
            changed_ms: now,
            ending: None,
            added_to: None,
        };
        let line = facts::to_line(&key, &fact, &[])?;
        let version = self.facts.keys.put_where_supported(&key, line, When::Absent).await?;
        Ok(Session { id, key, fact, version })
    }

    /// The session to add a chunk to. For the chunk that is likely the first, the session may come
    /// from this instance's memory.
    pub(super) async fn for_chunk(
        &self,
        repository: &RepositoryName,
        id: &SessionId,
        is_first: bool,
    ) -> Result<Session> {
        let recent = self.recent.take(&layout::upload(repository, id.as_str()), self.platform.now_ms());
        match recent {
            // A remembered session may be outdated. The conditional write after the chunk detects
            // an outdated session.
            Some(session) if is_first => Ok(session),
            _ => self.get(repository, id).await,
        }
    }

    /// Reads a session.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when the session has ended, was cancelled or has expired.
    pub(super) async fn get(&self, repository: &RepositoryName, id: &SessionId) -> Result<Session> {
        let key = layout::upload(repository, id.as_str());
        let found = self.facts.load_version::<UploadFact>(&key).await?;
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

    /// Whether the store has the session.
    pub(super) async fn exists(&self, session: &Session) -> Result<bool> {
        Ok(self.facts.keys.get(&session.key).await?.is_some())
    }

    /// Removes a session and its content. The key is deleted first: after a crash in between, the
    /// rest is garbage that no request can find.
    pub(super) async fn end(&self, session: &Session) -> Result<()> {
        self.recent.take(&session.key, self.platform.now_ms());
        self.facts.keys.delete(&session.key).await?;
        self.facts.keys.delete(&layout::arrived(&session.key)).await?;
        Ok(self.content.blobs.discard(&session.fact.stage).await?)
    }

    /// Removes a session whose content is a blob now. The deletion is conditional where the store
    /// has conditional deletes: the session that is unchanged has kept the content from every
    /// collection up to now.
    pub(super) async fn close(&self, session: &Session) -> Result<Closed> {
        let closed = match &session.version {
            Some(version) => match self.facts.keys.delete_unchanged(&session.key, version).await {
                Ok(()) => return Ok(Closed::Unchanged),
                Err(store::Error::Conflict(_)) => Closed::Changed,
                Err(store::Error::Unsupported(_)) => Closed::Unconditionally,
                Err(error) => return Err(error.into()),
            },
            None => Closed::Unconditionally,
        };
        self.facts.keys.delete(&session.key).await?;
        Ok(closed)
    }

    /// The fact that a broken request wrote, whether or not the fact still counts.
    async fn arrived_fact(&self, session: &Session) -> Result<Option<UploadFact>> {
        self.facts.load(&layout::arrived(&session.key)).await
    }

    /// The arrived state, if there is a state beyond the acknowledged one: the state that a closing
    /// request was about to commit, or else the state that a broken request wrote.
    async fn arrived(&self, session: &Session) -> Result<Option<Progress>> {
        if session.fact.ending.is_some() {
            return Ok(session.fact.ending.clone());
        }
        let arrived = self.arrived_fact(session).await?;
        let counts = |arrived: &UploadFact| arrived.added_to.as_ref() == Some(&session.fact.stage);
        Ok(arrived.filter(counts).map(|arrived| Progress::of(&arrived)))
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
    pub(super) async fn save(
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
            let line = facts::to_line(&session.key, &session.fact, &[])?;
            match self.facts.keys.put_where_supported(&session.key, line, when).await {
                Err(store::Error::Conflict(_)) => {}
                stored => {
                    session.version = stored?;
                    return Ok(session);
                }
            }
            session = self.get(repository, &session.id).await?;
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

    /// Writes the arrived state `progress`, which a broken request made from the session's state
    /// `start`.
    ///
    /// # Errors
    /// [`Error::ChunkOutOfOrder`] when another request has continued the session from `start`.
    pub(super) async fn save_arrived(
        &self,
        repository: &RepositoryName,
        id: &SessionId,
        start: &Progress,
        progress: &Progress,
    ) -> Result<()> {
        // Read the session again: the request read the session before the body arrived, maybe an
        // hour ago.
        let session = self.get(repository, id).await?;
        let earlier = self.arrived_fact(&session).await?;
        let added_to = Some(session.fact.stage.clone());
        let starts_at_arrived =
            earlier.as_ref().is_some_and(|earlier| earlier.stage == start.stage && earlier.added_to == added_to);
        if session.fact.stage != start.stage && !starts_at_arrived {
            return Err(session.overtaken());
        }
        let Progress { stage, hasher, offset } = progress.clone();
        let changed_ms = self.platform.now_ms();
        let fact = UploadFact { stage, hasher, offset, added_to, changed_ms, ending: None, ..session.fact };
        self.facts.store(&layout::arrived(&session.key), &fact, When::Always).await?;
        // The bytes of an earlier broken request are of no use any more.
        if let Some(earlier) = earlier.filter(|earlier| earlier.stage != start.stage) {
            let before = (earlier.added_to == fact.added_to).then_some(&start.stage);
            self.content.abandon(&earlier.stage, before).await;
        }
        Ok(())
    }

    /// The status to answer a client with. The client may continue from the offset in the answer,
    /// so an arrived state becomes the acknowledged one.
    pub(super) async fn acknowledge(&self, repository: &RepositoryName, session: &Session) -> Result<Status> {
        let Some(arrived) = self.arrived(session).await? else { return Ok(session.status()) };
        let mut acknowledged = session.clone();
        acknowledged.advance(arrived, session.fact.changed_ms);
        let when = session.version.clone().map_or(When::Always, When::Unchanged);
        match self.facts.store(&session.key, &acknowledged.fact, when).await {
            // Another request has changed the session in the meantime. Answer with the newer state.
            Err(Error::Store(store::Error::Conflict(_))) => Ok(self.get(repository, &session.id).await?.status()),
            Err(error) => Err(error),
            Ok(()) => {
                self.facts.keys.delete(&layout::arrived(&session.key)).await?;
                Ok(acknowledged.status())
            }
        }
    }

    async fn out_of_order(&self, repository: &RepositoryName, session: &Session) -> Error {
        match self.acknowledge(repository, session).await {
            Ok(Status { session, offset }) => Error::ChunkOutOfOrder { session, offset },
            Err(error) => error,
        }
    }
}
