//! The folders of keys.
//!
//! Every path that spells a key (`path.rs`) is a possible place of the key, and names are never
//! moved. A lookup checks all existing places, those with fewer buckets first, and the first file
//! counts. So a value is found whatever its writer believed about how full a folder was. A creator
//! of a name takes the first folder that has room and no bucket for the name yet: an existing
//! bucket shows that the folder had no room before. Only the creators' choice keeps folders small,
//! so no invariant has to hold when other processes create and remove folders at the same time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk;
use super::path::{self, End, KeyPart};

/// How many names a folder has, not counting its buckets, before it gets buckets. Concurrent
/// creators may add a few more. For each byte that the names of a folder begin with alike, a page
/// of a list reads at most about `FOLDER_NAMES_MAX` entries.
pub(super) const FOLDER_NAMES_MAX: usize = 32;

/// The folders of keys.
#[derive(Clone)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    pub(super) names_max: usize,
    entries_read: Arc<AtomicU64>,
}

/// A folder, or a bucket in it, and the rest of a name to be looked up there.
struct Level<'a> {
    folder: PathBuf,
    rest: &'a [u8],
}

impl<'a> Level<'a> {
    fn path_of(&self, end: End) -> Option<PathBuf> {
        path::path_of(&self.folder, self.rest, end)
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

    /// Fails if the root folder is gone. A missing root folder says nothing about the keys that
    /// were in it.
    pub(super) fn must_be_there(&self) -> io::Result<()> {
        if disk::metadata(&self.root)?.is_some_and(|root| root.is_dir()) {
            return Ok(());
        }
        Err(io::Error::other(format!("ENOENT: the folder {} is gone", self.root.display())))
    }

    /// The place of a key without buckets, which a lookup checks first: nearly always the only
    /// place. `None` if a name in the key is too long.
    pub(super) fn path_without_buckets(&self, key: &str) -> Option<PathBuf> {
        let (prefix, last) = path::split(key);
        let mut names = path::names(prefix).chain([(last.as_bytes(), End::Key)]);
        names.try_fold(self.root.clone(), |folder, (name, end)| path::path_of(&folder, name, end))
    }

    /// The existing files of a key. A key has two files when two writers created it at the same
    /// time and found folders differently full.
    pub(super) fn files(&self, key: &str) -> io::Result<Vec<PathBuf>> {
        let (prefix, last) = path::split(key);
        existing_paths(self.folders(prefix)?, last.as_bytes(), End::Key)
    }

    /// The file of a key that counts: the first of `files`. Most keys lie at their first place, so
    /// most lookups end there.
    pub(super) fn first_file(&self, key: &str) -> io::Result<Option<PathBuf>> {
        if let Some(first) = self.path_without_buckets(key)
            && exists(&first, End::Key)?
        {
            return Ok(Some(first));
        }
        Ok(self.files(key)?.into_iter().next())
    }

    /// The existing folders of keys that begin with `prefix`, which is empty or ends in a
    /// separator.
    pub(super) fn folders(&self, prefix: &str) -> io::Result<Vec<PathBuf>> {
        path::names(prefix).try_fold(vec![self.root.clone()], |folders, (name, end)| existing_paths(folders, name, end))
    }

    /// Where to create a key.
    pub(super) fn path_for_new_key(&self, key: &str) -> io::Result<PathBuf> {
        let (prefix, last) = path::split(key);
        let mut names = path::names(prefix).chain([(last.as_bytes(), End::Key)]);
        names.try_fold(self.root.clone(), |folder, (name, end)| self.path_for_new_name(folder, name, end))
    }

    fn path_for_new_name(&self, folder: PathBuf, name: &[u8], end: End) -> io::Result<PathBuf> {
        let mut levels = levels(folder, name)?;
        for level in &levels {
            if let Some(place) = level.path_of(end)
                && exists(&place, end)?
            {
                return Ok(place);
            }
        }
        let mut level = levels.swap_remove(levels.len() - 1);
        while let Some(bucket) = level.bucket() {
            // An entry that is not the store's own may occupy the place.
            if let Some(place) = level.path_of(end)
                && disk::metadata(&place)?.is_none()
                && self.has_room(&level.folder)?
            {
                return Ok(place);
            }
            level = bucket;
        }
        level.path_of(end).ok_or_else(|| io::Error::other("cannot find a path for the rest of a key"))
    }

    fn has_room(&self, folder: &Path) -> io::Result<bool> {
        let mut names = 0;
        for item in disk::entries(folder)? {
            // If the reading breaks off, the folder counts as emptier than it is, which does no
            // harm.
            let Some(item) = item? else { break };
            self.entries_read.fetch_add(1, Ordering::Relaxed);
            names += usize::from(matches!(path::part_of(&item), Some(KeyPart::Leaf(_) | KeyPart::Folder(..))));
            if names >= self.names_max {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The parts of keys in a folder. A missing folder has no parts. Entries that are not the
    /// store's own are left out.
    pub(super) fn read(&self, folder: &Path) -> io::Result<Vec<KeyPart>> {
        let items = disk::list(folder)?;
        self.entries_read.fetch_add(items.len() as u64, Ordering::Relaxed);
        Ok(items.iter().filter_map(path::part_of).collect())
    }

    /// Removes the empty folders above a file. A folder in use cannot be removed, and a writer that
    /// needs a removed folder makes it again.
    pub(super) fn prune(&self, file: &Path) {
        for folder in file.ancestors().skip(1).take_while(|folder| **folder != *self.root) {
            if disk::remove_folder(folder).is_err() {
                break;
            }
        }
    }
}

/// The existing places of a name in `folders` and their buckets.
fn existing_paths(folders: Vec<PathBuf>, name: &[u8], end: End) -> io::Result<Vec<PathBuf>> {
    let mut places = Vec::new();
    for folder in folders {
        for place in levels(folder, name)?.iter().filter_map(|level| level.path_of(end)) {
            if exists(&place, end)? {
                places.push(place);
            }
        }
    }
    Ok(places)
}

/// `folder` and its existing buckets for a name.
fn levels(folder: PathBuf, name: &[u8]) -> io::Result<Vec<Level<'_>>> {
    let mut level = Level { folder, rest: name };
    let mut levels = Vec::new();
    while let Some(bucket) = level.bucket()
        && exists(&bucket.folder, End::Separator('/'))?
    {
        levels.push(std::mem::replace(&mut level, bucket));
    }
    levels.push(level);
    Ok(levels)
}

/// Whether a name with this end exists. A folder in the place of a file, or a file in the place of
/// a folder, is not the store's own.
fn exists(path: &Path, end: End) -> io::Result<bool> {
    let found = disk::metadata(path)?;
    Ok(found.is_some_and(|found| if end == End::Key { found.is_file() } else { found.is_dir() }))
}
