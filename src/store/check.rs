//! The self-check: which guarantees the stores of this host really give.
//!
//! The design needs few guarantees of a store and makes use of more. The self-check tries each
//! guarantee, with keys and content of its own, and reports the consequences for the registry.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::Serialize;

use super::{BlobStore, Error, Family, KeyValue, Result, Stage, When};
use crate::oci::Algorithm;
use crate::platform::Platform;

/// How many rivals try the same operation at the same time.
const RIVALS: usize = 8;
/// The sizes of the values that are tried, in bytes.
const VALUE_BYTES: [usize; 4] = [64 * 1024, 256 * 1024, 960 * 1024, 4 * 1024 * 1024];
/// The most objects that the tried content may be stored in.
const LEFT_MAX: usize = 100;
/// The size of the tried content, in bytes: more than the smallest part of an upload to S3.
const CONTENT_BYTES: usize = 11 * 1024 * 1024;

/// The result for one guarantee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The guarantee.
    pub guarantee: &'static str,
    /// Whether the guarantee holds.
    pub verdict: Verdict,
    /// The consequence for the registry.
    pub means: String,
}

/// Whether a guarantee holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// The guarantee holds.
    Holds,
    /// The store reports that it does not give the guarantee. The registry works without the
    /// guarantee.
    Missing,
    /// The guarantee does not hold, although the design needs it or the store promises it.
    Broken,
}

/// Checks every guarantee of the stores. The check writes and removes keys under `check/` and
/// content of its own.
///
/// # Errors
/// When a store cannot be reached or refuses a plain read or write. Every other fault is a finding.
pub async fn check(
    keys: &Arc<dyn KeyValue>,
    blobs: &Arc<dyn BlobStore>,
    platform: &Arc<dyn Platform>,
) -> Result<Vec<Finding>> {
    let prefix = format!("check/{}!", platform.uuid());
    let probe = Probe { keys, blobs, prefix };
    // The check ends here if the store cannot be read: so far nothing was written that needs
    // removal.
    probe.value(&probe.key("value")).await?;
    let findings = probe.run().await;
    // The keys are removed after a failed run too, as far as the store allows.
    let cleaned = probe.clean().await;
    let findings = findings?;
    cleaned?;
    Ok(findings)
}

struct Probe<'a> {
    keys: &'a Arc<dyn KeyValue>,
    blobs: &'a Arc<dyn BlobStore>,
    prefix: String,
}

fn finding(guarantee: &'static str, holds: bool, good: &str, bad: &str) -> Finding {
    let (verdict, means) = if holds { (Verdict::Holds, good) } else { (Verdict::Broken, bad) };
    Finding { guarantee, verdict, means: means.to_owned() }
}

