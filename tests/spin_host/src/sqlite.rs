//! `spin:sqlite`: every open makes a new connection to one file, as in Spin.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::types::{Value as SqlValue, ValueRef};
use rusqlite::{CachedStatement, Connection, Row, StatementStatus, params_from_iter};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{block_in_place, spawn_blocking};
use wasmtime::Result;
use wasmtime::component::{Accessor, FutureReader, HasSelf, Resource, StreamReader};

use crate::bindings::sqlite::{Error, Host, HostConnection, HostConnectionWithStore, QueryResult, RowResult, Value};
use crate::calls::{Call, Calls};
use crate::guest::{Guest, Services};
use crate::lock;
use crate::options::Manners;
use crate::received::Received;

/// The maximum number of rows that wait for the guest, so that the host's memory never holds a
/// whole result.
const ROWS_AHEAD: usize = 64;
/// The maximum number of waiting rows in Spin, which also delivers one row for each read.
const ROWS_AHEAD_IN_SPIN: usize = 4;

const COMPLAINT: &str = "sqlite call while the rows of the one before were not drained";

/// The resource behind a guest's `connection` handle.
pub struct OpenConnection(Arc<Mutex<Connection>>);

pub struct Sqlite {
    file: PathBuf,
    manners: Manners,
}

impl Sqlite {
    pub fn new(directory: &Path, manners: Manners) -> Self {
        Self { file: directory.join("sqlite.db"), manners }
    }

    fn open(&self, database: &str) -> Result<OpenConnection, Error> {
        if database != "default" {
            return Err(Error::NoSuchDatabase);
        }
        let connection = block_in_place(|| Connection::open(&self.file)).map_err(io)?;
        Ok(OpenConnection(Arc::new(Mutex::new(connection))))
    }
}

fn io(error: impl ToString) -> Error {
    Error::Io(error.to_string())
}

fn with_connection<R>(
    connection: &Arc<Mutex<Connection>>,
    work: impl FnOnce(&Connection) -> Result<R, Error>,
) -> Result<R, Error> {
    block_in_place(|| work(&*lock::acquire(connection, COMPLAINT).map_err(io)?))
}

fn execute(
    connection: &Connection,
    calls: &Calls,
    statement: &str,
    parameters: Vec<Value>,
) -> Result<QueryResult, Error> {
    let mut statement = connection.prepare_cached(statement).map_err(io)?;
    let columns = columns(&statement);
    let mut rows = Vec::new();
    for_each_row(&mut statement, calls, parameters, |row| {
        rows.push(row);
        true
    })?;
    Ok(QueryResult { columns, rows })
}

/// Runs on its own thread: sends the columns or an error, then sends the rows.
fn stream(
    connection: &Arc<Mutex<Connection>>,
    services: &Services,
    statement: &str,
    parameters: Vec<Value>,
    columns_sender: oneshot::Sender<Result<Vec<String>, Error>>,
    rows_sender: mpsc::Sender<RowResult>,
) -> Result<(), Error> {
    // The statement runs even if the receiver of the columns is gone.
    let connection = match lock::acquire(connection, COMPLAINT) {
        Ok(connection) => connection,
        Err(complaint) => {
            let _ = columns_sender.send(Err(Error::Io(complaint)));
            return Ok(());
        }
    };
    let mut statement = match connection.prepare_cached(statement) {
        Ok(statement) => statement,
        Err(error) => {
            let _ = columns_sender.send(Err(io(error)));
            return Ok(());
        }
    };
    let _ = columns_sender.send(Ok(columns(&statement)));
    for_each_row(&mut statement, &services.calls, parameters, |row| rows_sender.blocking_send(row).is_ok())
}

fn columns(statement: &CachedStatement<'_>) -> Vec<String> {
    let names = statement.column_names();
    names.into_iter().map(str::to_owned).collect()
}

/// Calls `deliver` for each row, and stops at the first row for which `deliver` returns false.
fn for_each_row(
    statement: &mut CachedStatement<'_>,
    calls: &Calls,
    parameters: Vec<Value>,
    mut deliver: impl FnMut(RowResult) -> bool,
) -> Result<(), Error> {
    let width = statement.column_count();
    let parameters = parameters.into_iter().map(into_sql);
    let mut rows = statement.query(params_from_iter(parameters)).map_err(io)?;
    while let Some(row) = rows.next().map_err(io)? {
        calls.count(Call::SqliteRows);
        if !deliver(row_result(row, width)?) {
            break;
        }
    }
    drop(rows);
    for (call, status) in
        [(Call::SqliteSteps, StatementStatus::VmStep), (Call::SqliteScanned, StatementStatus::FullscanStep)]
    {
        let steps = statement.reset_status(status);
        calls.add(call, u64::try_from(steps).unwrap_or_default());
    }
    Ok(())
}

