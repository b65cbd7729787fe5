//! Exports as OCI image layouts (image-spec, "Image Layout"): one layout for each repository, in the
//! folder with the repository's name.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::error::Result;
use super::tree::{Digests, Item, JSON, Output, Taken, Tree, index, plain, remove_content, repositories_below};
use crate::oci::manifest::OCI_INDEX;
use crate::oci::{Descriptor, Digest, RepositoryName};
use crate::store::s3::Head;

/// The file that marks a layout, and its content.
const MARK: &str = "oci-layout";
const MARK_CONTENT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The annotation with the tag of a manifest.
const TAG: &str = "org.opencontainers.image.ref.name";

/// One layout for each repository.
#[derive(Default)]
pub(super) struct OciLayouts;

fn path_of(repository: &RepositoryName, digest: &Digest) -> String {
    format!("{repository}/blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

#[async_trait]
impl Tree for OciLayouts {
    fn shares_blobs(&self) -> bool {
        false
    }

    fn blob(&self, repository: &RepositoryName, digest: &Digest) -> String {
        path_of(repository, digest)
    }

    fn refusal(&self, _: &str) -> Option<&'static str> {
        None
    }

    async fn put_manifest(&self, output: &mut Output<'_>, repository: &RepositoryName, item: &Item) -> Result<()> {
        output.put(&path_of(repository, &item.digest), &item.head(), &[&item.bytes]).await
    }

    async fn put_tag(&self, _: &mut Output<'_>, _: &RepositoryName, _: &str, _: &Item) -> Result<()> {
        // The index has the tags.
        Ok(())
    }

    async fn put_referrers(&self, _: &mut Output<'_>, _: &RepositoryName, _: &Digest, _: &[Descriptor]) -> Result<()> {
        // Readers of layouts find referrers by the subjects of the manifests in the index.
        Ok(())
    }

    async fn end_repository(
        &mut self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        taken: &Taken,
        delete: bool,
    ) -> Result<()> {
        output.put(&format!("{repository}/{MARK}"), &Head::of(JSON), &[MARK_CONTENT]).await?;
        let index = index(&listed(taken), "the manifests", repository)?;
        output.put(&format!("{repository}/index.json"), &Head::of(OCI_INDEX), &[&index]).await?;
        if !delete {
            return Ok(());
        }
        remove_content(output, &format!("{repository}/blobs"), |digest| {
            taken.blobs.contains(digest) || taken.manifests.contains_key(digest)
        })
        .await
    }

    async fn end(
        &mut self,
        output: &mut Output<'_>,
        repositories: &[RepositoryName],
        _: &Digests,
        delete: bool,
    ) -> Result<()> {
        if !delete {
            return Ok(());
        }
        for gone in repositories_below(output.target, "", MARK).await? {
            if repositories.binary_search(&gone).is_err() {
                output.remove(&format!("{gone}/index.json")).await?;
                output.remove(&format!("{gone}/{MARK}")).await?;
                remove_content(output, &format!("{gone}/blobs"), |_| false).await?;
            }
        }
        Ok(())
    }
}

/// The descriptors of the index: one for each tag, and one for each manifest without a tag that no
/// index names.
fn listed(taken: &Taken) -> Vec<Descriptor> {
    let tagged = taken.tags.iter().map(|(tag, descriptor)| Descriptor {
        annotations: BTreeMap::from([(TAG.to_owned(), tag.clone())]),
        ..descriptor.clone()
    });
    let has_tag: BTreeSet<&Digest> = taken.tags.values().map(|descriptor| &descriptor.digest).collect();
    let untagged =
        taken.manifests.iter().filter(|(digest, _)| !has_tag.contains(digest) && !taken.children.contains(digest));
    let untagged = untagged.map(|(digest, (media_type, size))| plain(media_type, digest, *size));
    tagged.chain(untagged).collect()
}
