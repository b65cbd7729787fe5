//! The fill of one blob: bytes go from the upstream to a reader and, in pieces, into an upload
//! session of the registry.
//!
//! Every piece is acknowledged by the session, so a kill loses at most one piece, and the next fill
//! continues after the acknowledged bytes (`begin`). Where the store reads only committed content
//! (S3), the next fill first makes these bytes a blob of their own, and stores them again.
//!
//! Bytes are given to the reader one read late: the last bytes are given only when the registry has
//! taken the blob, which proves the digest. A wrong blob therefore never looks complete to a client.
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
    /// The bytes that an earlier fill has left, which come first.
    left: Option<Body>,
    /// How many bytes `left` has.
    left_bytes: u64,
    /// The blob that holds the bytes of `left`, if they are not in the session.
    beginning: Option<Digest>,
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

/// The content of an earlier fill's session.
enum Left {
    /// The session is gone.
    Nothing,
    /// Another request adds to the session.
    BeingFilled,
    /// The acknowledged bytes, and their number.
    Bytes(Body, u64),
    /// The store cannot read the bytes before they are committed.
    Unreadable,
}

/// The session that a fill adds to, and the bytes that come before those of the upstream.
#[derive(Default)]
struct Place {
    /// `None` when another request is filling, or when the store takes no upload.
    session: Option<SessionId>,
    /// How many bytes the session has.
    stored: u64,
    left: Option<Body>,
    left_bytes: u64,
    beginning: Option<Digest>,
}

impl Filler {
    /// Begins a fill, or continues the fill that an earlier request has left. While another
    /// instance fills the same blob, the filler stores nothing.
    ///
    /// # Errors
    /// When the upstream does not give the blob.
    pub(super) async fn begin(repository: MirroredRepository, digest: Digest) -> Result<Self> {
        let mut place = repository.find_place(&digest).await?;
        let part = match repository.open(&digest, place.left_bytes).await {
            // The upstream serves no ranges, so the fill starts again.
            Ok(part) if part.start != place.left_bytes => {
                repository.drop_place(&digest, place).await;
                if part.start != 0 {
                    return Err(repository.invalid("the answer begins at another byte").into());
                }
                place = repository.new_place(&digest, None).await;
                part
            }
            Ok(part) => part,
            Err(super::Error::Upstream(error)) if error.kind == Kind::Range => {
                // The earlier fill has left more bytes than the upstream's blob.
                repository.drop_place(&digest, place).await;
                place = repository.new_place(&digest, None).await;
                repository.open(&digest, 0).await?
            }
            Err(error) => {
                // An empty session has no use.
                if place.left_bytes == 0 {
                    repository.drop_place(&digest, place).await;
                }
                return Err(error);
            }
        };
        let Place { session, stored, left, left_bytes, beginning } = place;
        let begun = Self::without_storing(repository, digest, part);
        Ok(Self { left, left_bytes, beginning, session, stored, ..begun })
    }

