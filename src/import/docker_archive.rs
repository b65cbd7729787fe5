//! Archives of `docker save`, `podman save` and skopeo's `docker-archive:`, of the kind without an
//! OCI layout. The archive has no manifests, so the import makes an OCI manifest for each image,
//! always the same one for the same archive.
//!
//! The configuration of an image names its layers by the digests of their tar archives. A layer that
//! the archive holds uncompressed is its own proof. A compressed layer is read once before the
//! import, to learn its digest and to check the tar archive inside.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde_json::json;

use super::error::{Error, Result};
use super::files::{self, Files, Origin, Section};
use super::limits::{CONFIG_BYTES_MAX, LIST_BYTES_MAX, MANIFESTS_MAX, PIECE_BYTES};
use super::reference::named;
use super::source::{FoundBlob, FoundManifest, Source};
use crate::oci::manifest::OCI_IMAGE;
use crate::oci::{Algorithm, Digest, Hasher, Tag};

const LIST: &str = "manifest.json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// An archive of `docker save`.
#[derive(Default)]
pub(super) struct DockerArchive {
    repositories: BTreeMap<String, Repository>,
    manifests: HashMap<Digest, Bytes>,
    blobs: HashMap<Digest, Section>,
}

#[derive(Default)]
struct Repository {
    tags: BTreeMap<String, Digest>,
    listed: Vec<Digest>,
}

/// An image in the list of an archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: Rootfs,
}

#[derive(Deserialize)]
struct Rootfs {
    diff_ids: Option<Vec<Digest>>,
}

/// A layer of an archive.
struct Layer {
    media_type: String,
    digest: Digest,
    section: Section,
}

impl DockerArchive {
    /// Whether the files are such an archive.
    pub(super) async fn is_one(files: &dyn Files) -> Result<bool> {
        Ok(files.find(LIST).await?.is_some())
    }

    /// Reads the images of an archive.
    pub(super) async fn open(files: &dyn Files) -> Result<Self> {
        let list = files::read(files, LIST, LIST_BYTES_MAX).await?.ok_or_else(|| Error::absent(LIST))?;
        let images: Vec<Image> = parsed(LIST, &list)?;
        if images.len() > MANIFESTS_MAX {
            return Err(Error::refused(format!("{LIST} lists more than {MANIFESTS_MAX} images")));
        }
        let mut archive = Self::default();
        for image in images {
            archive.add(files, &image).await?;
        }
        Ok(archive)
    }

    async fn add(&mut self, files: &dyn Files, image: &Image) -> Result<()> {
        let name = &image.config;
        let config = found(files, name).await?;
        let bytes = config.read(name, CONFIG_BYTES_MAX).await?;
        let diff_ids = parsed::<Config>(name, &bytes)?.rootfs.diff_ids.unwrap_or_default();
        let paths = image.layers.as_deref().unwrap_or_default();
        if paths.len() != diff_ids.len() {
            let (layers, named) = (paths.len(), diff_ids.len());
            return Err(Error::refused(format!("{LIST} has {layers} layers for {name}, which names {named}")));
        }
        let mut layers = Vec::new();
        for (path, diff_id) in paths.iter().zip(diff_ids) {
            layers.push(Layer::read(path, found(files, path).await?, diff_id).await?);
        }
        let config_digest = Algorithm::Sha256.digest(&bytes);
        let described = |layer: &Layer| json!({ "mediaType": layer.media_type, "digest": layer.digest, "size": layer.section.length });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE,
            "config": { "mediaType": CONFIG_TYPE, "digest": config_digest, "size": bytes.len() },
            "layers": layers.iter().map(described).collect::<Vec<_>>(),
        });
        let manifest = Bytes::from(manifest.to_string());
        let digest = Algorithm::Sha256.digest(&manifest);
        self.manifests.insert(digest.clone(), manifest);
        self.blobs.insert(config_digest, config);
        self.blobs.extend(layers.into_iter().map(|layer| (layer.digest, layer.section)));
        self.name(image, &digest);
        Ok(())
    }

    fn name(&mut self, image: &Image, digest: &Digest) {
        let names = image.repo_tags.as_deref().unwrap_or_default();
        for name in names.iter().map(|name| named(name)) {
            let repository = self.repositories.entry(name.repository).or_default();
            repository.tags.extend(name.tag.map(|tag| (tag.to_string(), digest.clone())));
            repository.listed.push(digest.clone());
        }
        if names.is_empty() {
            self.repositories.entry(String::new()).or_default().listed.push(digest.clone());
        }
    }

    fn repository(&self, name: &str) -> Result<&Repository> {
        self.repositories.get(name).ok_or_else(|| Error::absent(format!("there is no repository {name}")))
    }
}

