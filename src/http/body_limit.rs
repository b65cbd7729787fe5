//! The limit on the bodies of requests, for hosts and proxies that take only short bodies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Poll, ready};

use http::HeaderName;

use super::error::Error;
use super::reply::Reply;
use crate::platform::{Body, BodyError};

/// The most bytes of one chunk of an upload: a proposal for the specification, beside its
/// `OCI-Chunk-Min-Length` (distribution-spec, pull request 486).
const CHUNK_MAX_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-max-length");

/// The most bytes that the body of a request may have; without a number no body is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BodyLimit(pub(super) Option<u64>);

/// Whether a body was longer than the limit.
pub(super) struct Exceeded(Arc<AtomicBool>);

impl BodyLimit {
    /// The same body with an error where the limit is passed, and a flag that says so afterwards.
    ///
    /// # Errors
    /// [`Error::BodyTooLong`] at once, if the declared length is over the limit.
    pub(super) fn apply(self, mut body: Body) -> Result<(Body, Exceeded), Error> {
        let exceeded = Arc::new(AtomicBool::new(false));
        let Some(limit_bytes) = self.0 else { return Ok((body, Exceeded(exceeded))) };
        let length = body.length();
        if length.is_some_and(|length| length > limit_bytes) {
            return Err(Error::BodyTooLong { limit_bytes });
        }
        let (flag, mut bytes) = (exceeded.clone(), 0);
        let counted = Body::from_poll(length, move |cx| {
            let polled = ready!(body.poll_next(cx));
            if let Some(Ok(data)) = &polled {
                bytes += data.len() as u64;
            }
            if bytes <= limit_bytes {
                return Poll::Ready(polled);
            }
            flag.store(true, Relaxed);
            Poll::Ready(Some(Err(BodyError::TooLarge { limit_bytes })))
        });
        Ok((counted, Exceeded(exceeded)))
    }

    /// Announces the limit as the largest chunk of an upload.
    pub(super) fn announce(self, reply: Reply) -> Reply {
        match self.0 {
            Some(limit_bytes) => reply.with(CHUNK_MAX_LENGTH, limit_bytes.to_string()),
            None => reply,
        }
    }

    /// The error of a request whose body was longer than the limit; any other error as it is.
    pub(super) fn explain(self, exceeded: &Exceeded, error: Error) -> Error {
        match self.0 {
            Some(limit_bytes) if exceeded.0.load(Relaxed) => Error::BodyTooLong { limit_bytes },
            _ => error,
        }
    }
}
