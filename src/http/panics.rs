//! Confines a panic to the request in which the panic happened.
//!
//! A component does not unwind: a panic is a trap, and the host replaces the instance.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body::{Frame, SizeHint};
use tracing::Span;

use crate::platform::{Body, BodyError, Causes};

/// The output of `future`; `None` if the future panics. The panic is logged.
pub(super) async fn caught<F: Future>(future: F) -> Option<F::Output> {
    // Changes that a panic leaves half done are in the stores, which must survive a crash at any
    // point anyway.
    AssertUnwindSafe(future).catch_unwind().await.map_err(|panic| tracing::error!("a panic: {}", text_of(&*panic))).ok()
}

/// The body of an answer. The body logs within the request's span, and breaks off with an error if it
/// panics.
pub(super) struct Guarded {
    span: Span,
    body: Body,
    broken: bool,
}

impl Guarded {
    pub(super) fn body(span: Span, body: Body) -> Body {
        match body.length() {
            Some(0) => body,
            _ => Body::new(Self { span, body, broken: false }),
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
        this.span.in_scope(|| {
            let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.body).poll_frame(cx)));
            let polled = polled.unwrap_or_else(|panic| {
                // Report an error: the end of the body alone could pass for a complete answer.
                Poll::Ready(Some(Err(BodyError::Interrupted(format!("a panic: {}", text_of(&*panic))))))
            });
            if let Poll::Ready(Some(Err(error))) = &polled {
                tracing::error!("an answer breaks off: {}", Causes(error));
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
