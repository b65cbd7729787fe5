//! The settings and the key-value store of the component for Spin 3 (`wit/`, world `spin3`), for
//! hosts that have Spin's interfaces of WASI 0.2: Spin 3, SpinKube and Akamai Functions. The settings
//! are Spin variables, and the keys are in Spin's key-value store, in files of a mount or in S3.
//!
//! Of `wasi:keyvalue` the component imports the interface `store` alone. The signatures of `batch`
//! differ between versions of Spin, and a swap of `atomics` reports a failure on some of Spin's
//! stores although the swap has written.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use bytes::Bytes;

use self::wasi::config::store as variables;
use self::wasi::keyvalue::store as key_value;
use super::component::Opened;
use super::config::Config;
use super::log::log_to_standard_error;
use super::settings::{Host, KeyValueName, Values, all_settings};
use crate::platform::Platform;
use crate::store::unordered::{Unordered, UnorderedStore};
use crate::store::{self, Error, KeyValue};

wit_bindgen::generate!({ path: "wit", world: "spin3", generate_all });

/// The label of the store in the application's manifest.
const LABEL: &str = "default";

/// The most pages of one listing. Spin gives all keys in one page. The bound ends the listing of a
/// host that gives a further page forever.
const LIST_PAGES_MAX: usize = 100_000;

/// Reads the settings of this instance and opens the stores.
///
/// # Errors
/// When a setting is wrong, a variable cannot be read, or a store cannot be opened.
pub(super) fn open(platform: Arc<dyn Platform>) -> Result<Opened> {
    let mut settings = HashMap::new();
    for setting in all_settings().filter(|setting| setting.hosts().contains(&Host::Spin3)) {
        let name = setting.name();
        // A variable that the manifest does not declare counts as not set.
        if let Some(value) =
            variables::get(name).map_err(|error| anyhow!("cannot read the variable {name}: {error}"))?
        {
            settings.insert(name, value);
        }
    }
    let config = Config::read(Values::new(Host::Spin3, &|name| settings.get(name).cloned()))?;
    log_to_standard_error(config.log);
    let keys: Option<Arc<dyn KeyValue>> = match config.stores.keys {
        KeyValueName::SpinKeyValue => Some(Arc::new(Unordered::new(Bucket::open()?))),
        KeyValueName::SpinSqlite | KeyValueName::Files | KeyValueName::S3 | KeyValueName::Memory => None,
    };
    Ok(Opened { stores: config.open(platform, keys)?, blocking: false })
}

/// A bucket of `wasi:keyvalue`: in Spin 3, a key-value store of the application.
struct Bucket(key_value::Bucket);

impl Bucket {
    /// Opens the default store.
    ///
    /// # Errors
    /// When the application's manifest does not give the store to the component. The text names the
    /// setting `keys`.
    fn open() -> Result<Self> {
        use key_value::Error::{AccessDenied, NoSuchStore};
        key_value::open(LABEL).map(Self).map_err(|error| match error {
            AccessDenied | NoSuchStore => anyhow!(
                "setting keys: the host gives this component no key-value store {LABEL:?}: \
                 name it in key_value_stores of the manifest, or set keys to s3"
            ),
            error => failed(error).into(),
        })
    }
}

fn failed(error: key_value::Error) -> Error {
    Error::unavailable("the host's key-value store failed").because(error)
}

#[async_trait]
impl UnorderedStore for Bucket {
    async fn get(&self, key: &str) -> store::Result<Option<Bytes>> {
        Ok(self.0.get(key).map_err(failed)?.map(Bytes::from))
    }

    async fn set(&self, key: &str, value: Bytes) -> store::Result<()> {
        self.0.set(key, &value).map_err(failed)
    }

    async fn delete(&self, key: &str) -> store::Result<()> {
        self.0.delete(key).map_err(failed)
    }

    async fn keys(&self, each: &mut (dyn FnMut(String) + Send)) -> store::Result<()> {
        let mut cursor = None;
        for _ in 0..LIST_PAGES_MAX {
            let page = self.0.list_keys(cursor.as_deref()).map_err(failed)?;
            page.keys.into_iter().for_each(&mut *each);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
        Err(Error::unavailable(format!("the host's key-value store lists its keys in over {LIST_PAGES_MAX} pages")))
    }
}