    /// Gives the whole of a blob to a reader, without storing the blob.
    pub(super) fn without_storing(repository: MirroredRepository, digest: Digest, part: BlobPart) -> Self {
        tracing::debug!("{}: reading {digest} from byte {} of {}", repository.local, part.start, part.size);
        Self {
            size: part.size,
            started_at: part.start,
            left: None,
            left_bytes: 0,
            beginning: None,
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

    /// The next bytes of the blob: first those of an earlier fill, then those of the upstream.
    async fn read(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(left) = &mut self.left {
            if let Some(data) = left.next().await.transpose()? {
                return Ok(Some(data));
            }
            self.left = None;
            if self.received != self.left_bytes {
                return Err(BodyError::Length { declared: self.left_bytes });
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
        // The last bytes come in with the end of the upload: a fill that stops with all bytes could
        // not ask the upstream for a range after them.
        if (self.piece.len() >= PIECE_BYTES || age_ms >= PIECE_MS) && self.received < self.size {
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
            self.drop_all().await;
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
                self.repository.drop_beginning(self.beginning.take()).await;
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
        let has_bytes = self.stored > 0 || self.beginning.is_some();
        let is_interrupted = !matches!(error, BodyError::Length { .. });
        if !(is_interrupted && self.serves_ranges && has_bytes) {
            self.drop_all().await;
        }
        self.session = None;
    }

    /// Removes everything that this fill and the fill before have stored. While another request
    /// fills, nothing is this fill's own.
    async fn drop_all(&mut self) {
        let (session, beginning) = (self.session.take(), self.beginning.take());
        self.repository.drop_place(&self.digest, Place { session, beginning, ..Place::default() }).await;
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
        let known: Option<FillFact> = self.mirror.load(&facts::fill(&self.local, digest)).await?;
        let Some(FillFact { session, beginning, .. }) = known else { return Ok(self.new_place(digest, None).await) };
        let Ok(session) = session.parse() else { return Ok(self.new_place(digest, beginning).await) };
        match self.left_in(&session).await? {
            Left::BeingFilled => Ok(Place::default()),
            Left::Bytes(left, stored) => {
                // Where the session has no bytes, the fill before may have left a beginning.
                let before = if stored == 0 { self.read_beginning(beginning.as_ref()).await } else { None };
                let (left, left_bytes) = before.unwrap_or((left, stored));
                Ok(Place { session: Some(session), stored, left: Some(left), left_bytes, beginning })
            }
            Left::Unreadable => match self.mirror.registry.close_upload(&self.local, &session).await {
                Ok(closed) => Ok(self.new_place(digest, self.longer(Some(closed), beginning).await).await),
                // Another request has ended the upload, or is just ending the upload.
                Err(registry::Error::UploadUnknown) => Ok(self.new_place(digest, beginning).await),
                Err(registry::Error::Busy | registry::Error::ChunkOutOfOrder { .. }) => Ok(Place::default()),
                Err(error) => Err(error.into()),
            },
            Left::Nothing => {
                self.drop_place(digest, Place { session: Some(session), ..Place::default() }).await;
                Ok(self.new_place(digest, beginning).await)
            }
        }
    }

    /// The bytes in the session of an earlier fill, once the session has not changed for a while.
    async fn left_in(&self, session: &SessionId) -> Result<Left> {
        let registry = &self.mirror.registry;
        let status = async || match registry.upload_status(&self.local, session).await {
            Ok(status) => Ok(Some(status)),
            Err(registry::Error::UploadUnknown) => Ok(None),
            Err(error) => Err(super::Error::from(error)),
        };
        let Some(first) = status().await? else { return Ok(Left::Nothing) };
        let mut looks = 0;
        loop {
            match registry.upload_idle_ms(&self.local, session).await {
                Ok(idle_ms) if idle_ms >= ALIVE_MS => break,
                Ok(_) => {}
                Err(registry::Error::UploadUnknown) => return Ok(Left::Nothing),
                Err(error) => return Err(error.into()),
            }
            looks += 1;
            if looks > LOOKS_MAX {
                return Ok(Left::BeingFilled);
            }
            self.mirror.platform.sleep(LOOK_AGAIN).await;
            if status().await?.is_none_or(|now| now.offset != first.offset) {
                return Ok(Left::BeingFilled);
            }
        }
        if first.offset == 0 {
            return Ok(Left::Bytes(Body::empty(), 0));
        }
        match registry.read_upload(&self.local, session, 0).await {
            Ok(Some(left)) if left.length() == Some(first.offset) => Ok(Left::Bytes(left, first.offset)),
            Ok(Some(_)) => Ok(Left::BeingFilled),
            Ok(None) => Ok(Left::Unreadable),
            Err(registry::Error::UploadUnknown) => Ok(Left::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// A new session for a blob, noted for later fills. `beginning` is the beginning of the blob
    /// that an earlier fill has left. Without a session the blob streams through.
    async fn new_place(&self, digest: &Digest, beginning: Option<Digest>) -> Place {
        let begun = self.mirror.registry.begin_upload(&self.local, digest.algorithm()).await;
        let session = match begun {
            Ok(status) => status.session,
            Err(error) => {
                tracing::warn!("{}: {digest} streams through without being stored: {error}", self.local);
                return Place::default();
            }
        };
        // The whole blob would be no beginning.
        let beginning = beginning.filter(|beginning| beginning != digest);
        let (left, left_bytes) = match self.read_beginning(beginning.as_ref()).await {
            Some((left, bytes)) => (Some(left), bytes),
            None => (None, 0),
        };
        let beginning = beginning.filter(|_| left.is_some());
        let begun_ms = self.mirror.platform.now_ms();
        let fact = FillFact { session: session.to_string(), begun_ms, beginning: beginning.clone() };
        self.mirror.note(&facts::fill(&self.local, digest), &fact).await;
        Place { session: Some(session), stored: 0, left, left_bytes, beginning }
    }

    /// The bytes of a beginning and their number; `None` if the collector has removed the bytes.
    async fn read_beginning(&self, beginning: Option<&Digest>) -> Option<(Body, u64)> {
        let blob = self.mirror.registry.blob(&self.local, beginning?).await.ok()?;
        Some((self.mirror.registry.read_blob(&blob, 0..blob.size).await.ok()?, blob.size))
    }

    /// The longer of two beginnings of one blob. The other beginning is removed.
    async fn longer(&self, one: Option<Digest>, other: Option<Digest>) -> Option<Digest> {
        let size = async |digest: Option<&Digest>| match digest {
            Some(digest) => self.mirror.registry.blob(&self.local, digest).await.map_or(0, |blob| blob.size),
            None => 0,
        };
        if one == other {
            return one;
        }
        let (longer, shorter) =
            if size(one.as_ref()).await >= size(other.as_ref()).await { (one, other) } else { (other, one) };
        self.drop_beginning(shorter).await;
        longer
    }

    /// Gives up what a fill has stored. Best effort: the collector removes what stays.
    async fn drop_place(&self, digest: &Digest, place: Place) {
        let Some(session) = place.session else { return };
        if let Err(error) = self.mirror.registry.cancel_upload(&self.local, &session).await {
            tracing::warn!("{}: an upload session of {digest} is left behind: {error}", self.local);
        }
        self.drop_beginning(place.beginning).await;
        self.mirror.forget(&facts::fill(&self.local, digest)).await;
    }

    /// Removes the beginning of a blob, which no manifest names. Best effort.
    async fn drop_beginning(&self, beginning: Option<Digest>) {
        let Some(beginning) = beginning else { return };
        match self.mirror.registry.delete_blob(&self.local, &beginning).await {
            Ok(()) | Err(registry::Error::BlobUnknown(_)) => {}
            Err(error) => tracing::warn!("{}: {beginning} is left behind: {error}", self.local),
        }
    }
}
