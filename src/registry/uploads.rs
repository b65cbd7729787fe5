//! Uploads: sessions that take a blob in, in one request or many (distribution-spec, "Pushing blobs").
//!
//! A session is a key. It holds the stage that the blob store gave, the hasher's state, and how far the upload is, so that any
//! server can take the next chunk and nothing is hashed or read twice.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::facts::{BlobFact, UploadFact};
use super::intake::Intake;
use super::{Error, Registry, Result, facts, layout};
use crate::oci::{Algorithm, Digest, Hasher, RepositoryName};
use crate::store::{self, Body, Location, Stage, Version, When};

/// The name of an upload session: a UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionId(String);

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
    fn is_nothing(&self) -> bool {
        self.range.is_none() && self.body.length() == Some(0)
    }

    /// Whether it is likely to be what its upload begins with: it says so, or it is a stream, as which clients send whole blobs.
    fn is_first(&self) -> bool {
        match &self.range {
            Some(range) => range.start == 0,
            None => self.body.length().is_none(),
        }
    }
}

/// What came of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mounted {
    /// The repository holds the blob now.
    Blob(Digest),
    /// It was not found; here is a session to upload it.
    Upload(Status),
}

/// A session as it was written or read.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) key: String,
    pub(super) fact: UploadFact,
    /// `None`: the store has no conditions.
    pub(super) version: Option<Version>,
}

/// Content that a blob store has taken in.
struct Staged {
    stage: Stage,
    hasher: Hasher,
    size: u64,
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
        let id = SessionId(self.platform.uuid());
        let key = layout::upload(repository, &id.0);
        let now = self.platform.now_ms();
        let fact = UploadFact {
            stage: self.blobs.stage().await?,
            hasher: Hasher::new(algorithm).state(),
            offset: 0,
            revision: 0,
            begun_ms: now,
            changed_ms: now,
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
        Ok(session.status())
    }

    /// Adds a chunk to an upload.
    ///
    /// # Errors
    /// [`Error::ChunkOutOfOrder`] when the chunk's range does not begin where the upload stands, also because another request was
    /// faster; [`Error::SizeInvalid`] and [`Error::UploadInvalid`] when the body is not what was declared or breaks off. The upload
    /// stands where it stood then.
    pub async fn append_upload(&self, repository: &RepositoryName, id: &SessionId, chunk: Chunk) -> Result<Status> {
        let session = self.session_for(repository, id, chunk.is_first()).await?;
        let hasher = session.hasher()?;
        let session = self.add_chunk(repository, session, hasher, chunk).await?;
        Ok(session.status())
    }

    /// Ends an upload with its last bytes, if `chunk` has any: the content must hash to `digest`.
    ///
    /// # Errors
    /// [`Error::DigestInvalid`] when it does not; the upload stands behind the last bytes then. Only when `digest` is of another
    /// algorithm than the upload began with is it over. Otherwise as [`Registry::append_upload`].
    pub async fn complete_upload(
        &self,
        repository: &RepositoryName,
        id: &SessionId,
        digest: &Digest,
        chunk: Chunk,
    ) -> Result<()> {
        let session = self.session_for(repository, id, chunk.is_first()).await?;
        self.complete(repository, session, digest, chunk).await
    }

