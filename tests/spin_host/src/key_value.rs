//! `spin:key-value` as Spin's SQLite provider behaves: one connection and one lock for all
//! instances, calls that block the instance, keys in no order.

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot};
use tokio::task::{block_in_place, spawn_blocking};
use wasmtime::Result;
use wasmtime::component::{Accessor, FutureReader, HasSelf, Resource, StreamReader};

use crate::bindings::key_value::{Error, Host, HostStore, HostStoreWithStore};
use crate::calls::Call;
use crate::guest::Guest;
use crate::lock;
use crate::options::Manners;
use crate::received::Received;

/// Spin's own limit for one instance. The limit reveals a component that leaks stores.
const OPEN_STORES_MAX: u32 = 256;

/// Keys for each read of the guest. Spin's channel holds as many, so a guest never receives many
/// keys at once.
const KEYS_AT_A_TIME: usize = 4;

const COMPLAINT: &str = "key-value call while get-keys was not drained";

pub struct KeyValue {
    connection: Arc<Mutex<Connection>>,
    value_bytes_max: usize,
    manners: Manners,
}

/// The resource behind a guest's `store` handle. The host has only one store.
pub struct OpenStore;

impl KeyValue {
    pub fn open(directory: &Path, value_bytes_max: usize, manners: Manners) -> rusqlite::Result<Self> {
        let connection = Connection::open(directory.join("key_value.db"))?;
        if manners == Manners::Quick {
            // Without fsync, only a power loss loses data; a killed process loses nothing. Spin
            // leaves SQLite's defaults: a rollback journal and several fsyncs for each write.
            connection.pragma_update(None, "synchronous", "OFF")?;
        }
        connection.execute_batch("CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, value BLOB NOT NULL)")?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), value_bytes_max, manners })
    }

    /// Blocks the whole instance with all its requests, as Spin does.
    fn with_connection<R>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<R>) -> Result<R, Error> {
        block_in_place(|| {
            let connection = lock::acquire(&self.connection, COMPLAINT).map_err(Error::Other)?;
            work(&connection).map_err(|error| Error::Other(error.to_string()))
        })
    }

    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.with_connection(|connection| {
            connection
                .prepare_cached("SELECT value FROM entry WHERE key = ?1")?
                .query_row([key], |row| row.get(0))
                .optional()
        })
    }

    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        if value.len() > self.value_bytes_max {
            return Err(Error::Other(format!(
                "a value of {} bytes is over the limit of {}",
                value.len(),
                self.value_bytes_max
            )));
        }
        self.with_connection(|connection| {
            connection
                .prepare_cached("INSERT OR REPLACE INTO entry (key, value) VALUES (?1, ?2)")?
                .execute(params![key, value])?;
            Ok(())
        })
    }

    pub fn delete(&self, key: &str) -> Result<(), Error> {
        self.with_connection(|connection| {
            connection.prepare_cached("DELETE FROM entry WHERE key = ?1")?.execute([key])?;
            Ok(())
        })
    }

    pub fn exists(&self, key: &str) -> Result<bool, Error> {
        self.with_connection(|connection| {
            connection.prepare_cached("SELECT 1 FROM entry WHERE key = ?1")?.exists([key])
        })
    }

    /// All keys in random order, and the store's lock, which a listing holds until the guest has
    /// read to the end or dropped the listing.
    pub fn shuffled_keys(&self) -> Result<(Vec<String>, OwnedMutexGuard<Connection>), Error> {
        block_in_place(|| {
            let connection = lock::acquire(&self.connection, COMPLAINT).map_err(Error::Other)?;
            let keys = shuffled_keys(&connection).map_err(|error| Error::Other(error.to_string()))?;
            Ok((keys, connection))
        })
    }
}

/// Spin's listing: a thread that stays a few keys ahead of the guest and holds the store's lock
/// until the guest has taken the last key.
fn send_keys(connection: &Arc<Mutex<Connection>>, keys: &mpsc::Sender<String>) -> Result<(), Error> {
    let connection = lock::acquire(connection, COMPLAINT).map_err(Error::Other)?;
    let each = || {
        let mut statement = connection.prepare_cached("SELECT key FROM entry")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if keys.blocking_send(row.get(0)?).is_err() {
                break;
            }
        }
        Ok(())
    };
    each().map_err(|error: rusqlite::Error| Error::Other(error.to_string()))
}

