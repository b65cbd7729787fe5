//! A folder of files.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::error::{Error, Result};
use super::files::{Files, Name, Section, normal};
use super::limits::FOLDER_NAMES_MAX;

/// A folder, out of which no path and no link leads.
#[derive(Clone)]
pub(super) struct Folder {
    /// The folder without links in its path.
    root: PathBuf,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let root = path.canonicalize().map_err(|error| Error::Unreadable(format!("{}: {error}", path.display())))?;
        Ok(Self { root })
    }

    /// The place of a path without links; `None` if nothing is there.
    fn place(&self, path: &str) -> Result<Option<PathBuf>> {
        let joined = self.root.join(normal(path, "the folder")?);
        match joined.canonicalize() {
            Ok(real) if real.starts_with(&self.root) => Ok(Some(real)),
            Ok(real) => Err(Error::refused(format!("{path} is a link out of the folder, to {}", real.display()))),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(unreadable(path, &error)),
        }
    }

    fn names(&self, folder: &str) -> Result<Vec<Name>> {
        let Some(place) = self.place(folder)? else { return Ok(Vec::new()) };
        let entries = match fs::read_dir(place) {
            Ok(entries) => entries,
            Err(error) if is_absence(&error) => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(folder, &error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(folder, &error))?;
            // A name that is not UTF-8 belongs to no repository, tag or digest.
            let Ok(text) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type().map_err(|error| unreadable(folder, &error))?;
            names.push(Name { text, is_folder: kind.is_dir() });
            if names.len() > FOLDER_NAMES_MAX {
                return Err(Error::refused(format!("the folder {folder} has more than {FOLDER_NAMES_MAX} names")));
            }
        }
        names.sort();
        Ok(names)
    }

    fn section(&self, path: &str) -> Result<Option<Section>> {
        let Some(place) = self.place(path)? else { return Ok(None) };
        // The kind is looked at before the file is opened: the open of a pipe would wait for ever.
        let found = fs::metadata(&place).map_err(|error| unreadable(path, &error))?;
        if found.is_dir() {
            return Ok(None);
        }
        if !found.is_file() {
            return Err(Error::refused(format!("{path} is not a regular file")));
        }
        let file = fs::File::open(&place).map_err(|error| unreadable(path, &error))?;
        let length = file.metadata().map_err(|error| unreadable(path, &error))?.len();
        Ok(Some(Section::of_file(Arc::new(file), 0, length)))
    }
}

#[async_trait]
impl Files for Folder {
    async fn list(&self, folder: &str) -> Result<Vec<Name>> {
        let (this, folder) = (self.clone(), folder.to_owned());
        blocking::unblock(move || this.names(&folder)).await
    }

    async fn find(&self, path: &str) -> Result<Option<Section>> {
        let (this, path) = (self.clone(), path.to_owned());
        blocking::unblock(move || this.section(&path)).await
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn unreadable(path: &str, error: &io::Error) -> Error {
    Error::Unreadable(format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_in_the_folder() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        fs::create_dir_all(root.join("a")).unwrap();
        fs::write(outer.path().join("secret"), "secret").unwrap();
        fs::write(root.join("a/file"), "here").unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("a/file", root.join("in")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        symlink("a", root.join("folder")).unwrap();
        let folder = Folder::open(&root).unwrap();
        let length = |path: &str| folder.section(path).map(|found| found.map(|section| section.length));
        assert_eq!([length("in"), length("a/file"), length("folder/file")], [Ok(Some(4)), Ok(Some(4)), Ok(Some(4))]);
        assert_eq!([length("dangling"), length("none"), length("a/file/x")], [Ok(None), Ok(None), Ok(None)]);
        assert!(length("out").unwrap_err().to_string().starts_with("out is a link out of the folder, to "));
        assert_eq!(length("../secret").unwrap_err().to_string(), "../secret leads out of the folder");
        let is_folder =
            |name: &str| folder.names("").unwrap().into_iter().find(|found| found.text == name).unwrap().is_folder;
        assert_eq!([is_folder("a"), is_folder("folder"), is_folder("in")], [true, false, false]);
    }
}
