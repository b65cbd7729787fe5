//! Opens a folder or an archive as the kind of source that it is.

use std::path::Path;

use super::archive::Archive;
use super::bucket::Bucket;
use super::distribution::Distribution;
use super::docker_archive::DockerArchive;
use super::error::{Error, Result};
use super::exported_site::ExportedSite;
use super::files::Files;
use super::folder::Folder;
use super::layouts::Layouts;
use super::skopeo_folder::SkopeoFolder;
use super::source::Source;
use super::static_tree::StaticTree;
use crate::store::s3::S3Tree;

/// Opens the source at a path. `manifest_bytes_max` is the size of the largest manifest that the
/// registry takes.
///
/// | what is there | the source |
/// | --- | --- |
/// | a folder or archive with `index.json` and `blobs` | an OCI layout |
/// | an archive or folder with `manifest.json` | an archive of `docker save` |
/// | a folder with `version` and `manifest.json` | a `dir:` of skopeo |
/// | a folder with `catalog`, `repositories` and `blobs` | a site of `eyot export` |
/// | a folder with `docker/registry/v2` | the data of distribution |
/// | a folder with `v2` | a registry of static files |
/// | a folder with OCI layouts in folders below it | the data of zot or olareg |
///
/// # Errors
/// When the path cannot be read or holds none of these.
pub async fn open(path: &Path, manifest_bytes_max: u64) -> Result<Box<dyn Source>> {
    let found = path.metadata().map_err(|error| Error::Unreadable(format!("{}: {error}", path.display())))?;
    if !found.is_dir() {
        if !found.is_file() {
            return Err(Error::refused(format!("{} is neither a folder nor a file", path.display())));
        }
        let archive = Archive::open(path).await?;
        if Layouts::is_layout(&archive).await? {
            return Ok(Box::new(Layouts::open_one(Box::new(archive)).await?));
        }
        if DockerArchive::is_one(&archive).await? {
            return Ok(Box::new(DockerArchive::open(&archive).await?));
        }
        return Err(Error::refused(format!(
            "{} is an archive with neither index.json (an OCI layout) nor manifest.json (docker save)",
            path.display()
        )));
    }
    open_files(Box::new(Folder::open(path)?), &path.display().to_string(), manifest_bytes_max).await
}

/// Opens the objects of a bucket as the source that they are, as [`open`] does with a folder.
///
/// # Errors
/// When the bucket cannot be read or holds no source.
pub async fn open_bucket(tree: S3Tree, manifest_bytes_max: u64) -> Result<Box<dyn Source>> {
    let address = tree.address();
    open_files(Box::new(Bucket::new(tree)), &address, manifest_bytes_max).await
}

/// Opens a folder or a bucket with this name in messages.
async fn open_files(files: Box<dyn Files>, name: &str, manifest_bytes_max: u64) -> Result<Box<dyn Source>> {
    if Layouts::is_layout(&*files).await? {
        return Ok(Box::new(Layouts::open_one(files).await?));
    }
    if SkopeoFolder::is_one(&*files).await? {
        return Ok(Box::new(SkopeoFolder::open(files, manifest_bytes_max).await?));
    }
    if DockerArchive::is_one(&*files).await? {
        return Ok(Box::new(DockerArchive::open(&*files).await?));
    }
    if ExportedSite::is_one(&*files).await? {
        return Ok(Box::new(ExportedSite::open(files)));
    }
    if let Some(root) = Distribution::find(&*files).await? {
        return Ok(Box::new(Distribution::open(files, root)));
    }
    if StaticTree::is_one(&*files).await? {
        return Ok(Box::new(StaticTree::open(files)));
    }
    let layouts = Layouts::open_all(files).await?;
    if layouts.is_empty() {
        return Err(Error::refused(format!(
            "{name} is none of the folders that can be imported: an OCI layout, a dir: of skopeo, the data of distribution, \
             zot or olareg, or a registry of static files"
        )));
    }
    Ok(Box::new(layouts))
}
