//! OCI image layouts (image-spec, "Image Layout"): a folder or an archive, or a folder with a layout
//! for each repository, as zot and olareg keep them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Deserialize;

use super::error::{Error, Result};
use super::files::{self, Files, FolderWalk, join};
use super::limits::{LIST_BYTES_MAX, MANIFESTS_MAX};
use super::reference::named;
use super::source::{FoundBlob, FoundManifest, Source};
use crate::oci::{Descriptor, Digest, Tag};

/// The annotation with the name of an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with the whole name of an image, in archives of Docker and containerd.
const IMAGE_NAME: &str = "io.containerd.image.name";
const INDEX: &str = "index.json";
/// The folder with the content of a layout.
const BLOBS: &str = "blobs";

/// Layouts in a tree of files.
pub(super) struct Layouts {
    files: Box<dyn Files>,
    /// The layout of each repository, by the name of the repository.
    repositories: BTreeMap<String, Layout>,
}

/// One repository of a layout.
#[derive(Default)]
struct Layout {
    /// The folder that holds the layout.
    folder: String,
    tags: BTreeMap<String, Digest>,
    /// The manifests of the index with their media types.
    manifests: BTreeMap<Digest, String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

impl Layouts {
    /// Whether the files are one layout.
    pub(super) async fn is_layout(files: &dyn Files) -> Result<bool> {
        Ok(files.find(INDEX).await?.is_some() && !files.list(BLOBS).await?.is_empty())
    }

    /// The layout of the whole tree.
    pub(super) async fn open_one(files: Box<dyn Files>) -> Result<Self> {
        let index = read_index(&*files, "").await?.ok_or_else(|| Error::absent(INDEX))?;
        let mut repositories = BTreeMap::<String, Layout>::new();
        for descriptor in index.manifests {
            let ref_name = descriptor.annotations.get(REF_NAME).map(String::as_str);
            let image = descriptor.annotations.get(IMAGE_NAME).map(|text| named(text));
            let (repository, tag) = match (image, ref_name) {
                (Some(image), _) if image.tag.is_some() => (image.repository, image.tag),
                (Some(image), ref_name) => (image.repository, ref_name.and_then(tag_of)),
                (None, Some(text)) if text.contains(['/', ':']) => {
                    let image = named(text);
                    (image.repository, image.tag)
                }
                (None, ref_name) => (String::new(), ref_name.and_then(|name| name.parse().ok())),
            };
            repositories.entry(repository).or_default().add(descriptor, tag);
        }
        Ok(Self { files, repositories })
    }

    /// The layouts in all folders of the tree. The path of a folder is the name of the repository.
    pub(super) async fn open_all(files: Box<dyn Files>) -> Result<Self> {
        let (mut repositories, mut walk) = (BTreeMap::new(), FolderWalk::new(&*files, ""));
        while let Some((folder, names)) = walk.next().await? {
            let has = |wanted: &str| names.iter().any(|name| name.text == wanted);
            let is_layout = has(INDEX) && has(BLOBS);
            // Repositories may lie in the folder of another one, but not in its content.
            walk.enter(&folder, &names, |name| !(is_layout && name == BLOBS));
            if is_layout && !folder.is_empty() {
                let index = read_index(&*files, &folder).await?.ok_or_else(|| Error::absent(INDEX))?;
                let mut layout = Layout { folder: folder.clone(), ..Layout::default() };
                for descriptor in index.manifests {
                    let tag = descriptor.annotations.get(REF_NAME).and_then(|name| tag_of(name));
                    layout.add(descriptor, tag);
                }
                repositories.insert(folder, layout);
            }
        }
        Ok(Self { files, repositories })
    }

    /// Whether there is no repository.
    pub(super) fn is_empty(&self) -> bool {
        self.repositories.is_empty()
    }

    fn layout(&self, repository: &str) -> Result<&Layout> {
        self.repositories.get(repository).ok_or_else(|| Error::absent(format!("there is no repository {repository}")))
    }

    async fn content(&self, repository: &str, digest: &Digest) -> Result<files::Section> {
        let layout = self.layout(repository)?;
        let path = join(&layout.folder, &format!("{BLOBS}/{}/{}", digest.algorithm().as_str(), digest.hex()));
        let found = self.files.find(&path).await?;
        found.ok_or_else(|| Error::absent(format!("{digest} is not there: there is no file {path}")))
    }
}

impl Layout {
    fn add(&mut self, descriptor: Descriptor, tag: Option<Tag>) {
        if let Some(tag) = tag {
            self.tags.insert(tag.to_string(), descriptor.digest.clone());
        }
        self.manifests.insert(descriptor.digest, descriptor.media_type);
    }
}

/// The tag in a name, which may be a whole reference.
fn tag_of(name: &str) -> Option<Tag> {
    name.parse().ok().or_else(|| named(name).tag)
}

async fn read_index(files: &dyn Files, folder: &str) -> Result<Option<Index>> {
    let path = join(folder, INDEX);
    let Some(bytes) = files::read(files, &path, LIST_BYTES_MAX).await? else { return Ok(None) };
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| Error::refused(format!("{path}: {error}")))?;
    if index.manifests.len() > MANIFESTS_MAX {
        return Err(Error::refused(format!("{path} lists more than {MANIFESTS_MAX} manifests")));
    }
    Ok(Some(index))
}

#[async_trait]
impl Source for Layouts {
    async fn repositories(&self) -> Result<Vec<String>> {
        Ok(self.repositories.keys().cloned().collect())
    }

    async fn tags(&self, repository: &str) -> Result<Vec<Tag>> {
        Ok(self.layout(repository)?.tags.keys().filter_map(|tag| tag.parse().ok()).collect())
    }

    async fn listed(&self, repository: &str) -> Result<Vec<Digest>> {
        Ok(self.layout(repository)?.manifests.keys().cloned().collect())
    }

    async fn resolve(&self, repository: &str, tag: &Tag) -> Result<Digest> {
        let found = self.layout(repository)?.tags.get(tag.as_str()).cloned();
        found.ok_or_else(|| Error::absent(format!("{INDEX} has no image {tag}")))
    }

    async fn manifest(&self, repository: &str, digest: &Digest, limit_bytes: u64) -> Result<FoundManifest> {
        let name = format!("the manifest {digest}");
        let bytes = self.content(repository, digest).await?.read(&name, limit_bytes).await?;
        let media_type = self.layout(repository)?.manifests.get(digest).cloned();
        Ok(FoundManifest { bytes, media_type })
    }

    async fn referrers(&self, _: &str, _: &Digest) -> Result<Vec<Digest>> {
        Ok(Vec::new())
    }

    async fn blob(&self, repository: &str, digest: &Digest, start: u64) -> Result<FoundBlob> {
        self.content(repository, digest).await?.blob(start).await
    }
}
