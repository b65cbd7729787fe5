//! The component for any WASI HTTP host (`wit/`, world `wasi`): the stores are files in a preopened
//! folder or S3, and the settings are environment variables.
#![allow(unsafe_code, reason = "wit-bindgen generates the bindings of the world")]

use std::sync::Arc;

use anyhow::{Result, bail};
use wasip3::http::types::{ErrorCode, Request, Response};

use super::component::{self, Opened};
use super::config::Config;
use super::log::log_to_standard_error;
use super::settings::{Host, Values, nearest_setting};
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
        component::answer(request, async || open()).await
    }
}

fn open() -> Result<Opened> {
    // The environment of a component was chosen for the component alone, so a name that is nearly a
    // setting's is an error.
    for (name, _) in std::env::vars_os() {
        if let Some(setting) = name.to_str().and_then(nearest_setting) {
            bail!("setting {}: eyot has no such setting; {setting} has a similar name", name.display());
        }
    }
    let config = Config::read(Values::new(Host::Wasi, &|name| std::env::var(name.to_uppercase()).ok()))?;
    log_to_standard_error(config.log);
    let stores = config.open(Arc::new(WasiPlatform), None)?;
    Ok(Opened { stores, blocking: false })
}
