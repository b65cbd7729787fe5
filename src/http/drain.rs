//! Drains the rest of a request's body when the answer is known.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::limits::DRAIN_BYTES_MAX;
use crate::platform::{Body, BodyError};

/// A handle on a body that has been given to an operation.
pub(super) struct Drain {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    body: Body,
    begun: bool,
    ended: bool,
}

struct Watched {
    shared: Arc<Mutex<Shared>>,
    length: Option<u64>,
}

impl Drain {
    /// Returns a handle for draining the body, and the body for the operation to read.
    pub(super) fn watch(body: Body) -> (Self, Body) {
        let length = body.length();
        let shared = Arc::new(Mutex::new(Shared { body, begun: false, ended: length == Some(0) }));
        (Self { shared: shared.clone() }, Body::new(Watched { shared, length }))
    }

    /// Reads and discards the part of the body that the operation has not read, up to
    /// [`DRAIN_BYTES_MAX`]. If the client `waits` to be told to go on (`Expect`) and the
    /// operation has read nothing, the client has sent no body, and draining is skipped.
    pub(super) async fn drain(self, waits: bool) {
        let mut drained = 0;
        while let Some(Ok(frame)) = std::future::poll_fn(|cx| self.poll(cx, waits)).await {
            drained += frame.data_ref().map_or(0, |data| data.len() as u64);
            if drained > DRAIN_BYTES_MAX {
                return;
            }
        }
    }

    fn poll(&self, cx: &mut Context<'_>, waits: bool) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if waits && !shared.begun { Poll::Ready(None) } else { shared.poll(cx) }
    }
}

impl Shared {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.begun = true;
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.ended = true;
        }
        polled
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).poll(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
