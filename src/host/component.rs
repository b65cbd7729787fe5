//! Code that all components (`wasi`, `wasi2`, `spin3`, `spin`) share: the stores of an instance, and answers
//! over them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::Result;
use http::{HeaderValue, Request, Response, StatusCode};

use super::config::{Stores, names_a_setting};
use super::log::{visible, write_error};
use crate::platform::Body;

/// The stores of this instance, shared by all requests that the host gives the instance at once.
/// Several first requests may each open the stores, because a request cannot wait for another one;
/// the stores that are opened first are kept.
static OPENED: OnceLock<Opened> = OnceLock::new();

/// Whether this instance has already logged a wrong setting.
static LOGGED: AtomicBool = AtomicBool::new(false);

/// The stores of an instance.
pub(super) struct Opened {
    pub stores: Stores,
    /// Whether calls to the store block the host's thread.
    #[cfg_attr(
        feature = "wasi2",
        allow(dead_code, reason = "the 0.2 hosts do not run the guest on the server's thread")
    )]
    pub blocking: bool,
}

/// The stores of this instance. While this instance has no open stores, calls `open`, which reads
/// the settings and opens the stores.
///
/// # Errors
/// The answer to the request, when the stores cannot be opened.
pub(super) async fn opened(open: impl AsyncFnOnce() -> Result<Opened>) -> Result<&'static Opened, Box<Response<Body>>> {
    match OPENED.get() {
        Some(opened) => Ok(opened),
        None => match open().await {
            Ok(opened) => Ok(OPENED.get_or_init(|| opened)),
            Err(error) => Err(Box::new(unusable(&error))),
        },
    }
}

#[cfg(not(contract))]
pub(super) async fn handle(stores: &Stores, request: Request<Body>) -> Response<Body> {
    stores.handler().handle(request).await
}

/// Variant of the component that only tests build: every request runs the contract of the stores. A
/// broken clause traps.
#[cfg(contract)]
pub(super) async fn handle(stores: &Stores, _request: Request<Body>) -> Response<Body> {
    use crate::store::contract;
    let mut kept = String::new();
    for (name, clause) in contract::KEY_VALUE {
        eprintln!("key-value: {name}");
        clause(stores.keys.clone()).await;
        kept += &format!("key-value: {name}\n");
    }
    for (name, clause) in contract::BLOB_STORE {
        eprintln!("blob store: {name}");
        clause(stores.blobs.clone()).await;
        kept += &format!("blob store: {name}\n");
    }
    let length = kept.len();
    let mut response = Response::new(Body::from(kept.into_bytes()));
    response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    response
}

/// The answer (500) when the stores cannot be opened. If a setting is wrong, the client sees the
/// cause too, because an operator sees the answer before the log, and the text has no secret in it.
/// The log gets a wrong setting once per instance, and every failure of a store.
fn unusable(error: &anyhow::Error) -> Response<Body> {
    let cause = format!("{error:#}");
    let message = if names_a_setting(error) {
        if !LOGGED.swap(true, Relaxed) {
            write_error(&cause);
        }
        format!("the registry is not set up: {}", visible(&cause))
    } else {
        write_error(&cause);
        "cannot open the registry's stores; the log of the registry has the cause".into()
    };
    let text = serde_json::json!({"errors": [{"code": "UNKNOWN", "message": message}]}).to_string();
    let length = text.len();
    let mut response = Response::new(Body::from(text.into_bytes()));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    response.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
