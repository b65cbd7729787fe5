//! Manifests: pushing, pulling, deleting (distribution-spec, "Pushing manifests", "Deleting
//! manifests").

use std::collections::BTreeSet;

use super::facts::{self, BlobFact, ManifestFact, RepositoryFact, TagFact};
use super::guard::{Deadline, Effort, PUSH_TRIES_MAX, Protection, TagNote, Window};
use super::layout::Key;
use super::limits::{PUSH_MEMORY_FACTOR, PUSH_MS_MAX, PUSH_UNQUEUED_BYTES_MAX};
use super::memory::Share;
use super::pages::KeyPages;
use super::references::Nested;
use super::{Error, Precondition, Registry, Result, layout};
use crate::oci::{self, Algorithm, Descriptor, Digest, Reference, RepositoryName, Tag};
use crate::platform::{Body, BodyError, Causes};
use crate::store::{self, When};
use bytes::Bytes;

/// A manifest that a repository holds.
#[derive(Debug)]
pub struct Manifest {
    /// The digest of the manifest.
    pub digest: Digest,
    /// The media type that the manifest was pushed with, without parameters.
    pub media_type: String,
    /// The size of the manifest in bytes.
    pub size: u64,
    /// The key of the fact that says where the bytes are in the blob store; `None` for a manifest
    /// whose bytes are in `inline`.
    large: Option<Key>,
    inline: Bytes,
}

/// The result of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The digest of the manifest.
    pub digest: Digest,
    /// The digest of the manifest's subject, if the manifest has a subject.
    pub subject: Option<Digest>,
    /// The tags that point to the manifest now, out of the tags that the request named beside its
    /// reference.
    pub tags: Vec<Tag>,
}

/// A manifest that is being pushed.
pub(super) struct Push<'a> {
    pub(super) repository: &'a RepositoryName,
    pub(super) manifest: &'a oci::Manifest,
    descriptor: &'a Descriptor,
    fact: &'a ManifestFact,
    bytes: &'a Bytes,
}

impl Push<'_> {
    /// The name of the push in the keys that protect other keys.
    fn name(&self) -> String {
        format!("{:016x}", self.fact.push)
    }

    /// The keys that must not be collected from now on: the keys that the push writes, and the keys
    /// of all content that the manifest names. The repository may have that content as a blob, as a
    /// manifest or as both.
    fn references(&self, nested: &BTreeSet<Digest>, reverse_entries: &[Key]) -> Vec<Key> {
        let repository = self.repository;
        let mut keys = self.own_keys(reverse_entries);
        keys.push(layout::large(repository, &self.descriptor.digest));
        for named in self.manifest.digests().union(nested) {
            keys.push(layout::blob(repository, named));
            keys.push(layout::manifest(repository, named));
        }
        keys
    }

    /// The keys that a push writes for a manifest of any size.
    fn own_keys(&self, reverse_entries: &[Key]) -> Vec<Key> {
        let (repository, digest) = (self.repository, &self.descriptor.digest);
        let mut keys = vec![layout::manifest(repository, digest), layout::repository(repository)];
        keys.extend(self.fact.subject.iter().map(|subject| layout::referrer(repository, subject, digest.as_str())));
        keys.extend_from_slice(reverse_entries);
        keys
    }
}

