//! Storing a manifest so that a collection removes neither the manifest nor the content that the
//! manifest names.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::references::{Nested, References};
use super::referrers::ReferrerIndex;
use crate::oci::{self, Descriptor, Digest, RepositoryName, Tag};
use crate::platform::Platform;
use crate::registry::content::Content;
use crate::registry::facts::{self, BlobFact, Facts, ManifestFact, RepositoryFact};
use crate::registry::guard::{CollectionGuard, Deadline, Effort, PUSH_TRIES_MAX, Protection};
use crate::registry::layout::Key;
use crate::registry::sharing::Sharing;
use crate::registry::tags::Tags;
use crate::registry::uploads::Uploads;
use crate::registry::{Error, Limits, Result, layout};
use crate::store::When;

/// A manifest that is being pushed.
pub(super) struct Push<'a> {
    pub repository: &'a RepositoryName,
    pub manifest: &'a oci::Manifest,
    pub descriptor: &'a Descriptor,
    pub fact: &'a ManifestFact,
    pub bytes: &'a Bytes,
}

impl Push<'_> {
    /// The name of the push in the keys that protect other keys.
    fn name(&self) -> String {
        format!("{:016x}", self.fact.push)
    }

    /// The key of the fact that says where the content of a large manifest is.
    fn large_key(&self) -> Key {
        layout::large(self.repository, &self.descriptor.digest)
    }

    /// The keys of the reverse index (digest to tag) for tags that will point to the manifest.
    fn reverse_entries(&self, tags: &[&Tag]) -> Vec<Key> {
        tags.iter().map(|tag| layout::tag_of(self.repository, &self.descriptor.digest, tag)).collect()
    }

    /// The keys that must not be collected from now on: the keys that the push writes, and the keys
    /// of all content that the manifest names. The repository may have that content as a blob, as a
    /// manifest or as both.
    fn protected_keys(&self, nested: &BTreeSet<Digest>, reverse_entries: &[Key]) -> Vec<Key> {
        let repository = self.repository;
        let mut keys = self.written_keys(reverse_entries);
        keys.push(self.large_key());
        for named in self.manifest.digests().union(nested) {
            keys.push(layout::blob(repository, named));
            keys.push(layout::manifest(repository, named));
        }
        keys
    }

    /// The keys that a push writes for a manifest of any size.
    fn written_keys(&self, reverse_entries: &[Key]) -> Vec<Key> {
        let (repository, digest) = (self.repository, &self.descriptor.digest);
        let mut keys = vec![layout::manifest(repository, digest), layout::repository(repository)];
        keys.extend(self.fact.subject.iter().map(|subject| layout::referrer(repository, subject, digest.as_str())));
        keys.extend_from_slice(reverse_entries);
        keys
    }
}

/// Stores manifests.
#[derive(Clone)]
pub(super) struct ManifestStorage {
    pub facts: Facts,
    pub content: Content,
    pub guard: CollectionGuard,
    pub sharing: Sharing,
    pub tags: Tags,
    pub uploads: Uploads,
    pub references: References,
    pub referrers: ReferrerIndex,
    pub limits: Arc<Limits>,
    pub platform: Arc<dyn Platform>,
}

impl ManifestStorage {
    /// Stores a manifest and the reverse index (digest to tag) for the tags about to be pointed, so
    /// that a collection removes neither the manifest nor the content that the manifest names.
    /// Returns the deadline for pointing the tags.
    ///
    /// # Errors
    /// [`Error::ManifestBlobUnknown`] when the repository does not hold content that the manifest
    /// names; [`Error::Busy`] when the collector is removing content that the manifest names, or
    /// when rounds of the collection begin or end during every try.
    pub(super) async fn store_protected(&self, push: &Push<'_>, tags: &[&Tag]) -> Result<Deadline> {
        let stored = self.try_store_protected(push, tags).await;
        if let Err(Error::Busy | Error::ManifestBlobUnknown(_)) = stored {
            self.guard.note_refused_push().await?;
        }
        stored
    }

    async fn try_store_protected(&self, push: &Push<'_>, tags: &[&Tag]) -> Result<Deadline> {
        let reverse_entries = push.reverse_entries(tags);
        let (mut effort, mut stored): (_, Option<Deadline>) = (Effort::WhenActive, None);
        for _ in 0..PUSH_TRIES_MAX {
            let (keys, protection) = match self.protect_references(push, &reverse_entries, effort).await {
                Ok(protected) => protected,
                Err(error) => {
                    if matches!(error, Error::ManifestBlobUnknown(_)) && stored.is_some() {
                        self.remove(push).await?;
                    }
                    return Err(error);
                }
            };
            // Rounds that began after the manifest was stored see the manifest. All content that
            // the manifest needs exists, and is protected against a round that may have begun
            // before.
            if let Some(deadline) = stored
                && self.is_stored(push, &reverse_entries).await?
            {
                return Ok(deadline);
            }
            let deadline = self.store_with_reverse_index(push, &reverse_entries).await?;
            if self.guard.confirm(&push.name(), &keys, &protection).await? {
                if !protection.is_protected() && self.is_large(push) {
                    self.guard.unprotect(&push.name(), &[push.large_key()]).await;
                }
                return Ok(deadline);
            }
            (effort, stored) = (Effort::Always, Some(deadline));
        }
        Err(Error::Busy)
    }

