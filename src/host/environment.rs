//! The settings of a component in environment variables, and the stores that they choose.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::component::Opened;
use super::config::Config;
use super::log::log_to_standard_error;
use super::settings::{Host, Values, nearest_setting};
use crate::platform::Platform;

/// Reads the settings of this instance and opens the stores.
///
/// # Errors
/// When a setting is wrong or misspelt, or a store cannot be opened.
pub(super) fn open(platform: Arc<dyn Platform>) -> Result<Opened> {
    // The environment of a component was chosen for the component alone, so a name that is nearly a
    // setting's is an error.
    for (name, _) in std::env::vars_os() {
        if let Some(setting) = name.to_str().and_then(nearest_setting) {
            bail!("setting {}: eyot has no such setting; {setting} has a similar name", name.display());
        }
    }
    let config = Config::read(Values::new(Host::Wasi, &|name| std::env::var(name.to_uppercase()).ok()))?;
    log_to_standard_error(config.log);
    let stores = config.open(platform, None)?;
    Ok(Opened { stores, blocking: false })
}
