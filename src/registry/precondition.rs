//! Preconditions: a change is made only if a name leads to expected content (RFC 9110, section
//! 13.1). A precondition names digests, as a digest identifies content.

use super::facts::{ManifestFact, TagFact};
use super::guard::Deadline;
use super::limits::TAG_TRIES_MAX;
use super::{Error, Registry, Result, layout};
use crate::oci::{Digest, Reference, RepositoryName, Tag};
use crate::store::{self, When};

/// The content that a client expects a name to lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Any content.
    Any,
    /// Content with one of these digests.
    OneOf(Vec<Digest>),
}

/// The conditions for a change. The default has no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// The name leads to this content (`If-Match`).
    pub matches: Option<Expected>,
    /// The name does not lead to this content (`If-None-Match`).
    pub matches_none: Option<Expected>,
}

impl Expected {
    /// Whether the expectation is met by content with the digest `current`, or by a name without
    /// content if `current` is `None`.
    pub fn is_met_by(&self, current: Option<&Digest>) -> bool {
        match self {
            Self::Any => current.is_some(),
            Self::OneOf(digests) => current.is_some_and(|current| digests.contains(current)),
        }
    }
}

impl Precondition {
    /// Whether the precondition has no condition.
    pub fn is_empty(&self) -> bool {
        self.matches.is_none() && self.matches_none.is_none()
    }

    /// # Errors
    /// [`Error::PreconditionFailed`] when `current`, the digest that the name leads to, does not
    /// meet the conditions.
    pub fn check(&self, current: Option<&Digest>) -> Result<()> {
        let matches = self.matches.as_ref().is_none_or(|expected| expected.is_met_by(current));
        let matches_none = self.matches_none.as_ref().is_none_or(|expected| !expected.is_met_by(current));
        if matches && matches_none { Ok(()) } else { Err(Error::PreconditionFailed) }
    }
}

impl Registry {
    /// The digest that a name leads to; `None` if the name does not exist.
    async fn current(&self, repository: &RepositoryName, reference: &Reference) -> Result<Option<Digest>> {
        match reference {
            Reference::Tag(tag) => {
                let fact: Option<TagFact> = self.load(&layout::tag(repository, tag)).await?;
                Ok(fact.map(|fact| fact.digest))
            }
            Reference::Digest(digest) => {
                let fact: Option<ManifestFact> = self.load(&layout::manifest(repository, digest)).await?;
                Ok(fact.map(|_| digest.clone()))
            }
        }
    }

    /// Checks the precondition of a push before the push reads its body.
    pub(super) async fn check_push(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        precondition: &Precondition,
    ) -> Result<()> {
        if precondition.is_empty() {
            return Ok(());
        }
        precondition.check(self.current(repository, reference).await?.as_ref())
    }

    /// As [`Registry::delete_manifest`], if the precondition holds. The deletion of a tag is a
    /// compare-and-swap where the store has conditional deletes: a push that moves the tag after
    /// the check keeps its tag. Elsewhere the tag is checked right before the deletion.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] when the manifest does not exist, whatever the precondition;
    /// [`Error::PreconditionFailed`] when the precondition does not hold; [`Error::Busy`] when
    /// pushes move the tag faster than the registry can check the tag.
    pub async fn delete_manifest_if(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        precondition: &Precondition,
    ) -> Result<()> {
        match reference {
            Reference::Tag(tag) if !precondition.is_empty() => self.delete_tag_if(repository, tag, precondition).await,
            Reference::Digest(digest) if !precondition.is_empty() => {
                // A digest leads to the same content for ever, so only the check for a missing
                // manifest can have another result by the time of the deletion. The deletion
                // repeats that check.
                let current = self.current(repository, reference).await?;
                precondition.check(Some(&current.ok_or_else(|| Error::ManifestUnknown(digest.to_string()))?))?;
                self.delete_manifest(repository, reference).await
            }
            _ => self.delete_manifest(repository, reference).await,
        }
    }

    async fn delete_tag_if(&self, repository: &RepositoryName, tag: &Tag, precondition: &Precondition) -> Result<()> {
        let key = layout::tag(repository, tag);
        for _ in 0..TAG_TRIES_MAX {
            let found = self.load_version::<TagFact>(&key).await?;
            let (current, _, version) = found.ok_or_else(|| Error::ManifestUnknown(tag.to_string()))?;
            precondition.check(Some(&current.digest))?;
            match self.keys.delete_unchanged(&key, &version).await {
                Err(store::Error::Conflict(_)) => {}
                Err(store::Error::Unsupported(_)) => return Ok(self.keys.delete(&key).await?),
                deleted => return Ok(deleted?),
            }
        }
        Err(Error::Busy)
    }

