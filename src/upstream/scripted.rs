//! A platform whose clock and whose other servers a test controls.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use futures_executor::block_on;
use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{Request, Response};

use crate::platform::{Body, Platform, SendError};

type Script = Box<dyn Fn(&Request<Body>) -> Result<Response<Body>, SendError> + Send + Sync>;

/// A platform with a script that answers each request. The platform keeps a line for each request:
/// method, URL and, if there is one, the `Authorization` header.
pub(crate) struct Scripted {
    pub(crate) now_ms: AtomicU64,
    random: AtomicU64,
    /// Whether tasks run, each on a thread of its own.
    pub(crate) runs_tasks: AtomicBool,
    script: Mutex<Script>,
    requests: Mutex<Vec<String>>,
}

impl Scripted {
    pub(crate) fn new(
        script: impl Fn(&Request<Body>) -> Result<Response<Body>, SendError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            now_ms: AtomicU64::new(1_700_000_000_000),
            random: AtomicU64::new(0),
            runs_tasks: AtomicBool::new(false),
            script: Mutex::new(Box::new(script)),
            requests: Mutex::default(),
        }
    }

    /// The lines of all requests since the last call.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }

    pub(crate) fn pass_ms(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Relaxed);
    }
}

#[async_trait]
impl Platform for Scripted {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Relaxed)
    }

    fn random(&self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.random.fetch_add(1, Relaxed).to_le_bytes();
        [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    fn runs_tasks(&self) -> bool {
        self.runs_tasks.load(Relaxed)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        std::thread::spawn(|| block_on(task));
    }

    async fn send(&self, request: Request<Body>, _: Duration) -> Result<Response<Body>, SendError> {
        let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let authorization = authorization.map(|value| format!(" {value}")).unwrap_or_default();
        self.requests.lock().unwrap().push(format!("{} {}{authorization}", request.method(), request.uri()));
        (self.script.lock().unwrap())(&request)
    }
}
