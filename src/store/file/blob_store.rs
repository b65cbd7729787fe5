//! Content as files.
//!
//! `stages.rs` has the files of appends, `shelves.rs` the names of content.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::disk::absent_is_none;
use super::error::stays;
use super::names::{create_name, sync_name};
use super::reserve::Reserve;
use super::shelves::{self, is_content, is_shelf};
use super::stages::{FileStage, Stages, Taken, gone, is_family};
use super::tidy::{self, Area};
use super::{disk, in_turn, list_in_turn, open_folder, read_at_once, reading};
use crate::oci::Digest;
use crate::platform::{Body, Platform};
use crate::store::{BlobStore, Error, Family, Location, Result, Stage, Stored, Tidied, TidyRequest};

/// How many bytes are gathered and written at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// The most pieces of a body that are gathered, however small the pieces are.
const PIECES_MAX: usize = 1024;
/// The ending of the name under which the stages of an upload are listed.
const STAGES: &str = "!stages";

/// Content in a folder, one file for each committed upload.
pub struct FileBlobStore {
    folder: Folder,
    platform: Arc<dyn Platform>,
}

#[derive(Clone)]
struct Folder {
    root: PathBuf,
    blobs: PathBuf,
    stages: Stages,
    reserve: Reserve,
}

impl FileBlobStore {
    /// Opens `folder`, or makes the folder if it is missing. A folder that cannot be written is
    /// opened for reading.
    ///
    /// # Errors
    /// When the folder cannot be made or read, holds other data, or was written by a newer version.
    pub fn open(folder: &Path, platform: Arc<dyn Platform>) -> io::Result<Self> {
        let folder = Folder {
            root: folder.to_owned(),
            blobs: folder.join("blobs"),
            stages: Stages { folder: folder.join("stages") },
            reserve: Reserve::new(folder),
        };
        open_folder(&folder.root, &folder.blobs, &[&folder.stages.folder])?;
        Ok(Self { folder, platform })
    }
}

#[async_trait]
impl BlobStore for FileBlobStore {
    async fn stage(&self) -> Result<Stage> {
        // The first append makes the file, so an upload that is begun and never filled costs
        // nothing.
        FileStage { family: self.platform.uuid(), file: String::new(), length: 0 }.seal()
    }

    async fn append(&self, stage: &Stage, body: Body) -> Result<Stage> {
        let before = FileStage::open(stage)?;
        let reserve = self.folder.reserve.clone();
        in_turn(move || reserve.fill()).await?;
        let (taken, after) = self.take(&before).await?;
        let path = taken.path.clone();
        match fill(&self.folder.root, taken, body, before.length).await {
            Ok(length) => FileStage { length, ..after }.seal(),
            Err(error) => {
                // No write is in progress now, so the file can return to the name under which the
                // stage looks for it.
                let folder = self.folder.clone();
                in_turn(move || folder.stages.give_back(&path, &before)).await;
                Err(error)
            }
        }
    }

    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location> {
        let stage = FileStage::open(stage)?;
        let location = Location(format!("{}!{digest}", stage.family));
        let target = shelves::path_of(&self.folder.blobs, &location.0)?;
        let taken = match self.take(&stage).await {
            Ok((taken, _)) => taken,
            // The answer to an earlier commit may have been lost.
            Err(Error::Conflict(reason)) => {
                let length = in_turn(move || disk::metadata(&target)).await?.map(|file| file.len());
                return if length == Some(stage.length) { Ok(location) } else { Err(Error::Conflict(reason)) };
            }
            Err(error) => return Err(error),
        };
        let folder = self.folder.clone();
        in_turn(move || {
            let renamed = create_name(&folder.root, &target, |target| disk::rename(&taken.path, target));
            absent_is_none(renamed)?.ok_or_else(gone)?;
            folder.stages.remove_stages(&stage.family);
            Ok(location)
        })
        .await
    }

    async fn discard(&self, stage: &Stage) -> Result<()> {
        let (folder, stage) = (self.folder.clone(), FileStage::open(stage)?);
        in_turn(move || folder.stages.remove_stages(&stage.family)).await;
        Ok(())
    }

