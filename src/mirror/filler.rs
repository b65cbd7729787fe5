//! The fill of one blob: bytes go from the upstream to a reader and, in pieces, into an upload
//! session of the registry.
//!
//! Every piece is acknowledged by the session, so a kill loses at most one piece, and the next fill
//! continues after the acknowledged bytes (`begin`). Bytes are given to the reader one read late:
//! the last bytes are given only when the registry has taken the blob, which proves the digest. A
//! wrong blob therefore never looks complete to a client.
//!
//! When the session is lost, because another fill was faster or the store is full, the reader still
//! gets the blob. The filler then checks the digest itself.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::facts::{self, FillFact};
use super::{MirroredRepository, Result};
use crate::oci::{Digest, Hasher};
use crate::platform::{Body, BodyError};
use crate::registry::{self, Chunk, SessionId};
use crate::upstream::{BlobPart, Kind};

/// The most bytes that are gathered before the bytes are acknowledged in the session.
pub(super) const PIECE_BYTES: usize = 4 * 1024 * 1024;
/// How long bytes are gathered before the bytes are acknowledged, in milliseconds. Other instances
/// see by the session that the fill is alive.
const PIECE_MS: u64 = 1000;
/// How long a session may stay unchanged before another request continues the fill, in
/// milliseconds.
const ALIVE_MS: u64 = 3 * PIECE_MS;
/// How long a request waits between two looks at the session of another fill.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How often a request looks at the session of another fill. On a platform that cannot wait the
/// looks follow each other at once, and the request leaves the session to the other fill.
const LOOKS_MAX: u64 = ALIVE_MS / 250 + 1;
/// How often a fill continues by another request after the upstream broke off.
const RECONNECTS_MAX: u32 = 2;

/// A fill in progress.
pub(super) struct Filler {
    repository: MirroredRepository,
    digest: Digest,
    /// The size of the blob that the upstream states, in bytes.
    pub(super) size: u64,
    /// The byte from which the upstream was asked first.
    started_at: u64,
    /// The bytes that an earlier fill left in the session, which come first.
    stored_before: Option<Body>,
    source: Body,
    reconnects: u32,
    /// Whether no request has shown that the upstream does not serve the rest of a blob alone.
    serves_ranges: bool,
    /// The session that takes the bytes; `None` if the bytes are not stored (any more).
    session: Option<SessionId>,
    /// How many bytes the session has acknowledged.
    pub(super) stored: u64,
    /// The bytes that arrived after the acknowledged bytes.
    piece: BytesMut,
    piece_since_ms: u64,
    hasher: Hasher,
    /// How many bytes have arrived.
    received: u64,
    /// The last bytes that arrived, which the reader does not have yet.
    last: Option<Bytes>,
    has_ended: bool,
}

/// The session of a fill, and whether this request may add to it.
enum Place {
    /// The session, how many bytes it has, and these bytes.
    Mine(SessionId, u64, Option<Body>),
    /// Another request is filling.
    Taken,
}

impl Filler {
    /// Begins a fill, or continues the fill that an earlier request has left. While another
    /// instance fills the same blob, the filler stores nothing.
    ///
    /// # Errors
    /// When the upstream does not give the blob.
    pub(super) async fn begin(repository: MirroredRepository, digest: Digest) -> Result<Self> {
        let (session, stored, stored_before) = match repository.find_place(&digest).await? {
            Place::Mine(session, stored, before) => (Some(session), stored, before),
            Place::Taken => (None, 0, None),
        };
        let opened = repository.open(&digest, stored).await;
        let (mut stored_before, mut stored, mut session) = (stored_before, stored, session);
        let part = match opened {
            // The upstream serves no ranges, so the fill starts again.
            Ok(part) if part.start != stored => {
                repository.drop_fill(&digest, session.take()).await;
                (stored_before, stored) = (None, 0);
                if part.start != 0 {
                    return Err(repository.invalid("the answer begins at another byte").into());
                }
                session = repository.begin_session(&digest).await?;
                part
            }
            Ok(part) => part,
            Err(super::Error::Upstream(error)) if error.kind == Kind::Range => {
                // The session has more bytes than the upstream's blob.
                repository.drop_fill(&digest, session.take()).await;
                (stored_before, stored) = (None, 0);
                session = repository.begin_session(&digest).await?;
                repository.open(&digest, 0).await?
            }
            Err(error) => {
                // An empty session has no use.
                if stored == 0 {
                    repository.drop_fill(&digest, session).await;
                }
                return Err(error);
            }
        };
        let begun = Self::without_storing(repository, digest, part);
        Ok(Self { stored_before, session, stored, ..begun })
    }

