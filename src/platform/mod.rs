//! The ground floor: streams of bytes ([`Body`]), and the impure parts of a host besides storage,
//! which are the clock, randomness and outbound HTTP. All code reaches the latter through
//! [`Platform`], so that tests control them.

mod body;
mod causes;
mod client_pace;

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use http::{Request, Response};

pub use body::{Body, BodyError, SourceError};
pub use causes::Causes;
pub use client_pace::ClientPace;

/// Why [`Platform::send`] returned no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The platform has no outbound HTTP. The request was not sent.
    #[error("this platform sends no requests")]
    Unsupported,
    /// No answer arrived in time. The server may have carried out the request. The text names the
    /// limit.
    #[error("{0}")]
    TimedOut(String),
    /// No answer arrived. The server may have carried out the request. The text says why.
    #[error("{0}")]
    Failed(String),
}

/// The clock, the randomness and the outbound HTTP of a host.
#[async_trait]
pub trait Platform: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// Unpredictable random bytes.
    fn random(&self) -> [u8; 16];

    /// A new random UUID (version 4), for the names of upload sessions and stages.
    fn uuid(&self) -> String {
        uuid::Builder::from_random_bytes(self.random()).into_uuid().to_string()
    }

    /// Sends a request to another server. The URI of the request is absolute, and a body of known
    /// length goes out with Content-Length.
    ///
    /// `timeout` limits how long the server may take to answer with the head of the response.
    /// Sending the body gets additional time, but must not stall for longer than `timeout`. The
    /// host decides how long each piece of the response body may take.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] and [`SendError::Failed`] when no answer arrived; the server may have
    /// carried out the request all the same. [`SendError::Unsupported`] on a platform without outbound HTTP.
    async fn send(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Body>, SendError> {
        let _ = (request, timeout);
        Err(SendError::Unsupported)
    }

    /// Whether [`Platform::spawn`] runs tasks in the background.
    fn runs_tasks(&self) -> bool {
        false
    }

    /// Runs a task in the background, whether or not a caller waits for the task. A platform
    /// without background tasks drops the task; ask [`Platform::runs_tasks`] first.
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(task);
    }

    /// Waits for `duration`. A platform that cannot wait returns at once.
    async fn sleep(&self, duration: Duration) {
        let _ = duration;
    }
}

/// The clock and the randomness of the operating system, or of the host under WASI.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemPlatform;

#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
#[async_trait]
impl Platform for SystemPlatform {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that draws randomness")]
    fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives randomness");
        bytes
    }
}