    async fn abandon(&self, stage: &Stage, before: Option<&Stage>) -> Result<()> {
        let (folder, stage) = (self.folder.clone(), FileStage::open(stage)?);
        let before = before.map(FileStage::open).transpose()?;
        if stage.file.is_empty() {
            return Ok(());
        }
        in_turn(move || {
            let path = folder.stages.folder.join(&stage.family).join(&stage.file);
            match before {
                Some(before) => folder.stages.give_back(&path, &before),
                None => _ = disk::remove_file(&path)?,
            }
            Ok(())
        })
        .await
    }

    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body> {
        let path = shelves::path_of(&self.folder.blobs, &location.0)?;
        let (name, wanted) = (location.0.clone(), range.clone());
        let file = read_at_once(move || {
            let short = || Error::corrupt(format!("content {name} is missing or too short"));
            let mut file = disk::open(&path)?.ok_or_else(short)?;
            if file.metadata()?.len() < wanted.end || wanted.start > wanted.end {
                return Err(short());
            }
            file.seek(SeekFrom::Start(wanted.start))?;
            Ok(file)
        })
        .await?;
        Ok(reading::body(file, range.end - range.start, self.platform.clone()))
    }

    async fn read_stage(&self, stage: &Stage, range: Range<u64>) -> Result<Option<Body>> {
        let (folder, stage, wanted) = (self.folder.clone(), FileStage::open(stage)?, range.clone());
        if range.is_empty() {
            return Ok(Some(Body::empty()));
        }
        let file = in_turn(move || {
            let mut file = folder.stages.find(&stage)?;
            if stage.length < wanted.end || file.metadata()?.len() < wanted.end {
                return Err(Error::corrupt("the stage is too short"));
            }
            file.seek(SeekFrom::Start(wanted.start))?;
            Ok(file)
        })
        .await?;
        Ok(Some(reading::body(file, range.end - range.start, self.platform.clone())))
    }

    fn file(&self, location: &Location) -> Option<PathBuf> {
        shelves::path_of(&self.folder.blobs, &location.0).ok()
    }

    async fn family(&self, stage: &Stage) -> Result<Family> {
        Ok(Family::named(FileStage::open(stage)?.family))
    }