    /// Gives the whole of a blob to a reader, without storing the blob.
    pub(super) fn without_storing(repository: MirroredRepository, digest: Digest, part: BlobPart) -> Self {
        tracing::debug!("{}: reading {digest} from byte {} of {}", repository.local, part.start, part.size);
        Self {
            size: part.size,
            started_at: part.start,
            stored_before: None,
            source: part.body,
            reconnects: 0,
            serves_ranges: true,
            session: None,
            stored: 0,
            piece: BytesMut::new(),
            piece_since_ms: repository.mirror.platform.now_ms(),
            hasher: Hasher::new(digest.algorithm()),
            received: 0,
            last: None,
            has_ended: false,
            repository,
            digest,
        }
    }

    /// The session that holds the acknowledged bytes.
    pub(super) fn session(&self) -> Option<&SessionId> {
        self.session.as_ref()
    }

    /// The next bytes for the reader; `None` after the whole blob, whose digest is then right.
    ///
    /// # Errors
    /// When the blob cannot be completed. The registry then has no blob from this fill.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        while !self.has_ended {
            match self.read().await {
                Ok(Some(data)) => {
                    self.take_in(&data).await?;
                    if let Some(before) = self.last.replace(data) {
                        return Ok(Some(before));
                    }
                }
                Ok(None) => {
                    self.has_ended = true;
                    self.finish().await?;
                }
                Err(error) => {
                    self.has_ended = true;
                    self.leave(&error).await;
                    return Err(error);
                }
            }
        }
        Ok(self.last.take())
    }

    /// The next bytes of the blob: first those of the session, then those of the upstream.
    async fn read(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(before) = &mut self.stored_before {
            if let Some(data) = before.next().await.transpose()? {
                return Ok(Some(data));
            }
            self.stored_before = None;
            if self.received != self.stored {
                return Err(BodyError::Length { declared: self.stored });
            }
        }
        loop {
            let error = match self.source.next().await {
                Some(Ok(data)) if self.received + data.len() as u64 > self.size => {
                    return Err(BodyError::Length { declared: self.size });
                }
                Some(Ok(data)) => return Ok(Some(data)),
                None if self.received == self.size => return Ok(None),
                None => return Err(BodyError::Length { declared: self.size }),
                Some(Err(error)) => error,
            };
            // The connection broke, and the content so far may be right.
            if self.reconnects == RECONNECTS_MAX || !matches!(error, BodyError::Interrupted(_)) {
                return Err(error);
            }
            self.reconnects += 1;
            tracing::info!(
                "{}: {} breaks off in {}: {error}",
                self.repository.local,
                self.repository.upstream(),
                self.digest
            );
            match self.repository.open(&self.digest, self.received).await {
                Ok(part) if part.start == self.received && part.size == self.size => self.source = part.body,
                Ok(part) => {
                    self.serves_ranges = part.start == self.received;
                    return Err(error);
                }
                Err(_) => return Err(error),
            }
        }
    }

    /// Counts, hashes and gathers bytes, and stores them when a piece is full.
    async fn take_in(&mut self, data: &Bytes) -> Result<(), BodyError> {
        self.hasher.update(data);
        self.received += data.len() as u64;
        if self.session.is_none() || self.received <= self.stored {
            return Ok(());
        }
        self.piece.extend_from_slice(data);
        let age_ms = self.repository.mirror.platform.now_ms().saturating_sub(self.piece_since_ms);
        if self.piece.len() >= PIECE_BYTES || age_ms >= PIECE_MS && self.received < self.size {
            self.store_piece().await;
        }
        Ok(())
    }

    /// Adds the piece to the session. When the session is lost, the bytes are not stored any more.
    async fn store_piece(&mut self) {
        let Some(session) = self.session.clone() else { return };
        let bytes = self.piece.split().freeze();
        let range = self.stored..self.stored + bytes.len() as u64;
        self.piece_since_ms = self.repository.mirror.platform.now_ms();
        let chunk = Chunk { range: Some(range.clone()), body: bytes.into() };
        match self.repository.mirror.registry.append_upload(&self.repository.local, &session, chunk).await {
            Ok(_) => self.stored = range.end,
            Err(error) => self.lose_session(&error),
        }
    }

    fn lose_session(&mut self, error: &registry::Error) {
        tracing::warn!("{}: {} streams through without being stored: {error}", self.repository.local, self.digest);
        self.session = None;
        self.piece = BytesMut::new();
    }

    /// Completes the blob in the registry, or checks the digest if the blob is not stored.
    async fn finish(&mut self) -> Result<(), BodyError> {
        let computed = self.hasher.clone().finish();
        if computed != self.digest {
            let why = format!(
                "the content from {} has the digest {computed}, not {}",
                self.repository.upstream(),
                self.digest
            );
            tracing::error!("{}: {why}", self.repository.local);
            self.repository.drop_fill(&self.digest, self.session.take()).await;
            return Err(BodyError::Interrupted(why));
        }
        let Some(session) = self.session.clone() else {
            tracing::info!("{}: {} went through without being stored", self.repository.local, self.digest);
            return Ok(());
        };
        let rest = self.piece.split().freeze();
        let range = (!rest.is_empty()).then_some(self.stored..self.size);
        let chunk = Chunk { range, body: rest.into() };
        let (registry, local) = (&self.repository.mirror.registry, &self.repository.local);
        match registry.complete_upload(local, &session, &self.digest, chunk).await {
            Ok(()) => {
                let (upstream, rest) = (self.repository.upstream(), self.repository.mirror.rate_limit());
                let fetched = self.size - self.started_at;
                tracing::info!(
                    "{local}: stored {}, {fetched} of {} bytes from {upstream}{rest}",
                    self.digest,
                    self.size
                );
                self.session = None;
                self.repository.mirror.forget(&facts::fill(local, &self.digest)).await;
            }
            // The digest is right, so the reader gets the blob.
            Err(error) => self.lose_session(&error),
        }
        Ok(())
    }

    /// Ends a fill that failed. After a broken connection the acknowledged bytes stay for the next
    /// fill, if a fill can continue them. After a body of a wrong length nothing stays.
    async fn leave(&mut self, error: &BodyError) {
        tracing::warn!(
            "{}: the fill of {} from {} fails: {error}",
            self.repository.local,
            self.digest,
            self.repository.upstream()
        );
        let Some(session) = self.session.take() else { return };
        let is_interrupted = !matches!(error, BodyError::Length { .. });
        if !(is_interrupted && self.serves_ranges && self.stored > 0 && self.repository.can_read(&session).await) {
            self.repository.drop_fill(&self.digest, Some(session)).await;
        }
    }
}