    async fn store_with_reverse_index(&self, push: &Push<'_>, reverse_entries: &[Key]) -> Result<Deadline> {
        // Write the repository first: a collection finds by repository what an interrupted push
        // leaves behind.
        self.store_repository(push.repository).await?;
        self.store(push).await?;
        // Write the reverse index before the tags: deleting a manifest finds the manifest's tags by
        // the reverse index.
        self.tags.announce(reverse_entries).await
    }

    /// Protects all keys that a push refers to, and checks that the content that the manifest needs
    /// exists. Returns the keys and their protection.
    async fn protect_references(
        &self,
        push: &Push<'_>,
        reverse_entries: &[Key],
        effort: Effort,
    ) -> Result<(Vec<Key>, Protection)> {
        let mut nested = Nested::default();
        let mut keys = push.protected_keys(&nested.digests, reverse_entries);
        let mut protection = self.guard.protect(&push.name(), &keys, effort).await?;
        if !protection.is_protected() && self.is_large(push) {
            // A large manifest has two keys: the content, which is written first, and the fact. A
            // round that begins between the two writes could collect the content before a crash of
            // the push, and the fact would then lead nowhere. Protect the content alone: a fact
            // that names other missing content is reported, and a later push mends that.
            self.guard.protect(&push.name(), &[push.large_key()], Effort::Always).await?;
        }
        if protection.is_protected() {
            nested = self.references.nested(push.repository, push.manifest).await?;
            if !nested.digests.is_empty() {
                keys = push.protected_keys(&nested.digests, reverse_entries);
                protection = self.guard.protect(&push.name(), &keys, Effort::Always).await?;
            }
        }
        self.references.check(push.repository, push.manifest, &nested.children).await?;
        Ok((keys, protection))
    }

    /// Whether all keys that a push has written still exist, now that the push protects the keys.
    async fn is_stored(&self, push: &Push<'_>, reverse_entries: &[Key]) -> Result<bool> {
        if self.facts.are_there(&push.written_keys(reverse_entries)).await?.contains(&false) {
            return Ok(false);
        }
        if !self.is_large(push) {
            return Ok(true);
        }
        let large = push.large_key();
        self.sharing.share(&large, &large, Some(push.fact.size)).await
    }

    fn is_large(&self, push: &Push<'_>) -> bool {
        push.fact.size > self.limits.manifest_inline_bytes_max
    }

    /// Removes the pushed manifest, because content that the manifest names has been collected
    /// since. Keeps the manifest if another push has stored it too, or if a tag points to it.
    async fn remove(&self, push: &Push<'_>) -> Result<()> {
        let digest = &push.descriptor.digest;
        let key = layout::manifest(push.repository, digest);
        if self.tags.has_any_of(push.repository, digest).await? {
            return Ok(());
        }
        let stored: Option<ManifestFact> = self.facts.load(&key).await?;
        if stored.is_none_or(|stored| stored.push != push.fact.push) {
            return Ok(());
        }
        if let Some(subject) = &push.fact.subject {
            self.referrers.delete(push.repository, subject, digest).await?;
        }
        self.facts.keys.delete(&key).await?;
        // Another push may have pointed a tag in between, and may be past its last check. Store the
        // manifest again for that push.
        if self.tags.has_any_of(push.repository, digest).await? { self.store(push).await } else { Ok(()) }
    }

    /// Writes the manifest and its referrer entry.
    async fn store(&self, push: &Push<'_>) -> Result<()> {
        let Push { repository, descriptor, .. } = push;
        let mut fact = push.fact.clone();
        let mut inline = push.bytes.clone();
        if self.is_large(push) {
            let bytes = std::mem::take(&mut inline);
            self.store_large(repository, &descriptor.digest, bytes).await?;
            fact.large = true;
        }
        let key = layout::manifest(repository, &descriptor.digest);
        self.facts.keys.put(&key, facts::to_line(&key, &fact, &inline)?, When::Always).await?;
        match &fact.subject {
            Some(subject) => self.referrers.write(repository, subject, descriptor).await,
            None => Ok(()),
        }
    }

    /// Puts the bytes of a manifest into the blob store, unless the bytes are stored already.
    async fn store_large(&self, repository: &RepositoryName, digest: &Digest, bytes: Bytes) -> Result<()> {
        let key = layout::large(repository, digest);
        if let Some(known) = self.facts.load::<BlobFact>(&key).await?
            && self.content.is_readable(&known).await?
        {
            return Ok(());
        }
        let size = bytes.len() as u64;
        self.uploads.store_content(repository, digest, bytes.into(), size, &key).await
    }

    /// Writes that the repository exists, unless the store knows so already.
    async fn store_repository(&self, repository: &RepositoryName) -> Result<()> {
        let key = layout::repository(repository);
        if self.facts.keys.get(&key).await?.is_none() {
            let fact = RepositoryFact { pushed_ms: self.platform.now_ms() };
            self.facts.store(&key, &fact, When::Always).await?;
        }
        Ok(())
    }
}