    async fn names_of(&self, location: &Location) -> Result<Vec<String>> {
        Ok(vec![location.0.clone()])
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>> {
        let (folder, after) = (self.folder.clone(), after.unwrap_or_default().to_owned());
        list_in_turn(move || folder.list(&after, limit)).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let folder = self.folder.clone();
        if let Some(family) = name.strip_suffix(STAGES) {
            let family = family.to_owned();
            return in_turn(move || folder.stages.remove_family(&family)).await;
        }
        let path = shelves::path_of(&self.folder.blobs, name)?;
        in_turn(move || {
            let Some(()) = disk::remove_file(&path).map_err(stays)? else { return Ok(()) };
            let parent = path.parent().unwrap_or(&folder.blobs);
            // Another removal may have removed the folder since.
            absent_is_none(disk::sync_folder(parent))?;
            // Removing the folder fails while the folder holds other content.
            let _ = disk::remove_folder(parent);
            Ok(())
        })
        .await
    }

    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied> {
        let (folder, request) = (self.folder.root.clone(), request.clone());
        in_turn(move || Ok(tidy::tidy(&folder, &[Area::Blobs, Area::Stages], &request)?)).await
    }
}

impl FileBlobStore {
    async fn take(&self, stage: &FileStage) -> Result<(Taken, FileStage)> {
        let (folder, stage, token) = (self.folder.clone(), stage.clone(), self.platform.uuid());
        in_turn(move || folder.stages.take(&stage, &token)).await
    }
}

impl Folder {
    /// Content and stages in the order of their families. Entries that are not the store's own are
    /// left out: [`tidy`] reports them.
    fn list(&self, after: &str, limit: usize) -> Result<Vec<Stored>> {
        let mut found = BTreeMap::new();
        for family in disk::list(&self.stages.folder)?.into_iter().filter(is_family) {
            let name = format!("{}{STAGES}", family.name);
            if *name > *after {
                found.insert(name, self.stages.folder.join(family.name));
            }
        }
        let mut content = 0;
        for shelf in disk::list(&self.blobs)?.into_iter().filter(is_shelf) {
            // Enough content was found, or the shelf sorts before `after`.
            if content >= limit || *shelf.name < after[..after.len().min(2)] {
                continue;
            }
            let folder = self.blobs.join(&shelf.name);
            for item in disk::list(&folder)?.into_iter().filter(|item| *item.name > *after) {
                if is_content(&shelf.name, &item) {
                    let path = folder.join(&item.name);
                    content += usize::from(found.insert(item.name, path).is_none());
                }
            }
        }
        let first = found.into_iter().take(limit);
        Ok(first.map(|(name, path)| Stored { name, bytes: bytes_of(&path) }).collect())
    }
}

/// Writes a body behind the bytes of a taken file. Returns the new length when the bytes and the
/// file's name are durable.
async fn fill(root: &Path, taken: Taken, mut body: Body, start: u64) -> Result<u64> {
    let Taken { path, mut file } = taken;
    let mut length = start;
    let mut gathered: Vec<Bytes> = Vec::new();
    let mut gathered_bytes = 0;
    loop {
        let data = body.next().await.transpose()?;
        let at_end = data.is_none();
        if let Some(data) = data {
            gathered_bytes += data.len();
            gathered.push(data);
        }
        let full = gathered_bytes >= BUFFER_BYTES || gathered.len() >= PIECES_MAX;
        if full || (at_end && gathered_bytes > 0) {
            let (pieces, offset) = (std::mem::take(&mut gathered), length);
            length += std::mem::take(&mut gathered_bytes) as u64;
            let to = path.clone();
            file = in_turn(move || write_pieces(file, &to, offset, &pieces)).await?;
        }
        if at_end {
            break;
        }
    }
    let root = root.to_owned();
    in_turn(move || {
        disk::sync(&file, &path)?;
        // The name must survive a crash too, because the stage refers to the file by name.
        absent_is_none(sync_name(&root, &path))?.ok_or_else(gone)?;
        Ok(length)
    })
    .await
}

/// The size in bytes of a file, or of all files in a folder.
fn bytes_of(path: &Path) -> Option<u64> {
    let file = disk::metadata(path).ok()??;
    if !file.is_dir() {
        return Some(file.len());
    }
    let files = disk::list(path).ok()?;
    Some(files.iter().filter_map(|item| disk::metadata(&path.join(&item.name)).ok()?).map(|file| file.len()).sum())
}

fn write_pieces(mut file: File, path: &Path, offset: u64, pieces: &[Bytes]) -> io::Result<File> {
    file.seek(SeekFrom::Start(offset))?;
    match pieces {
        [piece] => disk::write_on(&mut file, path, piece)?,
        pieces => disk::write_on(&mut file, path, &pieces.concat())?,
    }
    Ok(file)
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use std::fs;
    use std::sync::Barrier;

    use futures_executor::block_on;

    use super::*;
    use crate::oci::Algorithm;
    use crate::platform::SystemPlatform;

    #[test]
    fn removals_that_empty_one_folder_do_not_fail_each_other() {
        let root = tempfile::tempdir().unwrap();
        let store = FileBlobStore::open(root.path(), Arc::new(SystemPlatform)).unwrap();
        let digest = Algorithm::Sha256.digest(b"content");
        for _ in 0..300 {
            let names: Vec<String> = (0..4).map(|_| format!("ab{}!{digest}", &SystemPlatform.uuid()[2..])).collect();
            for name in &names {
                let path = shelves::path_of(&store.folder.blobs, name).unwrap();
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "content").unwrap();
            }
            let start = Barrier::new(names.len());
            std::thread::scope(|scope| {
                for name in &names {
                    scope.spawn(|| {
                        start.wait();
                        block_on(store.remove(name)).unwrap();
                    });
                }
            });
        }
    }
}
