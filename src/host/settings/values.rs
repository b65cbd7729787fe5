//! Reads values of settings and checks them.

use anyhow::{Context as _, Result, bail};

use super::setting::{Host, Kind, Setting};

/// The values of settings as a host gives them: texts by name.
#[derive(Clone, Copy)]
pub struct Values<'get> {
    host: Host,
    get: &'get dyn Fn(&str) -> Option<String>,
    trims: bool,
}

impl<'get> Values<'get> {
    /// Reads values by `get`, which returns the value of a setting by its lower-case name. An empty
    /// value counts as not set.
    pub fn new(host: Host, get: &'get dyn Fn(&str) -> Option<String>) -> Self {
        Self { host, get, trims: false }
    }

    /// The same values without white space at the beginning and the end. Secrets often come from
    /// files that end in a newline.
    pub(super) fn trimmed(self) -> Self {
        Self { trims: true, ..self }
    }

    /// The value of a setting, or the default if the setting is not set or another host's.
    ///
    /// # Errors
    /// When the value is not valid. The text names the setting and the valid values.
    pub fn read<K: Kind>(&self, setting: &Setting<K>) -> Result<K::Value> {
        let text = (self.get)(setting.name).filter(|_| setting.hosts.contains(&self.host));
        let text = text.map(|text| if self.trims { text.trim().to_owned() } else { text });
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(setting.kind.default(self.host)) };
        match setting.kind.parse(&text, self.host) {
            Some(value) => Ok(value),
            None if setting.secret => {
                bail!("setting {}: the value is not {}", setting.name, setting.kind.accepts(&[self.host]))
            }
            None => bail!("setting {}: {text:?} is not {}", setting.name, setting.kind.accepts(&[self.host])),
        }
    }

    /// The value of a setting that must be set because of `reason`.
    ///
    /// # Errors
    /// When the setting is not set or not valid.
    pub(super) fn needed<K: Kind<Value = Option<T>>, T>(&self, setting: &Setting<K>, reason: &str) -> Result<T> {
        self.read(setting)?.with_context(|| format!("setting {} is missing: {reason}", setting.name))
    }
}
