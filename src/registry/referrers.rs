//! Referrers: the manifests that name another one as their subject (distribution-spec, "Listing referrers").
//!
//! Each is a key under its subject, written with the push, so the list is never a document that two pushes could fight
//! over, and the subject need not be there yet.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::facts::{ManifestFact, TagFact};
use super::limits::{CALLS_AT_ONCE_MAX, REFERRERS_PAGE_BYTES_MAX};
use super::{Registry, Result, layout};
use crate::oci::{self, Descriptor, Digest, Reference, RepositoryName, Tag};
use crate::store::{Error, When};

/// Which referrers are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferrersRequest {
    /// Only those of this artifact type.
    pub artifact_type: Option<String>,
    /// Only those whose digest sorts after this.
    pub last: Option<String>,
}

/// A page of referrers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrers {
    /// Their descriptors, in the order of their digests.
    pub descriptors: Vec<Descriptor>,
    /// Where the next page begins, if there is one: after this digest. A page may be empty and not the last one.
    pub next: Option<String>,
}

impl Registry {
    /// The manifests of a repository that refer to `subject`, whether that is there or not. One listing and one read for each
    /// manifest that is looked at; a page looks at as many as its limit says.
    pub async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        request: &ReferrersRequest,
    ) -> Result<Referrers> {
        if request.last.is_none() {
            match self.adopt_fallback(repository, subject).await {
                // A reader must not be refused because nothing can be written.
                Err(super::Error::Store(why @ (Error::ReadOnly(_) | Error::Full(_)))) => {
                    log::warn!("a fallback list of referrers is not taken in: {why}");
                }
                adopted => adopted?,
            }
        }
        let prefix = layout::referrers(repository, subject);
        let after = request.last.as_ref().map(|last| format!("{prefix}{last}"));
        let most = self.limits.referrers_per_page_max;
        let mut keys = self.keys.list(&prefix, after.as_deref(), most + 1).await?;
        let more = keys.len() > most;
        keys.truncate(most);
        let digests: Vec<String> = keys.iter().map(|key| key[prefix.len()..].to_owned()).collect();

        let reads = digests.iter().cloned().map(|digest| self.referrer(repository, subject, digest));
        let reads: Vec<_> = reads.collect();
        let mut found = stream::iter(reads).buffered(CALLS_AT_ONCE_MAX);
        let mut page = Referrers { descriptors: Vec::new(), next: None };
        let (mut bytes, mut looked_at) = (0, 0);
        while let Some(descriptor) = found.try_next().await? {
            let wanted = descriptor.filter(|descriptor| {
                request.artifact_type.is_none() || descriptor.artifact_type == request.artifact_type
            });
            if let Some(descriptor) = wanted {
                bytes += serde_json::to_vec(&descriptor).map_or(0, |json| json.len() + 1);
                // The first one is sent in any case, or the list would never end.
                if bytes > REFERRERS_PAGE_BYTES_MAX && !page.descriptors.is_empty() {
                    break;
                }
                page.descriptors.push(descriptor);
            }
            looked_at += 1;
        }
        drop(found);
        if more || looked_at < digests.len() {
            page.next = looked_at.checked_sub(1).map(|last| digests[last].clone());
        }
        Ok(page)
    }

    /// Notes that a manifest refers to its subject.
    pub(super) async fn note_referrer(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        descriptor: &Descriptor,
    ) -> Result<()> {
        let key = layout::referrer(repository, subject, descriptor.digest.as_str());
        let unlikely = |e: serde_json::Error| Error::Corrupt(e.to_string());
        let mut value = serde_json::to_vec(descriptor).map_err(unlikely)?;
        // Annotations may be larger than the store's values; these are read from the manifest.
        if value.len() as u64 > self.limits.manifest_inline_bytes_max {
            value.clear();
        }
        Ok(self.keys.put(&key, value.into(), When::Always).await.map(drop)?)
    }

    /// `None` when it was deleted just now.
    async fn referrer(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        digest: String,
    ) -> Result<Option<Descriptor>> {
        let key = layout::referrer(repository, subject, &digest);
        match self.keys.get(&key).await? {
            None => Ok(None),
            Some(entry) if entry.value.is_empty() => {
                let corrupt = |_| Error::Corrupt(format!("the key {key}"));
                let referrer = self.read_descriptor(repository, &digest.parse().map_err(corrupt)?).await?;
                Ok(referrer.map(|(descriptor, _)| descriptor))
            }
            Some(entry) => {
                let corrupt = |e| Error::Corrupt(format!("the value of {key}: {e}"));
                Ok(Some(serde_json::from_slice(&entry.value).map_err(corrupt)?))
            }
        }
    }

    /// A manifest's descriptor and subject, from its bytes.
    async fn read_descriptor(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(Descriptor, Option<Digest>)>> {
        let manifest = match self.manifest(repository, &Reference::Digest(digest.clone())).await {
            Err(super::Error::ManifestUnknown(_)) => return Ok(None),
            manifest => manifest?,
        };
        let body = self.read_manifest(&manifest).await?;
        let bytes = body.collect_up_to(manifest.size).await.map_err(Error::from)?;
        let Ok((parsed, media_type)) = oci::Manifest::parse(&bytes, Some(&manifest.media_type)) else {
            return Ok(None);
        };
        let descriptor = parsed.descriptor(&media_type, digest, manifest.size);
        Ok(Some((descriptor, parsed.subject.map(|subject| subject.digest))))
    }

    /// Takes in what clients listed under the tag `<algorithm>-<hex>` before the registry kept referrers itself
    /// ("Enabling the referrers API"). Which list was taken in is noted, so that it is done once.
    async fn adopt_fallback(&self, repository: &RepositoryName, subject: &Digest) -> Result<()> {
        let name = format!("{}-{}", subject.algorithm().as_str(), subject.hex());
        // A sha512 digest makes no tag: it is too long.
        let Ok(tag) = name.parse::<Tag>() else { return Ok(()) };
        let Some(fallback) = self.load::<TagFact>(&layout::tag(repository, &tag)).await? else { return Ok(()) };
        let adopted_key = layout::adopted(repository, subject);
        if self.load::<Digest>(&adopted_key).await?.as_ref() == Some(&fallback.digest) {
            return Ok(());
        }
        let key = layout::manifest(repository, &fallback.digest);
        let Some((fact, inline, _)) = self.load_version::<ManifestFact>(&key).await? else { return Ok(()) };
        let bytes = match fact.large {
            true => {
                let body = self.read_large(&layout::large(repository, &fallback.digest)).await?;
                body.collect_up_to(fact.size).await.map_err(Error::from)?
            }
            false => inline,
        };
        if let Ok((index, _)) = oci::Manifest::parse(&bytes, Some(&fact.media_type)) {
            for listed in index.children() {
                if let Some((descriptor, Some(of))) = self.read_descriptor(repository, &listed.digest).await?
                    && of == *subject
                {
                    self.note_referrer(repository, subject, &descriptor).await?;
                }
            }
        }
        self.store(&adopted_key, &fallback.digest, When::Always).await
    }
}