impl Layer {
    async fn read(path: &str, section: Section, diff_id: Digest) -> Result<Self> {
        let (path, length) = (path.to_owned(), section.length);
        let Origin::File { file, start } = section.origin.clone() else {
            return Err(Error::refused(format!("{LIST} names {path}: an archive in a bucket cannot be read here")));
        };
        blocking::unblock(move || {
            let failed = |error: &dyn Display| Error::refused(format!("the layer {path}: {error}"));
            let mut magic = [0; 4];
            let read = file.read_at(&mut magic, start).map_err(|error| failed(&error))?;
            match magic {
                [0x1f, 0x8b, ..] if read.min(length as usize) >= 2 => {}
                [0x28, 0xb5, 0x2f, 0xfd] => return Err(failed(&"it is compressed with zstd, which is not read here")),
                _ => return Ok(Self { media_type: LAYER_TYPE.to_owned(), digest: diff_id, section }),
            }
            let mut packed =
                Hashing { reader: Reading { file, start, length, at: 0 }, hasher: Hasher::new(Algorithm::Sha256) };
            let mut unpacked = Hasher::new(diff_id.algorithm());
            let mut decoder = MultiGzDecoder::new(BufReader::new(&mut packed));
            copy(&mut decoder, |piece| unpacked.update(piece)).map_err(|error| failed(&error))?;
            drop(decoder);
            copy(&mut packed, |_| ()).map_err(|error| failed(&error))?;
            let unpacked = unpacked.finish();
            if unpacked != diff_id {
                return Err(failed(&format!("its tar archive has the digest {unpacked}, not {diff_id}")));
            }
            Ok(Self { media_type: format!("{LAYER_TYPE}+gzip"), digest: packed.hasher.finish(), section })
        })
        .await
    }
}

/// Reads a section of a file from the section's beginning.
struct Reading {
    file: Arc<File>,
    start: u64,
    length: u64,
    at: u64,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = (self.length - self.at).min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..left], self.start + self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Hashes the bytes that are read.
struct Hashing {
    reader: Reading,
    hasher: Hasher,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

fn copy(from: &mut impl Read, mut to: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => to(&buffer[..length]),
        }
    }
}

async fn found(files: &dyn Files, path: &str) -> Result<Section> {
    files.find(path).await?.ok_or_else(|| Error::absent(format!("{LIST} names {path}, which is not in the archive")))
}

fn parsed<T: for<'a> Deserialize<'a>>(name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::refused(format!("{name}: {error}")))
}

#[async_trait]
impl Source for DockerArchive {
    async fn repositories(&self) -> Result<Vec<String>> {
        Ok(self.repositories.keys().cloned().collect())
    }

    async fn tags(&self, repository: &str) -> Result<Vec<Tag>> {
        Ok(self.repository(repository)?.tags.keys().filter_map(|tag| tag.parse().ok()).collect())
    }

    async fn listed(&self, repository: &str) -> Result<Vec<Digest>> {
        Ok(self.repository(repository)?.listed.clone())
    }

    async fn resolve(&self, repository: &str, tag: &Tag) -> Result<Digest> {
        let digest = self.repository(repository)?.tags.get(tag.as_str()).cloned();
        digest.ok_or_else(|| Error::absent(format!("{LIST} has no image {repository}:{tag}")))
    }

    async fn manifest(&self, _: &str, digest: &Digest, limit_bytes: u64) -> Result<FoundManifest> {
        let bytes = self.manifests.get(digest).ok_or_else(|| Error::absent(format!("there is no image {digest}")))?;
        if bytes.len() as u64 > limit_bytes {
            return Err(Error::refused(format!("the manifest {digest} would have more than {limit_bytes} bytes")));
        }
        Ok(FoundManifest { bytes: bytes.clone(), media_type: Some(OCI_IMAGE.to_owned()) })
    }

    async fn referrers(&self, _: &str, _: &Digest) -> Result<Vec<Digest>> {
        Ok(Vec::new())
    }

    async fn blob(&self, _: &str, digest: &Digest, start: u64) -> Result<FoundBlob> {
        let section = self.blobs.get(digest).ok_or_else(|| Error::absent(format!("{digest} is not in the archive")))?;
        section.blob(start).await
    }
}