impl Registry {
    /// Looks a manifest up: two key reads by tag, one by digest.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] when the repository does not have the manifest.
    pub async fn manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<Manifest> {
        let unknown = || Error::ManifestUnknown(reference.to_string());
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => {
                let fact: Option<TagFact> = self.load(&layout::tag(repository, tag)).await?;
                fact.ok_or_else(unknown)?.digest
            }
        };
        let found = self.load_version(&layout::manifest(repository, &digest)).await?;
        let (fact, inline, _): (ManifestFact, _, _) = found.ok_or_else(unknown)?;
        let large = fact.large.then(|| layout::large(repository, &digest));
        Ok(Manifest { digest, media_type: fact.media_type, size: fact.size, large, inline })
    }

    /// The manifest's bytes, as they were pushed.
    pub async fn read_manifest(&self, manifest: &Manifest) -> Result<Body> {
        match &manifest.large {
            Some(key) => Ok(self.read_large(key).await?),
            None => Ok(manifest.inline.clone().into()),
        }
    }

    /// The bytes of a large manifest. The fact under `key` says where the bytes are.
    pub(super) async fn read_large(&self, key: &str) -> Result<Body> {
        let missing = || store::Error::corrupt(format!("the value of key {key} is missing"));
        let fact: BlobFact = self.load(key).await?.ok_or_else(missing)?;
        Ok(self.blobs.read(&fact.location, 0..fact.size).await?)
    }

    /// Stores a manifest, then points tags to the manifest: the tag in `reference`, if `reference`
    /// is a tag, and all of `tags`. When the store fails after the first of `tags` was pointed, the
    /// result names the tags that were pointed.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::ManifestInvalid`]; [`Error::DigestInvalid`] when the bytes do
    /// not have the digest in `reference`; [`Error::ManifestBlobUnknown`] when the manifest names
    /// content that the repository does not hold. The subject may be absent. After each of these
    /// errors nothing is stored.
    pub async fn push_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        content_type: Option<&str>,
        body: Body,
    ) -> Result<Pushed> {
        self.push_manifest_if(repository, reference, tags, content_type, body, &Precondition::default()).await
    }

    /// As [`Registry::push_manifest`], if the precondition holds for the digest that `reference`
    /// leads to. The precondition does not apply to `tags`.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] when the precondition does not hold. When another push moves
    /// the tag between the first check and the compare-and-swap of the tag, the manifest is stored,
    /// and this request points no tag to the manifest.
    pub async fn push_manifest_if(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        content_type: Option<&str>,
        body: Body,
        precondition: &Precondition,
    ) -> Result<Pushed> {
        self.check_push(repository, reference, precondition).await?;
        let (bytes, _received) = self.receive(body).await?;
        let _memory = self.reserve_push(bytes.len() as u64).await?;
        let digest = match reference {
            Reference::Tag(_) => Algorithm::Sha256.digest(&bytes),
            Reference::Digest(digest) => digest.clone(),
        };
        if !digest.matches(&bytes) {
            return Err(Error::DigestInvalid(format!("the manifest has not the digest {digest}")));
        }
        let parsed = oci::Manifest::parse(&bytes, content_type);
        let (manifest, media_type) = parsed.map_err(|e| Error::ManifestInvalid(e.to_string()))?;
        self.check_count(&manifest)?;
        let size = bytes.len() as u64;
        let descriptor = manifest.descriptor(&media_type, &digest, size);
        self.check_referrer(&manifest, &descriptor)?;
        let subject = manifest.subject.as_ref().map(|subject| subject.digest.clone());
        let pushed_ms = self.platform.now_ms();
        let [nonce @ .., _, _, _, _, _, _, _, _] = self.platform.random();
        let id = u64::from_le_bytes(nonce);
        let fact = ManifestFact { media_type: media_type.clone(), size, pushed_ms, push: id, large: false, subject };
        let push = Push { repository, manifest: &manifest, descriptor: &descriptor, fact: &fact, bytes: &bytes };
        let all_tags = tags.iter().chain(match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        });
        let all_tags: Vec<&Tag> = all_tags.collect();
        let deadline = self.keep_manifest(&push, &all_tags).await?;
        self.adopt_listed(repository, &manifest, &all_tags).await?;
        let tag_fact = TagFact { digest: digest.clone(), media_type, size, pushed_ms };
        if let Reference::Tag(tag) = reference {
            self.point_tag_if(repository, tag, &tag_fact, deadline, precondition).await?;
        }
        let tags = self.point_tags(repository, tags, &tag_fact, deadline).await?;
        // Another request may have deleted the manifest before the tags existed, so that the
        // deletion missed the tags. Store the manifest again.
        if self.keys.get(&layout::manifest(repository, &digest)).await?.is_none() {
            // The content that the manifest names may be gone too. Remove the tags then, so that no
            // tag dangles.
            if let Err(error) = self.keep_manifest(&push, &all_tags).await {
                self.delete_tags_of(repository, &digest).await?;
                return Err(error);
            }
        }
        self.note_done(repository, &digest, &all_tags).await;
        let subject = fact.subject;
        Ok(Pushed { digest, subject, tags })
    }

    /// Marks the reverse index entries of the tags as done, so that a collection does not wait for
    /// the tags. Best effort: a collection waits only for a limited time.
    async fn note_done(&self, repository: &RepositoryName, digest: &Digest, tags: &[&Tag]) {
        for tag in tags {
            let done = self.store(&layout::tag_of(repository, digest, tag), &TagNote::Done, When::Always).await;
            if let Err(error) = done {
                log::warn!("a collection will wait for the tag {tag} of {repository}: {}", Causes(&error));
            }
        }
    }

    /// Removes a tag, or a manifest with all tags that point to it.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] when the repository does not have the manifest.
    pub async fn delete_manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<()> {
        let unknown = || Error::ManifestUnknown(reference.to_string());
        match reference {
            Reference::Tag(tag) => {
                let key = layout::tag(repository, tag);
                self.keys.get(&key).await?.ok_or_else(unknown)?;
                // Keep the reverse index entry (digest to tag): a push of the same tag may be
                // writing the entry at the same time. Readers of the reverse index check where the
                // tag really points.
                Ok(self.keys.delete(&key).await?)
            }
            Reference::Digest(digest) => {
                let key = layout::manifest(repository, digest);
                let fact: ManifestFact = self.load(&key).await?.ok_or_else(unknown)?;
                // Delete the names before the manifest: after a crash in between, a name that is
                // left would dangle.
                self.delete_names_of(repository, digest, fact.subject.as_ref()).await?;
                self.keys.delete(&key).await?;
                // Delete the names again, as another push may have written names in between. A push
                // that finds its manifest gone stores the manifest again.
                self.delete_names_of(repository, digest, fact.subject.as_ref()).await
            }
        }
    }

    /// Reserves memory for everything that the push of a manifest holds beside the manifest's
    /// bytes. The bytes have already arrived, so the memory is never held while waiting for a
    /// client.
    ///
    /// # Errors
    /// [`Error::Crowded`] in a WebAssembly component when other pushes use the memory. In the
    /// native program a push waits for the memory.
    async fn reserve_push(&self, size: u64) -> Result<Share> {
        let bytes = size.saturating_mul(PUSH_MEMORY_FACTOR);
        match size {
            0..=PUSH_UNQUEUED_BYTES_MAX => Ok(self.pushes_memory.take(bytes, bytes)),
            _ => self.pushes_memory.reserve(bytes).await.ok_or(Error::Crowded),
        }
    }

    /// Receives the bytes of a manifest. Memory is taken as the bytes arrive, so a client that
    /// sends no bytes holds no memory.
    async fn receive(&self, mut body: Body) -> Result<(Bytes, Share)> {
        let limit_bytes = self.limits.manifest_bytes_max;
        let declared = body.length();
        if declared.is_some_and(|declared| declared > limit_bytes) {
            return Err(Error::TooLarge { limit_bytes });
        }
        let mut memory = self.receiving_memory.take(0, 0);
        let mut bytes = Vec::new();
        while let Some(data) = body.next().await {
            let data = data.map_err(|error| match error {
                BodyError::TooLarge { limit_bytes } => Error::TooLarge { limit_bytes },
                BodyError::Idle { limit_seconds } => Error::BodyIdle { limit_seconds },
                BodyError::Slow(limit) => Error::BodySlow(limit),
                error @ BodyError::Source(_) => store::Error::from(error).into(),
                other => Error::ManifestInvalid(other.to_string()),
            })?;
            let size = (bytes.len() + data.len()) as u64;
            if size > limit_bytes {
                return Err(Error::TooLarge { limit_bytes });
            }
            if size <= PUSH_UNQUEUED_BYTES_MAX {
                memory.force_to(size);
            } else if !memory.grow_to(size) {
                return Err(Error::Crowded);
            }
            if bytes.capacity() < size as usize {
                // Double the capacity, up to the largest size that the body can have.
                let most = declared.unwrap_or(limit_bytes).max(size);
                let wanted = (bytes.capacity() as u64 * 2).clamp(size, most);
                bytes.reserve_exact(wanted as usize - bytes.len());
            }
            bytes.extend_from_slice(&data);
        }
        match declared {
            Some(declared) if declared != bytes.len() as u64 => {
                Err(Error::SizeInvalid(format!("the body has {} bytes of {declared} declared", bytes.len())))
            }
            _ => {
                memory.shrink_to(bytes.len() as u64);
                Ok((bytes.into(), memory))
            }
        }
    }

    /// Stores a manifest and the reverse index (digest to tag) for the tags about to be set, so
    /// that a collection removes neither the manifest nor the content that the manifest names.
    /// Returns the deadline for pointing the tags.
    async fn keep_manifest(&self, push: &Push<'_>, tags: &[&Tag]) -> Result<Deadline> {
        let kept = self.try_keep_manifest(push, tags).await;
        if let Err(Error::Busy | Error::ManifestBlobUnknown(_)) = kept {
            self.note_refused_push().await?;
        }
        kept
    }

    async fn try_keep_manifest(&self, push: &Push<'_>, tags: &[&Tag]) -> Result<Deadline> {
        let digest = &push.descriptor.digest;
        let reverse_entries: Vec<Key> = tags.iter().map(|tag| layout::tag_of(push.repository, digest, tag)).collect();
        let (mut effort, mut stored): (_, Option<Deadline>) = (Effort::WhenActive, None);
        for _ in 0..PUSH_TRIES_MAX {
            let (keys, protection) = match self.protect_references(push, &reverse_entries, effort).await {
                Ok(protected) => protected,
                Err(error) => {
                    if matches!(error, Error::ManifestBlobUnknown(_)) && stored.is_some() {
                        self.withdraw(push).await?;
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
            if self.confirm(&push.name(), &keys, &protection).await? {
                return Ok(deadline);
            }
            (effort, stored) = (Effort::Always, Some(deadline));
        }
        Err(Error::Busy)
    }

    async fn store_with_reverse_index(&self, push: &Push<'_>, reverse_entries: &[Key]) -> Result<Deadline> {
        // Write the repository first: a collection finds by repository what an interrupted push
        // leaves behind.
        self.note_repository(push.repository).await?;
        self.store_manifest(push).await?;
        // Write the reverse index before the tags: deleting a manifest finds the manifest's tags by
        // the reverse index. The entries also tell a round that begins before the tags exist that
        // the tags are about to be set.
        let since_ms = self.platform.now_ms();
        for entry in reverse_entries {
            self.store(entry, &TagNote::Pending { since_ms }, When::Always).await?;
        }
        Ok(Window::new(since_ms, PUSH_MS_MAX).deadline())
    }

    /// Whether all keys that a push has written still exist, now that the push protects the keys.
    async fn is_stored(&self, push: &Push<'_>, reverse_entries: &[Key]) -> Result<bool> {
        if self.are_there(push.own_keys(reverse_entries)).await?.contains(&false) {
            return Ok(false);
        }
        if !self.is_large(push) {
            return Ok(true);
        }
        let large = layout::large(push.repository, &push.descriptor.digest);
        self.share(&large, &large, Some(push.fact.size)).await
    }

    fn is_large(&self, push: &Push<'_>) -> bool {
        push.fact.size > self.limits.manifest_inline_bytes_max
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
        let mut keys = push.references(&nested.digests, reverse_entries);
        let mut protection = self.protect(&push.name(), &keys, effort).await?;
        if protection.is_protected() {
            nested = self.nested(push).await?;
            if !nested.digests.is_empty() {
                keys = push.references(&nested.digests, reverse_entries);
                protection = self.protect(&push.name(), &keys, Effort::Always).await?;
            }
        }
        self.check_references(push.repository, push.manifest, &nested.children).await?;
        Ok((keys, protection))
    }

    /// Removes the pushed manifest, because content that the manifest names has been collected
    /// since. Keeps the manifest if another push has stored it too, or if a tag points to it.
    async fn withdraw(&self, push: &Push<'_>) -> Result<()> {
        let digest = &push.descriptor.digest;
        let key = layout::manifest(push.repository, digest);
        if self.is_tagged(push.repository, digest).await? {
            return Ok(());
        }
        let stored: Option<ManifestFact> = self.load(&key).await?;
        if stored.is_none_or(|stored| stored.push != push.fact.push) {
            return Ok(());
        }
        if let Some(subject) = &push.fact.subject {
            self.keys.delete(&layout::referrer(push.repository, subject, digest.as_str())).await?;
        }
        self.keys.delete(&key).await?;
        // Another push may have pointed a tag in between, and may be past its last check. Store the
        // manifest again for that push.
        if self.is_tagged(push.repository, digest).await? { self.store_manifest(push).await } else { Ok(()) }
    }

    /// Whether a tag points to a digest.
    async fn is_tagged(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        let prefix = layout::tags_of(repository, digest);
        for key in self.keys.list(&prefix, None, self.limits.page_entries_max).await? {
            let Ok(tag) = key[prefix.len()..].parse() else { continue };
            let fact: Option<TagFact> = self.load(&layout::tag(repository, &tag)).await?;
            if fact.is_some_and(|fact| fact.digest == *digest) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn store_manifest(&self, push: &Push<'_>) -> Result<()> {
        let Push { repository, descriptor, .. } = push;
        let mut fact = push.fact.clone();
        let mut inline = push.bytes.clone();
        if self.is_large(push) {
            let bytes = std::mem::take(&mut inline);
            self.store_large(repository, &descriptor.digest, bytes).await?;
            fact.large = true;
        }
        let key = layout::manifest(repository, &descriptor.digest);
        self.keys.put(&key, facts::to_line(&key, &fact, &inline)?, When::Always).await?;
        match &fact.subject {
            Some(subject) => self.note_referrer(repository, subject, descriptor).await,
            None => Ok(()),
        }
    }

    /// Puts the bytes of a manifest into the blob store, unless the bytes are stored already.
    async fn store_large(&self, repository: &RepositoryName, digest: &Digest, bytes: Bytes) -> Result<()> {
        let key = layout::large(repository, digest);
        if let Some(known) = self.load::<BlobFact>(&key).await?
            && self.is_readable(&known).await?
        {
            return Ok(());
        }
        let size = bytes.len() as u64;
        self.place(repository, digest, bytes.into(), size, &key).await
    }

    async fn note_repository(&self, repository: &RepositoryName) -> Result<()> {
        let key = layout::repository(repository);
        if self.keys.get(&key).await?.is_none() {
            let fact = RepositoryFact { pushed_ms: self.platform.now_ms() };
            self.store(&key, &fact, When::Always).await?;
        }
        Ok(())
    }

    pub(super) async fn point_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        fact: &TagFact,
        deadline: Deadline,
        when: When,
    ) -> Result<()> {
        deadline.check(self.platform.now_ms())?;
        self.store(&layout::tag(repository, tag), fact, when).await
    }

    /// Points tags, each tag once, until one fails. Returns the tags that were pointed, or the
    /// error if the first tag fails.
    async fn point_tags(
        &self,
        repository: &RepositoryName,
        tags: &[Tag],
        fact: &TagFact,
        deadline: Deadline,
    ) -> Result<Vec<Tag>> {
        let mut pointed = Vec::new();
        for tag in tags {
            if pointed.contains(tag) {
                continue;
            }
            match self.point_tag(repository, tag, fact, deadline, When::Always).await {
                Ok(()) => pointed.push(tag.clone()),
                Err(error) if pointed.is_empty() => return Err(error),
                Err(error) => {
                    log::error!(
                        "of the tags for {} in {repository} some are not done: {}",
                        fact.digest,
                        Causes(&error)
                    );
                    break;
                }
            }
        }
        Ok(pointed)
    }

    /// Removes the names of a manifest: the tags that point to it, and its entry in the referrers
    /// of its subject.
    async fn delete_names_of(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        subject: Option<&Digest>,
    ) -> Result<()> {
        self.delete_tags_of(repository, digest).await?;
        match subject {
            Some(subject) => Ok(self.keys.delete(&layout::referrer(repository, subject, digest.as_str())).await?),
            None => Ok(()),
        }
    }

    /// Removes the tags that point to a digest. The reverse index entries (digest to tag) stay as
    /// garbage: a push may be writing such an entry at the same time.
    async fn delete_tags_of(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let entries = layout::tags_of(repository, digest);
        let mut pages = KeyPages::new(&*self.keys, entries.clone(), None, self.limits.page_entries_max);
        while let Some(keys) = pages.next().await? {
            for key in &keys {
                let Ok(tag) = entries.rest(key).parse() else { continue };
                let tag_key = layout::tag(repository, &tag);
                // The tag may point to another digest by now.
                let fact: Option<TagFact> = self.load(&tag_key).await?;
                if fact.is_some_and(|fact| fact.digest == *digest) {
                    self.keys.delete(&tag_key).await?;
                }
            }
        }
        Ok(())
    }
}