impl Probe<'_> {
    async fn run(&self) -> Result<Vec<Finding>> {
        Ok(vec![
            self.read_after_write().await?,
            self.list().await?,
            self.creators().await?,
            self.swappers().await?,
            self.value_sizes().await?,
            self.content().await?,
        ])
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn value(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(self.keys.get(key).await?.map(|entry| entry.value))
    }

    async fn read_after_write(&self) -> Result<Finding> {
        let key = self.key("value");
        let mut holds = self.value(&key).await?.is_none();
        for value in ["first", "second"] {
            self.keys.put(&key, value.into(), When::Always).await?;
            holds &= self.value(&key).await?.as_deref() == Some(value.as_bytes());
        }
        self.keys.delete(&key).await?;
        holds &= self.value(&key).await?.is_none();
        let bad = "a push may not be seen after it was acknowledged: this store cannot be used";
        Ok(finding("a read sees the write before it", holds, "pushed content can be pulled", bad))
    }

    async fn list(&self) -> Result<Finding> {
        // The names stand in byte order, which differs from other orders such as the alphabetical
        // one.
        let names: Vec<String> = ["a", "a!b", "a-b", "a/b", "aB", "ab"].map(|name| self.key(name)).into();
        for name in names.iter().rev() {
            self.keys.put(name, "x".into(), When::Always).await?;
        }
        let all = self.keys.list(&self.prefix, None, 100).await?;
        let some = self.keys.list(&self.prefix, Some(&names[1]), 2).await?;
        let holds = all == names && some == names[2..4];
        let bad =
            "lists of tags miss entries or repeat them, and the collector cannot be trusted: this store cannot be used";
        Ok(finding("keys are listed in byte order, by prefix, from any key on", holds, "lists are complete", bad))
    }

    async fn creators(&self) -> Result<Finding> {
        let key = self.key("created");
        let rivals = (0..RIVALS).map(|rival| self.keys.put(&key, rival.to_string().into(), When::Absent));
        self.rivals("exactly one of several creators of a key wins", join_all(rivals).await, &key).await
    }

    async fn swappers(&self) -> Result<Finding> {
        let key = self.key("swapped");
        self.keys.put(&key, "before".into(), When::Always).await?;
        let Some(entry) = self.keys.get(&key).await? else {
            return Err(Error::corrupt(format!("key {key} was written and is missing")));
        };
        let swap = |rival: usize| self.keys.put(&key, rival.to_string().into(), When::Unchanged(entry.version.clone()));
        self.rivals("exactly one of several writers of a new value wins", join_all((0..RIVALS).map(swap)).await, &key)
            .await
    }

    async fn rivals<T>(&self, guarantee: &'static str, results: Vec<Result<T>>, key: &str) -> Result<Finding> {
        if results.iter().all(|result| matches!(result, Err(Error::Unsupported(_)))) {
            let means = "the store has no such condition: of racing requests the last one stands, nothing is lost or mixed; \
                         run one collection at a time";
            return Ok(Finding { guarantee, verdict: Verdict::Missing, means: means.to_owned() });
        }
        let winners: Vec<usize> = (0..results.len()).filter(|rival| results[*rival].is_ok()).collect();
        let value = self.value(key).await?;
        let is_winners = winners.first().is_some_and(|rival| value.as_deref() == Some(rival.to_string().as_bytes()));
        let refused = results.iter().filter(|result| matches!(result, Err(Error::Conflict(_)))).count();
        let holds = winners.len() == 1 && is_winners && refused == RIVALS - 1;
        let bad = format!(
            "{} of {RIVALS} won: the store ignores the condition without a word; racing uploads to one session may all be \
             acknowledged, of which one stands; run one collection at a time",
            winners.len()
        );
        Ok(finding(guarantee, holds, "racing requests have one winner, and the others get an error", &bad))
    }

    async fn value_sizes(&self) -> Result<Finding> {
        let key = self.key("large");
        let mut largest = 0;
        for size in VALUE_BYTES {
            let value = Bytes::from(vec![b'x'; size]);
            let written = self.keys.put(&key, value.clone(), When::Always).await;
            if written.is_err() || self.value(&key).await? != Some(value) {
                break;
            }
            largest = size;
        }
        let good =
            format!("values of {largest} bytes are kept; chunk_bytes and manifest_inline_bytes_max may be as large");
        let bad = "not even values of 64 KiB are kept: lower manifest_inline_bytes_max, and do not pack blobs";
        Ok(finding("large values are kept", largest > 0, &good, bad))
    }

    async fn content(&self) -> Result<Finding> {
        let bytes: Bytes = (0..CONTENT_BYTES).map(|at| (at % 251) as u8).collect::<Vec<u8>>().into();
        let digest = Algorithm::Sha256.digest(&bytes);
        let stage = self.blobs.stage().await?;
        let stage = self.blobs.append(&stage, bytes.slice(..CONTENT_BYTES / 3).into()).await?;
        let stage = self.blobs.append(&stage, bytes.slice(CONTENT_BYTES / 3..).into()).await?;
        let location = self.blobs.commit(&stage, &digest).await?;
        let range = 1000..CONTENT_BYTES as u64 - 1000;
        let read = self.blobs.read(&location, range.clone()).await?.collect_up_to(CONTENT_BYTES as u64).await?;
        let mut holds = read == bytes.slice(range.start as usize..range.end as usize);
        self.remove_all(&stage).await?;
        holds &= match self.blobs.read(&location, range).await {
            Ok(body) => body.collect_up_to(CONTENT_BYTES as u64).await.is_err(),
            Err(_) => true,
        };
        let bad = "layers differ from the pushed layers: this store cannot be used";
        Ok(finding(
            "content is read as it was written, in ranges too, and is gone when removed",
            holds,
            "layers are kept",
            bad,
        ))
    }

    /// Removes the content committed from a stage, and the remainders of the stage's appends.
    async fn remove_all(&self, stage: &Stage) -> Result<()> {
        let family = self.blobs.family(stage).await?;
        for stored in self.blobs.list(Some(family.prefix()), LEFT_MAX).await? {
            if Family::of(&stored.name) == family {
                self.blobs.remove(&stored.name).await?;
            }
        }
        Ok(())
    }

    async fn clean(&self) -> Result<()> {
        for key in self.keys.list(&self.prefix, None, 100).await? {
            self.keys.delete(&key).await?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use futures_executor::block_on;

    use super::*;
    use crate::platform::SystemPlatform;
    use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};
    use crate::store::{Entry, Version};
    use async_trait::async_trait;

    fn verdicts(keys: Arc<dyn KeyValue>) -> Vec<Verdict> {
        let platform: Arc<dyn Platform> = Arc::new(SystemPlatform);
        let blobs: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::new(platform.clone()));
        let findings = block_on(check(&keys, &blobs, &platform)).unwrap();
        assert_eq!(block_on(keys.list("", None, 10)).unwrap(), Vec::<String>::new(), "nothing is left behind");
        assert_eq!(block_on(blobs.list(None, 10)).unwrap(), []);
        findings.into_iter().map(|finding| finding.verdict).collect()
    }

    /// A store that ignores every condition, and lists keys in reverse order.
    struct Careless(MemoryKeyValue);

    #[async_trait]
    impl KeyValue for Careless {
        async fn get(&self, key: &str) -> Result<Option<Entry>> {
            self.0.get(key).await
        }
        async fn put(&self, key: &str, value: Bytes, _: When) -> Result<Option<Version>> {
            self.0.put(key, value, When::Always).await
        }
        async fn delete(&self, key: &str) -> Result<()> {
            self.0.delete(key).await
        }
        async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
            let mut keys = self.0.list(prefix, after, limit).await?;
            keys.reverse();
            Ok(keys)
        }
    }

    #[test]
    fn a_good_store_is_found_good() {
        assert_eq!(verdicts(Arc::new(MemoryKeyValue::default())), [Verdict::Holds; 6]);
    }

    #[test]
    fn a_store_that_ignores_conditions_and_order_is_found_out() {
        use Verdict::{Broken, Holds};
        assert_eq!(
            verdicts(Arc::new(Careless(MemoryKeyValue::default()))),
            [Holds, Broken, Broken, Broken, Holds, Holds]
        );
    }
}
