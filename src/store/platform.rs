//! What is impure and not storage: the clock, randomness and outbound HTTP. All of it goes through here, so that tests can
//! own it.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use http::{Request, Response};

use super::{Body, Error, Result};

/// The clock, the randomness and the way out of a host.
#[async_trait]
pub trait Platform: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// Random bytes that nobody can guess.
    fn random(&self) -> [u8; 16];

    /// A new random UUID (version 4): upload sessions and stages are called so.
    fn uuid(&self) -> String {
        uuid::Builder::from_random_bytes(self.random()).into_uuid().to_string()
    }

    /// Sends a request to another server; its URI is absolute, and a body of known length goes out with Content-Length.
    /// `timeout` is how long the server may take for the head of the answer, beside the sending of the body, for which it gets
    /// more, and during which it may not stall for longer; while the answer's body is read, how long each piece may take is up to
    /// the host.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there was no answer; the request may have been carried out all the same.
    /// [`Error::Unsupported`] on a platform that has no way out.
    async fn send(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Body>> {
        let _ = (request, timeout);
        Err(Error::Unsupported("this platform sends no requests"))
    }

    /// Whether [`Platform::spawn`] runs tasks in the background.
    fn runs_tasks(&self) -> bool {
        false
    }

    /// Runs a task in the background, whether anybody waits for it or not. A platform without background tasks drops the
    /// task; ask [`Platform::runs_tasks`] first.
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(task);
    }

    /// Waits. A platform that cannot returns at once.
    async fn sleep(&self, duration: Duration) {
        let _ = duration;
    }
}

/// The operating system's clock and randomness; on WASI the host's.
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
