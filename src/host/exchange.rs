//! Code that the HTTP clients of all components share: their timeouts, and how the rest of a request is
//! sent while the answer is read.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::platform::Body;

/// The longest time for making a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for the next bytes of an answer's body.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// The slowest speed allowed for a request body, in bytes per second. The host counts the time for
/// the body towards the timeout of the answer, so the timeout grows with the body.
const BODY_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;

/// The timeout for the head of an answer, with the time that the request's `body` may take.
pub(super) fn answer_timeout(timeout: Duration, body: &Body) -> Duration {
    timeout + Duration::from_secs(body.length().unwrap_or(0) / BODY_BYTES_PER_SECOND_MIN)
}

/// The task that sends the rest of a request body.
pub(super) type Writing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits for `answer` and sends the request body meanwhile. A server may begin its answer before
/// the request is sent completely, and may end the answer only after that.
pub(super) async fn beside<T>(writing: &mut Option<Writing>, answer: impl Future<Output = T>) -> T {
    let answer = pin!(answer);
    let Some(rest) = writing else { return answer.await };
    match select(answer, rest).await {
        Either::Left((answer, _)) => answer,
        Either::Right(((), answer)) => {
            *writing = None;
            answer.await
        }
    }
}
