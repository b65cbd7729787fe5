//! A look at whether a pair of stores really does what it says: some S3 servers ignore conditions without a word, or list in
//! an order of their own.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join};

use super::{BlobStore, Error, KeyValue, Platform, Result, When};
use crate::oci::Algorithm;

/// How many bytes the content of the check has: enough for an upload in parts.
const CONTENT_BYTES: usize = 22 * 1024 * 1024;

/// What was looked at, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it must be.
    Good,
    /// The store says itself that it cannot. The registry does without.
    Absent,
    /// It is not as it must be, and why.
    Bad(String),
}

/// The stores that are looked at, and where in them.
#[derive(Clone)]
struct Check {
    keys: Arc<dyn KeyValue>,
    blobs: Arc<dyn BlobStore>,
    prefix: String,
}

type Look = fn(Check) -> BoxFuture<'static, Result<Outcome>>;

const LOOKS: &[(&str, Look)] = &[
    ("a key is read as it was written, and gone when it was deleted", |check| Box::pin(check.read_after_write())),
    ("keys are listed in byte order, from any key on", |check| Box::pin(check.order())),
    ("of two creators of a key one wins", |check| Box::pin(check.creators())),
    ("of two who replace a value one wins", |check| Box::pin(check.swappers())),
    ("content is read as it was pushed, in ranges too", |check| Box::pin(check.content())),
];

/// Looks at each thing that the registry relies on. Takes keys that begin with `check/` and some content, and removes
/// them.
pub async fn check(keys: Arc<dyn KeyValue>, blobs: Arc<dyn BlobStore>, platform: &dyn Platform) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (what, look) in LOOKS {
        let check = Check { keys: keys.clone(), blobs: blobs.clone(), prefix: format!("check/{}!", platform.uuid()) };
        let outcome = look(check.clone()).await.unwrap_or_else(|error| Outcome::Bad(error.to_string()));
        findings.push(Finding { what, outcome });
        if let Err(error) = check.clean_up().await {
            log::warn!("keys of the check are left behind: {error}");
        }
    }
    findings
}

fn bad(why: impl Into<String>) -> Result<Outcome> {
    Ok(Outcome::Bad(why.into()))
}

impl Check {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn put(&self, name: &str, value: &'static str, when: When) -> Result<()> {
        self.keys.put(&self.key(name), Bytes::from_static(value.as_bytes()), when).await
    }

    async fn value(&self, name: &str) -> Result<Option<Bytes>> {
        Ok(self.keys.get(&self.key(name)).await?.map(|entry| entry.value))
    }

    async fn read_after_write(self) -> Result<Outcome> {
        for value in ["one", "two"] {
            self.put("a", value, When::Always).await?;
            if self.value("a").await?.as_deref() != Some(value.as_bytes()) {
                return bad("what was just written is not what is read");
            }
        }
        self.keys.delete(&self.key("a")).await?;
        match self.value("a").await? {
            None => Ok(Outcome::Good),
            Some(_) => bad("what was just deleted is still read"),
        }
    }

    async fn order(self) -> Result<Outcome> {
        let mut expected =
            ["a!", "a!b", "a-b", "a.b", "a/b", "a/b/c", "a0", "aB", "ab"].map(|name| self.key(name)).to_vec();
        for key in expected.iter().rev() {
            self.keys.put(key, Bytes::new(), When::Always).await?;
        }
        expected.sort();
        let after_one = self.keys.list(&self.prefix, Some(&expected[3]), 2).await?;
        match self.keys.list(&self.prefix, None, 100).await? {
            listed if listed != expected => bad(format!("the list is {listed:?}")),
            _ if after_one != expected[4..6] => bad(format!("the list from {} on is {after_one:?}", expected[3])),
            _ => Ok(Outcome::Good),
        }
    }

    async fn creators(self) -> Result<Outcome> {
        let results = join(self.put("a", "one", When::Absent), self.put("a", "two", When::Absent)).await;
        self.one_of(results.into(), "").await
    }

    async fn swappers(self) -> Result<Outcome> {
        self.put("a", "start", When::Always).await?;
        let version = || async { Ok::<_, Error>(self.keys.get(&self.key("a")).await?.map(|entry| entry.version)) };
        let Some(stale) = version().await? else { return bad("what was just written is not there") };
        self.put("a", "start", When::Always).await?;
        let Some(fresh) = version().await? else { return bad("what was just written is not there") };
        match self.put("a", "late", When::Unchanged(stale)).await {
            Ok(()) => return bad("a value was replaced under a condition that did not hold"),
            Err(Error::Conflict(_) | Error::Unsupported(_)) => {}
            Err(error) => return Err(error),
        }
        let when = When::Unchanged(fresh);
        let results = join(self.put("a", "one", when.clone()), self.put("a", "two", when)).await;
        self.one_of(results.into(), "start").await
    }

    /// One of two writers must have won, and its value be there.
    async fn one_of(&self, results: [Result<()>; 2], before: &str) -> Result<Outcome> {
        let found = self.value("a").await?.unwrap_or_default();
        match results {
            [Ok(()), Err(Error::Conflict(_))] if found == "one" => Ok(Outcome::Good),
            [Err(Error::Conflict(_)), Ok(())] if found == "two" => Ok(Outcome::Good),
            [Err(Error::Unsupported(_)), Err(Error::Unsupported(_))] if found == before => Ok(Outcome::Absent),
            [Ok(()), Ok(())] => bad("both have won: the store ignores the condition"),
            [one, two] => bad(format!("{one:?} and {two:?}, and there is {found:?}")),
        }
    }

    async fn content(self) -> Result<Outcome> {
        let bytes: Bytes = (0..CONTENT_BYTES).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect::<Vec<u8>>().into();
        let mut stage = self.blobs.stage().await?;
        let mut names = Vec::new();
        for part in [&bytes[..CONTENT_BYTES - 1000], &bytes[CONTENT_BYTES - 1000..]] {
            stage = self.blobs.append(&stage, bytes.slice_ref(part).into()).await?;
            names.extend(self.blobs.stage_name(&stage));
        }
        let location = self.blobs.commit(&stage, &Algorithm::Sha256.digest(&bytes)).await?;
        let mut outcome = Outcome::Good;
        for range in [0..bytes.len(), 0..1, 5_000_000..6_000_000, bytes.len() - 1..bytes.len()] {
            let body = self.blobs.read(&location, range.start as u64..range.end as u64).await?;
            if body.collect_up_to(bytes.len() as u64).await.map_err(Error::from)? != bytes[range.clone()] {
                outcome = Outcome::Bad(format!("bytes {range:?} are not those that were pushed"));
            }
        }
        self.blobs.delete(&location).await?;
        // What is left of the stages would be the collector's.
        for name in names {
            self.blobs.remove(&name).await?;
        }
        Ok(outcome)
    }

    async fn clean_up(&self) -> Result<()> {
        for key in self.keys.list(&self.prefix, None, 100).await? {
            self.keys.delete(&key).await?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use super::super::SystemPlatform;
    use super::super::memory::{MemoryBlobStore, MemoryKeyValue};
    use super::*;

    #[test]
    fn the_memory_stores_are_good() {
        let platform: Arc<dyn Platform> = Arc::new(SystemPlatform);
        let keys = Arc::new(MemoryKeyValue::default());
        let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
        let findings = futures_executor::block_on(check(keys.clone(), blobs, &*platform));
        assert!(findings.iter().all(|finding| finding.outcome == Outcome::Good), "{findings:?}");
        assert_eq!(futures_executor::block_on(keys.list("", None, 10)), Ok(vec![]));
    }
}