/// Sends keys until the guest has taken the last key or dropped the listing, and then releases the
/// store's lock.
fn send_shuffled(keys: Vec<String>, lock: OwnedMutexGuard<Connection>, to: &mpsc::Sender<String>) {
    for key in keys {
        if to.blocking_send(key).is_err() {
            break;
        }
    }
    drop(lock);
}

/// Every listing has a different, random order, so that no guest can rely on an order.
fn shuffled_keys(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut keys = connection
        .prepare_cached("SELECT key FROM entry")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    let order = RandomState::new();
    keys.sort_by_cached_key(|key| order.hash_one(key));
    Ok(keys)
}

fn counted<T: 'static>(store: &Accessor<T, HasSelf<Guest>>, call: Call) -> Arc<KeyValue> {
    store.with(|mut store| {
        let services = &store.get().services;
        services.calls.count(call);
        Arc::clone(&services.key_value)
    })
}

impl<T: 'static> HostStoreWithStore<T> for HasSelf<Guest> {
    async fn open(store: &Accessor<T, Self>, label: String) -> Result<Result<Resource<OpenStore>, Error>> {
        store.with(|mut store| store.get().open_store(&label))
    }

    async fn get(
        store: &Accessor<T, Self>,
        _: Resource<OpenStore>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, Error>> {
        Ok(counted(store, Call::Get).get(&key))
    }

    async fn set(
        store: &Accessor<T, Self>,
        _: Resource<OpenStore>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), Error>> {
        Ok(counted(store, Call::Set).set(&key, &value))
    }

    async fn delete(store: &Accessor<T, Self>, _: Resource<OpenStore>, key: String) -> Result<Result<(), Error>> {
        Ok(counted(store, Call::Delete).delete(&key))
    }

    async fn exists(store: &Accessor<T, Self>, _: Resource<OpenStore>, key: String) -> Result<Result<bool, Error>> {
        Ok(counted(store, Call::Exists).exists(&key))
    }

    async fn get_keys(
        store: &Accessor<T, Self>,
        _: Resource<OpenStore>,
    ) -> Result<(StreamReader<String>, FutureReader<Result<(), Error>>)> {
        let key_value = counted(store, Call::GetKeys);
        let (sender, items) = mpsc::channel(KEYS_AT_A_TIME);
        let (ended, end) = oneshot::channel();
        // As in Spin, the keys come from another thread, so that other tasks of the instance run in
        // between.
        let at_a_time = match key_value.manners {
            Manners::Real => {
                spawn_blocking(move || ended.send(send_keys(&key_value.connection, &sender)));
                1
            }
            Manners::Quick => {
                let listing = key_value.shuffled_keys();
                spawn_blocking(move || ended.send(listing.map(|(keys, lock)| send_shuffled(keys, lock, &sender))));
                KEYS_AT_A_TIME
            }
        };
        store.with(|mut store| {
            let stream = StreamReader::new(&mut store, Received { items, at_a_time })?;
            let result = FutureReader::new(&mut store, async { Ok::<_, wasmtime::Error>(end.await?) })?;
            Ok((stream, result))
        })
    }
}

impl Guest {
    pub fn open_store(&mut self, label: &str) -> Result<Result<Resource<OpenStore>, Error>> {
        if label != "default" {
            return Ok(Err(Error::NoSuchStore));
        }
        if self.open_stores == OPEN_STORES_MAX {
            return Ok(Err(Error::StoreTableFull));
        }
        self.open_stores += 1;
        Ok(Ok(self.table.push(OpenStore)?))
    }

    pub fn close_store(&mut self, store: Resource<OpenStore>) -> Result<()> {
        self.open_stores -= 1;
        self.table.delete(store)?;
        Ok(())
    }
}

impl HostStore for Guest {
    fn drop(&mut self, store: Resource<OpenStore>) -> Result<()> {
        self.close_store(store)
    }
}

impl Host for Guest {}
