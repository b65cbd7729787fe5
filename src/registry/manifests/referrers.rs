//! Referrers: the manifests that name another one as their subject (distribution-spec, "Listing
//! referrers").
//!
//! Each referrer is one key under its subject, written by the referrer's push. So two pushes never
//! change the same document, and the subject may be absent. The value is the referrer's descriptor,
//! so that a page need not read manifests.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::reading::{Manifest, ManifestReader};
use crate::oci::{self, Descriptor, Digest, Reference, RepositoryName, Tag};
use crate::registry::error::InvalidManifest;
use crate::registry::facts::{Facts, ManifestFact};
use crate::registry::limits::{
    ANNOTATION_BYTES, CALLS_AT_ONCE_MAX, FALLBACK_LISTED_MAX, REFERRER_BYTES_MAX, REFERRERS_PAGE_BYTES_MAX,
    REFERRERS_PAGE_BYTES_MIN,
};
use crate::registry::memory::{Memory, Share};
use crate::registry::{Error, Limits, Result, layout};
use crate::store::{self, When};

/// The requested referrers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferrersRequest {
    /// Only referrers of this artifact type.
    pub artifact_type: Option<String>,
    /// Only referrers whose digest sorts after this digest.
    pub last: Option<String>,
}

/// A page of referrers.
#[derive(Debug)]
#[non_exhaustive]
pub struct Referrers {
    /// The descriptors of the referrers, in the order of their digests.
    pub descriptors: Vec<Descriptor>,
    /// The digest after which the next page begins; `None` on the last page. A page may be empty
    /// without being the last one.
    pub next: Option<String>,
    /// The memory that the page may use. The share must be kept as long as the page.
    pub(crate) memory: Share,
}

/// The value under the key of a referrer.
enum Found {
    /// The key or its manifest does not exist: the manifest was deleted a moment ago.
    Nothing,
    /// The descriptor, and how many bytes were read to get the descriptor.
    Descriptor(Descriptor, u64),
    /// A descriptor too large for a value of the store: the manifest must be read.
    Manifest(Manifest),
}

/// The referrer entries of all subjects.
#[derive(Clone)]
pub(in crate::registry) struct ReferrerIndex {
    facts: Facts,
    limits: Arc<Limits>,
    reader: ManifestReader,
    /// The memory that pages of referrers share.
    pages_memory: Arc<Memory>,
}

impl ReferrerIndex {
    pub(super) fn new(reader: ManifestReader, limits: Arc<Limits>) -> Self {
        let pages_memory = Memory::new(limits.pages_memory_bytes);
        Self { facts: reader.facts.clone(), limits, reader, pages_memory }
    }

    /// The manifests of a repository that refer to `subject`, whether or not the subject exists.
    /// Costs one listing, and one read for each manifest that is looked at. A page ends at the
    /// limit of manifests or at the limit of bytes read.
    pub(in crate::registry) async fn page(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        request: &ReferrersRequest,
    ) -> Result<Referrers> {
        let prefix = layout::referrers(repository, subject);
        let after = request.last.as_ref().map(|last| format!("{prefix}{last}"));
        let most = self.limits.referrers_per_page_max;
        let mut keys = self.facts.keys.list(&prefix, after.as_deref(), most + 1).await?;
        let more = keys.len() > most;
        keys.truncate(most);
        let digests: Vec<String> = keys.iter().map(|key| key[prefix.len()..].to_owned()).collect();

        // Take the page's size twice: the page's JSON is written while the page's descriptors are
        // still in memory.
        let memory = self.pages_memory.take(REFERRERS_PAGE_BYTES_MIN * 2, REFERRERS_PAGE_BYTES_MAX * 2);
        let mut page = Referrers { descriptors: Vec::new(), next: None, memory };
        let looked_at = self.fill(&mut page, repository, subject, &digests, request).await?;
        if more || looked_at < digests.len() {
            page.next = looked_at.checked_sub(1).map(|last| digests[last].clone());
        }
        Ok(page)
    }

