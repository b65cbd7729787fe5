//! Uploads: sessions that take a blob in, in one request or many (distribution-spec, "Pushing blobs").
//!
//! A session is a key. It holds the stage that the blob store gave, the hasher's state, and how far the upload is, so that any
//! server can take the next chunk and nothing is hashed or read twice.

#[cfg(all(test, not(target_family = "wasm")))]
mod tests;

use super::appending::Appending;
use super::facts::{BlobFact, Progress, UploadFact};
use super::intake::Intake;
use super::limits::ADMITTED_UNSEEN_MS;
use super::segments::Segments;
use super::session::{Chunk, Session, SessionId, Status};
use super::{Error, Registry, Result, facts, layout};
use crate::oci::{Algorithm, Digest, Hasher, RepositoryName};
use crate::store::{self, Body, Location, Stage, When};

/// What came of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mounted {
    /// The repository holds the blob now.
    Blob(Digest),
    /// It was not found; here is a session to upload it.
    Upload(Status),
}

/// A chunk that a store has taken in.
struct Taken {
    /// The state that the session was in before.
    start: Progress,
    /// The state with the chunk's bytes.
    progress: Progress,
}

impl Taken {
    fn is_nothing(&self) -> bool {
        self.progress.offset == self.start.offset && self.progress.stage == self.start.stage
    }
}

/// What becomes of the bytes of a body that its client breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CutBody {
    /// They stay in the upload, which goes on behind them.
    Counts,
    /// The client knows of no upload that could go on.
    IsLost,
}

impl Registry {
    /// Begins an upload, hashed as `algorithm` says.
    pub async fn begin_upload(&self, repository: &RepositoryName, algorithm: Algorithm) -> Result<Status> {
        let session = self.begin(repository, algorithm).await?;
        let status = session.status();
        self.begun.keep(session);
        Ok(status)
    }

    async fn begin(&self, repository: &RepositoryName, algorithm: Algorithm) -> Result<Session> {
        let id = SessionId::new(self.platform.uuid());
        let key = layout::upload(repository, id.as_str());
        let now = self.platform.now_ms();
        let fact = UploadFact {
            stage: self.blobs.stage().await?,
            hasher: Hasher::new(algorithm).state(),
            offset: 0,
            revision: 0,
            begun_ms: now,
            changed_ms: now,
            ending: None,
            added_to: None,
        };
        let version = self.keys.put_sharpened(&key, facts::to_line(&key, &fact, &[])?, When::Absent).await?;
        Ok(Session { id, key, fact, version })
    }

