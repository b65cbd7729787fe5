//! The component for any WASI HTTP host (`wit/`, world `wasi`): files in a preopened folder or
//! S3, settings as environment variables.

use std::sync::Arc;

use wasip3::http::types::{ErrorCode, Request, Response};

use super::component;
use super::config::{Config, Offer, log_to_standard_error};
use super::wasi_outbound::WasiPlatform;

const OFFER: Offer = Offer { keys: &["files", "s3"], blobs: &["files", "s3", "packed"], data_dir: "/data" };

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
        component::answer(request, async || {
            let config = Config::read(&OFFER, |name| std::env::var(name.to_uppercase()).ok())?;
            log_to_standard_error(config.log);
            config.access.tell();
            config.open(Arc::new(WasiPlatform), None)
        })
        .await
    }
}