fn row_result(row: &Row<'_>, width: usize) -> Result<RowResult, Error> {
    let value = |column| from_sql(row.get_ref(column).map_err(io)?);
    let values = (0..width).map(value).collect::<Result<_, Error>>()?;
    Ok(RowResult { values })
}

fn into_sql(value: Value) -> SqlValue {
    match value {
        Value::Integer(integer) => SqlValue::Integer(integer),
        Value::Real(real) => SqlValue::Real(real),
        Value::Text(text) => SqlValue::Text(text),
        Value::Blob(blob) => SqlValue::Blob(blob),
        Value::Null => SqlValue::Null,
    }
}

fn from_sql(value: ValueRef<'_>) -> Result<Value, Error> {
    Ok(match value {
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Text(text) => Value::Text(str::from_utf8(text).map_err(io)?.to_owned()),
        ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
        ValueRef::Null => Value::Null,
    })
}

/// The result of `execute-async`: column names, rows, and the outcome.
type Streamed = (Vec<String>, StreamReader<RowResult>, FutureReader<Result<(), Error>>);

impl<T: 'static> HostConnectionWithStore<T> for HasSelf<Guest> {
    async fn open_async(
        store: &Accessor<T, Self>,
        database: String,
    ) -> Result<Result<Resource<OpenConnection>, Error>> {
        store.with(|mut store| store.get().open(database))
    }

    async fn execute_async(
        store: &Accessor<T, Self>,
        connection: Resource<OpenConnection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> Result<Result<Streamed, Error>> {
        let (services, connection) = store.with(|mut store| {
            let guest = store.get();
            guest.services.calls.count(Call::SqliteExecute);
            Ok::<_, wasmtime::Error>((Arc::clone(&guest.services), guest.connection(&connection)?))
        })?;
        let (columns_sender, columns) = oneshot::channel();
        let (rows_ahead, at_a_time) = match services.sqlite.manners {
            Manners::Quick => (ROWS_AHEAD, ROWS_AHEAD),
            Manners::Real => (ROWS_AHEAD_IN_SPIN, 1),
        };
        let (rows_sender, items) = mpsc::channel(rows_ahead);
        let work =
            spawn_blocking(move || stream(&connection, &services, &statement, parameters, columns_sender, rows_sender));
        let columns = match columns.await? {
            Ok(columns) => columns,
            Err(error) => return Ok(Err(error)),
        };
        store.with(|mut store| {
            let rows = StreamReader::new(&mut store, Received { items, at_a_time })?;
            let result = FutureReader::new(&mut store, work)?;
            Ok(Ok((columns, rows, result)))
        })
    }

    async fn last_insert_rowid_async(store: &Accessor<T, Self>, connection: Resource<OpenConnection>) -> Result<i64> {
        store.with(|mut store| store.get().last_insert_rowid(connection))
    }

    async fn changes_async(store: &Accessor<T, Self>, connection: Resource<OpenConnection>) -> Result<u64> {
        store.with(|mut store| store.get().changes(connection))
    }
}

impl Guest {
    fn connection(&self, handle: &Resource<OpenConnection>) -> Result<Arc<Mutex<Connection>>> {
        Ok(Arc::clone(&self.table.get(handle)?.0))
    }
}

impl HostConnection for Guest {
    fn open(&mut self, database: String) -> Result<Result<Resource<OpenConnection>, Error>> {
        Ok(match self.services.sqlite.open(&database) {
            Ok(connection) => Ok(self.table.push(connection)?),
            Err(error) => Err(error),
        })
    }

    fn execute(
        &mut self,
        connection: Resource<OpenConnection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> Result<Result<QueryResult, Error>> {
        self.services.calls.count(Call::SqliteExecute);
        let connection = self.connection(&connection)?;
        let calls = &self.services.calls;
        Ok(with_connection(&connection, |connection| execute(connection, calls, &statement, parameters)))
    }

    // The next two calls cannot return an error, so a connection that stays busy traps the guest.

    fn last_insert_rowid(&mut self, connection: Resource<OpenConnection>) -> Result<i64> {
        let connection = self.connection(&connection)?;
        Ok(with_connection(&connection, |connection| Ok(connection.last_insert_rowid()))?)
    }

    fn changes(&mut self, connection: Resource<OpenConnection>) -> Result<u64> {
        let connection = self.connection(&connection)?;
        Ok(with_connection(&connection, |connection| Ok(connection.changes()))?)
    }

    fn drop(&mut self, connection: Resource<OpenConnection>) -> Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

impl Host for Guest {}
