//! The clauses of the contract, run on every store that works natively.

use std::future::Future as _;

use bytes::Bytes;
use futures_util::stream;

use super::super::file::{FileBlobStore, FileKeyValue};
use super::super::memory::{MemoryBlobStore, MemoryKeyValue};
use super::super::packed::PackedBlobStore;
use super::super::unordered::{Unordered, UnorderedStore};
use super::super::{Error, Result, Version, When};
use super::blob_store::{broken, commit_and_read, content, digest, stored, test_blob_store};
use super::key_value::{test_key_value, text};
use super::*;
use crate::platform::{Body, BodyError, Platform, SystemPlatform};

fn platform() -> Arc<dyn Platform> {
    Arc::new(SystemPlatform)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A store like Spin's key-value store: only the calls below, and keys in an arbitrary order.
struct Shuffled(Arc<dyn KeyValue>);

#[async_trait::async_trait]
impl UnorderedStore for Shuffled {
    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(self.0.get(key).await?.map(|entry| entry.value))
    }

    async fn set(&self, key: &str, value: Bytes) -> Result<()> {
        self.0.put(key, value, When::Always).await.map(drop)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key).await
    }

    async fn keys(&self, each: &mut (dyn FnMut(String) + Send)) -> Result<()> {
        let mut keys = self.0.list("", None, usize::MAX).await?;
        keys.sort_by_key(|key| digest(key.as_bytes()));
        keys.into_iter().for_each(each);
        Ok(())
    }
}

mod memory_key_value {
    use super::*;
    test_key_value!((Arc::new(MemoryKeyValue::default()) as Arc<dyn KeyValue>, ()));
}

mod file_key_value {
    use super::*;
    test_key_value!({
        let folder = folder();
        (Arc::new(FileKeyValue::open(folder.path(), platform()).unwrap()) as Arc<dyn KeyValue>, folder)
    });

    #[test]
    fn conditions_are_supported() {
        let folder = folder();
        let store = FileKeyValue::open(folder.path(), platform()).unwrap();
        futures_executor::block_on(async {
            store.put("a", text("1"), When::Absent).await.unwrap();
            let version = store.get("a").await.unwrap().unwrap().version;
            store.put("a", text("2"), When::Unchanged(version)).await.unwrap();
        });
    }
}

mod unordered_key_value {
    use super::*;
    fn store() -> Arc<dyn KeyValue> {
        Arc::new(Unordered::new(Shuffled(Arc::new(MemoryKeyValue::default()))))
    }
    test_key_value!((store(), ()));

    #[test]
    fn conditions_are_refused() {
        let (store, version) = (store(), Version(String::new()));
        futures_executor::block_on(async {
            for when in [When::Absent, When::Unchanged(version)] {
                let refused = store.put("a", text("x"), when).await;
                assert!(matches!(refused, Err(Error::Unsupported(_))));
            }
            assert_eq!(store.get("a").await, Ok(None));
        });
    }
}

mod memory_blob_store {
    use super::*;
    test_blob_store!((Arc::new(MemoryBlobStore::new(platform())) as Arc<dyn BlobStore>, ()));
}

mod file_blob_store {
    use super::*;
    test_blob_store!({
        let folder = folder();
        (Arc::new(FileBlobStore::open(folder.path(), platform()).unwrap()) as Arc<dyn BlobStore>, folder)
    });

    /// An append that a crash interrupts leaves the file under the name of the unfinished append.
    #[test]
    fn an_append_cut_off_by_a_crash_can_be_tried_again() {
        let folder = folder();
        let store: Arc<dyn BlobStore> = Arc::new(FileBlobStore::open(folder.path(), platform()).unwrap());
        futures_executor::block_on(async {
            let stage = store.append(&store.stage().await.unwrap(), content(1, 1000).into()).await.unwrap();
            let mut stuck =
                Box::pin(store.append(&stage, Body::from_stream(stream::pending::<Result<_, BodyError>>())));
            while std::fs::read_dir(folder.path().join("stages")).unwrap().any(|family| {
                let names = std::fs::read_dir(family.unwrap().path()).unwrap();
                let held = serde_json::from_str::<serde_json::Value>(&stage.0).unwrap()["file"].clone();
                names.into_iter().any(|name| name.unwrap().file_name().to_str() == held.as_str())
            }) {
                let pending = std::future::poll_fn(|cx| std::task::Poll::Ready(stuck.as_mut().poll(cx).is_pending()));
                assert!(pending.await);
            }
            drop(stuck);
            let stage = store.append(&stage, content(2, 500).into()).await.unwrap();
            let all = Bytes::from([content(1, 1000), content(2, 500)].concat());
            commit_and_read(&store, &stage, &all).await.unwrap();
        });
    }

    #[test]
    fn finished_stages_leave_no_files() {
        let folder = folder();
        let store: Arc<dyn BlobStore> = Arc::new(FileBlobStore::open(folder.path(), platform()).unwrap());
        futures_executor::block_on(async {
            stored(&store, &content(1, 1000)).await;
            let stage = store.append(&store.stage().await.unwrap(), content(2, 10).into()).await.unwrap();
            store.discard(&stage).await.unwrap();
            let stage = store.stage().await.unwrap();
            assert!(store.append(&stage, broken(content(3, 1000))).await.is_err());
        });
        assert_eq!(std::fs::read_dir(folder.path().join("stages")).unwrap().count(), 0);
    }
}

mod packed_blob_store {
    use super::*;
    fn packed(chunk_bytes: u32) -> Arc<dyn BlobStore> {
        Arc::new(PackedBlobStore::new(Arc::new(MemoryKeyValue::default()), platform(), chunk_bytes))
    }
    mod with_small_chunks {
        use super::*;
        test_blob_store!((packed(0), ()));
    }
    mod with_default_chunks {
        use super::*;
        test_blob_store!((packed(super::super::super::super::packed::CHUNK_BYTES_DEFAULT), ()));
    }
}
