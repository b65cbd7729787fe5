//! Uploads: sessions that receive a blob, in one request or in many (distribution-spec, "Pushing
//! blobs").
//!
//! A session is one key. Its value holds the stage that the blob store gave, the hasher's state,
//! and the number of bytes received. Any server can therefore take the next chunk, and no byte is
//! hashed or read twice.

#[cfg(all(test, not(target_family = "wasm")))]
mod tests;

use super::appending::Appending;
use super::facts::{BlobFact, Progress, UploadFact};
use super::intake::Intake;
use super::layout::Key;
use super::limits::ADMITTED_UNSEEN_MS;
use super::segments::Segments;
use super::session::{Chunk, Session, SessionId, Status};
use super::{Error, Registry, Result, facts, layout};
use crate::oci::{Algorithm, Digest, Hasher, RepositoryName};
use crate::platform::{Body, Causes};
use crate::store::{self, Location, Stage, When};

/// The result of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mounted {
    /// The repository holds the blob now.
    Blob(Digest),
    /// The blob was not found. The client can upload the blob in this new session.
    Upload(Status),
}

/// A chunk that a store has taken in.
struct Taken {
    /// The state of the session before the chunk.
    start: Progress,
    /// The state of the session after the chunk.
    progress: Progress,
}

impl Taken {
    fn is_nothing(&self) -> bool {
        self.progress.offset == self.start.offset && self.progress.stage == self.start.stage
    }
}

/// Whether the bytes count that arrived of a body that its client breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CutBody {
    /// The bytes stay in the upload, and the client can continue after them.
    Counts,
    /// The bytes are lost: the client does not know the session, and cannot continue.
    IsLost,
}

