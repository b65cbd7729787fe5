//! Manifests: pushing, pulling, deleting (distribution-spec, "Pushing manifests", "Deleting manifests").

use std::collections::BTreeSet;

use super::facts::{self, BlobFact, ManifestFact, RepositoryFact, TagFact};
use super::hold::{HOLD_TRIES_MAX, Hold};
use super::limits::{PUSH_MEMORY_FACTOR, PUSH_MS_MAX, PUSH_UNQUEUED_BYTES_MAX};
use super::memory::Share;
use super::references::Nested;
use super::{Error, Precondition, Registry, Result, layout};
use crate::oci::{self, Algorithm, Descriptor, Digest, Reference, RepositoryName, Tag};
use crate::store::{self, Body, BodyError, When};
use bytes::Bytes;

/// A manifest that a repository holds.
#[derive(Debug)]
pub struct Manifest {
    /// Its digest.
    pub digest: Digest,
    /// The media type it was pushed with, without parameters.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// The key that says where its bytes are, if they are not here.
    large: Option<String>,
    inline: Bytes,
}

/// What a push made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The digest of the manifest.
    pub digest: Digest,
    /// The manifest that it refers to.
    pub subject: Option<Digest>,
    /// The tags that point to it now, of those that were asked for beside the reference.
    pub tags: Vec<Tag>,
}

/// A manifest on its way in.
pub(super) struct Push<'a> {
    pub(super) repository: &'a RepositoryName,
    pub(super) manifest: &'a oci::Manifest,
    descriptor: &'a Descriptor,
    fact: &'a ManifestFact,
    bytes: &'a Bytes,
}

impl Push<'_> {
    /// The keys that must stay from now on: the push's own and those of all content that the manifest names, which may be here
    /// as a blob, as a manifest or as both.
    fn leans_on(&self, nested: &BTreeSet<Digest>, ways: &[String]) -> Vec<String> {
        let repository = self.repository;
        let mut keys = self.own_keys(ways);
        keys.push(layout::large(repository, &self.descriptor.digest));
        for named in self.manifest.digests().union(nested) {
            keys.push(layout::blob(repository, named));
            keys.push(layout::manifest(repository, named));
        }
        keys
    }

    /// The keys that the push writes whatever the size of the manifest.
    fn own_keys(&self, ways: &[String]) -> Vec<String> {
        let (repository, digest) = (self.repository, &self.descriptor.digest);
        let mut keys = vec![layout::manifest(repository, digest), layout::repository(repository)];
        keys.extend(self.fact.subject.iter().map(|subject| layout::referrer(repository, subject, digest.as_str())));
        keys.extend_from_slice(ways);
        keys
    }
}

impl Registry {
    /// Looks a manifest up: two key reads by tag, one by digest.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] when the repository does not have it.
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

    /// The bytes of a manifest that the fact under `key` leads to.
    pub(super) async fn read_large(&self, key: &str) -> Result<Body> {
        let missing = || store::Error::Corrupt(format!("the value of {key} is missing"));
        let fact: BlobFact = self.load(key).await?.ok_or_else(missing)?;
        Ok(self.blobs.read(&fact.location, 0..fact.size).await?)
    }

    /// Stores a manifest, and lets the tag point to it, if `reference` is one, and `tags` as well. When the store fails after
    /// the first of these, the answer says which of them were done.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::ManifestInvalid`]; [`Error::DigestInvalid`] when the bytes do not have the digest that
    /// `reference` is; [`Error::ManifestBlobUnknown`] when it names content that the repository does not hold. The
    /// subject may be absent. Nothing is stored then.
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