    /// Adds the wanted descriptors out of those of `digests` to a page, as far as the page's memory
    /// allows. Returns how many of `digests` were looked at, and gives back the rest of the memory.
    async fn fill(
        &self,
        page: &mut Referrers,
        repository: &RepositoryName,
        subject: &Digest,
        digests: &[String],
        request: &ReferrersRequest,
    ) -> Result<usize> {
        let bytes_max = page.memory.bytes() / 2;
        // Read only so many ahead that they fit into the page: values read beyond the end of a page
        // are wasted.
        let reads_at_once = (bytes_max / REFERRER_BYTES_MAX).clamp(1, CALLS_AT_ONCE_MAX as u64) as usize;
        let reads = digests.iter().cloned().map(|digest| self.find(repository, subject, digest));
        let reads: Vec<_> = reads.collect();
        let mut reads = stream::iter(reads).buffered(reads_at_once);
        let (mut bytes, mut looked_at) = (0, 0);
        while let Some(found) = reads.try_next().await? {
            bytes += found.bytes();
            // Look at the first referrer in any case, or a list with a large referrer would never
            // end.
            if bytes > bytes_max && looked_at > 0 {
                break;
            }
            looked_at += 1;
            let descriptor = match found {
                Found::Nothing => None,
                Found::Descriptor(descriptor, _) => Some(descriptor),
                Found::Manifest(manifest) => self.read_descriptor(&manifest).await?,
            };
            page.descriptors.extend(descriptor.filter(|descriptor| request.wants(descriptor)));
        }
        page.memory.shrink_to(bytes * 2);
        Ok(looked_at)
    }

    /// Refuses a manifest that has a subject and a descriptor over `REFERRER_BYTES_MAX`, as each
    /// list of referrers repeats the descriptor.
    pub(super) fn check(&self, manifest: &oci::Manifest, descriptor: &Descriptor) -> Result<()> {
        let bytes = if manifest.subject.is_some() { to_json(descriptor)?.len() as u64 } else { 0 };
        if bytes <= REFERRER_BYTES_MAX {
            return Ok(());
        }
        Err(InvalidManifest::ReferrerTooLarge { bytes, most: REFERRER_BYTES_MAX }.into())
    }

    /// Writes the referrer entry of a manifest under its subject.
    pub(super) async fn write(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        descriptor: &Descriptor,
    ) -> Result<()> {
        let key = layout::referrer(repository, subject, descriptor.digest.as_str());
        let mut value = to_json(descriptor)?;
        // A descriptor with large annotations may not fit into a value of the store. An empty value
        // means that the descriptor is read from the manifest.
        if value.len() as u64 > self.limits.manifest_inline_bytes_max {
            value.clear();
        }
        Ok(self.facts.keys.put(&key, value.into(), When::Always).await.map(drop)?)
    }

    /// Removes the referrer entry of a manifest under its subject.
    pub(super) async fn delete(&self, repository: &RepositoryName, subject: &Digest, digest: &Digest) -> Result<()> {
        Ok(self.facts.keys.delete(&layout::referrer(repository, subject, digest.as_str())).await?)
    }

    async fn find(&self, repository: &RepositoryName, subject: &Digest, digest: String) -> Result<Found> {
        let key = layout::referrer(repository, subject, &digest);
        match self.facts.keys.get(&key).await? {
            None => Ok(Found::Nothing),
            Some(entry) if entry.value.is_empty() => {
                let corrupt = |_| store::Error::corrupt(format!("cannot read the digest in key {key}"));
                let reference = Reference::Digest(digest.parse().map_err(corrupt)?);
                match self.reader.get(repository, &reference).await {
                    Err(Error::ManifestUnknown(_)) => Ok(Found::Nothing),
                    manifest => Ok(Found::Manifest(manifest?)),
                }
            }
            Some(entry) => {
                let corrupt =
                    |error| store::Error::corrupt(format!("cannot read the value of key {key}")).because(error);
                let descriptor: Descriptor = serde_json::from_slice(&entry.value).map_err(corrupt)?;
                Ok(Found::Descriptor(descriptor, entry.value.len() as u64))
            }
        }
    }

