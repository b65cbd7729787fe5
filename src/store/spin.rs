//! Spin's own stores: its key-value interface, and its SQLite interface as a key-value store of one
//! table.
//!
//! Spin gives an instance several requests at once. While one request reads a listing or the rows
//! of a statement, a call of another request may block the instance, and with the instance the
//! reading that the call waits for: a deadlock. To avoid the deadlock, listings and rows are read
//! to their end in one go (`at_once`), without a turn for another request of the instance.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use send_wrapper::SendWrapper;
use spin_sdk::key_value::{self, Store};
use spin_sdk::sqlite::{self, Connection, Value};
use spin_sdk::wit_bindgen;

use super::unordered::UnorderedStore;
use super::{Entry, Error, KeyValue, Result, Version, When};
use crate::platform::Platform;

/// The label of the store or database in the application's manifest.
const LABEL: &str = "default";
/// SQLite's error for a statement in a database that has no table yet.
const NO_TABLE: &str = "no such table";

// A component has one thread, and the SDK's values are bound to that thread.
type Bound<T> = SendWrapper<T>;

fn bound<F: Future>(future: F) -> Bound<F> {
    SendWrapper::new(future)
}

/// Runs a future to its end without a turn for another request of this instance.
fn at_once<T: 'static>(future: impl Future<Output = T>) -> T {
    wit_bindgen::block_on(future)
}

/// Spin's key-value store.
pub struct SpinKeyValue {
    store: Bound<Store>,
}

impl SpinKeyValue {
    /// Opens the default store.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the application's manifest does not give the store to the
    /// component.
    pub async fn open() -> Result<Self> {
        Ok(Self { store: SendWrapper::new(Store::open(LABEL).await?) })
    }
}

impl From<key_value::Error> for Error {
    fn from(error: key_value::Error) -> Self {
        use key_value::Error::{AccessDenied, NoSuchStore};
        match error {
            AccessDenied | NoSuchStore => Self::unsupported("Spin gives this component no key-value store"),
            error => Self::unavailable("Spin's key-value store failed").because(error),
        }
    }
}

#[async_trait]
impl UnorderedStore for SpinKeyValue {
    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(bound(self.store.get(key)).await?.map(Bytes::from))
    }

    async fn set(&self, key: &str, value: Bytes) -> Result<()> {
        Ok(bound(self.store.set(key, value)).await?)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        Ok(bound(self.store.delete(key)).await?)
    }

    async fn keys(&self, each: &mut (dyn FnMut(String) + Send)) -> Result<()> {
        Ok(at_once(async {
            let mut keys = self.store.get_keys().await;
            while let Some(key) = keys.next().await {
                each(key);
            }
            keys.result().await
        })?)
    }
}

/// Facts in one table of Spin's SQLite database, listed in order, with exact conditions.
///
/// Every operation is one statement: requests share the connection, so a transaction of one request
/// would include the statements of other requests.
pub struct SpinSqlite {
    connection: Bound<Connection>,
    platform: Arc<dyn Platform>,
}

impl From<sqlite::Error> for Error {
    fn from(error: sqlite::Error) -> Self {
        use sqlite::Error::{AccessDenied, NoSuchDatabase};
        match error {
            AccessDenied | NoSuchDatabase => Self::unsupported("Spin gives this component no SQLite database"),
            error => Self::unavailable("Spin's SQLite database failed").because(error),
        }
    }
}

impl SpinSqlite {
    /// Opens the default database. Opening costs two statements, as every instance opens the
    /// database. The first operation on a new database creates the table.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the application's manifest does not give the database to the
    /// component.
    pub async fn open(platform: Arc<dyn Platform>) -> Result<Self> {
        let connection = SendWrapper::new(Connection::open(LABEL).await?);
        let this = Self { connection, platform };
        // The timeout comes first, because instances may use the database at the same time.
        this.run("PRAGMA busy_timeout = 10000", vec![])?;
        // Makes a commit durable with write-ahead logging too.
        this.run("PRAGMA synchronous = FULL", vec![])?;
        Ok(this)
    }

