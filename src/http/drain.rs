//! Drains the rest of a request's body when the answer is known.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::limits::DRAIN_BYTES_MAX;
use crate::platform::{Body, BodyError};

/// A handle on a body that has been given to an operation.
pub(super) struct Drain {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    body: Body,
    has_begun: bool,
    has_ended: bool,
}

impl Drain {
    /// Returns a handle for draining the body, and the body for the operation to read.
    pub(super) fn new(body: Body) -> (Self, Body) {
        let length = body.length();
        let shared = Arc::new(Mutex::new(Shared { body, has_begun: false, has_ended: length == Some(0) }));
        let reader = shared.clone();
        let body = Body::from_poll(length, move |cx| reader.lock().unwrap_or_else(PoisonError::into_inner).poll(cx));
        (Self { shared }, body)
    }

    /// Reads and discards the part of the body that the operation has not read, up to
    /// [`DRAIN_BYTES_MAX`]. If the client `waits` for 100 Continue (`Expect`) and the operation
    /// has read nothing, the client has sent no body, and draining is skipped.
    pub(super) async fn drain(self, waits: bool) {
        let mut drained = 0;
        while let Some(Ok(data)) = std::future::poll_fn(|cx| self.poll(cx, waits)).await {
            drained += data.len() as u64;
            if drained > DRAIN_BYTES_MAX {
                return;
            }
        }
    }

    fn poll(&self, cx: &mut Context<'_>, waits: bool) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if waits && !shared.has_begun { Poll::Ready(None) } else { shared.poll(cx) }
    }
}

impl Shared {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.has_begun = true;
        let polled = ready!(self.body.poll_next(cx));
        self.has_ended = !matches!(polled, Some(Ok(_)));
        Poll::Ready(polled)
    }
}
