//! The folders of keys.
//!
//! Every path that spells a key (`path.rs`) is a place for it, and names are never moved. Who looks for a key looks at all
//! places that there are, those with fewer buckets first; the first file counts. So whatever a writer thought of how full a
//! folder is, what it wrote is found. Who creates a name takes the first folder that has room and no bucket for it yet: a
//! bucket that is there says that there was no room before. Nothing but this keeps folders small, so nothing has to be
//! kept true when others create and remove folders at the same time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::absent_is_none;
use super::path::{self, End, Part};

/// How many names a folder has, not counting its buckets, before it gets buckets. Some more when several are created at the
/// same time. A page of a list reads at most about so many entries for each byte that its names begin with alike.
pub(super) const FOLDER_NAMES_MAX: usize = 32;
/// How often the reading of a folder is begun anew when it breaks off because others remove entries.
const READ_TRIES_MAX: usize = 100;

/// The folders of keys.
#[derive(Clone)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    pub(super) names_max: usize,
    entries_read: Arc<AtomicU64>,
}

/// A folder, or a bucket in it, and what of a name is left there.
struct Level<'a> {
    folder: PathBuf,
    rest: &'a [u8],
}

impl<'a> Level<'a> {
    fn place(&self, end: End) -> Option<PathBuf> {
        path::place(&self.folder, self.rest, end)
    }

    fn bucket(&self) -> Option<Level<'a>> {
        let (first, rest) = self.rest.split_first()?;
        Some(Level { folder: path::bucket(&self.folder, *first), rest })
    }
}

impl Tree {
    pub(super) fn new(root: PathBuf, names_max: usize) -> Self {
        Self { root, names_max, entries_read: Arc::default() }
    }

    /// The entries of folders read so far.
    pub(super) fn entries_read(&self) -> u64 {
        self.entries_read.load(Ordering::Relaxed)
    }

    /// The place of a key that comes before all others: nearly always the only one.
    pub(super) fn first_place(&self, key: &str) -> Option<PathBuf> {
        let (prefix, last) = path::split(key);
        let mut names = path::names(prefix).chain([(last.as_bytes(), End::Key)]);
        names.try_fold(self.root.clone(), |folder, (name, end)| path::place(&folder, name, end))
    }

    /// The files there are of a key. There are two when two created it at the same time and found folders differently full.
    pub(super) fn files(&self, key: &str) -> io::Result<Vec<PathBuf>> {
        let (prefix, last) = path::split(key);
        places(self.folders(prefix)?, last.as_bytes(), End::Key)
    }

    /// The folders there are of keys that begin with `prefix`, which is empty or ends in a separator.
    pub(super) fn folders(&self, prefix: &str) -> io::Result<Vec<PathBuf>> {
        path::names(prefix).try_fold(vec![self.root.clone()], |folders, (name, end)| places(folders, name, end))
    }

    /// Where to create a key.
    pub(super) fn place_for(&self, key: &str) -> io::Result<PathBuf> {
        let (prefix, last) = path::split(key);
        let mut names = path::names(prefix).chain([(last.as_bytes(), End::Key)]);
        names.try_fold(self.root.clone(), |folder, (name, end)| self.place_in(folder, name, end))
    }

    fn place_in(&self, folder: PathBuf, name: &[u8], end: End) -> io::Result<PathBuf> {
        let mut levels = levels(folder, name)?;
        for level in &levels {
            if let Some(place) = level.place(end)
                && exists(&place)?
            {
                return Ok(place);
            }
        }
        let mut level = levels.swap_remove(levels.len() - 1);
        while let Some(bucket) = level.bucket() {
            if let Some(place) = level.place(end)
                && self.has_room(&level.folder)?
            {
                return Ok(place);
            }
            level = bucket;
        }
        level.place(end).ok_or_else(|| io::Error::other("an empty name is a short one"))
    }

    fn has_room(&self, folder: &Path) -> io::Result<bool> {
        let mut names = 0;
        for entry in absent_is_none(fs::read_dir(folder))?.into_iter().flatten() {
            // Where it breaks off (see `try_read`) the folder is counted for emptier than it is, which does no harm.
            let Some(entry) = absent_is_none(entry)? else { break };
            self.entries_read.fetch_add(1, Ordering::Relaxed);
            let part = entry.file_name().to_str().and_then(path::part_of);
            names += usize::from(matches!(part, Some(Part::Leaf(_) | Part::Folder(_))));
            if names >= self.names_max {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// All entries of a folder; none where there is no such folder.
    pub(super) fn read(&self, folder: &Path) -> io::Result<Vec<Part>> {
        for _ in 0..READ_TRIES_MAX {
            if let Some(parts) = self.try_read(folder)? {
                return Ok(parts);
            }
        }
        Err(io::Error::other(format!("{} changes faster than it can be read", folder.display())))
    }

    /// `None` when the reading broke off: under WASI it does where an entry is removed meanwhile, and those behind it would be
    /// missing from the list.
    fn try_read(&self, folder: &Path) -> io::Result<Option<Vec<Part>>> {
        let mut parts = Vec::new();
        for entry in absent_is_none(fs::read_dir(folder))?.into_iter().flatten() {
            let Some(entry) = absent_is_none(entry)? else { return Ok(None) };
            self.entries_read.fetch_add(1, Ordering::Relaxed);
            parts.extend(entry.file_name().to_str().and_then(path::part_of));
        }
        Ok(Some(parts))
    }

    /// Removes a file's folders for as far up as they are empty. One that is in use refuses, and who is about to create
    /// something in one that is gone makes it again.
    pub(super) fn prune(&self, file: &Path) {
        for folder in file.ancestors().skip(1).take_while(|folder| **folder != *self.root) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// Where `folders` and their buckets have this name.
fn places(folders: Vec<PathBuf>, name: &[u8], end: End) -> io::Result<Vec<PathBuf>> {
    let mut places = Vec::new();
    for folder in folders {
        for place in levels(folder, name)?.iter().filter_map(|level| level.place(end)) {
            if exists(&place)? {
                places.push(place);
            }
        }
    }
    Ok(places)
}

/// `folder` and, as far as there are any, its buckets for this name.
fn levels(folder: PathBuf, name: &[u8]) -> io::Result<Vec<Level<'_>>> {
    let mut level = Level { folder, rest: name };
    let mut levels = Vec::new();
    while let Some(bucket) = level.bucket()
        && exists(&bucket.folder)?
    {
        levels.push(std::mem::replace(&mut level, bucket));
    }
    levels.push(level);
    Ok(levels)
}

fn exists(path: &Path) -> io::Result<bool> {
    Ok(absent_is_none(fs::metadata(path))?.is_some())
}
