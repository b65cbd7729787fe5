//! Receiving the bytes of an upload into the blob store.

use std::sync::Arc;

use super::chunk::Chunk;
use super::segments::Segments;
use super::session::Session;
use super::sessions::Sessions;
use super::verified_body::Verification;
use crate::oci::{Hasher, RepositoryName};
use crate::platform::{Body, Causes};
use crate::registry::content::Content;
use crate::registry::error::InvalidSize;
use crate::registry::facts::Progress;
use crate::registry::{Error, Limits, Result};

/// A chunk that the blob store has received.
pub(super) struct Received {
    /// The state of the session before the chunk.
    pub start: Progress,
    /// The state of the session after the chunk.
    pub progress: Progress,
}

impl Received {
    /// Whether the chunk brought no bytes.
    pub(super) fn is_empty(&self) -> bool {
        self.progress.offset == self.start.offset && self.progress.stage == self.start.stage
    }
}

/// The use of the bytes that arrived of a body that its client breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CutBody {
    /// The bytes stay in the upload, and the client can continue after them.
    Keep,
    /// The bytes are dropped: the client does not know the session, and cannot continue.
    Drop,
}

/// Receives the bytes of uploads.
#[derive(Clone)]
pub(super) struct Receiver {
    pub content: Content,
    pub limits: Arc<Limits>,
    pub sessions: Sessions,
}

impl Receiver {
    /// Appends a chunk's bytes to the state `start`. When the body breaks off, the bytes that
    /// arrived are noted, and the result is the error.
    pub(super) async fn receive(
        &self,
        repository: &RepositoryName,
        session: &Session,
        start: Progress,
        hasher: Hasher,
        chunk: Chunk,
        cut_body: CutBody,
    ) -> Result<Received> {
        let Chunk { range, body } = chunk;
        let range_bytes = range.map(|range| range.end - range.start);
        if let (Some(range), Some(length)) = (range_bytes, body.length())
            && range != length
        {
            return Err(InvalidSize::Range { length, range }.into());
        }
        let limit_bytes = self.limits.blob_bytes_max.saturating_sub(start.offset);
        if range_bytes.or(body.length()).is_some_and(|declared| declared > limit_bytes) {
            return Err(Error::TooLarge { limit_bytes: self.limits.blob_bytes_max });
        }
        let state = Progress { hasher: hasher.state(), ..start.clone() };
        let (progress, cut) = self.append(session, state, body, range_bytes, cut_body).await?;
        let Some(cut) = cut else { return Ok(Received { start, progress }) };
        let saved = self.sessions.save_arrived(repository, &session.id, &start, &progress).await;
        if let Err(error) = self.or_abandon(&progress, saved).await {
            tracing::info!("the bytes of a broken request do not count: {}", Causes(&error));
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
        let segment_bytes = self.content.blobs.kept_append_bytes().filter(|_| cut_body == CutBody::Keep);
        let mut segments = match Segments::new(body, segment_bytes) {
            Ok(segments) => segments,
            Err(body) => return self.append_segment(session, &state, body, range_bytes, cut_body).await,
        };
        let begin = state.offset;
        while let Some(segment) = segments.next() {
            match self.append_segment(session, &state, segment, None, cut_body).await {
                Ok((next, None)) => state = next,
                // The store has the segments before the one that broke off.
                Err(cut @ (Error::UploadInvalid(_) | Error::BodyIdle { .. })) if state.offset > begin => {
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
        let keeps_cut = cut_body == CutBody::Keep;
        let (verification, body) = Verification::of(body, state.hasher()?, range_bytes, limit_bytes, keeps_cut);
        let appended = self.content.blobs.append(&state.stage, body).await;
        let verified = match verification.finish(appended) {
            // The client knows the limit of the whole blob, not the rest of the limit that was left
            // here.
            Err(Error::TooLarge { .. }) => return Err(Error::TooLarge { limit_bytes: most }),
            // The store cannot find the stage, or has too many forks of the stage. If the session
            // still exists, the client can try again.
            Err(Error::UploadUnknown) if self.sessions.exists(session).await? => return Err(Error::Busy),
            verified => verified?,
        };
        let offset = state.offset + verified.bytes;
        let next = Progress { stage: verified.stage, hasher: verified.hasher.state(), offset };
        Ok((next, verified.cut))
    }

    /// Passes `saved` on. When another request has advanced the upload, or the upload has ended,
    /// the fork `progress` is of no use and is abandoned.
    pub(super) async fn or_abandon<T>(&self, progress: &Progress, saved: Result<T>) -> Result<T> {
        if let Err(Error::ChunkOutOfOrder { .. } | Error::UploadUnknown) = saved {
            self.content.abandon(&progress.stage, None).await;
        }
        saved
    }
}
