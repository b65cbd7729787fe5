//! A key-value store of your own, checked against the contract that every store must keep.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use eyot::auth::Access;
use eyot::platform::SystemPlatform;
use eyot::registry::Limits;
use eyot::store::memory::MemoryBlobStore;
use eyot::store::{Entry, Error, KeyValue, Result, Version, When, contract};
use eyot::{Body, Handler, Registry};

/// A store over a sorted map. Each value has a number that changes with each write.
#[derive(Default)]
struct Shelf(Mutex<(u64, BTreeMap<String, (u64, Bytes)>)>);

#[async_trait::async_trait]
impl KeyValue for Shelf {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let (_, entries) = &*self.0.lock().unwrap();
        let entry = |(number, value): &(u64, Bytes)| Entry { value: value.clone(), version: version(*number) };
        Ok(entries.get(key).map(entry))
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        let (last, entries) = &mut *self.0.lock().unwrap();
        let current = entries.get(key).map(|(number, _)| version(*number));
        match when {
            When::Absent if current.is_some() => return Err(Error::conflict("the key has a value")),
            When::Unchanged(known) if current.as_ref() != Some(&known) => {
                return Err(Error::conflict("the value has changed"));
            }
            _ => {}
        }
        *last += 1;
        entries.insert(key.to_owned(), (*last, value));
        Ok(Some(version(*last)))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.0.lock().unwrap().1.remove(key);
        Ok(())
    }

    async fn delete_unchanged(&self, key: &str, known: &Version) -> Result<()> {
        let (_, entries) = &mut *self.0.lock().unwrap();
        if entries.get(key).is_none_or(|(number, _)| version(*number) != *known) {
            return Err(Error::conflict("the value has changed or is gone"));
        }
        entries.remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let (_, entries) = &*self.0.lock().unwrap();
        let from = after.filter(|after| *after >= prefix).map_or(Bound::Included(prefix), Bound::Excluded);
        let found = entries.range::<str, _>((from, Bound::Unbounded)).map(|(key, _)| key);
        Ok(found.take_while(|key| key.starts_with(prefix)).take(limit).cloned().collect())
    }
}

fn version(number: u64) -> Version {
    Version(number.to_string())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for (name, clause) in contract::KEY_VALUE {
        clause(Arc::new(Shelf::default())).await;
        println!("kept: {name}");
    }
    let platform = Arc::new(SystemPlatform);
    let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
    let registry = Registry::new(Arc::new(Shelf::default()), blobs, platform, Limits::default());
    let handler = Handler::new(registry, Access::open());
    let request = http::Request::get("/v2/").body(Body::empty()).expect("a request");
    println!("GET /v2/: {}", handler.handle(request).await.status());
}
