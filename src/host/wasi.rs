//! The component for any WASI HTTP host (`wit/`, world `wasi`): the stores are files in a preopened
//! folder or S3, and the settings are environment variables.
#![allow(unsafe_code, reason = "wit-bindgen generates the bindings of the world")]

use std::sync::Arc;

use wasip3::http::types::{ErrorCode, Request, Response};

use super::environment;
use super::wasi_inbound;
use super::wasi_outbound::WasiPlatform;

wasip3::wit_bindgen::generate!({
    path: "wit",
    world: "wasi",
    runtime_path: "wasip3::wit_bindgen::rt",
    with: {
        "wasi:http/types@0.3.0": wasip3::http::types,
        "wasi:http/client@0.3.0": wasip3::http::client,
    },
    generate_all,
});

struct Component;

export!(Component);

impl exports::wasi::http::handler::Guest for Component {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        wasi_inbound::answer(request, async || environment::open(Arc::new(WasiPlatform))).await
    }
}
