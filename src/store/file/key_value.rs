//! Facts as files.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::listing;
use super::tree::{FOLDER_NAMES_MAX, Tree};
use super::{absent_is_none, create_folder, place_in_folder, sync_folder, unblock};
use crate::store::{Entry, Error, KeyValue, Platform, Result, Version, When};

/// A value's file begins with its version, a UUID, and a line feed.
const VERSION_BYTES: usize = 36;
/// How often a creator begins anew that met another one, and a deleter that found another file.
const RACE_TRIES_MAX: usize = 64;
/// How many files the locks of all keys are spread over.
const LOCK_FILES: u32 = 64;

/// Facts in a folder, a file each.
///
/// [`When::Absent`] is exact everywhere (a hard link is made or refused). [`When::Unchanged`] needs file locks, which WASI
/// has not: there it is refused as unsupported.
pub struct FileKeyValue {
    folder: Folder,
    platform: Arc<dyn Platform>,
}

/// The folder, in a form that work on other threads can take along.
#[derive(Clone)]
struct Folder {
    keys: Tree,
    tmp: PathBuf,
    /// `None` where there are no locks.
    locks: Option<PathBuf>,
}

impl FileKeyValue {
    /// Opens `folder`, or makes it.
    ///
    /// # Errors
    /// When the folder cannot be made or written to.
    pub fn open(folder: &Path, platform: Arc<dyn Platform>) -> io::Result<Self> {
        Self::open_with(folder, platform, FOLDER_NAMES_MAX, cfg!(not(target_family = "wasm")))
    }

    fn open_with(folder: &Path, platform: Arc<dyn Platform>, names_max: usize, locks: bool) -> io::Result<Self> {
        let this = Folder {
            keys: Tree::new(folder.join("keys"), names_max),
            tmp: folder.join("tmp"),
            locks: locks.then(|| folder.join("locks")),
        };
        create_folder(&this.keys.root)?;
        create_folder(&this.tmp)?;
        if let Some(locks) = &this.locks {
            create_folder(locks)?;
        }
        // Better to hear of a folder that cannot be written now than with the first push.
        let trial = this.tmp.join(platform.uuid());
        write_synced(&trial, &[])?;
        fs::remove_file(trial)?;
        Ok(Self { folder: this, platform })
    }

    /// How many entries of folders were read so far: what listings cost, and the creation of keys.
    pub fn entries_read(&self) -> u64 {
        self.folder.keys.entries_read()
    }
}

