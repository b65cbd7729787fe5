//! What the kinds of exports have in common: where files lie in the folder.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;

use super::error::{Error, Result};
use super::folder::Folder;
use super::limits::LIST_BYTES_MAX;
use super::summary::Summary;
use crate::oci::{Descriptor, Digest, RepositoryName};

/// A manifest on its way into the folder.
pub(super) struct Item {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
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

/// The folder, and the summary of what is written there.
pub(super) struct Output<'a> {
    pub folder: &'a Folder,
    pub summary: &'a mut Summary,
}

impl Output<'_> {
    pub(super) fn put(&mut self, path: &str, parts: &[&[u8]]) -> Result<()> {
        self.folder.put(path, parts, self.summary)
    }

    pub(super) fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.folder.link(path, to, self.summary)
    }

    pub(super) fn remove(&mut self, path: &str) -> Result<()> {
        self.folder.remove(path, self.summary)
    }
}

/// Where one kind of export keeps its files.
pub(super) trait Tree: Send {
    /// Whether all repositories share one copy of a blob.
    fn shares_blobs(&self) -> bool;

    /// The path of a blob.
    fn blob(&self, repository: &RepositoryName, digest: &Digest) -> String;

    /// The reason why the host cannot serve manifests of this media type, if there is one.
    fn refusal(&self, media_type: &str) -> Option<&'static str>;

    /// Writes a manifest under its digest.
    fn put_manifest(&self, output: &mut Output<'_>, repository: &RepositoryName, item: &Item) -> Result<()>;

    /// Points a tag to a manifest that was written.
    fn put_tag(&self, output: &mut Output<'_>, repository: &RepositoryName, tag: &str, item: &Item) -> Result<()>;

    /// Writes the list of the manifests that refer to `subject`.
    fn put_referrers(
        &self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<()>;

    /// Writes the lists of a repository, after all else of the repository. Then, if `delete` is
    /// set, removes what the repository does not have any more.
    fn end_repository(
        &mut self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        taken: &Taken,
        delete: bool,
    ) -> Result<()>;

    /// Writes what all repositories share. Then, if `delete` is set, removes other repositories and
    /// the content that no repository has any more. `blobs` has the shared blobs that stay.
    fn end(
        &mut self,
        output: &mut Output<'_>,
        repositories: &[RepositoryName],
        blobs: &Digests,
        delete: bool,
    ) -> Result<()>;
}

/// A list as JSON.
pub(super) fn json(value: &serde_json::Value, what: &'static str, repository: impl ToString) -> Result<Vec<u8>> {
    // A value of JSON can always be written.
    let bytes = value.to_string().into_bytes();
    if bytes.len() > LIST_BYTES_MAX {
        return Err(Error::TooMany { what, repository: repository.to_string() });
    }
    Ok(bytes)
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
pub(super) fn repositories_below(folder: &Folder, path: &str, sign: &str) -> Result<Vec<RepositoryName>> {
    let mut found = Vec::new();
    let mut names = vec![String::new()];
    while let Some(name) = names.pop() {
        let entries = folder.names(&format!("{path}{name}"))?;
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

/// Removes the folders' files of content whose digest is not kept. Content lies at
/// `<path>/<algorithm>/<hex>`.
pub(super) fn remove_content(output: &mut Output<'_>, path: &str, is_kept: impl Fn(&Digest) -> bool) -> Result<()> {
    for algorithm in ["sha256", "sha512"] {
        for (hex, is_folder) in output.folder.names(&format!("{path}/{algorithm}"))? {
            let digest = format!("{algorithm}:{hex}").parse::<Digest>();
            if !is_folder && digest.is_ok_and(|digest| !is_kept(&digest)) {
                output.remove(&format!("{path}/{algorithm}/{hex}"))?;
            }
        }
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