    /// As [`Registry::push_manifest`], if the precondition holds of what `reference` leads to; `tags` are pointed in any case.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] when it does not hold. When another push was faster only at the end, the manifest is stored
    /// and no tag points to it.
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
        let until_ms = self.keep_manifest(&push, &all_tags).await?;
        self.adopt_listed(repository, &manifest, &all_tags).await?;
        let tag_fact = TagFact { digest: digest.clone(), media_type, size, pushed_ms };
        if let Reference::Tag(tag) = reference {
            self.point_tag_if(repository, tag, &tag_fact, until_ms, precondition).await?;
        }
        let tags = self.point_tags(repository, tags, &tag_fact, until_ms).await?;
        // It may have been deleted since, before the tags were there to be deleted with it.
        if self.keys.get(&layout::manifest(repository, &digest)).await?.is_none() {
            // What it names may have gone after it.
            if let Err(error) = self.keep_manifest(&push, &all_tags).await {
                self.delete_tags_of(repository, &digest).await?;
                return Err(error);
            }
        }
        self.settle(repository, &digest, &all_tags).await;
        let subject = fact.subject;
        Ok(Pushed { digest, subject, tags })
    }

    /// Notes that no tag is to come any more: a collection need not wait for it. Best effort, as it waits only for a while.
    async fn settle(&self, repository: &RepositoryName, digest: &Digest, tags: &[&Tag]) {
        for tag in tags {
            if let Err(error) = self.store(&layout::tag_of(repository, digest, tag), &0u64, When::Always).await {
                log::warn!("a collection will wait for the tag {tag} of {repository}: {error}");
            }
        }
    }

    /// Removes a tag, or a manifest with every tag on it.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] when the repository does not have it.
    pub async fn delete_manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<()> {
        let unknown = || Error::ManifestUnknown(reference.to_string());
        match reference {
            Reference::Tag(tag) => {
                let key = layout::tag(repository, tag);
                self.keys.get(&key).await?.ok_or_else(unknown)?;
                // The way back from the digest stays: a push of the same tag may be writing it just now, and where a tag
                // really points is looked up before it is believed.
                Ok(self.keys.delete(&key).await?)
            }
            Reference::Digest(digest) => {
                let key = layout::manifest(repository, digest);
                let fact: ManifestFact = self.load(&key).await?.ok_or_else(unknown)?;
                // The names go first: one that is left behind would lead nowhere.
                self.delete_names_of(repository, digest, fact.subject.as_ref()).await?;
                self.keys.delete(&key).await?;
                // Those of a push that came in between go too; a push that sees the manifest gone stores it again.
                self.delete_names_of(repository, digest, fact.subject.as_ref()).await
            }
        }
    }

    /// Memory for all that the push of a manifest holds beside its bytes. The bytes are here, so nobody waits for a client.
    ///
    /// # Errors
    /// [`Error::Crowded`] in a component when other pushes use the memory. Natively a push waits for it.
    async fn reserve_push(&self, size: u64) -> Result<Share> {
        let bytes = size.saturating_mul(PUSH_MEMORY_FACTOR);
        match size {
            0..=PUSH_UNQUEUED_BYTES_MAX => Ok(self.pushes_memory.take(bytes, bytes)),
            _ => self.pushes_memory.reserve(bytes).await.ok_or(Error::Crowded),
        }
    }

    /// The bytes of a manifest and their memory, which is taken as they come: a client that sends none holds none.
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
                BodyError::Store(error) => error.into(),
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
                // Doubled, but with no more than the body can have.
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

    /// Stores a manifest, with the ways back from it to its tags-to-be, so that a collection takes away neither it nor what it
    /// names. Says until when the tags may be pointed.
    async fn keep_manifest(&self, push: &Push<'_>, tags: &[&Tag]) -> Result<u64> {
        let digest = &push.descriptor.digest;
        let ways: Vec<String> = tags.iter().map(|tag| layout::tag_of(push.repository, digest, tag)).collect();
        let mut stored_ms: Option<u64> = None;
        for _ in 0..HOLD_TRIES_MAX {
            let hold = match self.hold_references(push, &ways).await {
                Ok(hold) => hold,
                Err(error) => {
                    if matches!(error, Error::ManifestBlobUnknown(_)) {
                        if stored_ms.is_some() {
                            self.withdraw(push).await?;
                        }
                        self.ask_for_time().await?;
                    }
                    return Err(error);
                }
            };
            // Rounds that began since the manifest was stored see it. All that it needs is there, and held against the round
            // that may have begun before.
            if let Some(noted_ms) = stored_ms
                && self.is_stored(push, &ways).await?
            {
                return Ok(noted_ms + PUSH_MS_MAX / 2);
            }
            // First, as a collection finds what a push leaves behind by its repository.
            self.note_repository(push.repository).await?;
            self.store_manifest(push).await?;
            // Before the tags: one that its digest does not know of could not be deleted with it. They also tell a round that begins
            // before the tags are there that these are to come.
            let noted_ms = self.platform.now_ms();
            for way in &ways {
                self.store(way, &noted_ms, When::Always).await?;
            }
            if self.is_held(&hold).await? {
                return Ok(noted_ms + PUSH_MS_MAX / 2);
            }
            stored_ms = Some(noted_ms);
        }
        Err(Error::Busy)
    }

    /// Whether all that a push has written is still there, now that it is held.
    async fn is_stored(&self, push: &Push<'_>, ways: &[String]) -> Result<bool> {
        if self.are_there(push.own_keys(ways)).await?.contains(&false) {
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

    /// Holds everything that a push leans on, and sees to it that it is there.
    async fn hold_references(&self, push: &Push<'_>, ways: &[String]) -> Result<Hold> {
        let mut nested = Nested::default();
        let mut hold = self.hold(&push.leans_on(&nested.digests, ways)).await?;
        if hold.is_active() {
            nested = self.nested(push).await?;
            if !nested.digests.is_empty() {
                hold = self.hold(&push.leans_on(&nested.digests, ways)).await?;
            }
        }
        self.check_references(push.repository, push.manifest, &nested.children).await?;
        Ok(hold)
    }

    /// Takes a manifest back that names what has been collected since, unless another push has stored it too, or it was there before
    /// and is tagged.
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
        // Of a push that came in between, and may not look any more.
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

    /// Puts the bytes of a manifest into the blob store, if they are not there yet.
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
        until_ms: u64,
        when: When,
    ) -> Result<()> {
        if self.platform.now_ms() > until_ms {
            return Err(Error::Busy);
        }
        self.store(&layout::tag(repository, tag), fact, when).await
    }

    /// Points tags, each once, until one fails; it is an error only if none could be done.
    async fn point_tags(
        &self,
        repository: &RepositoryName,
        tags: &[Tag],
        fact: &TagFact,
        until_ms: u64,
    ) -> Result<Vec<Tag>> {
        let mut pointed = Vec::new();
        for tag in tags {
            if pointed.contains(tag) {
                continue;
            }
            match self.point_tag(repository, tag, fact, until_ms, When::Always).await {
                Ok(()) => pointed.push(tag.clone()),
                Err(error) if pointed.is_empty() => return Err(error),
                Err(error) => {
                    log::error!("of the tags for {} in {repository} some are not done: {error}", fact.digest);
                    break;
                }
            }
        }
        Ok(pointed)
    }

    /// Removes what a manifest is found by: its tags, and its place among its subject's referrers.
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

    /// Removes the tags that point to a digest. The ways back to them stay, as garbage: a push may be writing one just now.
    async fn delete_tags_of(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let prefix = layout::tags_of(repository, digest);
        let mut last: Option<String> = None;
        loop {
            let keys = self.keys.list(&prefix, last.as_deref(), self.limits.page_entries_max).await?;
            for key in &keys {
                let Ok(tag) = key[prefix.len()..].parse() else { continue };
                let tag_key = layout::tag(repository, &tag);
                // It may point elsewhere by now.
                let fact: Option<TagFact> = self.load(&tag_key).await?;
                if fact.is_some_and(|fact| fact.digest == *digest) {
                    self.keys.delete(&tag_key).await?;
                }
            }
            if keys.len() < self.limits.page_entries_max {
                return Ok(());
            }
            last = keys.last().cloned();
        }
    }
}
