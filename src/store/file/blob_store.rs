//! Content as files.
//!
//! A stage's file belongs to one append at a time: the append *takes* it by renaming it from the name that the stage
//! holds to a new one, `<token>~<token before>`. Who comes second finds the old name gone; it forks by copying the bytes of its
//! stage from the file that took over, whose first bytes nobody changes any more. The same copy takes up an append that a crash cut off.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{absent_is_none, create_folder, place_in_folder, reading, sync_folder, unblock};
use crate::oci::Digest;
use crate::store::{BlobStore, Body, Error, Location, Platform, Result, Stage, Stored};

/// How many bytes are gathered and written at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// How many pieces of a body are gathered at most, however small they are.
const PIECES_MAX: usize = 1024;
/// What the name of an upload's stages ends in.
const STAGES: &str = "!stages";
/// How many appends may have taken the same stage, living ones and those that a crash cut off; each may have a copy of its bytes.
const FORKS_MAX: usize = 8;
/// How often a stage's file is looked for under its own name and under that of who took it.
const TAKE_TRIES_MAX: usize = 8;

/// Content in a folder, a file each.
pub struct FileBlobStore {
    folder: Folder,
    platform: Arc<dyn Platform>,
}

#[derive(Clone)]
struct Folder {
    blobs: PathBuf,
    stages: PathBuf,
}

/// What a [`Stage`] says.
#[derive(Clone, Serialize, Deserialize)]
struct FileStage {
    family: String,
    /// The file's name in the family's folder; empty before the first append.
    file: String,
    length: u64,
}

/// A stage's file while an append or commit has it to itself.
struct Taken {
    path: PathBuf,
    file: File,
}

impl FileBlobStore {
    /// Opens `folder`, or makes it.
    ///
    /// # Errors
    /// When the folder cannot be made or written to.
    pub fn open(folder: &Path, platform: Arc<dyn Platform>) -> io::Result<Self> {
        let folder = Folder { blobs: folder.join("blobs"), stages: folder.join("stages") };
        create_folder(&folder.blobs)?;
        create_folder(&folder.stages)?;
        Ok(Self { folder, platform })
    }
}

#[async_trait]
impl BlobStore for FileBlobStore {
    async fn stage(&self) -> Result<Stage> {
        // No file yet: most uploads that are begun and never filled cost nothing.
        FileStage { family: self.platform.uuid(), file: String::new(), length: 0 }.seal()
    }

    async fn append(&self, stage: &Stage, body: Body) -> Result<Stage> {
        let before = FileStage::open(stage)?;
        let (taken, after) = self.take(&before).await?;
        let path = taken.path.clone();
        match fill(taken, body, before.length).await {
            Ok(length) => FileStage { length, ..after }.seal(),
            Err(error) => {
                // Nothing is being written now, so the file can go back to the name under which the stage will look for it.
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
                let length = unblock(move || absent_is_none(fs::metadata(target))).await?.map(|file| file.len());
                return if length == Some(stage.length) { Ok(location) } else { Err(Error::Conflict(reason)) };
            }
            Err(error) => return Err(error),
        };
        let folder = self.folder.clone();
        unblock(move || {
            let placed = place_in_folder(&target, |target| fs::rename(&taken.path, target));
            absent_is_none(placed)?.ok_or_else(gone)?;
            folder.leave_family(&stage.family);
            Ok(location)
        })
        .await
    }

