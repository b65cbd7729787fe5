//! What the kinds of exports have in common: where files lie in the folder.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use async_trait::async_trait;
use bytes::Bytes;

use super::error::{Error, Result};
use super::limits::LIST_BYTES_MAX;
use super::summary::Summary;
use super::target::Target;
use crate::oci::{Descriptor, Digest, RepositoryName};
use crate::store::s3::Head;

/// The media type of lists and other answers.
pub(super) const JSON: &str = "application/json";

/// A manifest on its way into the folder.
pub(super) struct Item {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
}

impl Item {
    /// What a bucket keeps beside the manifest.
    pub(super) fn head(&self) -> Head<'_> {
        Head { content_type: &self.media_type, digest: Some(&self.digest), is_immutable: false }
    }
}

/// A set of digests that keeps 16 bytes of each digest. Two digests with the same first 16 bytes
/// would be mistaken for one; nobody can make such digests of SHA-256 or SHA-512 in practice.
#[derive(Default)]
pub(super) struct Digests(HashSet<u128>);

impl Digests {
    /// Adds a digest. Returns whether the digest is new.
    pub(super) fn insert(&mut self, digest: &Digest) -> bool {
        self.0.insert(Self::short(digest))
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.0.contains(&Self::short(digest))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn short(digest: &Digest) -> u128 {
        // A digest has at least 64 hex digits.
        u128::from_str_radix(&digest.hex()[..32], 16).unwrap_or_default()
    }
}

/// What an export took from a repository.
#[derive(Default)]
pub(super) struct Taken {
    /// The tags that were written, each with the descriptor of the tag's manifest.
    pub tags: BTreeMap<String, Descriptor>,
    /// The manifests that were written, each with its media type and size.
    pub manifests: BTreeMap<Digest, (String, u64)>,
    /// The content that an index names.
    pub children: Digests,
    /// The blobs that were looked at: those of the repository, or those of all repositories where
    /// the repositories share their blobs.
    pub blobs: Digests,
    /// The manifests, here or not, that other manifests refer to.
    pub subjects: BTreeSet<Digest>,
}

/// The target, and the summary of what is written there.
pub(super) struct Output<'a> {
    pub target: &'a dyn Target,
    pub summary: &'a mut Summary,
}

impl Output<'_> {
    pub(super) async fn put(&mut self, path: &str, head: &Head<'_>, parts: &[&[u8]]) -> Result<()> {
        self.target.put(path, head, parts, self.summary).await
    }

    pub(super) async fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.target.link(path, to, self.summary).await
    }

    pub(super) async fn remove(&mut self, path: &str) -> Result<()> {
        self.target.remove(path, self.summary).await
    }
}

/// Where one kind of export keeps its files.
#[async_trait]
pub(super) trait Tree: Send + Sync {
    /// Whether all repositories share one copy of a blob.
    fn shares_blobs(&self) -> bool;

    /// Whether each manifest needs a list of referrers, because the host cannot answer with an empty
    /// list by itself.
    fn lists_all_referrers(&self) -> bool {
        false
    }

