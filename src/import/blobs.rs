//! Takes blobs: from the registry where it has them already, else from the source.
//!
//! A large blob comes in under an upload session in steps, and the session is written down. An
//! import that was cut off, at whatever point, goes on after the last whole step.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};

use super::error::{Error, Result};
use super::facts::{self, UploadFact};
use super::limits::{BLOB_TRIES_MAX, BUSY_TRIES_MAX, FAILURES_IN_A_ROW_MAX, STEP_BYTES, STEPS_MAX};
use super::report::{Progress, Step};
use super::source::{FoundBlob, Source};
use crate::Registry;
use crate::oci::{Digest, RepositoryName};
use crate::platform::{Body, BodyError, Causes};
use crate::registry::{self, Chunk, InvalidSize, InvalidUpload, Mounted, Segments, SessionId};
use crate::store::{KeyValue, When};

/// How long an import waits before it repeats a request to a busy registry.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// What an import works with.
pub(super) struct Context<'a> {
    pub(super) registry: &'a Registry,
    /// The store of the registry, for the facts of imports.
    pub(super) keys: &'a Arc<dyn KeyValue>,
    pub(super) source: &'a dyn Source,
    pub(super) dry_run: bool,
    pub(super) progress: &'a (dyn Fn(&Progress<'_>) + Sync),
    /// How many requests to the source failed since the last one that did not.
    pub(super) failures: AtomicUsize,
}

/// A repository in the source and here.
pub(super) struct Place {
    pub(super) there: String,
    pub(super) here: RepositoryName,
}

/// A blob that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    pub(super) digest: Digest,
    /// The size in bytes that the manifest states. `None` for a digest in a manifest of a kind that
    /// the registry does not read: the digest need not be that of a blob.
    pub(super) size: Option<u64>,
}

/// The result for a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TakenBlob {
    /// The registry had the blob.
    Here,
    /// The blob was read from the source, or would be in an import that is no dry run.
    Read {
        /// The size in bytes.
        bytes: u64,
    },
    /// The digest is not that of a blob of the source, and need not be.
    None,
}

