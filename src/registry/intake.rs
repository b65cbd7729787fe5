//! What happens to content on its way in: it is counted, measured against what was declared, and hashed.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{Error, Result};
use crate::oci::Hasher;
use crate::store::{self, Body, BodyError};

/// Watches a body that a store takes in, and keeps what it saw.
pub(super) struct Intake {
    state: Arc<Mutex<State>>,
}

/// What a store has of a body.
pub(super) struct Received<T> {
    /// What the store made of it.
    pub(super) stage: T,
    /// With the body's bytes.
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
    /// The body has ended for the store, well or not.
    ended: bool,
    /// The store was told of a good end although the client broke the body off.
    cut: bool,
}

struct Watched {
    body: Body,
    range_bytes: Option<u64>,
    limit_bytes: u64,
    keeps_cut: bool,
    state: Arc<Mutex<State>>,
}

impl Intake {
    /// Wraps `body`, which must have `range_bytes`, where the client names a range, and at most `limit_bytes`. With `keeps_cut`
    /// a client that breaks off looks to the store like the end of the body, so that the store keeps what came.
    pub(super) fn new(
        body: Body,
        hasher: Hasher,
        range_bytes: Option<u64>,
        limit_bytes: u64,
        keeps_cut: bool,
    ) -> (Self, Body) {
        let state = State { hasher, received: 0, failure: None, ended: false, cut: false };
        let state = Arc::new(Mutex::new(state));
        let watched = Watched { body, range_bytes, limit_bytes, keeps_cut, state: state.clone() };
        (Self { state }, Body::new(watched))
    }

    /// What came, if all is well with the store, and with the body but for an end that came too early.
    pub(super) fn finish<T>(self, appended: store::Result<T>) -> Result<Received<T>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A store reports a failing body as a failure of its own; whose it is only we know.
        let failure = state.failure.as_ref().map(|failure| error_of(failure, state.received));
        match (failure, appended) {
            (Some(failure), Ok(stage)) if state.cut => Ok(state.received_as(stage, Some(failure))),
            (Some(failure), _) => Err(failure),
            (None, Ok(stage)) => Ok(state.received_as(stage, None)),
            (None, Err(store::Error::Conflict(_))) => Err(Error::UploadUnknown),
            (None, Err(error)) => Err(error.into()),
        }
    }
}

impl State {
    fn received_as<T>(&self, stage: T, cut: Option<Error>) -> Received<T> {
        Received { stage, hasher: self.hasher.clone(), bytes: self.received, cut }
    }
}

fn error_of(failure: &BodyError, received: u64) -> Error {
    match failure {
        BodyError::Length { declared } => {
            Error::SizeInvalid(format!("the body has {received} bytes of {declared} declared"))
        }
        BodyError::TooLarge { limit_bytes } => Error::TooLarge { limit_bytes: *limit_bytes },
        BodyError::Idle { limit_seconds } => Error::BodyIdle { limit_seconds: *limit_seconds },
        BodyError::Slow(limit) => Error::BodySlow(limit.clone()),
        BodyError::Interrupted(why) => Error::UploadInvalid(format!("the body broke off: {why}")),
        BodyError::Store(error) => error.clone().into(),
    }
}

impl Watched {
    /// How many bytes the body must have, by its range or by itself.
    fn declared(&self) -> Option<u64> {
        self.range_bytes.or(self.body.length())
    }

    fn watch(&self, frame: Option<Result<Frame<Bytes>, BodyError>>) -> Option<Result<Frame<Bytes>, BodyError>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let declared = self.declared();
        // A body that is longer than it may be, or whole and not as long as its range, is wrong; a body that ends too early
        // is right as far as it goes.
        let (failure, is_cut) = match frame {
            Some(Ok(frame)) => {
                let data = frame.data_ref().map_or(&[][..], |data| data);
                let received = state.received + data.len() as u64;
                match declared {
                    Some(declared) if received > declared => (BodyError::Length { declared }, false),
                    _ if received > self.limit_bytes => (BodyError::TooLarge { limit_bytes: self.limit_bytes }, false),
                    _ => {
                        state.received = received;
                        state.hasher.update(data);
                        return Some(Ok(frame));
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
                _ => {
                    state.ended = true;
                    return None;
                }
            },
        };
        state.failure = Some(failure.clone());
        state.ended = true;
        // Where nothing came the store had better undo what it did.
        state.cut = is_cut && self.keeps_cut && state.received > 0;
        if state.cut { None } else { Some(Err(failure)) }
    }

    fn has_ended(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ended
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.has_ended() {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(self.watch(frame))
    }

    /// What the body says itself: a range that was declared for it may be wrong.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
