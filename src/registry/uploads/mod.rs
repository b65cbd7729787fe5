//! Uploads: sessions that receive a blob, in one request or in many (distribution-spec, "Pushing
//! blobs").
//!
//! A session is one key. Its value holds the stage that the blob store gave, the hasher's state,
//! and the number of bytes received. Any server can therefore take the next chunk, and no byte is
//! hashed or read twice. `docs/design/uploads.md` explains the steps.

mod chunk;
mod concurrency;
mod receiving;
mod recent;
mod segments;
mod session;
mod sessions;
#[cfg(all(test, not(target_family = "wasm")))]
mod tests;
mod verified_body;

use std::sync::Arc;

pub use chunk::Chunk;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub(crate) use segments::Segments;
pub use session::Status;

use super::blobs::Blobs;
use super::content::Content;
use super::facts::{BlobFact, Facts, Progress};
use super::session_id::SessionId;
use super::{Error, InvalidSize, Limits, Result, layout};
use crate::oci::{Algorithm, Digest, RepositoryName};
use crate::platform::{Body, Causes, Platform};
use crate::store::{self, When};
use concurrency::{RunningAppend, RunningAppends};
use receiving::{CutBody, Receiver};
use recent::RecentSessions;
use session::Session;
use sessions::{Closed, Sessions};

/// The uploads of all repositories.
#[derive(Clone)]
pub(super) struct Uploads {
    facts: Facts,
    content: Content,
    blobs: Blobs,
    sessions: Sessions,
    receiver: Receiver,
    running_appends: RunningAppends,
}

impl Uploads {
    pub(super) fn new(
        facts: Facts,
        content: Content,
        blobs: Blobs,
        platform: Arc<dyn Platform>,
        limits: Arc<Limits>,
    ) -> Self {
        let recent = RecentSessions::default();
        let (of_facts, of_content) = (facts.clone(), content.clone());
        let sessions = Sessions { facts: of_facts, content: of_content, platform, limits: limits.clone(), recent };
        let receiver = Receiver { content: content.clone(), limits, sessions: sessions.clone() };
        Self { facts, content, blobs, sessions, receiver, running_appends: RunningAppends::default() }
    }

    /// Begins an upload whose content is hashed by `algorithm`.
    pub(super) async fn begin(&self, repository: &RepositoryName, algorithm: Algorithm) -> Result<Status> {
        let session = self.sessions.begin(repository, algorithm).await?;
        let status = session.status();
        self.sessions.recent.remember(session);
        Ok(status)
    }

    /// The number of bytes that an upload has. The client may continue from there.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when the upload has ended, was cancelled or has expired.
    pub(super) async fn status(&self, repository: &RepositoryName, id: &SessionId) -> Result<Status> {
        let session = self.sessions.get(repository, id).await?;
        self.sessions.acknowledge(repository, &session).await
    }

    /// How long before `now_ms` a request last changed an upload. `Registry::upload_idle_ms`
    /// documents the errors.
    pub(super) async fn idle_ms(&self, repository: &RepositoryName, id: &SessionId, now_ms: u64) -> Result<u64> {
        let session = self.sessions.get(repository, id).await?;
        Ok(now_ms.abs_diff(session.fact.changed_ms))
    }

    /// The acknowledged bytes of an upload from `start` on. `Registry::read_upload` documents the
    /// errors.
    pub(super) async fn read(&self, repository: &RepositoryName, id: &SessionId, start: u64) -> Result<Option<Body>> {
        let session = self.sessions.get(repository, id).await?;
        let end = session.fact.offset;
        if start > end {
            return Err(InvalidSize::BeyondUpload { end }.into());
        }
        match self.content.blobs.read_stage(&session.fact.stage, start..end).await {
            Err(store::Error::Conflict(_)) => Err(Error::UploadUnknown),
            read => Ok(read?),
        }
    }

