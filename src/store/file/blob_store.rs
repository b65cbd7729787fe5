//! Content as files.
//!
//! A stage's file belongs to one append at a time. An append *takes* the file by renaming the file
//! from the name in the stage to a new name, `<token>~<token before>`. A second append to the same
//! stage finds the old name gone and makes a fork: the second append copies the stage's bytes from
//! the file of the first append, which never changes those bytes. The same copy recovers the bytes
//! of a stage whose append a crash cut off.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::disk::{Item, absent_is_none, create_name};
use super::reserve::Reserve;
use super::tidy::{self, Area};
use super::{disk, open_folder, reading, unblock};
use crate::oci::Digest;
use crate::platform::{Body, Causes, Platform};
use crate::store::{BlobStore, Error, Family, Location, Result, Stage, Stored, Tidied, TidyRequest};

/// How many bytes are gathered and written at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// The most pieces of a body that are gathered, however small the pieces are.
const PIECES_MAX: usize = 1024;
/// The ending of the name under which the stages of an upload are listed.
const STAGES: &str = "!stages";
/// The most appends that may have taken the same stage, counting live appends and appends that a
/// crash cut off. Each of these appends may have a copy of the stage's bytes.
const FORKS_MAX: usize = 8;
/// How often a stage's file is looked for, under its own name and under the name given by another
/// append.
const TAKE_TRIES_MAX: usize = 8;

/// Content in a folder, one file for each committed upload.
pub struct FileBlobStore {
    folder: Folder,
    platform: Arc<dyn Platform>,
}

#[derive(Clone)]
struct Folder {
    root: PathBuf,
    blobs: PathBuf,
    stages: PathBuf,
    reserve: Reserve,
}

/// The content of a [`Stage`].
#[derive(Clone, Serialize, Deserialize)]
struct FileStage {
    family: String,
    /// The file's name in the family's folder; empty before the first append.
    file: String,
    length: u64,
}

