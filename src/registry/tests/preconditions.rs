//! Preconditions of pushes and deletions.

use super::*;
use crate::store::contract::yield_now;
use crate::store::{Entry, Version};

/// A store that lets other requests run before each call.
struct Yielding(MemoryKeyValue);

#[async_trait::async_trait]
impl KeyValue for Yielding {
    async fn get(&self, key: &str) -> store::Result<Option<Entry>> {
        yield_now().await;
        self.0.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> store::Result<Option<Version>> {
        yield_now().await;
        self.0.put(key, value, when).await
    }

    async fn delete(&self, key: &str) -> store::Result<()> {
        yield_now().await;
        self.0.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> store::Result<Vec<String>> {
        yield_now().await;
        self.0.list(prefix, after, limit).await
    }
}

/// Pushes `content` as a manifest, and points `tag` to the manifest.
async fn push(registry: &Registry, tag: &Reference, content: &str) {
    registry.push_manifest(&name("a"), tag, &[], None, content.to_owned().into_bytes().into()).await.unwrap();
}

/// Runs a conditional deletion of the tag of `index(0)` again and again, with a push of
/// `pushed` before another one of its storage calls each time. Returns, for each deletion that
/// a push interrupted, the result and the digest that the tag leads to afterwards.
fn deletions_beside_a_push(condition: &Precondition, pushed: usize) -> Vec<(Result<()>, Option<Digest>)> {
    let (repository, tag) = (name("a"), Reference::Tag("v1".parse().unwrap()));
    let mut met = Vec::new();
    for calls_left in 0.. {
        let (plain, platform) = in_memory();
        let plain = Arc::new(plain);
        block_on(push(&plain, &tag, &index(0)));
        let (other, other_tag) = (plain.clone(), tag.clone());
        let other_request: BoxFuture<'static, ()> =
            Box::pin(async move { push(&other, &other_tag, &index(pushed)).await });
        let (calls_left, other_request) = (AtomicI64::new(calls_left), Mutex::new(Some(other_request)));
        let keys = Arc::new(Interleaved { inner: plain.parts.facts.keys.clone(), calls_left, other_request });
        let registry = Registry::new(keys.clone(), plain.parts.content.blobs.clone(), platform, Limits::default());
        let result = block_on(registry.delete_manifest_if(&repository, &tag, condition));
        if keys.other_request.lock().unwrap().is_some() {
            // The deletion ended before the push began, so no push interrupted the deletion.
            assert!(result.is_ok(), "{result:?}");
            break;
        }
        met.push((result, block_on(plain.parts.manifests.reader.digest(&repository, &tag)).unwrap()));
    }
    assert!(met.len() > 1, "only {met:?}");
    met
}

#[test]
fn a_push_beside_a_conditional_deletion_keeps_its_tag() {
    let [old, new] = [0, 1].map(|number| digest(index(number).as_bytes()));
    for condition in [
        Precondition { matches: Some(Expected::OneOf(vec![old])), matches_none: None },
        Precondition { matches: None, matches_none: Some(Expected::OneOf(vec![new.clone()])) },
    ] {
        for (result, current) in deletions_beside_a_push(&condition, 1) {
            assert!(matches!(result, Err(Error::PreconditionFailed)), "{condition:?}: {result:?}");
            assert_eq!(current, Some(new.clone()), "{condition:?}");
        }
    }
}

/// The condition names digests, so a push of the same manifest does not make the deletion fail.
#[test]
fn a_push_of_the_same_manifest_does_not_fail_a_conditional_deletion() {
    let same = Expected::OneOf(vec![digest(index(0).as_bytes())]);
    for (result, current) in deletions_beside_a_push(&Precondition { matches: Some(same), matches_none: None }, 0) {
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(current, None);
    }
}

/// [`Yielding`] has no conditional deletes.
#[test]
fn a_store_without_conditional_deletes_checks_before_it_deletes() {
    block_on(async {
        let platform = Arc::new(TestPlatform::default());
        let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
        let keys = Arc::new(Yielding(MemoryKeyValue::default()));
        let registry = Registry::new(keys, blobs, platform, Limits::default());
        let tag = Reference::Tag("v1".parse().unwrap());
        push(&registry, &tag, &index(0)).await;
        let of = |number: usize| Precondition {
            matches: Some(Expected::OneOf(vec![digest(index(number).as_bytes())])),
            matches_none: None,
        };
        let refused = registry.delete_manifest_if(&name("a"), &tag, &of(1)).await;
        assert!(matches!(refused, Err(Error::PreconditionFailed)), "{refused:?}");
        registry.delete_manifest_if(&name("a"), &tag, &of(0)).await.unwrap();
        let gone = registry.delete_manifest_if(&name("a"), &tag, &of(0)).await;
        assert!(matches!(gone, Err(Error::ManifestUnknown(_))), "{gone:?}");
    });
}

fn index(number: usize) -> String {
    format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"n":"{number}"}}}}"#)
}

/// Many requests create a tag, or move the tag from one digest, at the same time: exactly one
/// request succeeds.
#[test]
fn exactly_one_of_racing_conditional_pushes_wins() {
    block_on(async {
        let platform = Arc::new(TestPlatform::default());
        let keys = Arc::new(Yielding(MemoryKeyValue::default()));
        let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
        let registry = Registry::new(keys, blobs, platform, Limits::default());
        let (repository, tag) = (name("a"), Reference::Tag("v1".parse().unwrap()));
        let mut condition = Precondition { matches: None, matches_none: Some(Expected::Any) };
        for round in 0..3 {
            let contents: Vec<String> = (0..5).map(|number| index(round * 10 + number)).collect();
            let pushes = contents.iter().map(|content| {
                let body = content.clone().into_bytes().into();
                registry.push_manifest_if(&repository, &tag, &[], None, body, &condition)
            });
            let results = join_all(pushes).await;
            let winners: Vec<usize> = (0..5).filter(|number| results[*number].is_ok()).collect();
            assert_eq!(winners.len(), 1, "{results:?}");
            let lost = results.iter().filter(|result| matches!(result, Err(Error::PreconditionFailed)));
            assert_eq!(lost.count(), 4, "{results:?}");
            let current = digest(contents[winners[0]].as_bytes());
            assert_eq!(registry.manifest(&repository, &tag).await.unwrap().digest, current);
            condition = Precondition { matches: Some(Expected::OneOf(vec![current])), matches_none: None };
        }
    });
}
