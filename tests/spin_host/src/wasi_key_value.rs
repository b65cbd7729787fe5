//! `wasi:keyvalue`, the interface of Spin 3 to the same store as `spin:key-value`.

use wasmtime::Result;
use wasmtime::component::Resource;

use crate::bindings::key_value;
use crate::bindings::wasi_key_value::{Error, Host, HostBucket, KeyResponse};
use crate::calls::Call;
use crate::guest::Guest;
use crate::key_value::{KeyValue, OpenStore};

/// The resource behind a guest's `bucket` handle.
pub struct OpenBucket(Resource<OpenStore>);

fn converted(error: key_value::Error) -> Error {
    match error {
        key_value::Error::AccessDenied => Error::AccessDenied,
        key_value::Error::NoSuchStore => Error::NoSuchStore,
        key_value::Error::StoreTableFull => Error::Other("store table full".into()),
        key_value::Error::Other(text) => Error::Other(text),
    }
}

impl Guest {
    fn counted(&self, call: Call) -> &KeyValue {
        self.services.calls.count(call);
        &self.services.key_value
    }
}

impl HostBucket for Guest {
    fn get(&mut self, _: Resource<OpenBucket>, key: String) -> Result<Result<Option<Vec<u8>>, Error>> {
        Ok(self.counted(Call::Get).get(&key).map_err(converted))
    }

    fn set(&mut self, _: Resource<OpenBucket>, key: String, value: Vec<u8>) -> Result<Result<(), Error>> {
        Ok(self.counted(Call::Set).set(&key, &value).map_err(converted))
    }

    fn delete(&mut self, _: Resource<OpenBucket>, key: String) -> Result<Result<(), Error>> {
        Ok(self.counted(Call::Delete).delete(&key).map_err(converted))
    }

    fn exists(&mut self, _: Resource<OpenBucket>, key: String) -> Result<Result<bool, Error>> {
        Ok(self.counted(Call::Exists).exists(&key).map_err(converted))
    }

    /// Gives all keys at once, and refuses a cursor, as Spin does.
    fn list_keys(&mut self, _: Resource<OpenBucket>, cursor: Option<String>) -> Result<Result<KeyResponse, Error>> {
        if cursor.is_some() {
            return Ok(Err(Error::Other("list_keys: cursor not supported".into())));
        }
        let keys = self.counted(Call::GetKeys).shuffled_keys();
        Ok(keys.map(|(keys, _)| KeyResponse { keys, cursor: None }).map_err(converted))
    }

    fn drop(&mut self, bucket: Resource<OpenBucket>) -> Result<()> {
        let OpenBucket(store) = self.table.delete(bucket)?;
        self.close_store(store)
    }
}

impl Host for Guest {
    fn open(&mut self, identifier: String) -> Result<Result<Resource<OpenBucket>, Error>> {
        Ok(match self.open_store(&identifier)? {
            Ok(store) => Ok(self.table.push(OpenBucket(store))?),
            Err(error) => Err(converted(error)),
        })
    }
}