    /// Points a tag if the precondition holds for the digest that the tag points to. The change is
    /// a compare-and-swap if the store has conditional writes: of two requests that may each point
    /// only an absent tag, one succeeds.
    pub(super) async fn point_tag_if(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        fact: &TagFact,
        deadline: Deadline,
        precondition: &Precondition,
    ) -> Result<()> {
        if precondition.is_empty() {
            return self.point_tag(repository, tag, fact, deadline, When::Always).await;
        }
        for _ in 0..TAG_TRIES_MAX {
            let found = self.load_version::<TagFact>(&layout::tag(repository, tag)).await?;
            precondition.check(found.as_ref().map(|(current, _, _)| &current.digest))?;
            let when = found.map_or(When::Absent, |(_, _, version)| When::Unchanged(version));
            match self.point_tag(repository, tag, fact, deadline, when).await {
                Err(Error::Store(store::Error::Conflict(_))) => {}
                pointed => return pointed,
            }
        }
        Err(Error::Busy)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;
    use std::sync::{Arc, Mutex};

    use futures_executor::block_on;
    use futures_util::future::{BoxFuture, join_all};

    use super::super::Limits;
    use super::super::tests::{Meddled, TestPlatform, digest, in_memory, name};
    use super::*;
    use crate::store::contract::yield_now;
    use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};
    use crate::store::{Entry, KeyValue, Version};
    use bytes::Bytes;

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
    fn deletions_that_meet_a_push(condition: &Precondition, pushed: usize) -> Vec<(Result<()>, Option<Digest>)> {
        let (repository, tag) = (name("a"), Reference::Tag("v1".parse().unwrap()));
        let mut met = Vec::new();
        for calls_left in 0.. {
            let (plain, platform) = in_memory();
            let plain = Arc::new(plain);
            block_on(push(&plain, &tag, &index(0)));
            let (other, other_tag) = (plain.clone(), tag.clone());
            let meddle: BoxFuture<'static, ()> =
                Box::pin(async move { push(&other, &other_tag, &index(pushed)).await });
            let (calls_left, meddle) = (AtomicI64::new(calls_left), Mutex::new(Some(meddle)));
            let keys = Arc::new(Meddled { inner: plain.keys.clone(), calls_left, meddle });
            let registry = Registry::new(keys.clone(), plain.blobs.clone(), platform, Limits::default());
            let result = block_on(registry.delete_manifest_if(&repository, &tag, condition));
            if keys.meddle.lock().unwrap().is_some() {
                // The deletion ended before the push began, so no push interrupted the deletion.
                assert!(result.is_ok(), "{result:?}");
                break;
            }
            met.push((result, block_on(plain.current(&repository, &tag)).unwrap()));
        }
        assert!(met.len() > 1, "only {met:?}");
        met
    }

    #[test]
    fn a_push_that_meets_a_deletion_under_a_condition_keeps_its_tag() {
        let [old, new] = [0, 1].map(|number| digest(index(number).as_bytes()));
        for condition in [
            Precondition { matches: Some(Expected::OneOf(vec![old])), matches_none: None },
            Precondition { matches: None, matches_none: Some(Expected::OneOf(vec![new.clone()])) },
        ] {
            for (result, current) in deletions_that_meet_a_push(&condition, 1) {
                assert!(matches!(result, Err(Error::PreconditionFailed)), "{condition:?}: {result:?}");
                assert_eq!(current, Some(new.clone()), "{condition:?}");
            }
        }
    }

    /// The condition names digests, so a push of the same manifest does not make the deletion fail.
    #[test]
    fn a_push_of_the_same_manifest_does_not_hinder_a_deletion_under_a_condition() {
        let same = Expected::OneOf(vec![digest(index(0).as_bytes())]);
        for (result, current) in
            deletions_that_meet_a_push(&Precondition { matches: Some(same), matches_none: None }, 0)
        {
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
    fn of_racing_pushes_under_a_condition_one_wins() {
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
}
