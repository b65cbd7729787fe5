//! A component of its own beside a registry, in one Spin application. `spin.toml` gives the paths of
//! the distribution API to eyot's component, and all other paths to this component.
//!
//!     scripts/build spin                # eyot's component, at the top of the source tree
//!     cd examples/spin_app
//!     spin build --up
//!     skopeo copy --dest-tls-verify=false docker://docker.io/library/alpine docker://127.0.0.1:3000/alpine

use spin_sdk::http::{IntoResponse, Request, StatusCode};
use spin_sdk::http_service;

/// Answers all requests that `spin.toml` does not give to the registry.
#[http_service]
async fn answer(request: Request) -> impl IntoResponse {
    let (status, text) = match request.uri().path() {
        "/" => (StatusCode::OK, "hello from beside the registry\n"),
        _ => (StatusCode::NOT_FOUND, "there is no such page\n"),
    };
    (status, text.to_owned())
}
