//! Preconditions: what a name must lead to for a change to be made (RFC 9110, section 13.1). Content is what its digest says, so
//! a precondition names digests.

use super::facts::{ManifestFact, TagFact};
use super::limits::TAG_TRIES_MAX;
use super::{Error, Registry, Result, layout};
use crate::oci::{Digest, Reference, RepositoryName, Tag};
use crate::store::{self, When};

/// What a client expects a name to lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Anything at all.
    Any,
    /// Content with one of these digests.
    OneOf(Vec<Digest>),
}

/// What must hold for a change to be made. The default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// The name leads to this (`If-Match`).
    pub matches: Option<Expected>,
    /// The name leads to nothing of this (`If-None-Match`).
    pub matches_none: Option<Expected>,
}

impl Expected {
    /// Whether content with the digest `current`, or nothing, is what was expected.
    pub fn is_met_by(&self, current: Option<&Digest>) -> bool {
        match self {
            Self::Any => current.is_some(),
            Self::OneOf(digests) => current.is_some_and(|current| digests.contains(current)),
        }
    }
}

impl Precondition {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.matches.is_none() && self.matches_none.is_none()
    }

    /// # Errors
    /// [`Error::PreconditionFailed`] when `current`, to which the name leads, is not what was asked for.
    pub fn check(&self, current: Option<&Digest>) -> Result<()> {
        let matches = self.matches.as_ref().is_none_or(|expected| expected.is_met_by(current));
        let matches_none = self.matches_none.as_ref().is_none_or(|expected| !expected.is_met_by(current));
        if matches && matches_none { Ok(()) } else { Err(Error::PreconditionFailed) }
    }
}

impl Registry {
    /// The digest that a name leads to, if it leads anywhere.
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

    /// Checks a precondition of a push before the push costs anything.
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

    /// As [`Registry::delete_manifest`], if the precondition holds. Another request that moves the tag between the check and
    /// the deletion is not seen: no store deletes under a condition.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] when the precondition does not hold; [`Error::ManifestUnknown`] comes first.
    pub async fn delete_manifest_if(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        precondition: &Precondition,
    ) -> Result<()> {
        if !precondition.is_empty() {
            let unknown = || Error::ManifestUnknown(reference.to_string());
            let current = self.current(repository, reference).await?.ok_or_else(unknown)?;
            precondition.check(Some(&current))?;
        }
        self.delete_manifest(repository, reference).await
    }

    /// Points a tag if the precondition holds of what the tag points to. Exact where the store has conditions: of two requests
    /// that may each point the tag only if there is none, one does.
    pub(super) async fn point_tag_if(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        fact: &TagFact,
        until_ms: u64,
        precondition: &Precondition,
    ) -> Result<()> {
        if precondition.is_empty() {
            return self.point_tag(repository, tag, fact, until_ms, When::Always).await;
        }
        for _ in 0..TAG_TRIES_MAX {
            let found = self.load_version::<TagFact>(&layout::tag(repository, tag)).await?;
            precondition.check(found.as_ref().map(|(current, _, _)| &current.digest))?;
            let when = found.map_or(When::Absent, |(_, _, version)| When::Unchanged(version));
            match self.point_tag(repository, tag, fact, until_ms, when).await {
                Err(Error::Store(store::Error::Conflict(_))) => {}
                pointed => return pointed,
            }
        }
        Err(Error::Busy)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_executor::block_on;
    use futures_util::future::join_all;

    use super::super::Limits;
    use super::super::tests::{TestPlatform, digest, name};
    use super::*;
    use crate::store::contract::yield_now;
    use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};
    use crate::store::{Entry, KeyValue, Version};
    use bytes::Bytes;

    /// Lets other requests go on before each call.
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

    fn index(number: usize) -> String {
        format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"n":"{number}"}}}}"#)
    }

    /// Many requests create a tag, or move the tag from one digest, at the same time: one of them does.
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
