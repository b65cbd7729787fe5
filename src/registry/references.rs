//! The references of a manifest: the content that must exist when the manifest is pushed, and the
//! content that a push protects while a collection runs.
//!
//! Every digest in a manifest's JSON is protected, as a blob and as a manifest. Less content must
//! exist: the blobs and children that the descriptors of the manifest name, except for foreign
//! content, whose descriptors say that the content is stored elsewhere.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};

use super::layout::Key;
use super::limits::{NESTED_INDEXES_MAX, NESTED_READS_AT_ONCE_MAX};
use super::manifests::Push;
use super::{Error, Registry, Result, layout};
use crate::oci::manifest::{DOCKER_LIST, OCI_INDEX};
use crate::oci::{self, Digest, Reference, RepositoryName};
use crate::store;

/// The digests that are reached through the manifests that a manifest names.
#[derive(Debug, Default)]
pub(super) struct Nested {
    /// All digests that must be protected.
    pub digests: BTreeSet<Digest>,
    /// The digests that must exist: the children that the indexes below an index list.
    pub children: BTreeSet<Digest>,
}

impl Registry {
    /// Limits the number of digests in a manifest, which decides how many keys a push reads and,
    /// while a collection runs, writes.
    pub(super) fn check_count(&self, manifest: &oci::Manifest) -> Result<()> {
        let most = self.limits.manifest_references_max;
        if manifest.digests().len() <= most {
            return Ok(());
        }
        Err(Error::ManifestInvalid(format!("the manifest names more than {most} descriptors and digests")))
    }

    /// Checks that the repository has all content that the manifest needs, so that every manifest
    /// that can be pulled is complete. The setting `sparse_manifests` turns the check off. A child
    /// may be a manifest or, as in BuildKit's cache, a blob.
    pub(super) async fn check_references(
        &self,
        repository: &RepositoryName,
        manifest: &oci::Manifest,
        nested: &BTreeSet<Digest>,
    ) -> Result<()> {
        if self.limits.sparse_manifests {
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
        let there = self.are_there(digests.iter().map(|digest| key(digest)).collect()).await?;
        Ok(digests.into_iter().zip(there).filter(|(_, there)| !there).map(|(digest, _)| digest).collect())
    }

    /// The digests that are reached, at any depth, through the manifests that a push names. An
    /// active collection may have found all of these digests unused, and removes the digests that
    /// no push protects. The blobs of an image below need no protection: the collector marks the
    /// blobs that are named by a manifest that it has not removed.
    pub(super) async fn nested(&self, push: &Push<'_>) -> Result<Nested> {
        let most = self.limits.manifest_references_max;
        let mut nested = Nested::default();
        let (mut read, mut indexes_read) = (BTreeSet::new(), 0);
        // Read children first: a digest that must exist is then recognised even if other members
        // name that digest too.
        let mut children: BTreeSet<Digest> = push.manifest.children().map(|child| child.digest.clone()).collect();
        let mut others: BTreeSet<Digest> = push.manifest.digests().clone();
        loop {
            let are_children = !children.is_empty();
            let mut wave = std::mem::take(if are_children { &mut children } else { &mut others });
            wave.retain(|digest| read.insert(digest.clone()));
            if wave.is_empty() && !are_children {
                return Ok(nested);
            }
            let reads = stream::iter(wave).map(|digest| self.parsed(push.repository, digest));
            let mut reads = reads.buffer_unordered(NESTED_READS_AT_ONCE_MAX);
            while let Some(found) = reads.next().await {
                let Some((manifest, media_type)) = found? else { continue };
                indexes_read += usize::from(matches!(media_type.as_str(), OCI_INDEX | DOCKER_LIST));
                // Without an active collection a push does not read nested manifests, so the client
                // can push again later.
                if indexes_read > NESTED_INDEXES_MAX {
                    return Err(Error::Busy);
                }
                if are_children {
                    let listed: BTreeSet<Digest> = manifest.children().map(|child| child.digest.clone()).collect();
                    nested.children.extend(listed.iter().cloned());
                    children.extend(listed);
                }
                let blobs: BTreeSet<&Digest> = manifest.blobs().map(|blob| &blob.digest).collect();
                let followed = manifest.digests().iter().filter(|digest| !blobs.contains(digest));
                others.extend(followed.clone().cloned());
                nested.digests.extend(followed.cloned());
                if nested.digests.len() > most {
                    return Err(Error::ManifestInvalid(format!("the manifest leads to more than {most} manifests")));
                }
            }
        }
    }

    /// A manifest of the repository, parsed, with its media type; `None` if the repository has no
    /// manifest of this digest, or one that cannot be parsed.
    async fn parsed(&self, repository: &RepositoryName, digest: Digest) -> Result<Option<(oci::Manifest, String)>> {
        let found = match self.manifest(repository, &Reference::Digest(digest)).await {
            Err(Error::ManifestUnknown(_)) => return Ok(None),
            found => found?,
        };
        let bytes = self.read_manifest(&found).await?.collect_up_to(found.size).await.map_err(store::Error::from)?;
        Ok(oci::Manifest::parse(&bytes, Some(&found.media_type)).ok())
    }
}
