//! Manifests: pushing, pulling, deleting (distribution-spec, "Pushing manifests", "Deleting
//! manifests", "Listing referrers").

mod reading;
mod receiving;
mod references;
mod referrers;
mod storing;

use std::sync::Arc;

use bytes::Bytes;

pub use reading::Manifest;
pub(super) use reading::ManifestReader;
pub use referrers::{Referrers, ReferrersRequest};

use super::error::{InvalidDigest, InvalidManifest};
use super::facts::{Facts, ManifestFact, TagFact};
use super::mirrored::MirroredPrefixes;
use super::sharing::Sharing;
use super::tags::Tags;
use super::uploads::Uploads;
use super::{Error, Limits, Precondition, Result, layout};
use crate::oci::{self, Algorithm, Digest, Reference, RepositoryName, Tag};
use crate::platform::{Body, Platform};
use receiving::ManifestReceiver;
use references::References;
use referrers::ReferrerIndex;
use storing::{ManifestStorage, Push};

/// The result of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// The digest of the manifest.
    pub digest: Digest,
    /// The digest of the manifest's subject, if the manifest has a subject.
    pub subject: Option<Digest>,
    /// The tags that point to the manifest now, out of the tags that the request named beside its
    /// reference.
    pub tags: Vec<Tag>,
}

/// A push as its client requests the push.
pub(super) struct PushRequest<'a> {
    pub repository: &'a RepositoryName,
    /// The name of the manifest: a tag to point, or the manifest's digest.
    pub reference: &'a Reference,
    /// Further tags to point.
    pub tags: &'a [Tag],
    pub content_type: Option<&'a str>,
    /// A condition for the digest that `reference` leads to.
    pub precondition: &'a Precondition,
    pub source: Source,
}

/// Where a manifest comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A client has pushed the manifest.
    Client,
    /// The manifest was fetched from an upstream, and can be fetched again.
    Upstream,
}

/// The manifests of all repositories.
#[derive(Clone)]
pub(super) struct Manifests {
    pub reader: ManifestReader,
    pub referrers: ReferrerIndex,
    facts: Facts,
    tags: Tags,
    receiver: ManifestReceiver,
    references: References,
    storage: ManifestStorage,
    platform: Arc<dyn Platform>,
}

impl Manifests {
    pub(super) fn new(
        sharing: Sharing,
        tags: Tags,
        uploads: Uploads,
        limits: Arc<Limits>,
        mirrored: MirroredPrefixes,
    ) -> Self {
        let Sharing { facts, content, guard } = sharing.clone();
        let platform = guard.platform.clone();
        let reader = ManifestReader { facts: facts.clone(), content: content.clone(), tags: tags.clone() };
        let referrers = ReferrerIndex::new(reader.clone(), limits.clone());
        let references = References { facts: facts.clone(), limits: limits.clone(), mirrored, reader: reader.clone() };
        let receiver = ManifestReceiver::new(limits.clone());
        let storage = ManifestStorage {
            facts: facts.clone(),
            content,
            guard,
            sharing,
            tags: tags.clone(),
            uploads,
            references: references.clone(),
            referrers: referrers.clone(),
            limits,
            platform: platform.clone(),
        };
        Self { reader, referrers, facts, tags, receiver, references, storage, platform }
    }

    /// Stores a manifest, then points tags to the manifest. `Registry::push_manifest_if` documents
    /// the errors.
    pub(super) async fn push(&self, request: &PushRequest<'_>, body: Body) -> Result<Pushed> {
        self.check_precondition(request).await?;
        let (bytes, _received) = self.receiver.receive(body).await?;
        let _memory = self.receiver.reserve_push(bytes.len() as u64).await?;
        let digest = digest_of(request.reference, &bytes)?;
        let parsed = oci::Manifest::parse(&bytes, request.content_type);
        let (manifest, media_type) = parsed.map_err(InvalidManifest::from)?;
        self.references.check_count(&manifest)?;
        let descriptor = manifest.descriptor(&media_type, &digest, bytes.len() as u64);
        self.referrers.check(&manifest, &descriptor)?;
        let repository = request.repository;
        let fact = ManifestFact {
            cached: request.source == Source::Upstream && !self.was_pushed(repository, &digest).await?,
            ..self.new_fact(&manifest, media_type, bytes.len() as u64)
        };
        let push = Push { repository, manifest: &manifest, descriptor: &descriptor, fact: &fact, bytes: &bytes };
        let tags = self.store_and_point(request, &push).await?;
        Ok(Pushed { digest, subject: fact.subject, tags })
    }

    /// Checks the precondition of a push before the push reads its body.
    async fn check_precondition(&self, request: &PushRequest<'_>) -> Result<()> {
        if request.precondition.is_empty() {
            return Ok(());
        }
        let current = self.reader.digest(request.repository, request.reference).await?;
        request.precondition.check(current.as_ref())
    }