/// A stage's file, while an append or a commit has the file to itself.
struct Taken {
    path: PathBuf,
    file: File,
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
            stages: folder.join("stages"),
            reserve: Reserve::new(folder),
        };
        open_folder(&folder.root, &folder.blobs, &[&folder.stages])?;
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
        unblock(move || reserve.fill()).await?;
        let (taken, after) = self.take(&before).await?;
        let path = taken.path.clone();
        match fill(taken, body, before.length).await {
            Ok(length) => FileStage { length, ..after }.seal(),
            Err(error) => {
                // No write is in progress now, so the file can return to the name under which the
                // stage looks for it.
                let folder = self.folder.clone();
                unblock(move || folder.give_back(&path, &before)).await;
                Err(error)
            }
        }
    }

    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location> {
        let stage = FileStage::open(stage)?;
        let location = Location(format!("{}!{digest}", stage.family));
        let target = self.folder.path_of(&location.0)?;
        let taken = match self.take(&stage).await {
            Ok((taken, _)) => taken,
            // The answer to an earlier commit may have been lost.
            Err(Error::Conflict(reason)) => {
                let length = unblock(move || disk::metadata(&target)).await?.map(|file| file.len());
                return if length == Some(stage.length) { Ok(location) } else { Err(Error::Conflict(reason)) };
            }
            Err(error) => return Err(error),
        };
        let folder = self.folder.clone();
        unblock(move || {
            let renamed = create_name(&folder.root, &target, |target| disk::rename(&taken.path, target));
            absent_is_none(renamed)?.ok_or_else(gone)?;
            folder.remove_stages(&stage.family);
            Ok(location)
        })
        .await
    }

    async fn discard(&self, stage: &Stage) -> Result<()> {
        let (folder, stage) = (self.folder.clone(), FileStage::open(stage)?);
        unblock(move || folder.remove_stages(&stage.family)).await;
        Ok(())
    }

    async fn abandon(&self, stage: &Stage, before: Option<&Stage>) -> Result<()> {
        let (folder, stage) = (self.folder.clone(), FileStage::open(stage)?);
        let before = before.map(FileStage::open).transpose()?;
        if stage.file.is_empty() {
            return Ok(());
        }
        unblock(move || {
            let path = folder.stages.join(&stage.family).join(&stage.file);
            match before {
                Some(before) => folder.give_back(&path, &before),
                None => _ = disk::remove_file(&path)?,
            }
            Ok(())
        })
        .await
    }

    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body> {
        let path = self.folder.path_of(&location.0)?;
        let (name, wanted) = (location.0.clone(), range.clone());
        let file = unblock(move || {
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
        let file = unblock(move || {
            let mut file = folder.find(&stage)?;
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
        self.folder.path_of(&location.0).ok()
    }

    async fn family(&self, stage: &Stage) -> Result<Family> {
        Ok(Family::named(FileStage::open(stage)?.family))
    }

    async fn names_of(&self, location: &Location) -> Result<Vec<String>> {
        Ok(vec![location.0.clone()])
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>> {
        let (folder, after) = (self.folder.clone(), after.unwrap_or_default().to_owned());
        unblock(move || folder.list(&after, limit)).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let folder = self.folder.clone();
        if let Some(family) = name.strip_suffix(STAGES) {
            let family = family.to_owned();
            return unblock(move || folder.remove_family(&family)).await;
        }
        let path = self.folder.path_of(name)?;
        unblock(move || {
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
        unblock(move || Ok(tidy::tidy(&folder, &[Area::Blobs, Area::Stages], &request)?)).await
    }
}

impl FileBlobStore {
    async fn take(&self, stage: &FileStage) -> Result<(Taken, FileStage)> {
        let (folder, stage, token) = (self.folder.clone(), stage.clone(), self.platform.uuid());
        unblock(move || folder.take(&stage, &token)).await
    }
}

impl FileStage {
    fn open(stage: &Stage) -> Result<Self> {
        let foreign =
            |error| Error::corrupt(format!("cannot read stage {:?} as a stage of files", stage.0)).because(error);
        serde_json::from_str(&stage.0).map_err(foreign)
    }

    fn seal(&self) -> Result<Stage> {
        let text = serde_json::to_string(self)
            .map_err(|error| Error::corrupt("cannot encode a stage of files").because(error))?;
        Ok(Stage(text))
    }

    fn token(&self) -> &str {
        self.file.split('~').next().unwrap_or_default()
    }
}

impl Folder {
    /// The file of content. The file is named like the content: `<family>!<digest>`.
    fn path_of(&self, name: &str) -> Result<PathBuf> {
        let shelf = shelf_of(name).ok_or_else(|| Error::corrupt(format!("{name:?} is not a location of files")))?;
        Ok(self.blobs.join(shelf).join(name))
    }

    /// Content and stages in the order of their families. Entries that are not the store's own are
    /// left out: [`tidy`] reports them.
    fn list(&self, after: &str, limit: usize) -> Result<Vec<Stored>> {
        let mut found = BTreeMap::new();
        for family in disk::list(&self.stages)?.into_iter().filter(is_family) {
            let name = format!("{}{STAGES}", family.name);
            if *name > *after {
                found.insert(name, self.stages.join(family.name));
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

    /// Takes the stage's file for this request, with exactly the stage's bytes in the file.
    fn take(&self, stage: &FileStage, token: &str) -> Result<(Taken, FileStage)> {
        let family = self.stages.join(&stage.family);
        let name = format!("{token}~{}", stage.token());
        let path = family.join(&name);
        let file = if stage.file.is_empty() {
            let mut created = None;
            create_name(&self.root, &path, |path| {
                created = Some(disk::create_new(path)?);
                Ok(())
            })?;
            created.ok_or_else(|| Error::unavailable(format!("cannot create {}: no file was made", path.display())))?
        } else {
            self.take_or_copy(&family, &path, stage)?
        };
        match file.metadata()?.len() {
            longer if longer > stage.length => disk::cut(&file, &path, stage.length)?,
            shorter if shorter < stage.length => {
                return Err(Error::corrupt(format!(
                    "file {} has {shorter} bytes, and its stage has {}",
                    path.display(),
                    stage.length
                )));
            }
            _ => {}
        }
        let after = FileStage { file: name, ..stage.clone() };
        Ok((Taken { path, file }, after))
    }

    /// Renames the stage's file to `path`, or copies the stage's bytes to `path` from the file of
    /// an append that took the stage earlier.
    fn take_or_copy(&self, family: &Path, path: &Path, stage: &FileStage) -> Result<File> {
        for _ in 0..TAKE_TRIES_MAX {
            if absent_is_none(disk::rename(&family.join(&stage.file), path))?.is_some() {
                // Only a discard can remove the file again.
                return disk::open_to_write(path)?.ok_or_else(gone);
            }
            // No other append's file was found: the file may be returning to its old name, so try
            // again.
            if let Some(source) = self.taken_over(family, stage)? {
                let mut copy = absent_is_none(disk::create_new(path))?.ok_or_else(gone)?;
                disk::copy(&mut source.take(stage.length), &mut copy, path)?;
                // The copy is synced here, because a commit only renames the file.
                disk::sync(&copy, path)?;
                return Ok(copy);
            }
        }
        Err(gone())
    }

    /// The stage's file, to read it: under its own name, or under the name given by an append.
    fn find(&self, stage: &FileStage) -> Result<File> {
        let family = self.stages.join(&stage.family);
        for _ in 0..TAKE_TRIES_MAX {
            if let Some(file) = disk::open(&family.join(&stage.file))? {
                return Ok(file);
            }
            if let Some(file) = self.taken_over(&family, stage)? {
                return Ok(file);
            }
        }
        Err(gone())
    }

    /// The file of an append that took this stage's file earlier.
    fn taken_over(&self, family: &Path, stage: &FileStage) -> Result<Option<File>> {
        let suffix = format!("~{}", stage.token());
        let (mut forks, mut found) = (0, None);
        for item in disk::entries(family)? {
            // Another append is renaming a file right now, so the caller looks again.
            let Some(item) = item? else { return Ok(None) };
            if !item.name.ends_with(&suffix) {
                continue;
            }
            forks += 1;
            if forks >= FORKS_MAX {
                return Err(Error::conflict(format!(
                    "{FORKS_MAX} appends have taken the same stage of upload {}",
                    stage.family
                )));
            }
            // A shorter file is a copy that another fork is making right now.
            if found.is_none()
                && let Some(file) = disk::open(&family.join(item.name))?
                && file.metadata()?.len() >= stage.length
            {
                found = Some(file);
            }
        }
        Ok(found)
    }

    /// Undoes a take. Best effort: if the undo fails, the next take copies the bytes.
    fn give_back(&self, taken: &Path, stage: &FileStage) {
        let family = self.stages.join(&stage.family);
        let result = if stage.file.is_empty() {
            disk::remove_file(taken).and_then(|_| disk::remove_folder(&family))
        } else {
            disk::rename(taken, &family.join(&stage.file))
        };
        if let Err(error) = result
            && !matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound)
        {
            tracing::warn!("cannot undo an append of upload {}: {error}", stage.family);
        }
    }

    fn remove_family(&self, family: &str) -> Result<()> {
        uuid::Uuid::try_parse(family)
            .map_err(|error| Error::corrupt(format!("{family:?} is not the name of an upload")).because(error))?;
        disk::remove_tree(&self.stages.join(family)).map_err(stays)?;
        Ok(())
    }

    /// Removes the stages of an upload. Best effort: leftovers are harmless garbage.
    fn remove_stages(&self, family: &str) {
        if let Err(error) = self.remove_family(family) {
            tracing::warn!("cannot remove the stages of upload {family}: {}", Causes(&error));
        }
    }
}

/// Writes a body behind the bytes of a taken file. Returns the new length when the bytes and the
/// file's name are durable.
async fn fill(taken: Taken, mut body: Body, start: u64) -> Result<u64> {
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
            file = unblock(move || write_pieces(file, &to, offset, &pieces)).await?;
        }
        if at_end {
            break;
        }
    }
    unblock(move || {
        disk::sync(&file, &path)?;
        // The name must survive a crash too, because the stage refers to the file by name.
        let family = path.parent().unwrap_or(Path::new("."));
        absent_is_none(disk::sync_folder(family))?.ok_or_else(gone)?;
        Ok(length)
    })
    .await
}

/// The folder in which content of this name lies. `None` if `name` is not a name of content.
fn shelf_of(name: &str) -> Option<&str> {
    let (family, digest) = name.split_once('!')?;
    uuid::Uuid::try_parse(family).ok()?;
    digest.parse::<Digest>().ok()?;
    family.get(..2)
}

/// Whether an entry of `blobs` is a folder of content.
pub(super) fn is_shelf(item: &Item) -> bool {
    item.is_folder && item.name.len() == 2 && item.name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether an entry of a shelf is content.
pub(super) fn is_content(shelf: &str, item: &Item) -> bool {
    item.is_file && shelf_of(&item.name) == Some(shelf)
}

/// Whether an entry of `stages` holds the stages of an upload.
pub(super) fn is_family(item: &Item) -> bool {
    item.is_folder && uuid::Uuid::try_parse(&item.name).is_ok()
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

/// The error for an object that cannot be removed: a folder that another program uses, or a
/// protected file. Other objects can still be removed.
fn stays(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::IsADirectory
        | ErrorKind::DirectoryNotEmpty
        | ErrorKind::ResourceBusy
        | ErrorKind::PermissionDenied => Error::corrupt("cannot remove an object").because(error),
        _ => error.into(),
    }
}

/// The error for a stage that was discarded, or that another request committed.
fn gone() -> Error {
    Error::conflict("the stage is gone")
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
                let path = store.folder.path_of(name).unwrap();
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
