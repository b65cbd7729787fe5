//! Decides on manifests, and marks the digests that the remaining manifests name.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Collector;
use super::candidates::Candidate;
use super::cursor::Phase;
use super::marks::{mark_of, needed};
use super::report::Outcome;
use crate::oci::{self, Descriptor, Digest};
use crate::registry::facts::ManifestFact;
use crate::registry::layout::{self, Key, Kind};
use crate::registry::{Error, Result};
use crate::store;

/// A manifest as the collector reads it.
pub(super) struct ManifestRead {
    pub digest: String,
    pub fact: ManifestFact,
    /// `None` when the manifest's bytes are gone: the push of a large manifest was cut off.
    pub manifest: Option<oci::Manifest>,
}

impl Collector<'_> {
    pub(super) async fn manifests(&mut self) -> Result<()> {
        let after = self.cursor.after.clone();
        let (keys, more) = self.page(&self.keys_of(Kind::Manifest)).await?;
        // Manifests that were deleted since the listing are left out.
        let all = self.read_manifests(keys).await?;
        let mut candidates = Vec::new();
        for (key, read) in &all {
            candidates.push(self.manifest_candidate(key, read.as_ref()).await?);
        }
        let outcomes = self.collect_keys(after.as_deref(), &candidates).await?;
        outcomes.iter().for_each(|outcome| self.cursor.report.manifests.add(*outcome));
        let remaining = all.into_iter().zip(outcomes).filter(|(_, outcome)| *outcome != Outcome::Removed);
        for ((key, read), outcome) in remaining {
            match read.as_ref().and_then(|read| Some((&read.fact, read.manifest.as_ref()?))) {
                Some((fact, manifest)) => {
                    self.mark_named(manifest).await?;
                    // A condemned manifest is about to go, so its size does not count.
                    if outcome == Outcome::Kept {
                        self.mark_pulled(&key, fact, manifest).await?;
                    }
                }
                None => self.report_unknown(&key),
            }
        }
        if !more {
            self.cursor.enter(Phase::Blobs);
        }
        Ok(())
    }

    async fn mark_named(&mut self, manifest: &oci::Manifest) -> Result<()> {
        let needs: BTreeSet<&Digest> = needed_blobs(manifest).map(|blob| &blob.digest).collect();
        let mark = |named: &Digest| {
            let mark = mark_of(named.as_str());
            if needs.contains(named) { needed(&mark) } else { mark }
        };
        let store = self.mark_store();
        self.cursor.sets.named.mark(&store, manifest.digests().iter().map(mark)).await
    }

    /// Reports a key that stays but cannot be read. From here on the collector keeps everything to
    /// which the key may lead.
    pub(super) fn report_unknown(&mut self, key: &Key) {
        self.cursor.unsure = true;
        self.cursor.report.unknown.add(key.to_string());
    }

    async fn manifest_candidate(&mut self, key: &Key, read: Option<&ManifestRead>) -> Result<Candidate> {
        let store = self.mark_store();
        let evicts = self.evicts();
        let cursor = &mut self.cursor;
        let keeps_untagged = cursor.untagged_lifetime_ms.is_none() && !evicts;
        let keeps_all = keeps_untagged || cursor.unsure || read.is_none();
        let in_use = keeps_all || cursor.sets.kept.has(&store, &mark_of(key.digest())).await?;
        let mut candidate = Candidate::key(key.clone(), in_use);
        if let Some(subject) = read.and_then(|read| read.fact.subject.as_ref()) {
            let repository = cursor.repository.as_deref().unwrap_or_default();
            candidate.index_keys.push(layout::referrer(repository, subject, key.digest()));
        }
        Ok(candidate)
    }

    /// Reads and parses manifests. Manifests that were deleted since the listing are left out. A
    /// manifest that cannot be read gives `None` and sets `unsure`, because its references are
    /// unknown.
    pub(super) async fn read_manifests(&mut self, keys: Vec<Key>) -> Result<Vec<(Key, Option<ManifestRead>)>> {
        let mut all = Vec::new();
        for (key, fact) in self.read_all::<ManifestFact>(keys).await? {
            let read = match fact {
                Some((fact, inline)) => self.parse(key.digest().to_owned(), fact, inline).await?,
                None => None,
            };
            self.cursor.unsure |= read.is_none();
            all.push((key, read));
        }
        Ok(all)
    }

    async fn parse(&self, digest: String, fact: ManifestFact, inline: Bytes) -> Result<Option<ManifestRead>> {
        let bytes = match fact.large {
            false => inline,
            true => match self.read_large(&digest, fact.size).await {
                Ok(bytes) => bytes,
                Err(Error::Store(store::Error::Corrupt(_))) => {
                    return Ok(Some(ManifestRead { digest, fact, manifest: None }));
                }
                Err(error) => return Err(error),
            },
        };
        // A manifest that was pushed matches its digest and can be parsed. Anything else is
        // damaged.
        let is_it = digest.parse::<Digest>().is_ok_and(|digest| digest.matches(&bytes));
        let parsed = oci::Manifest::parse(&bytes, Some(&fact.media_type)).ok().filter(|_| is_it);
        Ok(parsed.map(|(manifest, _)| ManifestRead { digest, fact, manifest: Some(manifest) }))
    }

    async fn read_large(&self, digest: &str, size: u64) -> Result<Bytes> {
        let body = self.collection.manifests.read_large(&self.keys_of(Kind::Large).key(digest)).await?;
        Ok(body.collect_up_to(size).await.map_err(store::Error::from)?)
    }
}

/// The blobs that a manifest needs in its repository.
pub(super) fn needed_blobs(manifest: &oci::Manifest) -> impl Iterator<Item = &Descriptor> {
    manifest.blobs().chain(manifest.children().filter(|child| !child.is_manifest()))
}
