//! Exports for hosts that serve each file under its own path: the paths are those of the API
//! (distribution-spec, "Endpoints").
//!
//! | path | content |
//! | --- | --- |
//! | `v2/` | the answer to the check of the API |
//! | `v2/<name>/manifests/<tag or digest>` | a manifest |
//! | `v2/<name>/blobs/<digest>` | a blob |
//! | `v2/<name>/referrers/<digest>` | an image index: the referrers of a manifest, for each manifest |
//! | `v2/<name>/tags/list`, `v2/_catalog` | lists |

use async_trait::async_trait;

use super::error::Result;
use super::target::Target;
use super::tree::{Digests, Item, JSON, Output, Taken, Tree, catalog, index, remove_files, tags_list};
use crate::oci::manifest::OCI_INDEX;
use crate::oci::{Descriptor, Digest, RepositoryName};
use crate::store::s3::Head;

/// The folder of all paths.
const TOP: &str = "v2";
/// The folders of a repository with names that are no paths of other repositories.
const FOLDERS: [&str; 3] = ["manifests", "blobs", "referrers"];

/// Files at the paths of the API.
pub(super) struct ApiPaths;

fn folder_of(repository: &RepositoryName, folder: &str) -> String {
    format!("{TOP}/{repository}/{folder}")
}

fn path_of(repository: &RepositoryName, folder: &str, name: impl std::fmt::Display) -> String {
    format!("{}/{name}", folder_of(repository, folder))
}

fn tags_of(repository: &RepositoryName) -> String {
    path_of(repository, "tags", "list")
}

/// The repositories that an earlier export wrote: those with a list of tags.
async fn exported(target: &dyn Target) -> Result<Vec<RepositoryName>> {
    let (mut found, mut names) = (Vec::new(), vec![String::new()]);
    while let Some(name) = names.pop() {
        let path = if name.is_empty() { TOP.to_owned() } else { format!("{TOP}/{name}") };
        for (entry, is_folder) in target.names(&path).await? {
            let below = if name.is_empty() { entry.clone() } else { format!("{name}/{entry}") };
            if is_folder && below.parse::<RepositoryName>().is_ok() {
                names.push(below);
            }
            // The path is that of the folder `tags` of a repository.
            if !is_folder && entry == "list" {
                found.extend(name.strip_suffix("/tags").and_then(|name| name.parse::<RepositoryName>().ok()));
            }
        }
    }
    Ok(found)
}

#[async_trait]
impl Tree for ApiPaths {
    fn shares_blobs(&self) -> bool {
        false
    }

    fn lists_all_referrers(&self) -> bool {
        true
    }

    fn blob(&self, repository: &RepositoryName, digest: &Digest) -> String {
        path_of(repository, "blobs", digest)
    }

    fn refusal(&self, media_type: &str) -> Option<&'static str> {
        let is_plain = media_type.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        (!is_plain).then_some("the media type cannot stand in a header")
    }

    async fn put_manifest(&self, output: &mut Output<'_>, repository: &RepositoryName, item: &Item) -> Result<()> {
        let head = Head { is_immutable: true, ..item.head() };
        output.put(&path_of(repository, "manifests", &item.digest), &head, &[&item.bytes]).await
    }

    async fn put_tag(
        &self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        tag: &str,
        item: &Item,
    ) -> Result<()> {
        output.put(&path_of(repository, "manifests", tag), &item.head(), &[&item.bytes]).await
    }

    async fn put_referrers(
        &self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<()> {
        let list = index(referrers, "the referrers of a manifest", repository)?;
        output.put(&path_of(repository, "referrers", subject), &Head::of(OCI_INDEX), &[&list]).await
    }

    async fn end_repository(
        &mut self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        taken: &Taken,
        delete: bool,
    ) -> Result<()> {
        let list = tags_list(repository, taken)?;
        output.put(&tags_of(repository), &Head::of(JSON), &[&list]).await?;
        if !delete {
            return Ok(());
        }
        for folder in FOLDERS {
            remove_files(output, &folder_of(repository, folder), |name| match (folder, name.parse::<Digest>()) {
                ("manifests", Ok(digest)) => taken.manifests.contains_key(&digest),
                ("blobs", Ok(digest)) => taken.blobs.contains(&digest),
                (_, Ok(digest)) => taken.manifests.contains_key(&digest) || taken.subjects.contains(&digest),
                ("manifests", Err(_)) => taken.tags.contains_key(name),
                (_, Err(_)) => true,
            })
            .await?;
        }
        Ok(())
    }

    async fn end(
        &mut self,
        output: &mut Output<'_>,
        repositories: &[RepositoryName],
        _: &Digests,
        delete: bool,
    ) -> Result<()> {
        output.put(&format!("{TOP}/_catalog"), &Head::of(JSON), &[&catalog(repositories)?]).await?;
        // Some servers do not keep an empty object of this name.
        output.put(&format!("{TOP}/"), &Head::of(JSON), &[b"{}"]).await?;
        if !delete {
            return Ok(());
        }
        for gone in exported(output.target).await? {
            if repositories.binary_search(&gone).is_err() {
                output.remove(&tags_of(&gone)).await?;
                for folder in FOLDERS {
                    remove_files(output, &folder_of(&gone, folder), |_| false).await?;
                }
            }
        }
        Ok(())
    }
}