    /// Adds a chunk to an upload. `Registry::append_upload` documents the errors.
    pub(super) async fn append(&self, repository: &RepositoryName, id: &SessionId, chunk: Chunk) -> Result<Status> {
        let _running = self.begin_append(repository, id)?;
        let session = self.sessions.for_chunk(repository, id, chunk.is_first()).await?;
        let start = self.sessions.start_of(repository, &session, chunk.range.as_ref()).await?;
        let hasher = start.hasher()?;
        let received = self.receiver.receive(repository, &session, start, hasher, chunk, CutBody::Keep).await?;
        if received.is_empty() {
            // The chunk had no bytes. Another request may have moved the upload.
            return Ok(self.sessions.get(repository, id).await?.status());
        }
        let saved = self.sessions.save(repository, session, &received.start, &received.progress, false).await;
        Ok(self.receiver.or_abandon(&received.progress, saved).await?.status())
    }

    /// Ends an upload with its last bytes, if `chunk` has any. `Registry::complete_upload`
    /// documents the errors.
    pub(super) async fn complete(
        &self,
        repository: &RepositoryName,
        id: &SessionId,
        digest: &Digest,
        chunk: Chunk,
    ) -> Result<()> {
        let completed = async {
            let _running = self.begin_append(repository, id)?;
            // An empty body of unknown length ends an upload, and must not be taken for the first
            // chunk.
            let chunk = chunk.peeked().await;
            let session = self.sessions.for_chunk(repository, id, chunk.is_first()).await?;
            self.complete_session(repository, session, digest, chunk, CutBody::Keep).await
        };
        match completed.await {
            Err(Error::UploadUnknown) if self.blobs.is_held(repository, digest).await? => Ok(()),
            completed => completed,
        }
    }

    /// Ends an upload with the bytes that the upload has. `Registry::close_upload` documents the
    /// errors.
    pub(super) async fn close(&self, repository: &RepositoryName, id: &SessionId) -> Result<Digest> {
        let _running = self.begin_append(repository, id)?;
        let session = self.sessions.get(repository, id).await?;
        let digest = session.acknowledged().hasher()?.finish();
        self.complete_session(repository, session, &digest, Chunk { range: None, body: Body::empty() }, CutBody::Keep)
            .await?;
        Ok(digest)
    }

    /// Uploads a whole blob in one request. `Registry::complete_upload` documents the errors.
    pub(super) async fn push(&self, repository: &RepositoryName, digest: &Digest, body: Body) -> Result<()> {
        // A collector marks the content of sessions, so the content counts as in use until the blob
        // refers to it.
        let session = self.sessions.begin(repository, digest.algorithm()).await?;
        let id = session.id.clone();
        let chunk = Chunk { range: None, body }.peeked().await;
        let completed = self.complete_session(repository, session, digest, chunk, CutBody::Drop).await;
        if completed.is_err() {
            // The client does not know the session and cannot continue it, so cancel the session.
            if let Err(error) = self.cancel(repository, &id).await {
                tracing::warn!("an upload session of {repository} stays until it expires: {}", Causes(&error));
            }
        }
        match completed {
            // Only this request knows the session, so the error means that the store did a write
            // twice.
            Err(Error::ChunkOutOfOrder { .. } | Error::UploadUnknown) => Err(Error::Busy),
            completed => completed,
        }
    }

