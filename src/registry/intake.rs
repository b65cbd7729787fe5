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

struct State {
    hasher: Hasher,
    received: u64,
    failure: Option<BodyError>,
}

struct Watched {
    body: Body,
    declared: Option<u64>,
    limit_bytes: u64,
    state: Arc<Mutex<State>>,
}

impl Intake {
    /// Wraps `body`, which must have `declared` bytes, where that is known, and at most `limit_bytes`.
    pub(super) fn new(body: Body, hasher: Hasher, declared: Option<u64>, limit_bytes: u64) -> (Self, Body) {
        let state = Arc::new(Mutex::new(State { hasher, received: 0, failure: None }));
        let watched = Watched { body, declared, limit_bytes, state: state.clone() };
        (Self { state }, Body::new(watched))
    }

    /// The hasher and the number of bytes that came, if all is well with the body and the store.
    pub(super) fn finish<T>(self, appended: store::Result<T>) -> Result<(T, Hasher, u64)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A store reports a failing body as a failure of its own; whose it is only we know.
        match (&state.failure, appended) {
            (Some(BodyError::Length { declared }), _) => {
                Err(Error::SizeInvalid(format!("the body has {} bytes of {declared} declared", state.received)))
            }
            (Some(BodyError::TooLarge { .. }), _) => Err(Error::TooLarge { limit_bytes: self.limit(&state) }),
            (Some(BodyError::Idle { limit_seconds }), _) => Err(Error::BodyIdle { limit_seconds: *limit_seconds }),
            (Some(BodyError::Interrupted(why)), _) => Err(Error::UploadInvalid(format!("the body broke off: {why}"))),
            (Some(BodyError::Store(error)), _) => Err(error.clone().into()),
            (None, Ok(value)) => Ok((value, state.hasher.clone(), state.received)),
            (None, Err(store::Error::Conflict(_))) => Err(Error::UploadUnknown),
            (None, Err(error)) => Err(error.into()),
        }
    }

    fn limit(&self, state: &State) -> u64 {
        match state.failure {
            Some(BodyError::TooLarge { limit_bytes }) => limit_bytes,
            _ => 0,
        }
    }
}

impl Watched {
    fn watch(&self, frame: Option<Result<Frame<Bytes>, BodyError>>) -> Option<Result<Frame<Bytes>, BodyError>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = match frame {
            Some(Ok(frame)) => {
                let data = frame.data_ref().map_or(&[][..], |data| data);
                let received = state.received + data.len() as u64;
                if self.declared.is_some_and(|declared| received > declared) {
                    BodyError::Length { declared: self.declared.unwrap_or_default() }
                } else if received > self.limit_bytes {
                    BodyError::TooLarge { limit_bytes: self.limit_bytes }
                } else {
                    state.received = received;
                    state.hasher.update(data);
                    return Some(Ok(frame));
                }
            }
            Some(Err(error)) => error,
            None => match self.declared {
                Some(declared) if state.received < declared => BodyError::Length { declared },
                _ => return None,
            },
        };
        state.failure = Some(failure.clone());
        Some(Err(failure))
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(self.watch(frame))
    }

    /// What the body says itself: a range that was declared for it may be wrong.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
