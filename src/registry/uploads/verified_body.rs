//! Verification of incoming content: bytes are counted, compared with the declared length, and
//! hashed.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::oci::Hasher;
use crate::platform::{Body, BodyError};
use crate::registry::error::{InvalidSize, InvalidUpload};
use crate::registry::{Error, Result};
use crate::store;

/// Observes a body while a store reads the body, and keeps the hasher and the counts.
pub(super) struct Verification {
    state: Arc<Mutex<State>>,
}

/// The result of a body that a store has read.
pub(super) struct Verified<T> {
    /// The stage that the store returned for the body.
    pub(super) stage: T,
    /// The hasher after the body's bytes.
    pub(super) hasher: Hasher,
    /// How many bytes the body brought.
    pub(super) bytes: u64,
    /// Why the client broke the body off, if it did.
    pub(super) cut: Option<Error>,
}

struct State {
    hasher: Hasher,
    received: u64,
    failure: Option<BodyError>,
    /// The store saw a regular end although the client broke the body off.
    cut: bool,
}

struct VerifiedBody {
    body: Body,
    range_bytes: Option<u64>,
    limit_bytes: u64,
    keeps_cut: bool,
    state: Arc<Mutex<State>>,
}

impl Verification {
    /// Wraps `body`, which must have `range_bytes`, if the client names a range, and at most
    /// `limit_bytes`. With `keeps_cut`, the store sees a regular end when the client breaks the
    /// body off, so that the store keeps the bytes that arrived.
    pub(super) fn of(
        body: Body,
        hasher: Hasher,
        range_bytes: Option<u64>,
        limit_bytes: u64,
        keeps_cut: bool,
    ) -> (Self, Body) {
        let state = State { hasher, received: 0, failure: None, cut: false };
        let state = Arc::new(Mutex::new(state));
        // The length that the body declares itself: the range that the client declared may be wrong.
        let length = body.length();
        let mut verified = VerifiedBody { body, range_bytes, limit_bytes, keeps_cut, state: state.clone() };
        (Self { state }, Body::from_poll(length, move |cx| verified.poll(cx)))
    }

    /// The bytes that arrived. When the client broke the body off and the store kept the bytes, the
    /// result has `cut`. Any other failure of the body or the store is an error.
    pub(super) fn finish<T>(self, appended: store::Result<T>) -> Result<Verified<T>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A store reports a failing body as a failure of its own. Only this wrapper can tell a
        // client error from a store error.
        let failure = state.failure.as_ref().map(|failure| error_of(failure, state.received));
        match (failure, appended) {
            (Some(failure), Ok(stage)) if state.cut => Ok(state.verified_as(stage, Some(failure))),
            (Some(failure), _) => Err(failure),
            (None, Ok(stage)) => Ok(state.verified_as(stage, None)),
            (None, Err(store::Error::Conflict(_))) => Err(Error::UploadUnknown),
            (None, Err(error)) => Err(error.into()),
        }
    }
}

impl State {
    fn verified_as<T>(&self, stage: T, cut: Option<Error>) -> Verified<T> {
        Verified { stage, hasher: self.hasher.clone(), bytes: self.received, cut }
    }
}

fn error_of(failure: &BodyError, received: u64) -> Error {
    match failure {
        BodyError::Length { declared } => InvalidSize::Body { received, declared: *declared }.into(),
        BodyError::TooLarge { limit_bytes } => Error::TooLarge { limit_bytes: *limit_bytes },
        BodyError::Idle { limit_seconds } => Error::BodyIdle { limit_seconds: *limit_seconds },
        BodyError::Slow(limit) => Error::BodySlow(limit.clone()),
        BodyError::Interrupted(_) => InvalidUpload::BrokenOff(failure.clone()).into(),
        BodyError::Source(_) => store::Error::from(failure.clone()).into(),
    }
}

impl VerifiedBody {
    /// How many bytes the body must have: the length of the range, or else the length that the body
    /// declares.
    fn declared(&self) -> Option<u64> {
        self.range_bytes.or(self.body.length())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let polled = ready!(self.body.poll_next(cx));
        Poll::Ready(self.verify(polled))
    }

    fn verify(&self, polled: Option<Result<Bytes, BodyError>>) -> Option<Result<Bytes, BodyError>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let declared = self.declared();
        // A body is wrong if the body is longer than allowed, or if it ends regularly and is
        // shorter than its range. The bytes of a body that ends too early are right as far as they
        // go.
        let (failure, is_cut) = match polled {
            Some(Ok(data)) => {
                let received = state.received + data.len() as u64;
                match declared {
                    Some(declared) if received > declared => (BodyError::Length { declared }, false),
                    _ if received > self.limit_bytes => (BodyError::TooLarge { limit_bytes: self.limit_bytes }, false),
                    _ => {
                        state.received = received;
                        state.hasher.update(&data);
                        return Some(Ok(data));
                    }
                }
            }
            Some(Err(error @ (BodyError::Interrupted(_) | BodyError::Idle { .. } | BodyError::Slow(_)))) => {
                (error, true)
            }
            Some(Err(error)) => (error, false),
            None => match declared {
                Some(declared) if state.received < declared => {
                    (BodyError::Length { declared }, self.body.length().is_some())
                }
                _ => return None,
            },
        };
        state.failure = Some(failure.clone());
        // If no byte arrived, the store gets the error, so that the store undoes its append.
        state.cut = is_cut && self.keeps_cut && state.received > 0;
        if state.cut { None } else { Some(Err(failure)) }
    }
}