impl MirroredRepository {
    /// Opens the upstream's blob at a byte.
    pub(super) async fn open(&self, digest: &Digest, start: u64) -> Result<BlobPart> {
        Ok(self.mirror.client.blob(&self.remote, digest, start).await?)
    }

    pub(super) fn invalid(&self, why: &str) -> crate::upstream::Error {
        self.mirror.client.error(Kind::Invalid(why.into()))
    }

    /// The session to fill: the session of an earlier fill that has stopped, or a new session.
    async fn find_place(&self, digest: &Digest) -> Result<Place> {
        let key = facts::fill(&self.local, digest);
        let known: Option<FillFact> = self.mirror.load(&key).await?;
        if let Some(session) = known.and_then(|fact| fact.session.parse().ok()) {
            match self.continued(&session).await? {
                Some(Place::Mine(session, stored, before)) => return Ok(Place::Mine(session, stored, before)),
                Some(Place::Taken) => return Ok(Place::Taken),
                None => self.drop_fill(digest, Some(session)).await,
            }
        }
        Ok(match self.begin_session(digest).await? {
            Some(session) => Place::Mine(session, 0, None),
            None => Place::Taken,
        })
    }

    /// The place in the session of an earlier fill, once the session has not changed for a while.
    /// `None` if the session is gone, or if its bytes cannot be read.
    async fn continued(&self, session: &SessionId) -> Result<Option<Place>> {
        let registry = &self.mirror.registry;
        let status = async || match registry.upload_status(&self.local, session).await {
            Ok(status) => Ok(Some(status)),
            Err(registry::Error::UploadUnknown) => Ok(None),
            Err(error) => Err(super::Error::from(error)),
        };
        let Some(first) = status().await? else { return Ok(None) };
        let mut looks = 0;
        loop {
            match registry.upload_idle_ms(&self.local, session).await {
                Ok(idle_ms) if idle_ms >= ALIVE_MS => break,
                Ok(_) => {}
                Err(registry::Error::UploadUnknown) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            looks += 1;
            if looks > LOOKS_MAX {
                return Ok(Some(Place::Taken));
            }
            self.mirror.platform.sleep(LOOK_AGAIN).await;
            if status().await?.is_none_or(|now| now.offset != first.offset) {
                return Ok(Some(Place::Taken));
            }
        }
        if first.offset == 0 {
            return Ok(Some(Place::Mine(first.session, 0, None)));
        }
        match registry.read_upload(&self.local, session, 0).await {
            Ok(Some(before)) if before.length() == Some(first.offset) => {
                Ok(Some(Place::Mine(first.session, first.offset, Some(before))))
            }
            Ok(Some(_)) => Ok(Some(Place::Taken)),
            Ok(None) | Err(registry::Error::UploadUnknown) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Begins a session for a blob and notes the session for later fills. `None` if the store takes
    /// no upload: the blob then streams through.
    async fn begin_session(&self, digest: &Digest) -> Result<Option<SessionId>> {
        let begun = self.mirror.registry.begin_upload(&self.local, digest.algorithm()).await;
        let session = match begun {
            Ok(status) => status.session,
            Err(error) => {
                tracing::warn!("{}: {digest} streams through without being stored: {error}", self.local);
                return Ok(None);
            }
        };
        let begun_ms = self.mirror.platform.now_ms();
        self.mirror.note(&facts::fill(&self.local, digest), &FillFact { session: session.to_string(), begun_ms }).await;
        Ok(Some(session))
    }

    /// Whether the store can read the acknowledged bytes of a session.
    async fn can_read(&self, session: &SessionId) -> bool {
        matches!(self.mirror.registry.read_upload(&self.local, session, 0).await, Ok(Some(_)))
    }

    /// Gives up what a fill has stored. Best effort: the collector removes what stays.
    async fn drop_fill(&self, digest: &Digest, session: Option<SessionId>) {
        let Some(session) = session else { return };
        if let Err(error) = self.mirror.registry.cancel_upload(&self.local, &session).await {
            tracing::warn!("{}: an upload session of {digest} is left behind: {error}", self.local);
        }
        self.mirror.forget(&facts::fill(&self.local, digest)).await;
    }
}
