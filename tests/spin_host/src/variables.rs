//! `spin:variables` and `wasi:config`, from the command line and the environment.

use std::collections::HashMap;

use wasmtime::Result;
use wasmtime::component::{Accessor, HasSelf};

use crate::bindings::variables::{Error, Host, HostWithStore};
use crate::bindings::wasi_config;
use crate::guest::Guest;

pub struct Variables(HashMap<String, String>);

impl Variables {
    pub fn new(variables: &[(String, String)]) -> Self {
        Self(variables.iter().cloned().collect())
    }

    /// The value of a variable, from the command line or the environment.
    pub fn value(&self, name: &str) -> Result<String, Error> {
        if !is_valid(name) {
            return Err(Error::InvalidName(name.to_owned()));
        }
        let value = self.0.get(name).cloned();
        let value = value.or_else(|| std::env::var(format!("SPIN_VARIABLE_{}", name.to_uppercase())).ok());
        value.ok_or_else(|| Error::Undefined(format!("no variable for {name:?}")))
    }
}

/// Spin's rule for names: words of lower-case letters and digits, joined by one underscore, with a
/// letter first.
fn is_valid(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .split('_')
            .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()))
}

impl<T: 'static> HostWithStore<T> for HasSelf<Guest> {
    async fn get(store: &Accessor<T, Self>, name: String) -> Result<Result<String, Error>> {
        Ok(store.with(|mut store| store.get().services.variables.value(&name)))
    }
}

impl Host for Guest {}

impl wasi_config::Host for Guest {
    fn get(&mut self, name: String) -> Result<Result<Option<String>, wasi_config::Error>> {
        Ok(match self.services.variables.value(&name) {
            Ok(value) => Ok(Some(value)),
            Err(Error::InvalidName(_) | Error::Undefined(_)) => Ok(None),
            Err(Error::Provider(text)) => Err(wasi_config::Error::Upstream(text)),
            Err(Error::Other(text)) => Err(wasi_config::Error::Io(text)),
        })
    }

    fn get_all(&mut self) -> Result<Result<Vec<(String, String)>, wasi_config::Error>> {
        Ok(Err(wasi_config::Error::Io("this host gives single variables only".into())))
    }
}
