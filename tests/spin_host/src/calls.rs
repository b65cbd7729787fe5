//! Counts the guest's storage calls and the cost of its SQLite statements, so that a test can limit
//! the cost of a request.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Clone, Copy)]
pub enum Call {
    Get,
    Set,
    Delete,
    Exists,
    GetKeys,
    SqliteExecute,
    /// Rows that statements returned.
    SqliteRows,
    /// Steps of SQLite's virtual machine, which measure the cost of statements.
    SqliteSteps,
    /// Rows that SQLite scanned because no index applied.
    SqliteScanned,
}

/// Names in the order of `Call`, which indexes this array.
const NAMES: [&str; 9] =
    ["get", "set", "delete", "exists", "get-keys", "sqlite-execute", "sqlite-rows", "sqlite-steps", "sqlite-scanned"];

#[derive(Default)]
pub struct Calls([AtomicU64; NAMES.len()]);

impl Calls {
    pub fn count(&self, call: Call) {
        self.add(call, 1);
    }

    pub fn add(&self, call: Call, number: u64) {
        self.0[call as usize].fetch_add(number, Relaxed);
    }

    pub fn reset(&self) {
        for count in &self.0 {
            count.store(0, Relaxed);
        }
    }

    pub fn to_json(&self) -> String {
        let mut json = String::from("{");
        for (name, count) in NAMES.iter().zip(&self.0) {
            let comma = if json.len() > 1 { "," } else { "" };
            // Writing to a string cannot fail.
            let _ = write!(json, "{comma}\"{name}\":{}", count.load(Relaxed));
        }
        json.push_str("}\n");
        json
    }
}