    async fn discard(&self, stage: &Stage) -> Result<()> {
        let (folder, stage) = (self.folder.clone(), FileStage::open(stage)?);
        unblock(move || folder.leave_family(&stage.family)).await;
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
                None => _ = absent_is_none(fs::remove_file(path))?,
            }
            Ok(())
        })
        .await
    }

    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body> {
        let path = self.folder.path_of(&location.0)?;
        let (place, wanted) = (location.0.clone(), range.clone());
        let file = unblock(move || {
            let short = || Error::Corrupt(format!("the content of {place} is missing or too short"));
            let mut file = absent_is_none(File::open(path))?.ok_or_else(short)?;
            if file.metadata()?.len() < wanted.end || wanted.start > wanted.end {
                return Err(short());
            }
            file.seek(SeekFrom::Start(wanted.start))?;
            Ok(file)
        })
        .await?;
        Ok(reading::body(file, range.end - range.start, self.platform.clone()))
    }

    async fn names_of_stage(&self, stage: &Stage) -> Result<Vec<String>> {
        // With the `!` it stands for the content that it becomes as well.
        Ok(vec![format!("{}!", FileStage::open(stage)?.family)])
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
            let Some(()) = absent_is_none(fs::remove_file(&path))? else { return Ok(()) };
            let parent = path.parent().unwrap_or(&folder.blobs);
            sync_folder(parent)?;
            // Refused while there is something in it.
            let _ = fs::remove_dir(parent);
            Ok(())
        })
        .await
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
        let foreign = |_| Error::Corrupt("this is not a stage of files".into());
        serde_json::from_str(&stage.0).map_err(foreign)
    }

    fn seal(&self) -> Result<Stage> {
        let text = serde_json::to_string(self).map_err(|e| Error::Corrupt(e.to_string()))?;
        Ok(Stage(text))
    }

    fn token(&self) -> &str {
        self.file.split('~').next().unwrap_or_default()
    }
}

impl Folder {
    /// The file of content, which is called as it is: `<family>!<digest>`.
    fn path_of(&self, name: &str) -> Result<PathBuf> {
        let foreign = || Error::Corrupt("this is not a location of files".into());
        let (family, digest) = name.split_once('!').ok_or_else(foreign)?;
        uuid::Uuid::try_parse(family).map_err(|_| foreign())?;
        digest.parse::<Digest>().map_err(|_| foreign())?;
        Ok(self.blobs.join(&family[..2]).join(name))
    }

    /// Content and stages in the order of their families.
    fn list(&self, after: &str, limit: usize) -> Result<Vec<Stored>> {
        let mut found = BTreeMap::new();
        for family in names_in(&self.stages)? {
            let name = format!("{family}{STAGES}");
            if *name > *after {
                found.insert(name, self.stages.join(family));
            }
        }
        let mut content = 0;
        for shelf in names_in(&self.blobs)? {
            // Those before it were listed.
            if content >= limit || *shelf < after[..after.len().min(2)] {
                continue;
            }
            let folder = self.blobs.join(shelf);
            for name in names_in(&folder)?.into_iter().filter(|name| **name > *after) {
                let path = folder.join(&name);
                content += usize::from(found.insert(name, path).is_none());
            }
        }
        let first = found.into_iter().take(limit);
        Ok(first.map(|(name, path)| Stored { name, bytes: bytes_of(&path) }).collect())
    }

    /// Makes the stage's file ours, with exactly the stage's bytes in it.
    fn take(&self, stage: &FileStage, token: &str) -> Result<(Taken, FileStage)> {
        let family = self.stages.join(&stage.family);
        let name = format!("{token}~{}", stage.token());
        let path = family.join(&name);
        let file = if stage.file.is_empty() {
            let mut created = None;
            place_in_folder(&path, |path| {
                created = Some(File::options().write(true).create_new(true).open(path)?);
                Ok(())
            })?;
            created.ok_or_else(|| Error::Unavailable("no file was made".into()))?
        } else {
            self.take_or_copy(&family, &path, stage)?
        };
        match file.metadata()?.len() {
            longer if longer > stage.length => file.set_len(stage.length)?,
            shorter if shorter < stage.length => {
                return Err(Error::Corrupt(format!("a stage of {} bytes has {shorter}", stage.length)));
            }
            _ => {}
        }
        let after = FileStage { file: name, ..stage.clone() };
        Ok((Taken { path, file }, after))
    }

