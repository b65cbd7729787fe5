//! What a manifest refers to: what must be here when the manifest is pushed, and what a push protects beside a collection.
//!
//! Whatever digest occurs in a manifest's JSON is protected, as a blob and as a manifest. What must be here is less: the
//! blobs and children that its descriptors name, but for those that lie elsewhere.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};

use super::limits::{NESTED_INDEXES_MAX, NESTED_READS_AT_ONCE_MAX};
use super::manifests::Push;
use super::{Error, Registry, Result, layout};
use crate::oci::manifest::{DOCKER_LIST, OCI_INDEX};
use crate::oci::{self, Digest, Reference, RepositoryName};
use crate::store;

/// What the manifests lead to that a manifest names.
#[derive(Debug, Default)]
pub(super) struct Nested {
    /// All digests that must be protected.
    pub digests: BTreeSet<Digest>,
    /// Those that must be here: what the indexes below an index list.
    pub children: BTreeSet<Digest>,
}

impl Registry {
    /// The number of digests in a manifest decides how many keys a push reads and, beside a collection, writes.
    pub(super) fn check_count(&self, manifest: &oci::Manifest) -> Result<()> {
        let most = self.limits.manifest_references_max;
        if manifest.digests().len() <= most {
            return Ok(());
        }
        Err(Error::ManifestInvalid(format!("the manifest names more than {most} descriptors and digests")))
    }

    /// Everything that the manifest needs must be here, so that what can be pulled can be pulled whole, unless a setting allows
    /// otherwise. A child may be a manifest or, as in BuildKit's cache, a blob.
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

    /// Those of the digests whose key is not there.
    async fn missing<'a>(
        &self,
        digests: BTreeSet<&'a Digest>,
        key: impl Fn(&Digest) -> String,
    ) -> Result<BTreeSet<&'a Digest>> {
        let there = self.are_there(digests.iter().map(|digest| key(digest)).collect()).await?;
        Ok(digests.into_iter().zip(there).filter(|(_, there)| !there).map(|(digest, _)| digest).collect())
    }

    /// What the manifests that a push names lead to, at any depth. A collection that is under way may have found all of it
    /// unused, and removes what no push protects. The blobs of an image below need no protection: the collector marks what is
    /// named by a manifest that it has not removed.
    pub(super) async fn nested(&self, push: &Push<'_>) -> Result<Nested> {
        let most = self.limits.manifest_references_max;
        let mut nested = Nested::default();
        let (mut read, mut indexes_read) = (BTreeSet::new(), 0);
        // Children first: what must be here must be recognised also where other members name it as well.
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
                // When no collection is under way it can be done.
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

    /// A manifest of the repository, parsed, with its media type; `None` where there is none of this digest.
    async fn parsed(&self, repository: &RepositoryName, digest: Digest) -> Result<Option<(oci::Manifest, String)>> {
        let found = match self.manifest(repository, &Reference::Digest(digest)).await {
            Err(Error::ManifestUnknown(_)) => return Ok(None),
            found => found?,
        };
        let bytes = self.read_manifest(&found).await?.collect_up_to(found.size).await.map_err(store::Error::from)?;
        Ok(oci::Manifest::parse(&bytes, Some(&found.media_type)).ok())
    }
}