#[async_trait]
impl KeyValue for FileKeyValue {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let (folder, name) = (self.folder.clone(), key.to_owned());
        let Some(bytes) = unblock(move || folder.read(&name)).await? else { return Ok(None) };
        let bytes = Bytes::from(bytes);
        let version = bytes.get(..VERSION_BYTES).and_then(|version| std::str::from_utf8(version).ok());
        match version {
            Some(version) if bytes.get(VERSION_BYTES) == Some(&b'\n') => {
                let version = Version(version.to_owned());
                Ok(Some(Entry { value: bytes.slice(VERSION_BYTES + 1..), version }))
            }
            _ => Err(Error::Corrupt(format!("the file of key {key} has no version"))),
        }
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        let (folder, key, version) = (self.folder.clone(), key.to_owned(), self.platform.uuid());
        unblock(move || {
            folder.put(&key, &value, &version, when)?;
            Ok(folder.locks.is_some().then_some(Version(version)))
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let (folder, key) = (self.folder.clone(), key.to_owned());
        unblock(move || folder.delete(&key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let keys = self.folder.keys.clone();
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        unblock(move || {
            // A folder that is gone says nothing about what was in it.
            fs::metadata(&keys.root)?;
            Ok(listing::list(&keys, &prefix, after.as_deref(), limit)?)
        })
        .await
    }
}

impl Folder {
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        // Most keys lie there, and then nothing else is looked at.
        if let Some(first) = self.keys.first_place(key)
            && let Some(bytes) = absent_is_none(fs::read(first))?
        {
            return Ok(Some(bytes));
        }
        for file in self.keys.files(key)? {
            if let Some(bytes) = absent_is_none(fs::read(file))? {
                return Ok(Some(bytes));
            }
        }
        // A folder that is gone says nothing about what was in it.
        fs::metadata(&self.keys.root)?;
        Ok(None)
    }

    fn put(&self, key: &str, value: &[u8], version: &str, when: When) -> Result<()> {
        let tmp = self.tmp.join(version);
        let result = write_synced(&tmp, &[version.as_bytes(), b"\n", value])
            .map_err(Error::from)
            .and_then(|()| self.put_file(key, &tmp, when));
        if result.is_err() {
            // Best effort: a file left here is garbage and nothing more.
            let _ = fs::remove_file(&tmp);
        }
        result
    }

    fn put_file(&self, key: &str, tmp: &Path, when: When) -> Result<()> {
        let lock = self.lock(key)?;
        match when {
            When::Absent => self.create(key, tmp)?,
            When::Always => {
                let target = match self.keys.files(key)?.into_iter().next() {
                    Some(file) => file,
                    None => self.keys.place_for(key)?,
                };
                place_in_folder(&target, |target| fs::rename(tmp, target))?;
            }
            When::Unchanged(_) if lock.is_none() => return Err(Error::Unsupported("WASI has no file locks")),
            When::Unchanged(expected) => {
                let conflict = || Error::Conflict(key.to_owned());
                let target = self.keys.files(key)?.into_iter().next().ok_or_else(conflict)?;
                let current = absent_is_none(fs::read(&target))?;
                if current.is_none_or(|current| !current.starts_with(expected.0.as_bytes())) {
                    return Err(conflict());
                }
                place_in_folder(&target, |target| fs::rename(tmp, target))?;
            }
        }
        Ok(())
    }

    /// Makes `tmp` the key's file if it has none. A hard link alone would be exact but for buckets: another creator may
    /// have found a folder differently full. So each looks around after it has linked, and of two the later one sees the
    /// other. Who sees another takes its own link back and begins anew; the last one to look has none to yield to.
    fn create(&self, key: &str, tmp: &Path) -> Result<()> {
        for _ in 0..RACE_TRIES_MAX {
            if !self.keys.files(key)?.is_empty() {
                return Err(Error::Conflict(key.to_owned()));
            }
            let target = self.keys.place_for(key)?;
            match place_in_folder(&target, |target| fs::hard_link(tmp, target)) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(Error::Conflict(key.to_owned())),
                Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                    return Err(Error::Unsupported("this file system has no hard links"));
                }
                result => result?,
            }
            if self.keys.files(key)?.iter().all(|file| *file == target) {
                fs::remove_file(tmp)?;
                return Ok(());
            }
            self.take_back(&target, tmp)?;
        }
        Err(Error::Unavailable(format!("too many create {key} at the same time")))
    }

    /// Removes the link to `tmp`, but not what another writer has put in its place since.
    fn take_back(&self, target: &Path, tmp: &Path) -> Result<()> {
        let taken = tmp.with_extension("back");
        if absent_is_none(fs::rename(target, &taken))?.is_some() {
            if fs::read(&taken)? != fs::read(tmp)? {
                match place_in_folder(target, |target| fs::hard_link(&taken, target)) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    result => result?,
                }
            }
            fs::remove_file(&taken)?;
        }
        self.keys.prune(target);
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<()> {
        let _lock = self.lock(key)?;
        for _ in 0..RACE_TRIES_MAX {
            // Until there is none: one that was created after we looked must not show when the one before it is gone.
            let files = self.keys.files(key)?;
            if files.is_empty() {
                return Ok(());
            }
            // The last one first: the first one is what counts.
            for file in files.iter().rev() {
                absent_is_none(fs::remove_file(file))?;
                // Somebody else may have removed the folder already, which took the name with it.
                absent_is_none(file.parent().map_or(Ok(()), sync_folder))?;
                self.keys.prune(file);
            }
        }
        Err(Error::Unavailable(format!("{key} is written faster than it can be deleted")))
    }

    /// Locks a key's writers out, in this process and others, until the answer is dropped. The kernel gives
    /// the lock back when a process dies.
    fn lock(&self, key: &str) -> io::Result<Option<File>> {
        let Some(locks) = &self.locks else { return Ok(None) };
        let hash = key.bytes().fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let lock = File::options().create(true).append(true).open(locks.join(format!("{:02}", hash % LOCK_FILES)))?;
        lock.lock()?;
        Ok(Some(lock))
    }
}

fn write_synced(file: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = File::create(file)?;
    file.write_all(&parts.concat())?;
    file.sync_all()
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests;