    async fn complete(
        &self,
        repository: &RepositoryName,
        mut session: Session,
        digest: &Digest,
        chunk: Chunk,
    ) -> Result<()> {
        // Before the first byte any algorithm will do.
        let mut hasher = if session.fact.offset == 0 { Hasher::new(digest.algorithm()) } else { session.hasher()? };
        if !chunk.is_nothing() {
            // Written down before anything else: what follows may be cut off, and is then done again from here.
            session = self.add_chunk(repository, session, hasher, chunk).await?;
            hasher = session.hasher()?;
        }
        let is_other_algorithm = hasher.algorithm() != digest.algorithm();
        let staged = Staged { stage: session.fact.stage.clone(), hasher, size: session.fact.offset };
        match self.admit(repository, digest, staged).await {
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
        let completed = self.complete(repository, session, digest, Chunk { range: None, body }).await;
        if completed.is_err() {
            // The client does not know it, so nobody could go on with it.
            match self.cancel_upload(repository, &id).await {
                Ok(()) | Err(Error::UploadUnknown) => {}
                Err(error) => log::warn!("an upload session of {repository} is left behind: {error}"),
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

    /// Ends an upload without a blob.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when there is no such upload.
    pub async fn cancel_upload(&self, repository: &RepositoryName, session: &SessionId) -> Result<()> {
        let session = self.session(repository, session).await?;
        self.end(&session).await
    }

    /// The session to add a chunk to, which may be its first.
    async fn session_for(&self, repository: &RepositoryName, id: &SessionId, is_first: bool) -> Result<Session> {
        let begun = self.begun.take(&layout::upload(repository, &id.0), self.platform.now_ms());
        match begun {
            // Only what is written down afterwards shows whether the session is still what it was.
            Some(session) if is_first => Ok(session),
            _ => self.session(repository, id).await,
        }
    }

    async fn session(&self, repository: &RepositoryName, id: &SessionId) -> Result<Session> {
        let key = layout::upload(repository, &id.0);
        let found = self.load_version::<UploadFact>(&key).await?;
        let (fact, _, version) = found.ok_or(Error::UploadUnknown)?;
        let session = Session { id: id.clone(), key, fact, version: Some(version) };
        if self.is_expired(&session.fact, self.platform.now_ms()) {
            self.end(&session).await?;
            return Err(Error::UploadUnknown);
        }
        Ok(session)
    }

    fn is_expired(&self, fact: &UploadFact, now_ms: u64) -> bool {
        now_ms.saturating_sub(fact.changed_ms) > self.limits.upload_lifetime_ms
    }

    /// Removes a session. The key goes first: what nobody can find is garbage and nothing more.
    async fn end(&self, session: &Session) -> Result<()> {
        self.begun.take(&session.key, self.platform.now_ms());
        self.keys.delete(&session.key).await?;
        Ok(self.blobs.discard(&session.fact.stage).await?)
    }

    /// Adds a chunk to a session and writes down where it stands then.
    async fn add_chunk(
        &self,
        repository: &RepositoryName,
        session: Session,
        hasher: Hasher,
        chunk: Chunk,
    ) -> Result<Session> {
        let offset = session.fact.offset;
        let declared = match &chunk.range {
            Some(range) if range.start != offset => return Err(session.out_of_order()),
            Some(range) => Some(range.end - range.start),
            None => None,
        };
        let staged = self.take_body(&session.fact.stage, hasher, offset, declared, chunk.body).await?;
        let now_ms = self.platform.now_ms();
        if self.is_expired(&session.fact, now_ms) {
            // It may have been collected while the body came.
            self.end(&session).await?;
            return Err(Error::UploadUnknown);
        }
        let fact = UploadFact {
            stage: staged.stage,
            hasher: staged.hasher.state(),
            offset: staged.size,
            revision: session.fact.revision + 1,
            begun_ms: session.fact.begun_ms,
            changed_ms: now_ms,
        };
        if fact.offset == offset && fact.stage == session.fact.stage {
            // Nothing came, nothing has changed; not by us.
            return self.session(repository, &session.id).await;
        }
        let when = session.version.clone().map_or(When::Always, When::Unchanged);
        match self.store(&session.key, &fact, when).await {
            Ok(()) => Ok(Session { fact, ..session }),
            // Another request was faster.
            Err(Error::Store(store::Error::Conflict(_))) => {
                Err(self.session(repository, &session.id).await?.out_of_order())
            }
            Err(error) => Err(error),
        }
    }

    async fn take_body(
        &self,
        stage: &Stage,
        hasher: Hasher,
        offset: u64,
        declared: Option<u64>,
        body: Body,
    ) -> Result<Staged> {
        let declared = match (declared, body.length()) {
            (Some(range), Some(length)) if range != length => {
                return Err(Error::SizeInvalid(format!("a body of {length} bytes does not fill a range of {range}")));
            }
            (declared, length) => declared.or(length),
        };
        let limit_bytes = self.limits.blob_bytes_max.saturating_sub(offset);
        if declared.is_some_and(|declared| declared > limit_bytes) {
            return Err(Error::TooLarge { limit_bytes: self.limits.blob_bytes_max });
        }
        let (intake, body) = Intake::new(body, hasher, declared, limit_bytes);
        let appended = self.blobs.append(stage, body).await;
        let (stage, hasher, received) = intake.finish(appended).map_err(|error| match error {
            // What is left of the limit is none that a client has heard of.
            Error::TooLarge { .. } => Error::TooLarge { limit_bytes: self.limits.blob_bytes_max },
            error => error,
        })?;
        Ok(Staged { stage, hasher, size: offset + received })
    }

    /// Makes staged content a blob of `repository`, if it is what `digest` says.
    async fn admit(&self, repository: &RepositoryName, digest: &Digest, staged: Staged) -> Result<()> {
        let Staged { stage, hasher, size } = staged;
        let computed = hasher.finish();
        if computed.algorithm() == digest.algorithm() && computed != *digest {
            return Err(Error::DigestInvalid(format!("the content has the digest {computed}, not {digest}")));
        }
        let fact = self.commit(&stage, digest, &computed, size).await?;
        let (key, content) = (layout::blob(repository, digest), layout::content(digest));
        // Most content is new, so it is not looked up first.
        match self.keys.put(&content, facts::to_line(&content, &fact, &[])?, When::Absent).await {
            Ok(_) => return self.store(&key, &fact, When::Always).await,
            Err(store::Error::Conflict(_) | store::Error::Unsupported(_)) => {}
            Err(error) => return Err(error.into()),
        }
        // The same content is kept once for all repositories.
        if self.share(&key, &content, Some(size)).await? {
            return self.remove_twin(&key, &fact).await;
        }
        self.store(&content, &fact, When::Always).await?;
        self.store(&key, &fact, When::Always).await?;
        // Another request may have cancelled the session since the commit, and collections may have removed the content.
        if self.share(&key, &key, Some(size)).await? { Ok(()) } else { Err(Error::Busy) }
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

impl Session {
    fn status(&self) -> Status {
        Status { session: self.id.clone(), offset: self.fact.offset }
    }

    fn out_of_order(&self) -> Error {
        Error::ChunkOutOfOrder { session: self.id.clone(), offset: self.fact.offset }
    }

    fn hasher(&self) -> Result<Hasher> {
        let foreign = || store::Error::Corrupt(format!("the hasher of upload {}", self.id));
        Ok(Hasher::resume(&self.fact.hasher).ok_or_else(foreign)?)
    }
}
