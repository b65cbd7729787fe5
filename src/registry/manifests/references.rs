//! The references of a manifest: the content that must exist when the manifest is pushed, and the
//! content that a push protects while a collection runs.
//!
//! Every digest in a manifest's JSON is protected, as a blob and as a manifest. Less content must
//! exist: the blobs and children that the descriptors of the manifest name, except for foreign
//! content, whose descriptors say that the content is stored elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use super::reading::ManifestReader;
use crate::oci::manifest::{DOCKER_LIST, OCI_INDEX};
use crate::oci::{self, Digest, Reference, RepositoryName};
use crate::registry::error::InvalidManifest;
use crate::registry::facts::Facts;
use crate::registry::layout::Key;
use crate::registry::limits::{NESTED_INDEXES_MAX, NESTED_READS_AT_ONCE_MAX};
use crate::registry::mirrored::MirroredPrefixes;
use crate::registry::{Error, Limits, Result, layout};

/// The digests that are reached through the manifests that a manifest names.
#[derive(Debug, Default)]
pub(super) struct Nested {
    /// All digests that must be protected.
    pub digests: BTreeSet<Digest>,
    /// The digests that must exist: the children that the indexes below an index list.
    pub children: BTreeSet<Digest>,
}

/// Finds and checks the content that manifests name.
#[derive(Clone)]
pub(super) struct References {
    pub facts: Facts,
    pub limits: Arc<Limits>,
    pub mirrored: MirroredPrefixes,
    pub reader: ManifestReader,
}

impl References {
    /// Limits the number of digests in a manifest, which decides how many keys a push reads and,
    /// while a collection runs, writes.
    pub(super) fn check_count(&self, manifest: &oci::Manifest) -> Result<()> {
        let most = self.limits.manifest_references_max;
        if manifest.digests().len() <= most {
            return Ok(());
        }
        Err(InvalidManifest::TooManyReferences { most }.into())
    }

    /// Checks that the repository has all content that the manifest needs, so that every manifest
    /// that can be pulled is complete. The setting `sparse_manifests` turns the check off, and there
    /// is no check in a mirrored repository. A child may be a manifest or, as in BuildKit's cache, a
    /// blob.
    pub(super) async fn check(
        &self,
        repository: &RepositoryName,
        manifest: &oci::Manifest,
        nested: &BTreeSet<Digest>,
    ) -> Result<()> {
        if self.limits.sparse_manifests || self.mirrored.contain(repository.as_str()) {
            return Ok(());
        }
        let blobs: BTreeSet<&Digest> = manifest.blobs().map(|blob| &blob.digest).collect();
        let children: BTreeSet<&Digest> = manifest.children().map(|child| &child.digest).chain(nested).collect();
        let no_manifests = self.missing(children, |child| layout::manifest(repository, child)).await?;
        let unknown = blobs.into_iter().chain(no_manifests).collect();
        let missing = self.missing(unknown, |blob| layout::blob(repository, blob)).await?;
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::ManifestBlobUnknown(missing.into_iter().cloned().collect()))
    }

    /// The digests whose keys do not exist.
    async fn missing<'a>(
        &self,
        digests: BTreeSet<&'a Digest>,
        key: impl Fn(&Digest) -> Key,
    ) -> Result<BTreeSet<&'a Digest>> {
        let keys: Vec<_> = digests.iter().map(|digest| key(digest)).collect();
        let exist = self.facts.are_there(&keys).await?;
        Ok(digests.into_iter().zip(exist).filter(|(_, exists)| !exists).map(|(digest, _)| digest).collect())
    }

    /// The digests that are reached, at any depth, through the manifests that a manifest names. An
    /// active collection may have found all of these digests unused, and removes the digests that
    /// no push protects. The blobs of an image below need no protection: the collector marks the
    /// blobs that are named by a manifest that it has not removed.
    ///
    /// # Errors
    /// [`Error::Busy`] when the manifest leads to more than `NESTED_INDEXES_MAX` indexes: without
    /// an active collection a push does not read nested manifests, so the client can push again
    /// later. [`Error::ManifestInvalid`] when the manifest leads to more digests than the limit.
    pub(super) async fn nested(&self, repository: &RepositoryName, manifest: &oci::Manifest) -> Result<Nested> {
        let mut walk = Walk::from(manifest);
        while let Some((wave, are_children)) = walk.next_wave() {
            let reads = stream::iter(wave).map(|digest| self.parsed(repository, digest));
            let mut reads = reads.buffer_unordered(NESTED_READS_AT_ONCE_MAX);
            while let Some(found) = reads.next().await {
                if let Some((manifest, media_type)) = found? {
                    walk.visit(&manifest, &media_type, are_children);
                }
                if walk.indexes_read > NESTED_INDEXES_MAX {
                    return Err(Error::Busy);
                }
                let most = self.limits.manifest_references_max;
                if walk.nested.digests.len() > most {
                    return Err(InvalidManifest::TooManyNested { most }.into());
                }
            }
        }
        Ok(walk.nested)
    }

    /// A manifest of the repository, parsed, with its media type; `None` if the repository has no
    /// manifest of this digest, or one that cannot be parsed.
    async fn parsed(&self, repository: &RepositoryName, digest: Digest) -> Result<Option<(oci::Manifest, String)>> {
        match self.reader.get(repository, &Reference::Digest(digest)).await {
            Err(Error::ManifestUnknown(_)) => Ok(None),
            found => self.reader.parse(&found?).await,
        }
    }
}

/// A walk through the manifests that a manifest leads to, in waves of manifests that are read at
/// once.
struct Walk {
    nested: Nested,
    /// The digests that were in a wave.
    seen: BTreeSet<Digest>,
    /// The digests of children that are read next.
    children: BTreeSet<Digest>,
    /// Other digests that are read once no children are left.
    others: BTreeSet<Digest>,
    indexes_read: usize,
}

impl Walk {
    fn from(manifest: &oci::Manifest) -> Self {
        let children = manifest.children().map(|child| child.digest.clone()).collect();
        let others = manifest.digests().clone();
        Self { nested: Nested::default(), seen: BTreeSet::new(), children, others, indexes_read: 0 }
    }

    /// The digests to read next, and whether they are children; `None` at the end of the walk.
    /// Children come first: a digest that must exist is then recognised even if other members name
    /// that digest too.
    fn next_wave(&mut self) -> Option<(BTreeSet<Digest>, bool)> {
        loop {
            let are_children = !self.children.is_empty();
            let mut wave = std::mem::take(if are_children { &mut self.children } else { &mut self.others });
            wave.retain(|digest| self.seen.insert(digest.clone()));
            if !wave.is_empty() {
                return Some((wave, are_children));
            }
            if !are_children {
                return None;
            }
        }
    }

    /// Adds the digests that a manifest of a wave names.
    fn visit(&mut self, manifest: &oci::Manifest, media_type: &str, is_child: bool) {
        self.indexes_read += usize::from(matches!(media_type, OCI_INDEX | DOCKER_LIST));
        if is_child {
            let listed: BTreeSet<Digest> = manifest.children().map(|child| child.digest.clone()).collect();
            self.nested.children.extend(listed.iter().cloned());
            self.children.extend(listed);
        }
        let blobs: BTreeSet<&Digest> = manifest.blobs().map(|blob| &blob.digest).collect();
        let followed = manifest.digests().iter().filter(|digest| !blobs.contains(digest));
        self.others.extend(followed.clone().cloned());
        self.nested.digests.extend(followed.cloned());
    }
}