    /// The fact about a manifest that is pushed now.
    fn new_fact(&self, manifest: &oci::Manifest, media_type: String, size: u64) -> ManifestFact {
        let [nonce @ .., _, _, _, _, _, _, _, _] = self.platform.random();
        let subject = manifest.subject.as_ref().map(|subject| subject.digest.clone());
        let (pushed_ms, push) = (self.platform.now_ms(), u64::from_le_bytes(nonce));
        ManifestFact { media_type, size, pushed_ms, push, large: false, subject, cached: false }
    }

    /// Whether the repository has a manifest because a client has pushed the manifest, before the
    /// repository began to mirror an upstream.
    async fn was_pushed(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        let known: Option<ManifestFact> = self.facts.load(&layout::manifest(repository, digest)).await?;
        Ok(known.is_some_and(|known| !known.cached))
    }

    /// Stores a manifest, then points the tags of the request. Returns the pointed tags out of
    /// those that the request names beside its reference.
    async fn store_and_point(&self, request: &PushRequest<'_>, push: &Push<'_>) -> Result<Vec<Tag>> {
        let PushRequest { repository, reference, tags, precondition, .. } = *request;
        let digest = &push.descriptor.digest;
        let all_tags = tags.iter().chain(match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        });
        let all_tags: Vec<&Tag> = all_tags.collect();
        let deadline = self.storage.store_protected(push, &all_tags).await?;
        self.referrers.import_listed(repository, push.manifest, &all_tags).await?;
        let ManifestFact { media_type, size, pushed_ms, .. } = push.fact.clone();
        let tag_fact = TagFact { digest: digest.clone(), media_type, size, pushed_ms };
        if let Reference::Tag(tag) = reference {
            self.tags.point_if(repository, tag, &tag_fact, deadline, precondition).await?;
        }
        let tags = self.tags.point_all(repository, tags, &tag_fact, deadline).await?;
        // Another request may have deleted the manifest before the tags existed, so that the
        // deletion missed the tags. Store the manifest again.
        if self.facts.keys.get(&layout::manifest(repository, digest)).await?.is_none() {
            // The content that the manifest names may be gone too. Remove the tags then, so that no
            // tag dangles.
            if let Err(error) = self.storage.store_protected(push, &all_tags).await {
                self.tags.delete_all_of(repository, digest).await?;
                return Err(error);
            }
        }
        self.tags.mark_done(repository, digest, &all_tags).await;
        Ok(tags)
    }

    /// Removes a tag, or a manifest with all tags that point to it, if the precondition holds.
    /// `Registry::delete_manifest_if` documents the errors.
    pub(super) async fn delete(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        precondition: &Precondition,
    ) -> Result<()> {
        match reference {
            Reference::Tag(tag) => self.tags.delete_if(repository, tag, precondition).await,
            Reference::Digest(digest) => {
                // A digest leads to the same content for ever, so only the check for a missing
                // manifest can have another result by the time of the deletion. The deletion
                // repeats that check.
                if !precondition.is_empty() {
                    let current = self.reader.digest(repository, reference).await?;
                    precondition.check(Some(&current.ok_or_else(|| Error::ManifestUnknown(digest.to_string()))?))?;
                }
                self.delete_with_names(repository, digest).await
            }
        }
    }

    /// Removes a manifest with all tags that point to it.
    async fn delete_with_names(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let key = layout::manifest(repository, digest);
        let fact: Option<ManifestFact> = self.facts.load(&key).await?;
        let fact = fact.ok_or_else(|| Error::ManifestUnknown(digest.to_string()))?;
        // Delete the names before the manifest: after a crash in between, a name that is left would
        // dangle.
        self.delete_names(repository, digest, fact.subject.as_ref()).await?;
        self.facts.keys.delete(&key).await?;
        // Delete the names again, as another push may have written names in between. A push that
        // finds its manifest gone stores the manifest again.
        self.delete_names(repository, digest, fact.subject.as_ref()).await
    }

    /// Removes the names of a manifest: the tags that point to it, and its entry in the referrers
    /// of its subject.
    async fn delete_names(&self, repository: &RepositoryName, digest: &Digest, subject: Option<&Digest>) -> Result<()> {
        self.tags.delete_all_of(repository, digest).await?;
        match subject {
            Some(subject) => self.referrers.delete(repository, subject, digest).await,
            None => Ok(()),
        }
    }
}

/// The digest of a manifest that is pushed under `reference`.
///
/// # Errors
/// [`Error::DigestInvalid`] when `reference` is another digest than that of the bytes.
fn digest_of(reference: &Reference, bytes: &Bytes) -> Result<Digest> {
    let digest = match reference {
        Reference::Tag(_) => Algorithm::Sha256.digest(bytes),
        Reference::Digest(digest) => digest.clone(),
    };
    if !digest.matches(bytes) {
        let computed = digest.algorithm().digest(bytes);
        return Err(InvalidDigest::Mismatch { computed, named: digest }.into());
    }
    Ok(digest)
}