    fn execute(&self, statement: &str, parameters: Vec<Value>) -> Result<Vec<Vec<Value>>> {
        match self.run(statement, parameters.clone()) {
            Err(sqlite::Error::Io(text)) if text.contains(NO_TABLE) => {
                self.make_table()?;
                Ok(self.run(statement, parameters)?)
            }
            result => Ok(result?),
        }
    }

    fn make_table(&self) -> Result<()> {
        // Write-ahead logging lets readers continue beside a writer, and stays enabled for the
        // database. SQLite does not wait for its turn here, so the statement fails when another
        // instance runs it at the same time.
        if let Err(error) = self.run("PRAGMA journal_mode = WAL", vec![]) {
            tracing::info!("write-ahead logging is left to another instance to switch on: {error}");
        }
        let create =
            "CREATE TABLE IF NOT EXISTS eyot (key TEXT PRIMARY KEY, version TEXT NOT NULL, value BLOB NOT NULL)";
        self.run(create, vec![])?;
        Ok(())
    }

    fn run(&self, statement: &str, parameters: Vec<Value>) -> std::result::Result<Vec<Vec<Value>>, sqlite::Error> {
        at_once(async {
            let rows = self.connection.execute(statement, parameters).await?.collect().await?;
            Ok(rows.into_iter().map(|row| row.values).collect())
        })
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[async_trait]
impl KeyValue for SpinSqlite {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let rows = self.execute("SELECT version, value FROM eyot WHERE key = ?", vec![text(key)])?;
        match rows.into_iter().next().map(<[Value; 2]>::try_from) {
            None => Ok(None),
            Some(Ok([Value::Text(version), Value::Blob(value)])) => {
                Ok(Some(Entry { value: value.into(), version: Version(version) }))
            }
            Some(_) => Err(Error::corrupt(format!("the row of key {key} has other columns than expected"))),
        }
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        let version = self.platform.uuid();
        let mut parameters = vec![text(key), text(&version), Value::Blob(value.into())];
        // Each statement returns a row if the statement wrote a value.
        let statement = match when {
            When::Always => {
                "INSERT INTO eyot (key, version, value) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (key) DO UPDATE SET version = ?2, value = ?3 RETURNING 1"
            }
            When::Absent => {
                "INSERT INTO eyot (key, version, value) VALUES (?1, ?2, ?3) ON CONFLICT (key) DO NOTHING RETURNING 1"
            }
            When::Unchanged(Version(expected)) => {
                parameters.push(Value::Text(expected));
                "UPDATE eyot SET version = ?2, value = ?3 WHERE key = ?1 AND version = ?4 RETURNING 1"
            }
        };
        let rows = self.execute(statement, parameters)?;
        if rows.is_empty() { Err(Error::condition_failed(key)) } else { Ok(Some(Version(version))) }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.execute("DELETE FROM eyot WHERE key = ?", vec![text(key)]).map(drop)
    }

    async fn delete_unchanged(&self, key: &str, version: &Version) -> Result<()> {
        // The statement returns a row if the statement deleted one.
        let statement = "DELETE FROM eyot WHERE key = ?1 AND version = ?2 RETURNING 1";
        let rows = self.execute(statement, vec![text(key), text(&version.0)])?;
        if rows.is_empty() { Err(Error::condition_failed(key)) } else { Ok(()) }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        // SQLite compares text by its bytes. The last Unicode character sorts after every text that
        // can follow the prefix in a key.
        let end = format!("{prefix}{}", char::MAX);
        let limit = Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX));
        // The query has a single lower bound: with two, SQLite starts at one bound and steps over
        // all keys up to the other.
        let (lower, from) = match after {
            Some(after) if after >= prefix => (">", after),
            _ => (">=", prefix),
        };
        let rows = self.execute(
            &format!("SELECT key FROM eyot WHERE key {lower} ?1 AND key < ?2 ORDER BY key LIMIT ?3"),
            vec![text(from), Value::Text(end), limit],
        );
        let keys = rows?.into_iter().map(|row| match row.into_iter().next() {
            Some(Value::Text(key)) => Ok(key),
            _ => Err(Error::corrupt("a key is not text")),
        });
        keys.collect()
    }
}