    /// A manifest's descriptor, made from the manifest's bytes; `None` if the bytes cannot be
    /// parsed.
    async fn read_descriptor(&self, manifest: &Manifest) -> Result<Option<Descriptor>> {
        let parsed = self.reader.parse(manifest).await?;
        Ok(parsed.map(|(parsed, media_type)| parsed.descriptor(&media_type, &manifest.digest, manifest.size)))
    }

    /// Imports the list of an index that is pushed under a fallback tag, `<algorithm>-<hex>` of a
    /// subject. At registries without the referrers API, clients list the referrers of a subject
    /// under that tag ("Enabling the referrers API"). Each referrer is in the registry's list since
    /// its own push, so only lost entries are written. A push that is cut off can be sent again.
    pub(super) async fn import_listed(
        &self,
        repository: &RepositoryName,
        manifest: &oci::Manifest,
        tags: &[&Tag],
    ) -> Result<()> {
        let subjects: BTreeSet<Digest> = tags.iter().filter_map(|tag| subject_of(tag)).collect();
        if subjects.is_empty() {
            return Ok(());
        }
        let listed: BTreeSet<&Digest> = manifest.children().map(|child| &child.digest).collect();
        if listed.len() > FALLBACK_LISTED_MAX {
            tracing::warn!(
                "{repository}: the list of referrers under a tag is long; only {FALLBACK_LISTED_MAX} are looked at"
            );
        }
        let looks = listed.into_iter().take(FALLBACK_LISTED_MAX);
        let looks: Vec<_> = looks.map(|digest| self.import(repository, digest, &subjects)).collect();
        stream::iter(looks).buffer_unordered(CALLS_AT_ONCE_MAX).try_collect().await
    }

    async fn import(&self, repository: &RepositoryName, digest: &Digest, subjects: &BTreeSet<Digest>) -> Result<()> {
        let key = layout::manifest(repository, digest);
        let fact: Option<ManifestFact> = self.facts.load(&key).await?;
        let Some(subject) = fact.and_then(|fact| fact.subject).filter(|subject| subjects.contains(subject)) else {
            return Ok(());
        };
        let referrer = layout::referrer(repository, &subject, digest.as_str());
        if self.facts.keys.get(&referrer).await?.is_some() {
            return Ok(());
        }
        let manifest = match self.reader.get(repository, &Reference::Digest(digest.clone())).await {
            Err(Error::ManifestUnknown(_)) => return Ok(()),
            manifest => manifest?,
        };
        let Some(descriptor) = self.read_descriptor(&manifest).await? else { return Ok(()) };
        self.write(repository, &subject, &descriptor).await?;
        // Another request may have deleted the manifest before this entry was written, and so has
        // missed the entry.
        if self.facts.keys.get(&key).await?.is_none() {
            self.facts.keys.delete(&referrer).await?;
        }
        Ok(())
    }
}

impl ReferrersRequest {
    /// Whether a referrer with this descriptor belongs to the requested ones. Media types are
    /// compared without regard to letter case.
    pub fn wants(&self, descriptor: &Descriptor) -> bool {
        let is = |wanted: &str| descriptor.artifact_type.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(wanted));
        self.artifact_type.as_deref().is_none_or(is)
    }
}

impl Found {
    /// How many bytes of a page's limit the value uses, for reading or for memory.
    fn bytes(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Descriptor(descriptor, read) => read + descriptor.annotations.len() as u64 * ANNOTATION_BYTES,
            Self::Manifest(manifest) => manifest.size,
        }
    }
}

/// The subject whose referrers are listed under a tag. A sha512 digest makes no tag, as it is too
/// long.
fn subject_of(tag: &Tag) -> Option<Digest> {
    tag.as_str().replacen('-', ":", 1).parse().ok()
}

fn to_json(descriptor: &Descriptor) -> Result<Vec<u8>> {
    let unlikely = |error: serde_json::Error| store::Error::corrupt("cannot encode a referrer").because(error);
    Ok(serde_json::to_vec(descriptor).map_err(unlikely)?)
}
