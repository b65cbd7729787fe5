//! A panic ends the request that it happened in and nothing else.
//!
//! In a component there is no unwinding: a panic is a trap, and the host replaces the instance.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body::{Frame, SizeHint};

use super::request_id::RequestId;
use crate::store::{Body, BodyError};

/// What `future` gives; `None` when it panics, of which the log tells.
pub(super) async fn caught<F: Future>(future: F) -> Option<F::Output> {
    // What a panic leaves half done lies in the stores, which must stand a crash at any point anyway.
    AssertUnwindSafe(future).catch_unwind().await.map_err(|panic| log::error!("a panic: {}", text_of(&*panic))).ok()
}

/// An answer's body: it logs under the request's id, and one that panics breaks off.
pub(super) struct Guarded {
    id: RequestId,
    body: Body,
    broken: bool,
}

impl Guarded {
    pub(super) fn body(id: &RequestId, body: Body) -> Body {
        match body.length() {
            Some(0) => body,
            _ => Body::new(Self { id: id.clone(), body, broken: false }),
        }
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.broken {
            return Poll::Ready(None);
        }
        this.id.within(|| {
            let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.body).poll_frame(cx)));
            let polled = polled.unwrap_or_else(|panic| {
                // An error, as the end alone could pass for a whole answer.
                Poll::Ready(Some(Err(BodyError::Interrupted(format!("a panic: {}", text_of(&*panic))))))
            });
            if let Poll::Ready(Some(Err(error))) = &polled {
                log::error!("an answer breaks off: {error}");
                this.broken = true;
            }
            polled
        })
    }

    fn is_end_stream(&self) -> bool {
        self.broken || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}