impl Context<'_> {
    /// Passes the result of a request to the source on, and counts failures of the source.
    ///
    /// # Errors
    /// The error in `asked`. [`Error::Failing`] after `FAILURES_IN_A_ROW_MAX` failures in a row.
    pub(super) fn counted<T>(&self, asked: Result<T>) -> Result<T> {
        match asked {
            Err(Error::Upstream(last)) if Error::Upstream(last.clone()).is_trouble_of_source() => {
                match self.failures.fetch_add(1, Relaxed) + 1 {
                    times if times >= FAILURES_IN_A_ROW_MAX => Err(Error::Failing { times, last }),
                    _ => Err(last.into()),
                }
            }
            asked => {
                self.failures.store(0, Relaxed);
                asked
            }
        }
    }

    /// Makes sure that a repository has a blob.
    ///
    /// # Errors
    /// [`Error::Absent`]; [`Error::Refused`] when the source's bytes are not the blob. Nothing of
    /// such bytes stays.
    pub(super) async fn take_blob(&self, place: &Place, wanted: &Wanted) -> Result<TakenBlob> {
        match self.registry.blob(&place.here, &wanted.digest).await {
            Ok(_) => return Ok(TakenBlob::Here),
            Err(registry::Error::BlobUnknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if self.dry_run || wanted.size.is_none() {
            // The body is dropped unread.
            match (self.counted(self.source.blob(&place.there, &wanted.digest, 0).await), wanted.size) {
                (Err(Error::Absent(_)), None) => return Ok(TakenBlob::None),
                (found, _) if self.dry_run => return Ok(TakenBlob::Read { bytes: found?.size }),
                (found, _) => drop(found?),
            }
        }
        let is_large = wanted.size.is_some_and(|size| size > STEP_BYTES);
        let earlier = if is_large { self.earlier_session(place, &wanted.digest).await? } else { None };
        let session = match earlier {
            Some(session) => session,
            // Another repository may have the blob: no byte is read then.
            None => match self.registry.mount_or_begin(&place.here, &wanted.digest, None).await? {
                Mounted::Blob(_) => return Ok(TakenBlob::Here),
                Mounted::Upload(status) => status.session,
            },
        };
        if is_large {
            self.note(place, &wanted.digest, &session).await;
        }
        let filled = self.fill(place, wanted, &session).await;
        let stays = is_large && filled.as_ref().is_err_and(is_interruption);
        if filled.is_err() && !stays {
            self.registry.cancel_upload(&place.here, &session).await?;
        }
        if is_large && !stays {
            self.forget(place, &wanted.digest).await;
        }
        Ok(TakenBlob::Read { bytes: filled? })
    }

    /// Brings the bytes of a blob into its upload. Returns how many bytes were read.
    async fn fill(&self, place: &Place, wanted: &Wanted, session: &SessionId) -> Result<u64> {
        let mut read = 0;
        let mut tries = 0;
        loop {
            let start = self.registry.upload_status(&place.here, session).await?.offset;
            let found = self.counted(self.source.blob(&place.there, &wanted.digest, start).await)?;
            if let Some(size) = wanted.size.filter(|size| *size != found.size) {
                let (digest, has) = (&wanted.digest, found.size);
                return Err(Error::refused(format!("the blob {digest} has {has} bytes, and its manifest says {size}")));
            }
            let size = found.size;
            tries += 1;
            match self.send(place, &wanted.digest, session, start, found).await {
                Ok(()) => return Ok(read + size - start),
                Err(error) if is_interruption(&error) && tries < BLOB_TRIES_MAX => {
                    let stored = self.registry.upload_status(&place.here, session).await?.offset;
                    read += stored.saturating_sub(start);
                }
                Err(Error::Registry(registry::Error::Busy)) if tries < BUSY_TRIES_MAX => self.wait().await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends the bytes from `start` on, in steps if they are many, and ends the upload.
    async fn send(
        &self,
        place: &Place,
        digest: &Digest,
        session: &SessionId,
        start: u64,
        found: FoundBlob,
    ) -> Result<()> {
        let FoundBlob { start: first, size, body } = found;
        let left = size.saturating_sub(start);
        let body = skip(body, start.saturating_sub(first)).await.map_err(interrupted)?.with_length(left);
        let step = STEP_BYTES.max(size.div_ceil(STEPS_MAX));
        let last = match Segments::new(body, Some(step)) {
            Err(body) => body,
            Ok(mut segments) => {
                let mut stored = start;
                while let Some(segment) = segments.next() {
                    let end = stored + segment.length().unwrap_or_default();
                    let chunk = Chunk { range: Some(stored..end), body: segment };
                    self.registry.append_upload(&place.here, session, chunk).await?;
                    stored = end;
                    let name = place.here.as_str();
                    (self.progress)(&Progress { name, step: Step::Blob { digest, stored, size } });
                }
                Body::empty()
            }
        };
        let chunk = Chunk { range: None, body: last };
        Ok(self.registry.complete_upload(&place.here, session, digest, chunk).await?)
    }

    /// The session in which an earlier import took the beginning of a blob.
    async fn earlier_session(&self, place: &Place, digest: &Digest) -> Result<Option<SessionId>> {
        let entry = self.keys.get(&facts::upload(&place.here, digest)).await.map_err(registry::Error::from)?;
        let fact: Option<UploadFact> = entry.and_then(|entry| serde_json::from_slice(&entry.value).ok());
        let Some(session) = fact.and_then(|fact| fact.session.parse().ok()) else { return Ok(None) };
        match self.registry.upload_status(&place.here, &session).await {
            Ok(_) => Ok(Some(session)),
            Err(registry::Error::UploadUnknown) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes down the session of a blob. Best effort: without the fact, an import that is cut off
    /// reads the blob again.
    async fn note(&self, place: &Place, digest: &Digest, session: &SessionId) {
        let fact = UploadFact { session: session.to_string(), begun_ms: self.registry.now_ms() };
        let value = serde_json::to_vec(&fact).unwrap_or_default();
        if let Err(error) = self.keys.put(&facts::upload(&place.here, digest), value.into(), When::Always).await {
            tracing::warn!("{digest} cannot be continued if this import is cut off: {}", Causes(&error));
        }
    }

    /// Removes the fact about a session. Best effort: a collection removes expired facts.
    async fn forget(&self, place: &Place, digest: &Digest) {
        if let Err(error) = self.keys.delete(&facts::upload(&place.here, digest)).await {
            tracing::warn!("the fact about the upload of {digest} is left behind: {}", Causes(&error));
        }
    }

    pub(super) async fn wait(&self) {
        self.registry.platform().sleep(BUSY_WAIT).await;
    }
}

/// Whether the bytes of a blob broke off, so that the blob may be continued.
fn is_interruption(error: &Error) -> bool {
    use registry::Error::{BodyIdle, BodySlow, SizeInvalid, UploadInvalid};
    match error {
        Error::Registry(UploadInvalid(InvalidUpload::BrokenOff(_)) | BodyIdle { .. } | BodySlow(_)) => true,
        // A body that ends too early.
        Error::Registry(SizeInvalid(InvalidSize::Body { received, declared })) => received < declared,
        error => error.is_trouble_of_source() || matches!(error, Error::Unreadable(_) | Error::Failing { .. }),
    }
}

fn interrupted(error: BodyError) -> Error {
    registry::Error::UploadInvalid(InvalidUpload::BrokenOff(error)).into()
}

/// A body without its first `count` bytes, which are read and dropped.
async fn skip(mut body: Body, count: u64) -> Result<Body, BodyError> {
    let mut left = count;
    while left > 0 {
        let Some(data) = body.next().await else { return Ok(Body::empty()) };
        let data = data?;
        if data.len() as u64 > left {
            let rest = data.slice(left as usize..);
            let behind = stream::unfold(body, |mut body| async move { Some((body.next().await?, body)) });
            return Ok(Body::from_stream(stream::iter([Ok(rest)]).chain(behind)));
        }
        left -= data.len() as u64;
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_executor::block_on;

    use super::*;

    #[test]
    fn bytes_that_are_here_are_skipped() {
        for (count, expected) in [(0, "abcdef"), (2, "cdef"), (3, "def"), (5, "f"), (6, ""), (9, "")] {
            let pieces = ["abc", "def"].map(|piece| Ok::<_, BodyError>(Bytes::from(piece)));
            let body = block_on(skip(Body::from_stream(stream::iter(pieces)), count)).unwrap();
            assert_eq!(block_on(body.collect_up_to(10)).unwrap(), expected, "{count}");
        }
    }
}