    /// Ends an upload without a blob. Succeeds also when the upload does not exist.
    pub(super) async fn cancel(&self, repository: &RepositoryName, id: &SessionId) -> Result<()> {
        match self.sessions.get(repository, id).await {
            Ok(session) => self.sessions.end(&session).await,
            Err(Error::UploadUnknown) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Puts content into the blob store and a fact about the content under `key`. The content
    /// comes in under an upload session, so a collector counts the content as in use.
    pub(super) async fn store_content(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        body: Body,
        size: u64,
        key: &str,
    ) -> Result<()> {
        let session = self.sessions.begin(repository, digest.algorithm()).await?;
        // A conflict means that the stage was collected before its session was written. The next
        // try makes another stage.
        let busy = |error| match error {
            store::Error::Conflict(_) => Error::Busy,
            error => error.into(),
        };
        let blobs = &self.content.blobs;
        let stage = blobs.append(&session.fact.stage, body).await.map_err(busy)?;
        let fact = BlobFact { size, location: blobs.commit(&stage, digest).await.map_err(busy)? };
        self.facts.store(key, &fact, When::Always).await?;
        self.sessions.close(&session).await?;
        Ok(())
    }

    /// Counts this request among those that append to the upload, until the result is dropped.
    ///
    /// # Errors
    /// [`Error::Busy`] when `APPENDS_AT_ONCE_MAX` other requests append to the upload.
    fn begin_append(&self, repository: &RepositoryName, id: &SessionId) -> Result<RunningAppend> {
        self.running_appends.begin(layout::upload(repository, id.as_str())).ok_or(Error::Busy)
    }

    async fn complete_session(
        &self,
        repository: &RepositoryName,
        mut session: Session,
        digest: &Digest,
        chunk: Chunk,
        cut_body: CutBody,
    ) -> Result<()> {
        let progress = if let Some(ending) = session.fact.ending.take_if(|ending| ending.is(digest).unwrap_or(false)) {
            // An earlier request brought all bytes, and its answer was lost.
            ending
        } else if chunk.is_empty() {
            self.sessions.end_of(&session, digest).await?
        } else {
            let progress;
            (session, progress) = self.receive_last(repository, session, digest, chunk, cut_body).await?;
            progress
        };
        let is_other_algorithm = progress.hasher()?.algorithm() != digest.algorithm();
        match self.add_blob(repository, digest, &progress).await {
            // The content was committed so that it could be read and hashed again. The stage is
            // gone, so the upload cannot continue.
            Err(error @ Error::DigestInvalid(_)) if is_other_algorithm => {
                self.sessions.end(&session).await?;
                Err(error)
            }
            Err(error) => Err(error),
            Ok(fact) => match self.sessions.close(&session).await? {
                Closed::Unchanged | Closed::Unconditionally => Ok(()),
                // Another request has cancelled or changed the upload, so collections may have
                // removed the content between the commit and the writes of its facts.
                Closed::Changed => self.blobs.confirm(&layout::blob(repository, digest), &fact).await,
            },
        }
    }

    /// Receives the last bytes of an upload, and writes down the state that is about to be
    /// committed.
    async fn receive_last(
        &self,
        repository: &RepositoryName,
        session: Session,
        digest: &Digest,
        chunk: Chunk,
        cut_body: CutBody,
    ) -> Result<(Session, Progress)> {
        let start = self.sessions.start_of(repository, &session, chunk.range.as_ref()).await?;
        let hasher = start.hasher_for(digest.algorithm())?;
        let received = self.receiver.receive(repository, &session, start, hasher, chunk, cut_body).await?;
        let progress = received.progress;
        if let Err(error) = progress.check_digest(digest) {
            self.content.abandon(&progress.stage, Some(&received.start.stage)).await;
            // The digest error counts only if the session has not changed since. This instance may
            // have remembered an outdated state.
            let now = self.sessions.get(repository, &session.id).await?;
            return Err(if now.fact.stage == session.fact.stage { error } else { now.overtaken() });
        }
        // Write the state down before the commit, which removes the stage: after a crash in
        // between, another request can repeat the commit. The write also shows whether another
        // request has changed the session.
        let saved = self.sessions.save(repository, session, &received.start, &progress, true).await;
        Ok((self.receiver.or_abandon(&progress, saved).await?, progress))
    }

    /// Makes staged content a blob of `repository`, if the content has the digest `digest`.
    async fn add_blob(&self, repository: &RepositoryName, digest: &Digest, progress: &Progress) -> Result<BlobFact> {
        progress.check_digest(digest)?;
        let computed = progress.hasher()?.finish();
        let fact = self.content.commit(&progress.stage, digest, &computed, progress.offset).await?;
        self.blobs.add(repository, digest, &fact).await?;
        Ok(fact)
    }
}
