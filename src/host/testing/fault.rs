//! Faults on request.

use std::collections::VecDeque;
use std::io;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::http::Handler;
use crate::platform::{Body, BodyError};

/// The way in which a request fails.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// An answer with this status in place of the registry's answer, with an error in the JSON form of
    /// the specification. The request changes nothing.
    Status {
        /// The status.
        status: StatusCode,
        /// The value of the header `Retry-After`, in seconds.
        retry_after_seconds: Option<u32>,
    },
    /// The body of the answer breaks off after this number of bytes.
    CutBody {
        /// How many bytes the client gets.
        after_bytes: u64,
    },
    /// One bit of the body of the answer is wrong, so the content does not have its digest.
    WrongBytes,
    /// The answer comes after this time. The request is carried out first.
    Late(Duration),
    /// The request is carried out, and the connection is closed without an answer.
    NoAnswer,
}

impl Fault {
    /// An answer with this status, and the header `Retry-After` if a number of seconds is given.
    pub fn status(status: StatusCode, retry_after_seconds: Option<u32>) -> Self {
        Self::Status { status, retry_after_seconds }
    }

    /// Answers a request with this fault.
    ///
    /// # Errors
    /// If the connection is to be closed without an answer.
    pub(super) async fn answer(self, handler: &Handler, request: Request<Body>) -> io::Result<Response<Body>> {
        if let Self::Status { status, retry_after_seconds } = self {
            let mut response = Response::new(Body::from(error_body(status)));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if let Some(seconds) = retry_after_seconds {
                response.headers_mut().insert(RETRY_AFTER, seconds.into());
            }
            return Ok(response);
        }
        let response = handler.handle(request).await;
        match self {
            Self::NoAnswer => return Err(io::Error::other("a test asked for a connection without an answer")),
            Self::Late(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        Ok(match self {
            Self::CutBody { after_bytes } => response.map(|body| cut(body, after_bytes)),
            Self::WrongBytes => response.map(with_wrong_bit),
            _ => response,
        })
    }
}

/// A body as the specification asks for (distribution-spec, "Error Codes").
fn error_body(status: StatusCode) -> Vec<u8> {
    let code = match status {
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        StatusCode::FORBIDDEN => "DENIED",
        StatusCode::TOO_MANY_REQUESTS => "TOOMANYREQUESTS",
        StatusCode::METHOD_NOT_ALLOWED => "UNSUPPORTED",
        _ => "UNKNOWN",
    };
    let error = serde_json::json!({ "code": code, "message": "a test asked for this status" });
    serde_json::json!({ "errors": [error] }).to_string().into_bytes()
}

fn cut(mut body: Body, after_bytes: u64) -> Body {
    let (mut left, mut is_sent) = (after_bytes, false);
    Body::from_poll(body.length(), move |cx| {
        // hyper drops what it has not sent yet when a body fails, and sends all when a body waits.
        if left == 0 && !std::mem::replace(&mut is_sent, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if left == 0 {
            return Poll::Ready(Some(Err(BodyError::Interrupted("a test asked for a cut body".to_owned()))));
        }
        body.poll_next(cx).map_ok(|piece| {
            let piece = piece.slice(..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            left -= piece.len() as u64;
            piece
        })
    })
}

fn with_wrong_bit(mut body: Body) -> Body {
    let mut is_changed = false;
    Body::from_poll(body.length(), move |cx| {
        body.poll_next(cx).map_ok(|piece| {
            let change = !std::mem::replace(&mut is_changed, true);
            let mut bytes = piece.to_vec();
            bytes[0] ^= u8::from(change);
            Bytes::from(bytes)
        })
    })
}

/// The faults that are still to come, in order.
#[derive(Default)]
pub(super) struct Faults(VecDeque<Planned>);

struct Planned {
    method: Method,
    part: String,
    times: usize,
    fault: Fault,
}

impl Faults {
    pub(super) fn add(&mut self, method: Method, part: &str, times: usize, fault: Fault) {
        self.0.push_back(Planned { method, part: part.to_owned(), times, fault });
    }

    /// Takes the fault of a request, if the request is to fail.
    pub(super) fn take(&mut self, method: &Method, target: &str) -> Option<Fault> {
        self.0.retain(|planned| planned.times > 0);
        let matches = |planned: &&mut Planned| planned.method == *method && target.contains(&planned.part);
        let planned = self.0.iter_mut().find(matches)?;
        planned.times -= 1;
        Some(planned.fault.clone())
    }
}
