//! The id of a request in the log and in the answer, so that a client's report leads to the
//! request's log lines.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::Span;

use super::limits::REQUEST_ID_BYTES_MAX;
use crate::platform::Platform;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The name of the span that covers the work for one request. The span has the field `id`.
pub const REQUEST_SPAN: &str = "request";

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

    /// The span of the request. A subscriber finds the id in the field `id` of the span, at every
    /// log level.
    pub(super) fn span(&self) -> Span {
        tracing::error_span!(REQUEST_SPAN, id = &*self.0)
    }

    /// Adds the id to the headers of an answer.
    pub(super) fn write_to(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            headers.insert(X_REQUEST_ID, value);
        }
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Whether a text is 1 to [`REQUEST_ID_BYTES_MAX`] letters, digits, `.`, `_` and `-`. A client's id
/// goes into the log and the answer, so other characters could forge log text.
fn is_plain(text: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}
