//! Confines a panic to the request in which the panic happened.
//!
//! A component does not unwind: a panic is a trap, and the host replaces the instance.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use futures_util::FutureExt as _;
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
pub(super) fn guarded(span: Span, mut body: Body) -> Body {
    Body::from_poll(body.length(), move |cx| {
        span.in_scope(|| {
            let polled = catch_unwind(AssertUnwindSafe(|| body.poll_next(cx)));
            let polled = polled.unwrap_or_else(|panic| {
                // Report an error: the end of the body alone could pass for a complete answer.
                Poll::Ready(Some(Err(BodyError::Interrupted(format!("a panic: {}", text_of(&*panic))))))
            });
            if let Poll::Ready(Some(Err(error))) = &polled {
                tracing::error!("an answer breaks off: {}", Causes(error));
            }
            polled
        })
    })
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}
