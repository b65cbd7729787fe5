//! The files of uploads that are under way.
//!
//! A stage's file belongs to one append at a time. An append *takes* the file by renaming the file
//! from the name in the stage to a new name, `<token>~<token before>`. A second append to the same
//! stage finds the old name gone and makes a fork: the second append copies the stage's bytes from
//! the file of the first append, which never changes those bytes. The same copy recovers the bytes
//! of a stage whose append a crash cut off.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::{self, Item, absent_is_none};
use super::error::stays;
use super::names::create_unsynced_name;
use crate::platform::Causes;
use crate::store::{Error, Result, Stage};

/// The most appends that may have taken the same stage, counting live appends and appends that a
/// crash cut off. Each of these appends may have a copy of the stage's bytes.
const FORKS_MAX: usize = 8;
/// How often a stage's file is looked for, under its own name and under the name given by another
/// append.
const TAKE_TRIES_MAX: usize = 8;

/// The content of a [`Stage`].
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct FileStage {
    pub family: String,
    /// The file's name in the family's folder; empty before the first append.
    pub file: String,
    pub length: u64,
}

/// A stage's file, while an append or a commit has the file to itself.
pub(super) struct Taken {
    pub path: PathBuf,
    pub file: File,
}

impl FileStage {
    pub fn open(stage: &Stage) -> Result<Self> {
        let foreign =
            |error| Error::corrupt(format!("cannot read stage {:?} as a stage of files", stage.0)).because(error);
        serde_json::from_str(&stage.0).map_err(foreign)
    }

    pub fn seal(&self) -> Result<Stage> {
        let text = serde_json::to_string(self)
            .map_err(|error| Error::corrupt("cannot encode a stage of files").because(error))?;
        Ok(Stage(text))
    }

    fn token(&self) -> &str {
        self.file.split('~').next().unwrap_or_default()
    }
}

/// The folder of the stages: a folder for each upload, with the files of its appends.
#[derive(Clone)]
pub(super) struct Stages {
    pub folder: PathBuf,
}

impl Stages {
    /// Takes the stage's file for this request, with exactly the stage's bytes in the file.
    pub fn take(&self, stage: &FileStage, token: &str) -> Result<(Taken, FileStage)> {
        let family = self.folder.join(&stage.family);
        let name = format!("{token}~{}", stage.token());
        let path = family.join(&name);
        let file = if stage.file.is_empty() {
            let mut created = None;
            // The append syncs the name together with the bytes.
            create_unsynced_name(&path, |path| {
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
    pub fn find(&self, stage: &FileStage) -> Result<File> {
        let family = self.folder.join(&stage.family);
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
    pub fn give_back(&self, taken: &Path, stage: &FileStage) {
        let family = self.folder.join(&stage.family);
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

    pub fn remove_family(&self, family: &str) -> Result<()> {
        uuid::Uuid::try_parse(family)
            .map_err(|error| Error::corrupt(format!("{family:?} is not the name of an upload")).because(error))?;
        disk::remove_tree(&self.folder.join(family)).map_err(stays)?;
        Ok(())
    }

    /// Removes the stages of an upload. Best effort: leftovers are harmless garbage.
    pub fn remove_stages(&self, family: &str) {
        if let Err(error) = self.remove_family(family) {
            tracing::warn!("cannot remove the stages of upload {family}: {}", Causes(&error));
        }
    }
}

/// Whether an entry of `stages` holds the stages of an upload.
pub(super) fn is_family(item: &Item) -> bool {
    item.is_folder && uuid::Uuid::try_parse(&item.name).is_ok()
}

/// The error for a stage that was discarded, or that another request committed.
pub(super) fn gone() -> Error {
    Error::conflict("the stage is gone")
}