    /// Renames the stage's file to `path`, or copies the stage's bytes there from the append that took it before us.
    fn take_or_copy(&self, family: &Path, path: &Path, stage: &FileStage) -> Result<File> {
        for _ in 0..TAKE_TRIES_MAX {
            if absent_is_none(fs::rename(family.join(&stage.file), path))?.is_some() {
                // Only a discard can take it away again.
                return absent_is_none(File::options().write(true).open(path))?.ok_or_else(gone);
            }
            // If there is none it may be on its way back under its old name.
            if let Some(source) = self.taken_over(family, stage)? {
                let copy = File::options().write(true).create_new(true).open(path);
                let mut copy = absent_is_none(copy)?.ok_or_else(gone)?;
                io::copy(&mut source.take(stage.length), &mut copy)?;
                // A commit renames it as it is.
                copy.sync_data()?;
                return Ok(copy);
            }
        }
        Err(gone())
    }

    /// The file of an append that took this stage's file before us.
    fn taken_over(&self, family: &Path, stage: &FileStage) -> Result<Option<File>> {
        let suffix = format!("~{}", stage.token());
        let (mut forks, mut found) = (0, None);
        for entry in absent_is_none(fs::read_dir(family))?.into_iter().flatten() {
            // Somebody else is at it just now; the caller looks again.
            let Some(entry) = absent_is_none(entry)? else { return Ok(None) };
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| name.ends_with(&suffix)) {
                continue;
            }
            // A shorter one is a copy that another fork is making just now.
            forks += 1;
            if forks >= FORKS_MAX {
                return Err(Error::Conflict("too many appends have taken the stage".into()));
            }
            if found.is_none()
                && let Some(file) = absent_is_none(File::open(family.join(name)))?
                && file.metadata()?.len() >= stage.length
            {
                found = Some(file);
            }
        }
        Ok(found)
    }

    /// Undoes a take. Best effort: where it fails, the next take copies.
    fn give_back(&self, taken: &Path, stage: &FileStage) {
        let family = self.stages.join(&stage.family);
        let result = if stage.file.is_empty() {
            fs::remove_file(taken).and_then(|()| fs::remove_dir(&family))
        } else {
            fs::rename(taken, family.join(&stage.file))
        };
        if let Err(error) = result
            && !matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound)
        {
            log::warn!("a stage of upload {} is left behind: {error}", stage.family);
        }
    }

    fn remove_family(&self, family: &str) -> Result<()> {
        uuid::Uuid::try_parse(family).map_err(|_| Error::Corrupt("this is not a stage of files".into()))?;
        absent_is_none(fs::remove_dir_all(self.stages.join(family)))?;
        Ok(())
    }

    /// Best effort: what is left is garbage and nothing more.
    fn leave_family(&self, family: &str) {
        if let Err(error) = self.remove_family(family) {
            log::warn!("the stages of upload {family} are left behind: {error}");
        }
    }
}

/// Writes a body behind the bytes of a taken file; gives the new length, durable.
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
            file = unblock(move || write_pieces(file, offset, &pieces)).await?;
        }
        if at_end {
            break;
        }
    }
    unblock(move || {
        file.sync_data()?;
        // The name must outlive a crash as well: it is what the stage says.
        let family = path.parent().unwrap_or(Path::new("."));
        absent_is_none(sync_folder(family))?.ok_or_else(gone)?;
        Ok(length)
    })
    .await
}

/// The names of a folder's entries in order; none of one that is not there.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in absent_is_none(fs::read_dir(folder))?.into_iter().flatten() {
        // What vanished just now is not there; what is not text is not ours.
        if let Some(entry) = absent_is_none(entry)?
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// How many bytes a file has, or the files of a folder.
fn bytes_of(path: &Path) -> Option<u64> {
    let file = fs::metadata(path).ok()?;
    if !file.is_dir() {
        return Some(file.len());
    }
    let files = names_in(path).ok()?;
    Some(files.iter().filter_map(|name| fs::metadata(path.join(name)).ok()).map(|file| file.len()).sum())
}

/// The stage was discarded, or committed by another request.
fn gone() -> Error {
    Error::Conflict("the stage is gone".into())
}

fn write_pieces(mut file: File, offset: u64, pieces: &[Bytes]) -> io::Result<File> {
    file.seek(SeekFrom::Start(offset))?;
    match pieces {
        [piece] => file.write_all(piece)?,
        pieces => file.write_all(&pieces.concat())?,
    }
    Ok(file)
}
