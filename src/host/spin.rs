//! The component for Spin (`wit/`, world `spin`): the stores are Spin's SQLite, Spin's key-value
//! store, files in a mount, or S3, and the settings are Spin variables.
#![allow(unsafe_code, reason = "wit-bindgen generates the bindings of the world")]

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use spin_sdk::variables;
use wasip3::http::types::{ErrorCode, Request, Response};

use super::component::Opened;
use super::config::Config;
use super::log::log_to_standard_error;
use super::settings::{Host, KeyValueName, Values, all_settings};
use super::wasi_inbound;
use super::wasi_outbound::WasiPlatform;
use crate::platform::SystemPlatform;
use crate::store::spin::{SpinKeyValue, SpinSqlite};
use crate::store::unordered::Unordered;
use crate::store::{Error, KeyValue};

wasip3::wit_bindgen::generate!({
    path: "wit",
    world: "spin",
    runtime_path: "wasip3::wit_bindgen::rt",
    with: {
        "wasi:http/types@0.3.0": wasip3::http::types,
        "wasi:http/client@0.3.0": wasip3::http::client,
        "spin:key-value/key-value@3.0.0": spin_sdk::key_value::wit::key_value,
        "spin:sqlite/sqlite@3.1.0": spin_sdk::sqlite::wit::sqlite,
        "spin:variables/variables@3.0.0": spin_sdk::variables::wit::variables,
    },
    generate_all,
});

struct Component;

export!(Component);

impl exports::wasi::http::handler::Guest for Component {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        wasi_inbound::answer(request, open).await
    }
}

async fn open() -> Result<Opened> {
    let mut settings = HashMap::new();
    for setting in all_settings().filter(|setting| setting.hosts().contains(&Host::Spin)) {
        // A variable that the manifest does not declare counts as not set.
        if let Ok(value) = variables::get(setting.name()).await {
            settings.insert(setting.name(), value);
        }
    }
    let config = Config::read(Values::new(Host::Spin, &|name| settings.get(name).cloned()))?;
    log_to_standard_error(config.log);
    let keys: Option<Arc<dyn KeyValue>> = match config.stores.keys {
        KeyValueName::SpinSqlite => {
            let opened = SpinSqlite::open(Arc::new(SystemPlatform)).await;
            Some(Arc::new(opened.map_err(|error| missing(error, "spin-key-value"))?))
        }
        KeyValueName::SpinKeyValue => {
            let opened = SpinKeyValue::open().await;
            Some(Arc::new(Unordered::new(opened.map_err(|error| missing(error, "spin-sqlite"))?)))
        }
        KeyValueName::Files | KeyValueName::S3 | KeyValueName::Memory => None,
    };
    let stores = config.open(Arc::new(WasiPlatform), keys)?;
    Ok(Opened { stores, blocking: config.stores.keys == KeyValueName::SpinKeyValue })
}

/// Converts the error of opening a store. If the host does not give the component that store, the
/// text names the setting and the `other` store.
fn missing(error: Error, other: &str) -> anyhow::Error {
    match error {
        Error::Unsupported(what) => anyhow!("setting keys: {what}; {other} may be there"),
        error => error.into(),
    }
}
