//! The id of a request in the log and in the answer, so that a client's report leads to the
//! request's log lines.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::limits::REQUEST_ID_BYTES_MAX;
use crate::platform::Platform;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

thread_local! {
    static CURRENT: RefCell<Option<RequestId>> = const { RefCell::new(None) };
}

/// The id of a request: given by its client or a proxy (`X-Request-Id`), or drawn at random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestId(Arc<str>);

impl RequestId {
    pub(super) fn of(headers: &HeaderMap, platform: &dyn Platform) -> Self {
        let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        match given.filter(|text| is_plain(text)) {
            Some(text) => Self(text.into()),
            // Eight bytes are enough: an id must differ only from the ids of the same few days.
            None => Self(hex::encode(&platform.random()[..8]).into()),
        }
    }

    /// Does `work` under this id: log lines of `work` can ask for the id.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let outer = CURRENT.replace(Some(self.clone()));
        // Restore the outer id even if the work panics: another request is next on this thread.
        let _restored = Restored(outer);
        work()
    }

    /// Like [`RequestId::within`], for each poll of `future`.
    pub(super) async fn over<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| self.within(|| future.as_mut().poll(cx))).await
    }

    pub(super) fn write_to(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            headers.insert(X_REQUEST_ID, value);
        }
    }
}

struct Restored(Option<RequestId>);

impl Drop for Restored {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// The id of the request that this thread is working on, for a logger to put before its lines.
pub fn current_request_id() -> Option<Arc<str>> {
    CURRENT.try_with(|current| current.borrow().as_ref().map(|id| id.0.clone())).ok().flatten()
}

/// Whether a text is 1 to [`REQUEST_ID_BYTES_MAX`] letters, digits, `.`, `_` and `-`. A client's id
/// goes into the log and the answer, so other characters could forge log text.
fn is_plain(text: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}