impl Registry {
    /// Begins an upload whose content is hashed by `algorithm`.
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
        let version = self.keys.put_where_supported(&key, facts::to_line(&key, &fact, &[])?, When::Absent).await?;
        Ok(Session { id, key, fact, version })
    }

    /// Adds a blob to `repository` that is already stored, in the repository `from` or, without
    /// `from`, in any repository. Begins an upload if the blob is not found.
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

    /// The number of bytes that an upload has. The client may continue from there.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when the upload has ended, was cancelled or has expired.
    pub async fn upload_status(&self, repository: &RepositoryName, session: &SessionId) -> Result<Status> {
        let session = self.session(repository, session).await?;
        self.tell(repository, &session).await
    }

    /// How long ago a request last changed an upload, in milliseconds.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when the upload has ended, was cancelled or has expired.
    pub async fn upload_idle_ms(&self, repository: &RepositoryName, id: &SessionId) -> Result<u64> {
        let session = self.session(repository, id).await?;
        Ok(self.platform.now_ms().abs_diff(session.fact.changed_ms))
    }

    /// The bytes of an upload from `start` to the end of its acknowledged state. `None` where the
    /// store can only read committed content.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when the upload has ended or was cancelled, also while the bytes are
    /// looked for; [`Error::SizeInvalid`] when the upload has fewer than `start` bytes.
    pub async fn read_upload(&self, repository: &RepositoryName, id: &SessionId, start: u64) -> Result<Option<Body>> {
        let session = self.session(repository, id).await?;
        if start > session.fact.offset {
            return Err(Error::SizeInvalid(format!("the upload has only {} bytes", session.fact.offset)));
        }
        match self.blobs.read_stage(&session.fact.stage, start..session.fact.offset).await {
            Err(store::Error::Conflict(_)) => Err(Error::UploadUnknown),
            read => Ok(read?),
        }
    }

    /// Adds a chunk to an upload.
    ///
    /// # Errors
    /// [`Error::ChunkOutOfOrder`] when the chunk's range does not begin at the upload's offset,
    /// also because another request was faster; [`Error::Busy`] when too many requests add to the
    /// upload at once. [`Error::UploadInvalid`], [`Error::SizeInvalid`] and [`Error::BodyIdle`]
    /// when the client breaks the body off: the bytes that arrived count, and
    /// [`Registry::upload_status`] says how many. Any other error leaves the upload unchanged.
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

    /// Ends an upload with its last bytes, if `chunk` has any. The content must hash to `digest`.
    /// When the upload does not exist and the repository holds `digest`, the call succeeds and
    /// ignores `chunk`: an earlier request has ended the upload, and its answer was lost.
    ///
    /// # Errors
    /// [`Error::DigestInvalid`] when the content has another digest. The upload then keeps the
    /// state from before this request, unless `digest` is of another algorithm than the upload
    /// began with: then the upload is over. Other errors as in [`Registry::append_upload`].
    pub async fn complete_upload(
        &self,
        repository: &RepositoryName,
        id: &SessionId,
        digest: &Digest,
        chunk: Chunk,
    ) -> Result<()> {
        let completed = async {
            let _place = self.place_at(repository, id)?;
            // An empty body of unknown length ends an upload, and must not be taken for the first
            // chunk.
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
            // An earlier request brought all bytes, and its answer was lost.
            ending
        } else if chunk.is_nothing() {
            self.end_of(&session, digest).await?
        } else {
            let start = self.start_of(repository, &session, chunk.range.as_ref()).await?;
            let hasher = start.hasher_for(digest.algorithm())?;
            let taken = self.take_chunk(repository, &session, start, hasher, chunk, cut_body).await?;
            if let Err(error) = check_digest(&taken.progress, digest) {
                self.abandon(&taken.progress, Some(&taken.start)).await;
                // The digest error counts only if the session has not changed since. This instance
                // may have remembered an outdated state.
                let now = self.session(repository, &session.id).await?;
                return Err(if now.fact.stage == session.fact.stage { error } else { now.overtaken() });
            }
            // Write the state down before the commit, which removes the stage: after a crash in
            // between, another request can repeat the commit. The write also shows whether another
            // request has changed the session.
            let noted = self.write_down(repository, session, &taken.start, &taken.progress, true).await;
            session = self.or_abandon(&taken.progress, noted).await?;
            taken.progress
        };
        let is_other_algorithm = progress.hasher()?.algorithm() != digest.algorithm();
        match self.admit(repository, digest, progress).await {
            // The content was committed so that it could be read and hashed again. The stage is
            // gone, so the upload cannot continue.
            Err(error @ Error::DigestInvalid(_)) if is_other_algorithm => {
                self.end(&session).await?;
                Err(error)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(self.keys.delete(&session.key).await?),
        }
    }

    /// Uploads a whole blob in one request.
    ///
    /// # Errors
    /// As [`Registry::complete_upload`].
    pub async fn push_blob(&self, repository: &RepositoryName, digest: &Digest, body: Body) -> Result<()> {
        // The session tells a collector that the content is about to be referenced.
        let session = self.begin(repository, digest.algorithm()).await?;
        let id = session.id.clone();
        let chunk = Chunk { range: None, body }.peeked().await;
        let completed = self.complete(repository, session, digest, chunk, CutBody::IsLost).await;
        if completed.is_err() {
            // The client does not know the session and cannot continue it, so cancel the session.
            if let Err(error) = self.cancel_upload(repository, &id).await {
                log::warn!("an upload session of {repository} is left behind: {}", Causes(&error));
            }
        }
        match completed {
            // Only this request knows the session, so the error means that the store did a write
            // twice.
            Err(Error::ChunkOutOfOrder { .. } | Error::UploadUnknown) => Err(Error::Busy),
            completed => completed,
        }
    }

    /// Puts content into the blob store and a fact about the content under `key`. An upload session
    /// tells a collector that the content is about to be referenced.
    pub(super) async fn place(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        body: Body,
        size: u64,
        key: &str,
    ) -> Result<()> {
        let session = self.begin(repository, digest.algorithm()).await?;
        // A conflict means that the stage was collected before its session was written. The next
        // try makes another stage.
        let busy = |error| match error {
            store::Error::Conflict(_) => Error::Busy,
            error => error.into(),
        };
        let stage = self.blobs.append(&session.fact.stage, body).await.map_err(busy)?;
        let fact = BlobFact { size, location: self.blobs.commit(&stage, digest).await.map_err(busy)? };
        self.store(key, &fact, When::Always).await?;
        Ok(self.keys.delete(&session.key).await?)
    }

    /// Ends an upload without a blob. Succeeds also when the upload does not exist: the upload has
    /// ended already, and the answer to an earlier cancellation may have been lost.
    pub async fn cancel_upload(&self, repository: &RepositoryName, session: &SessionId) -> Result<()> {
        match self.session(repository, session).await {
            Ok(session) => self.end(&session).await,
            Err(Error::UploadUnknown) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Counts this request among those that add to the upload, until the result is dropped.
    /// [`Error::Busy`] when `APPENDS_AT_ONCE_MAX` other requests do so already.
    fn place_at(&self, repository: &RepositoryName, id: &SessionId) -> Result<Appending> {
        Appending::begin(&self.appending, layout::upload(repository, id.as_str()).into_string()).ok_or(Error::Busy)
    }

    /// Appends a chunk's bytes to the state `start`. When the body breaks off, the bytes that
    /// arrived are noted, and the result is the error.
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
            log::info!("what came of a broken request does not count: {}", Causes(&error));
        }
        Err(cut)
    }

    /// Appends a body to `state`: as a whole, or in segments if the store keeps nothing of an
    /// append that breaks off. Returns the state after the bytes that arrived, and the error if the
    /// body broke off.
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
                // The store has the segments before the one that broke off.
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
            // The client knows the limit of the whole blob, not the rest of the limit that was left
            // here.
            Err(Error::TooLarge { .. }) => return Err(Error::TooLarge { limit_bytes: most }),
            // The store cannot find the stage, or has too many forks of the stage. If the session
            // still exists, the client can try again.
            Err(Error::UploadUnknown) if self.keys.get(&session.key).await?.is_some() => return Err(Error::Busy),
            received => received?,
        };
        let offset = state.offset + received.bytes;
        let next = Progress { stage: received.stage, hasher: received.hasher.state(), offset };
        Ok((next, received.cut))
    }

    /// Passes `noted` on. When another request has advanced the upload, or the upload has ended,
    /// the fork `progress` is of no use and is abandoned.
    async fn or_abandon<T>(&self, progress: &Progress, noted: Result<T>) -> Result<T> {
        if let Err(Error::ChunkOutOfOrder { .. } | Error::UploadUnknown) = noted {
            self.abandon(progress, None).await;
        }
        noted
    }

    /// Discards the bytes that an append brought. Best effort: leftover bytes go with the upload.
    pub(super) async fn abandon(&self, progress: &Progress, before: Option<&Progress>) {
        let before = before.map(|before| &before.stage);
        if let Err(error) = self.blobs.abandon(&progress.stage, before).await {
            log::warn!("the bytes of a request are left behind: {}", Causes(&error));
        }
    }

    /// Makes staged content a blob of `repository`, if the content has the digest `digest`.
    async fn admit(&self, repository: &RepositoryName, digest: &Digest, progress: Progress) -> Result<()> {
        check_digest(&progress, digest)?;
        let size = progress.offset;
        let fact = self.commit(&progress.stage, digest, &progress.hasher()?.finish(), size).await?;
        let (key, content) = (layout::blob(repository, digest), layout::content(digest));
        let committed_ms = self.platform.now_ms();
        // Most content is new, so write the entry without looking it up first.
        match self.keys.put(&content, facts::to_line(&content, &fact, &[])?, When::Absent).await {
            Ok(_) => {
                self.store(&key, &fact, When::Always).await?;
                // The common case needs no further call: two rounds of the collection do not fit
                // into `ADMITTED_UNSEEN_MS`.
                if self.platform.now_ms().abs_diff(committed_ms) <= ADMITTED_UNSEEN_MS {
                    return Ok(());
                }
                return self.look_again(&key, &fact).await;
            }
            Err(store::Error::Conflict(_) | store::Error::Unsupported(_)) => {}
            Err(error) => return Err(error.into()),
        }
        // The content may be known already: keep one copy for all repositories.
        if self.share(&key, &content, Some(size)).await? {
            return self.remove_twin(&key, &fact).await;
        }
        self.store(&content, &fact, When::Always).await?;
        self.store(&key, &fact, When::Always).await?;
        self.look_again(&key, &fact).await
    }

    /// Makes sure that the content under `key` still exists. Since the commit, another request may
    /// have cancelled the upload, and collections may have removed the content.
    async fn look_again(&self, key: &Key, fact: &BlobFact) -> Result<()> {
        if self.share(key, key, Some(fact.size)).await? {
            return Ok(());
        }
        // Another push may already use this entry. Delete the entry only if its content is gone.
        if !self.is_readable(fact).await? && self.load::<BlobFact>(key).await?.as_ref() == Some(fact) {
            self.keys.delete(key).await?;
        }
        Err(Error::Busy)
    }

    /// Removes the content of `twin`, if the fact under `key` refers to another copy of the
    /// content.
    async fn remove_twin(&self, key: &Key, twin: &BlobFact) -> Result<()> {
        let kept: Option<BlobFact> = self.load(key).await?;
        // Keep the content if both facts name one location: another request may have ended the same
        // upload.
        if kept.is_none_or(|kept| kept.location == twin.location) {
            return Ok(());
        }
        for name in self.blobs.names_of(&twin.location).await? {
            self.blobs.remove(&name).await?;
        }
        Ok(())
    }

    /// Whether the content of a fact still exists in the blob store. If not, a push can bring the
    /// content back.
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

    /// Reads the content again to hash it by the algorithm of `digest`, because the client named
    /// that algorithm only at the end, after chunks that were hashed with another. Content is read
    /// again in no other case.
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

/// Compares `digest` with the digest of the bytes so far. A digest of another algorithm passes, as
/// only a second reading of the content can check that digest.
fn check_digest(progress: &Progress, digest: &Digest) -> Result<()> {
    let computed = progress.hasher()?.finish();
    if computed.algorithm() == digest.algorithm() && computed != *digest {
        return Err(Error::DigestInvalid(format!("the content has the digest {computed}, not {digest}")));
    }
    Ok(())
}