    /// Puts a blob into `repository` that is stored already, in `from` or anywhere; begins an upload where there is none.
    pub async fn mount_or_begin(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<Mounted> {
        if self.mount(repository, digest, from).await? {
            return Ok(Mounted::Blob(digest.clone()));
        }
        Ok(Mounted::Upload(self.begin_upload(repository, digest.algorithm()).await?))
    }

    /// Where an upload stands.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when it has ended, was cancelled or has expired.
    pub async fn upload_status(&self, repository: &RepositoryName, session: &SessionId) -> Result<Status> {
        let session = self.session(repository, session).await?;
        self.tell(repository, &session).await
    }

    /// Adds a chunk to an upload.
    ///
    /// # Errors
    /// [`Error::ChunkOutOfOrder`] when the chunk's range does not begin where the upload stands, also because another request was
    /// faster; [`Error::Busy`] when too many requests add to the upload at once. [`Error::UploadInvalid`],
    /// [`Error::SizeInvalid`] and [`Error::BodyIdle`] when the client breaks the body off: the bytes that came count, and
    /// [`Registry::upload_status`] tells how many. After any other error the upload stands where it stood.
    pub async fn append_upload(&self, repository: &RepositoryName, id: &SessionId, chunk: Chunk) -> Result<Status> {
        let _place = self.place_at(repository, id)?;
        let session = self.session_for(repository, id, chunk.is_first()).await?;
        let start = self.start_of(repository, &session, chunk.range.as_ref()).await?;
        let hasher = start.hasher()?;
        let taken = self.take_chunk(repository, &session, start, hasher, chunk, CutBody::Counts).await?;
        if taken.is_nothing() {
            // The chunk had no bytes. Another request may have moved the upload.
            return Ok(self.session(repository, id).await?.status());
        }
        let noted = self.write_down(repository, session, &taken.start, &taken.progress, false).await;
        Ok(self.or_abandon(&taken.progress, noted).await?.status())
    }

    /// Ends an upload with its last bytes, if `chunk` has any: the content must hash to `digest`. When the upload is not there
    /// and the repository holds `digest`, the upload has ended well before: its answer was lost, and `chunk` is not looked at.
    ///
    /// # Errors
    /// [`Error::DigestInvalid`] when the content does not; the upload stands where it stood before this request then. Only when
    /// `digest` is of another algorithm than the upload began with is it over. Otherwise as [`Registry::append_upload`].
    pub async fn complete_upload(
        &self,
        repository: &RepositoryName,
        id: &SessionId,
        digest: &Digest,
        chunk: Chunk,
    ) -> Result<()> {
        let completed = async {
            let _place = self.place_at(repository, id)?;
            // An empty body of unknown length ends an upload, and must not be taken for the first chunk.
            let chunk = chunk.peeked().await;
            let session = self.session_for(repository, id, chunk.is_first()).await?;
            self.complete(repository, session, digest, chunk, CutBody::Counts).await
        };
        match completed.await {
            Err(Error::UploadUnknown) if self.holds(repository, digest).await? => Ok(()),
            completed => completed,
        }
    }

    async fn complete(
        &self,
        repository: &RepositoryName,
        mut session: Session,
        digest: &Digest,
        chunk: Chunk,
        cut_body: CutBody,
    ) -> Result<()> {
        let progress = if let Some(ending) = session.fact.ending.take_if(|ending| ending.is(digest).unwrap_or(false)) {
            // An earlier request brought everything, and its answer was lost.
            ending
        } else if chunk.is_nothing() {
            self.end_of(&session, digest).await?
        } else {
            let start = self.start_of(repository, &session, chunk.range.as_ref()).await?;
            let hasher = start.hasher_for(digest.algorithm())?;
            let taken = self.take_chunk(repository, &session, start, hasher, chunk, cut_body).await?;
            if let Err(error) = check_digest(&taken.progress, digest) {
                self.abandon(&taken.progress, Some(&taken.start)).await;
                // The digest is wrong only for the present state of the session. This instance may remember an earlier state.
                let now = self.session(repository, &session.id).await?;
                return Err(if now.fact.stage == session.fact.stage { error } else { now.overtaken() });
            }
            // Written down before the commit, which takes the stage away: a crash in between is made good by another commit. This
            // also shows whether the session is still what it was.
            let noted = self.write_down(repository, session, &taken.start, &taken.progress, true).await;
            session = self.or_abandon(&taken.progress, noted).await?;
            taken.progress
        };
        let is_other_algorithm = progress.hasher()?.algorithm() != digest.algorithm();
        match self.admit(repository, digest, progress).await {
            // The content was committed to be read; there is nothing left to go on with.
            Err(error @ Error::DigestInvalid(_)) if is_other_algorithm => {
                self.end(&session).await?;
                Err(error)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(self.keys.delete(&session.key).await?),
        }
    }

    /// Takes in a whole blob in one request.
    ///
    /// # Errors
    /// As [`Registry::complete_upload`].
    pub async fn push_blob(&self, repository: &RepositoryName, digest: &Digest, body: Body) -> Result<()> {
        // The session is what tells a collector that the content is coming.
        let session = self.begin(repository, digest.algorithm()).await?;
        let id = session.id.clone();
        let chunk = Chunk { range: None, body }.peeked().await;
        let completed = self.complete(repository, session, digest, chunk, CutBody::IsLost).await;
        if completed.is_err() {
            // The client does not know it, so nobody could go on with it.
            if let Err(error) = self.cancel_upload(repository, &id).await {
                log::warn!("an upload session of {repository} is left behind: {error}");
            }
        }
        match completed {
            // It went on by itself: the store did a write twice.
            Err(Error::ChunkOutOfOrder { .. } | Error::UploadUnknown) => Err(Error::Busy),
            completed => completed,
        }
    }

    /// Puts content into the blob store and a fact about it under `key`. The session is what tells a collector that it is coming.
    pub(super) async fn place(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        body: Body,
        size: u64,
        key: &str,
    ) -> Result<()> {
        let session = self.begin(repository, digest.algorithm()).await?;
        // A stage that was collected before its session was written down; the next try makes another one.
        let busy = |error| match error {
            store::Error::Conflict(_) => Error::Busy,
            error => error.into(),
        };
        let stage = self.blobs.append(&session.fact.stage, body).await.map_err(busy)?;
        let fact = BlobFact { size, location: self.blobs.commit(&stage, digest).await.map_err(busy)? };
        self.store(key, &fact, When::Always).await?;
        Ok(self.keys.delete(&session.key).await?)
    }

    /// Ends an upload without a blob. An upload that is not there has ended already: the answer to an earlier cancellation may
    /// have been lost.
    pub async fn cancel_upload(&self, repository: &RepositoryName, session: &SessionId) -> Result<()> {
        match self.session(repository, session).await {
            Ok(session) => self.end(&session).await,
            Err(Error::UploadUnknown) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A place among the requests that add to an upload at once.
    fn place_at(&self, repository: &RepositoryName, id: &SessionId) -> Result<Appending> {
        Appending::begin(&self.appending, layout::upload(repository, id.as_str())).ok_or(Error::Busy)
    }

    /// Adds a chunk's bytes to what the store has at `start`. Of a body that breaks off, what came is noted, and the error stays
    /// an error.
    async fn take_chunk(
        &self,
        repository: &RepositoryName,
        session: &Session,
        start: Progress,
        hasher: Hasher,
        chunk: Chunk,
        cut_body: CutBody,
    ) -> Result<Taken> {
        let Chunk { range, body } = chunk;
        let range_bytes = range.map(|range| range.end - range.start);
        if let (Some(range), Some(length)) = (range_bytes, body.length())
            && range != length
        {
            return Err(Error::SizeInvalid(format!("a body of {length} bytes does not fill a range of {range}")));
        }
        let limit_bytes = self.limits.blob_bytes_max.saturating_sub(start.offset);
        if range_bytes.or(body.length()).is_some_and(|declared| declared > limit_bytes) {
            return Err(Error::TooLarge { limit_bytes: self.limits.blob_bytes_max });
        }
        let state = Progress { hasher: hasher.state(), ..start.clone() };
        let (progress, cut) = self.append(session, state, body, range_bytes, cut_body).await?;
        let Some(cut) = cut else { return Ok(Taken { start, progress }) };
        let noted = self.note_arrived(repository, &session.id, &start, &progress).await;
        if let Err(error) = self.or_abandon(&progress, noted).await {
            log::info!("what came of a broken request does not count: {error}");
        }
        Err(cut)
    }

    /// Appends a body to `state`: at once, or in segments where the store would keep nothing of an append that breaks off. Gives
    /// the state behind the body, or behind what came of the body, and then why the body broke off.
    async fn append(
        &self,
        session: &Session,
        mut state: Progress,
        body: Body,
        range_bytes: Option<u64>,
        cut_body: CutBody,
    ) -> Result<(Progress, Option<Error>)> {
        let segment_bytes = self.blobs.kept_append_bytes().filter(|_| cut_body == CutBody::Counts);
        let mut segments = match Segments::new(body, segment_bytes) {
            Ok(segments) => segments,
            Err(body) => return self.append_segment(session, &state, body, range_bytes, cut_body).await,
        };
        let begun = state.offset;
        while let Some(segment) = segments.next() {
            match self.append_segment(session, &state, segment, None, cut_body).await {
                Ok((next, None)) => state = next,
                // The segments before this one are there.
                Err(cut @ (Error::UploadInvalid(_) | Error::BodyIdle { .. })) if state.offset > begun => {
                    return Ok((state, Some(cut)));
                }
                ended => return ended,
            }
        }
        Ok((state, None))
    }

    async fn append_segment(
        &self,
        session: &Session,
        state: &Progress,
        body: Body,
        range_bytes: Option<u64>,
        cut_body: CutBody,
    ) -> Result<(Progress, Option<Error>)> {
        let most = self.limits.blob_bytes_max;
        let limit_bytes = most.saturating_sub(state.offset);
        let keeps_cut = cut_body == CutBody::Counts;
        let (intake, body) = Intake::new(body, state.hasher()?, range_bytes, limit_bytes, keeps_cut);
        let appended = self.blobs.append(&state.stage, body).await;
        let received = match intake.finish(appended) {
            // The client knows the limit of the whole blob, not what is left of that limit.
            Err(Error::TooLarge { .. }) => return Err(Error::TooLarge { limit_bytes: most }),
            // The store cannot find the stage, or has too many forks of it, and the session may still be there.
            Err(Error::UploadUnknown) if self.keys.get(&session.key).await?.is_some() => return Err(Error::Busy),
            received => received?,
        };
        let offset = state.offset + received.bytes;
        let next = Progress { stage: received.stage, hasher: received.hasher.state(), offset };
        Ok((next, received.cut))
    }

    /// Passes `noted` on. Where another request has gone on, or the upload has ended, nobody needs the fork `progress`.
    async fn or_abandon<T>(&self, progress: &Progress, noted: Result<T>) -> Result<T> {
        if let Err(Error::ChunkOutOfOrder { .. } | Error::UploadUnknown) = noted {
            self.abandon(progress, None).await;
        }
        noted
    }

    /// Gives up the bytes that an append brought. Best effort: what is left goes with the upload.
    pub(super) async fn abandon(&self, progress: &Progress, before: Option<&Progress>) {
        let before = before.map(|before| &before.stage);
        if let Err(error) = self.blobs.abandon(&progress.stage, before).await {
            log::warn!("the bytes of a request are left behind: {error}");
        }
    }

    /// Makes staged content a blob of `repository`, if it is what `digest` says.
    async fn admit(&self, repository: &RepositoryName, digest: &Digest, progress: Progress) -> Result<()> {
        check_digest(&progress, digest)?;
        let size = progress.offset;
        let fact = self.commit(&progress.stage, digest, &progress.hasher()?.finish(), size).await?;
        let (key, content) = (layout::blob(repository, digest), layout::content(digest));
        let committed_ms = self.platform.now_ms();
        // Most content is new, so it is not looked up first.
        match self.keys.put(&content, facts::to_line(&content, &fact, &[])?, When::Absent).await {
            Ok(_) => {
                self.store(&key, &fact, When::Always).await?;
                // The common case costs no further call: two rounds of the collection do not fit into so short a time.
                if self.platform.now_ms().abs_diff(committed_ms) <= ADMITTED_UNSEEN_MS {
                    return Ok(());
                }
                return self.look_again(&key, &fact).await;
            }
            Err(store::Error::Conflict(_) | store::Error::Unsupported(_)) => {}
            Err(error) => return Err(error.into()),
        }
        // The same content is kept once for all repositories.
        if self.share(&key, &content, Some(size)).await? {
            return self.remove_twin(&key, &fact).await;
        }
        self.store(&content, &fact, When::Always).await?;
        self.store(&key, &fact, When::Always).await?;
        self.look_again(&key, &fact).await
    }

    /// Makes sure that the content under `key` is still there. Another request may have cancelled the upload since the commit,
    /// and collections may have removed the content.
    async fn look_again(&self, key: &str, fact: &BlobFact) -> Result<()> {
        if self.share(key, key, Some(fact.size)).await? {
            return Ok(());
        }
        // Another push may already use this entry. Delete it only if its content is gone.
        if !self.is_readable(fact).await? && self.load::<BlobFact>(key).await?.as_ref() == Some(fact) {
            self.keys.delete(key).await?;
        }
        Err(Error::Busy)
    }

    /// Removes content of which the same is kept elsewhere, as the fact under `key` says.
    async fn remove_twin(&self, key: &str, twin: &BlobFact) -> Result<()> {
        let kept: Option<BlobFact> = self.load(key).await?;
        // Another request may have ended the same upload.
        if kept.is_none_or(|kept| kept.location == twin.location) {
            return Ok(());
        }
        for name in self.blobs.names_of(&twin.location).await? {
            self.blobs.remove(&name).await?;
        }
        Ok(())
    }

    /// Whether known content is still where it should be. A push is what can bring it back.
    pub(super) async fn is_readable(&self, fact: &BlobFact) -> Result<bool> {
        if fact.size == 0 {
            return Ok(true);
        }
        let last = match self.blobs.read(&fact.location, fact.size - 1..fact.size).await {
            Ok(mut body) => body.next().await.transpose().map_err(store::Error::from),
            Err(error) => Err(error),
        };
        match last {
            Ok(byte) => Ok(byte.is_some()),
            Err(store::Error::Corrupt(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn commit(&self, stage: &Stage, digest: &Digest, computed: &Digest, size: u64) -> Result<BlobFact> {
        let location = match self.blobs.commit(stage, computed).await {
            Ok(location) => location,
            Err(store::Error::Conflict(_)) => return Err(Error::UploadUnknown),
            Err(error) => return Err(error.into()),
        };
        if computed != digest {
            self.check_other_algorithm(&location, digest, size).await?;
        }
        Ok(BlobFact { size, location })
    }

    /// The client named an algorithm only at the end, after chunks that were hashed with another. It is the one case in which
    /// content is read again.
    async fn check_other_algorithm(&self, location: &Location, digest: &Digest, size: u64) -> Result<()> {
        let mut hasher = Hasher::new(digest.algorithm());
        if size > 0 {
            let mut body = self.blobs.read(location, 0..size).await?;
            while let Some(data) = body.next().await {
                hasher.update(&data.map_err(store::Error::from)?);
            }
        }
        let computed = hasher.finish();
        if computed == *digest {
            return Ok(());
        }
        Err(Error::DigestInvalid(format!("the content has the digest {computed}, not {digest}")))
    }
}

/// Compares a digest with one that was computed by the same algorithm; of another one nothing is known yet.
fn check_digest(progress: &Progress, digest: &Digest) -> Result<()> {
    let computed = progress.hasher()?.finish();
    if computed.algorithm() == digest.algorithm() && computed != *digest {
        return Err(Error::DigestInvalid(format!("the content has the digest {computed}, not {digest}")));
    }
    Ok(())
}