    /// The reason why the host cannot serve blobs of this size, if there is one.
    fn blob_refusal(&self, _size: u64) -> Option<&'static str> {
        None
    }

    /// The path of a blob.
    fn blob(&self, repository: &RepositoryName, digest: &Digest) -> String;

    /// The reason why the host cannot serve manifests of this media type, if there is one.
    fn refusal(&self, media_type: &str) -> Option<&'static str>;

    /// Writes a manifest under its digest.
    async fn put_manifest(&self, output: &mut Output<'_>, repository: &RepositoryName, item: &Item) -> Result<()>;

    /// Points a tag to a manifest that was written.
    async fn put_tag(&self, output: &mut Output<'_>, repository: &RepositoryName, tag: &str, item: &Item)
    -> Result<()>;

    /// Writes the list of the manifests that refer to `subject`.
    async fn put_referrers(
        &self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<()>;

    /// Writes the lists of a repository, after all else of the repository. Then, if `delete` is
    /// set, removes what the repository does not have any more.
    async fn end_repository(
        &mut self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        taken: &Taken,
        delete: bool,
    ) -> Result<()>;

    /// Writes what all repositories share. Then, if `delete` is set, removes other repositories and
    /// the content that no repository has any more. `blobs` has the shared blobs that stay.
    async fn end(
        &mut self,
        output: &mut Output<'_>,
        repositories: &[RepositoryName],
        blobs: &Digests,
        delete: bool,
    ) -> Result<()>;
}

/// A list as JSON.
fn json(value: &serde_json::Value, what: &'static str, repository: impl ToString) -> Result<Vec<u8>> {
    // A value of JSON can always be written.
    let bytes = value.to_string().into_bytes();
    if bytes.len() > LIST_BYTES_MAX {
        return Err(Error::TooMany { what, repository: repository.to_string() });
    }
    Ok(bytes)
}

/// The answer to `tags/list` (distribution-spec, "Listing Tags").
pub(super) fn tags_list(repository: &RepositoryName, taken: &Taken) -> Result<Vec<u8>> {
    let tags: Vec<&String> = taken.tags.keys().collect();
    json(&serde_json::json!({"name": repository.as_str(), "tags": tags}), "the tags", repository)
}

/// The answer to `_catalog`.
pub(super) fn catalog(repositories: &[RepositoryName]) -> Result<Vec<u8>> {
    let names: Vec<&str> = repositories.iter().map(RepositoryName::as_str).collect();
    json(&serde_json::json!({"repositories": names}), "the names", "all repositories")
}

/// An image index that names these manifests, as of image-spec, "Image Index".
pub(super) fn index(descriptors: &[Descriptor], what: &'static str, repository: impl ToString) -> Result<Vec<u8>> {
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": crate::oci::manifest::OCI_INDEX,
        "manifests": descriptors,
    });
    json(&index, what, repository)
}

/// The repositories below `path`, which are the folders that have an entry `sign`.
pub(super) async fn repositories_below(target: &dyn Target, path: &str, sign: &str) -> Result<Vec<RepositoryName>> {
    let mut found = Vec::new();
    let mut names = vec![String::new()];
    while let Some(name) = names.pop() {
        let entries = target.names(format!("{path}{name}").trim_end_matches('/')).await?;
        if entries.iter().any(|(entry, _)| entry == sign) {
            found.extend(name.parse::<RepositoryName>().ok());
        }
        for (entry, is_folder) in entries {
            let below = if name.is_empty() { entry } else { format!("{name}/{entry}") };
            // Folders of other purposes have names that no repository has.
            if is_folder && below.parse::<RepositoryName>().is_ok() {
                names.push(below);
            }
        }
    }
    Ok(found)
}

/// Removes the files in a folder whose names are not kept. Folders in the folder stay.
pub(super) async fn remove_files(
    output: &mut Output<'_>,
    folder: &str,
    is_kept: impl Fn(&str) -> bool + Send,
) -> Result<()> {
    for (name, is_folder) in output.target.names(folder).await? {
        if !is_folder && !is_kept(&name) {
            output.remove(&format!("{folder}/{name}")).await?;
        }
    }
    Ok(())
}

/// Removes the folders' files of content whose digest is not kept. Content lies at
/// `<path>/<algorithm>/<hex>`.
pub(super) async fn remove_content(
    output: &mut Output<'_>,
    path: &str,
    is_kept: impl Fn(&Digest) -> bool + Send + Sync,
) -> Result<()> {
    for algorithm in ["sha256", "sha512"] {
        remove_files(output, &format!("{path}/{algorithm}"), |hex| {
            format!("{algorithm}:{hex}").parse().map_or(true, |digest| is_kept(&digest))
        })
        .await?;
    }
    Ok(())
}

/// A descriptor with nothing but the required members.
pub(super) fn plain(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.clone(),
        size,
        urls: Vec::new(),
        artifact_type: None,
        annotations: BTreeMap::new(),
    }
}
