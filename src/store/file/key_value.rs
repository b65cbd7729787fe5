//! Facts as files.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::disk::absent_is_none;
use super::names::create_name;
use super::reserve::{self, Reserve};
use super::tidy::{self, Area};
use super::tree::{FOLDER_NAMES_MAX, Tree};
use super::{disk, in_turn, list_in_turn, listing, open_folder, read_at_once};
use crate::platform::Platform;
use crate::store::{Entry, Error, KeyValue, Result, Tidied, TidyRequest, Version, When};

/// A value's file begins with its version, a UUID, and a line feed.
const VERSION_BYTES: usize = 36;
/// How often a creator starts again after meeting another creator, and a deleter after finding
/// another file.
const RACE_TRIES_MAX: usize = 64;
/// How many lock files the keys share.
const LOCK_FILES: u32 = 64;
/// How often a value is written again when the collector has removed the value's file as a leftover
/// of a killed writer.
const WRITE_TRIES_MAX: usize = 3;

/// Facts in a folder, with one file for each fact.
///
/// [`When::Absent`] is exact everywhere (a hard link is made or refused). [`When::Unchanged`] and
/// [`KeyValue::delete_unchanged`] need file locks. WASI has no file locks, so this store refuses
/// both there as unsupported.
pub struct FileKeyValue {
    folder: Folder,
    platform: Arc<dyn Platform>,
}

/// The folder, in a form that can be moved to other threads.
#[derive(Clone)]
struct Folder {
    root: PathBuf,
    keys: Tree,
    tmp: PathBuf,
    reserve: Reserve,
    /// `None` where the host has no file locks.
    locks: Option<PathBuf>,
}

impl FileKeyValue {
    /// Opens `folder`, or makes the folder if it is missing. A folder that cannot be written is
    /// opened for reading.
    ///
    /// # Errors
    /// When the folder cannot be made or read, holds other data, or was written by a newer version.
    pub fn open(folder: &Path, platform: Arc<dyn Platform>) -> io::Result<Self> {
        Self::open_with(folder, platform, FOLDER_NAMES_MAX, cfg!(not(target_family = "wasm")))
    }

    pub(super) fn open_with(
        folder: &Path,
        platform: Arc<dyn Platform>,
        names_max: usize,
        locks: bool,
    ) -> io::Result<Self> {
        let this = Folder {
            root: folder.to_owned(),
            keys: Tree::new(folder.join("keys"), names_max),
            tmp: folder.join("tmp"),
            reserve: Reserve::new(folder),
            locks: locks.then(|| folder.join("locks")),
        };
        let beside: Vec<&Path> = [Some(&this.tmp), this.locks.as_ref()].into_iter().flatten().map(|p| &**p).collect();
        open_folder(folder, &this.keys.root, &beside)?;
        // A trial write warns the operator of a read-only folder at the start, before the first
        // push. Components are opened with each request, so in a component the first push reports
        // the error.
        #[cfg(not(target_family = "wasm"))]
        {
            let trial = this.tmp.join(platform.uuid());
            if let Err(error) = disk::write(&trial, &[]).and_then(|_| disk::remove_file(&trial)) {
                tracing::warn!("{} can only be read, so pushes will be refused: {error}", folder.display());
            }
        }
        Ok(Self { folder: this, platform })
    }

    /// How many entries of folders were read so far: the cost of listings and of creating keys.
    pub fn entries_read(&self) -> u64 {
        self.folder.keys.entries_read()
    }
}

#[async_trait]
impl KeyValue for FileKeyValue {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let (folder, name) = (self.folder.clone(), key.to_owned());
        let Some(bytes) = read_at_once(move || folder.read(&name)).await? else { return Ok(None) };
        let bytes = Bytes::from(bytes);
        let version = bytes.get(..VERSION_BYTES).and_then(|version| std::str::from_utf8(version).ok());
        match version {
            Some(version) if bytes.get(VERSION_BYTES) == Some(&b'\n') => {
                let version = Version(version.to_owned());
                Ok(Some(Entry { value: bytes.slice(VERSION_BYTES + 1..), version }))
            }
            _ => Err(Error::corrupt(format!("the file of key {key} does not begin with a version"))),
        }
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        let (folder, key, version) = (self.folder.clone(), key.to_owned(), self.platform.uuid());
        in_turn(move || {
            folder.put(&key, &value, &version, when)?;
            Ok(folder.locks.is_some().then_some(Version(version)))
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let (folder, key) = (self.folder.clone(), key.to_owned());
        in_turn(move || folder.delete(&key, None)).await
    }

    async fn delete_unchanged(&self, key: &str, version: &Version) -> Result<()> {
        let (folder, key, version) = (self.folder.clone(), key.to_owned(), version.clone());
        in_turn(move || folder.delete(&key, Some(&version))).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let keys = self.folder.keys.clone();
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        list_in_turn(move || {
            keys.must_be_there()?;
            Ok(listing::list(&keys, &prefix, after.as_deref(), limit)?)
        })
        .await
    }

    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied> {
        let (folder, request) = (self.folder.root.clone(), request.clone());
        in_turn(move || Ok(tidy::tidy(&folder, &[Area::Keys, Area::Locks, Area::Reserve, Area::Tmp], &request)?)).await
    }

    fn for_upkeep(&self) -> Option<Arc<dyn KeyValue>> {
        let folder = Folder { reserve: self.folder.reserve.for_upkeep(), ..self.folder.clone() };
        Some(Arc::new(Self { folder, platform: self.platform.clone() }))
    }
}

impl Folder {
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        // Most keys lie at their first place, so most lookups end here.
        if let Some(first) = self.keys.path_without_buckets(key)
            && let Some(bytes) = disk::read(&first)?
        {
            return Ok(Some(bytes));
        }
        for file in self.keys.files(key)? {
            if let Some(bytes) = disk::read(&file)? {
                return Ok(Some(bytes));
            }
        }
        self.keys.must_be_there()?;
        Ok(None)
    }

    fn put(&self, key: &str, value: &[u8], version: &str, when: When) -> Result<()> {
        let write = || self.try_put(key, value, version, when.clone());
        self.reserve.write(write, |error| matches!(error, Error::Full(_)))
    }

    fn try_put(&self, key: &str, value: &[u8], version: &str, when: When) -> Result<()> {
        let tmp = self.tmp.join(version);
        let parts = [version.as_bytes(), b"\n", value];
        let mut tries = 1..WRITE_TRIES_MAX;
        loop {
            let written = write_synced(&tmp, &parts).map_err(Error::from);
            let result = written.and_then(|()| self.put_file(key, &tmp, when.clone()));
            if result.is_err() {
                let vanished = matches!(result, Err(Error::Unavailable(_))) && disk::metadata(&tmp)?.is_none();
                if vanished && tries.next().is_some() {
                    continue;
                }
                // Best effort: the collector removes a file that is left here.
                let _ = disk::remove_file(&tmp);
            }
            return result;
        }
    }

    fn put_file(&self, key: &str, tmp: &Path, when: When) -> Result<()> {
        let lock = self.lock(key)?;
        match when {
            When::Absent => self.create(key, tmp)?,
            When::Always => {
                let target = match self.keys.first_file(key)? {
                    Some(file) => file,
                    None => self.keys.path_for_new_key(key)?,
                };
                create_name(&self.root, &target, |target| disk::rename(tmp, target))?;
            }
            When::Unchanged(expected) => {
                let target = self.unchanged_file(key, &expected, lock.as_ref())?;
                create_name(&self.root, &target, |target| disk::rename(tmp, target))?;
            }
        }
        Ok(())
    }

    /// Makes `tmp` the key's file if the key has no file. A hard link alone is not exact because of
    /// buckets: another creator may have found the folder differently full and chosen another
    /// place. So each creator looks for other files of the key after linking, and of two creators
    /// at least the later one sees the other's file. A creator that sees another file removes the
    /// link that it made and starts again. The last creator to look sees no other file and wins.
    fn create(&self, key: &str, tmp: &Path) -> Result<()> {
        for _ in 0..RACE_TRIES_MAX {
            if !self.keys.files(key)?.is_empty() {
                return Err(Error::condition_failed(key));
            }
            let target = self.keys.path_for_new_key(key)?;
            match create_name(&self.root, &target, |target| disk::hard_link(tmp, target)) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(Error::condition_failed(key)),
                Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                    return Err(Error::unsupported("the file system of the data folder makes no hard links"));
                }
                result => result?,
            }
            if self.keys.files(key)?.iter().all(|file| *file == target) {
                // The value is stored: a second name that stays in `tmp` does no harm.
                let _ = disk::remove_file(tmp);
                return Ok(());
            }
            self.take_back(&target, tmp)?;
        }
        Err(Error::unavailable(format!("cannot create key {key}: too many requests create it at the same time")))
    }

    /// Removes the link to `tmp`, but keeps a file that another writer has put at `target`
    /// meanwhile.
    fn take_back(&self, target: &Path, tmp: &Path) -> Result<()> {
        let taken = tmp.with_extension("back");
        if absent_is_none(disk::rename(target, &taken))?.is_some() {
            if disk::read(&taken)? != disk::read(tmp)? {
                match create_name(&self.root, target, |target| disk::hard_link(&taken, target)) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    result => result?,
                }
            }
            disk::remove_file(&taken)?;
        }
        self.keys.prune(target);
        Ok(())
    }

    /// The file of the key's value, if the value has the version `expected`. Only the key's lock
    /// keeps the result valid until the caller has used it.
    fn unchanged_file(&self, key: &str, expected: &Version, lock: Option<&File>) -> Result<PathBuf> {
        if lock.is_none() {
            return Err(Error::unsupported("cannot compare versions: WASI has no file locks"));
        }
        let conflict = || Error::condition_failed(key);
        let file = self.keys.first_file(key)?.ok_or_else(conflict)?;
        let current = disk::read(&file)?;
        if current.is_none_or(|current| !current.starts_with(expected.0.as_bytes())) {
            return Err(conflict());
        }
        Ok(file)
    }

    /// Removes the key's files. With `expected`, removes them only if the value has that version.
    fn delete(&self, key: &str, expected: Option<&Version>) -> Result<()> {
        // On a full disk the lock file may need a little space. The reserve may be used, because a
        // deletion frees space.
        let lock = self.reserve.for_upkeep().write(|| self.lock(key), reserve::is_full)?;
        if let Some(expected) = expected {
            self.unchanged_file(key, expected, lock.as_ref())?;
        }
        for _ in 0..RACE_TRIES_MAX {
            // The loop ends when no file is left: a file created after the look must not become
            // visible when the file before it is gone.
            let files = self.keys.files(key)?;
            if files.is_empty() {
                return Ok(());
            }
            // The first file holds the valid value, so it is removed last.
            for file in files.iter().rev() {
                disk::remove_file(file)?;
                // A missing folder is no error: another process removed the folder, and the name
                // with it.
                absent_is_none(file.parent().map_or(Ok(()), disk::sync_folder))?;
                self.keys.prune(file);
            }
        }
        Err(Error::unavailable(format!("cannot delete key {key}: other requests write it too fast")))
    }

    /// Locks out other writers of the key, in this process and others, until the returned file is
    /// dropped. The kernel releases the lock when a process dies.
    fn lock(&self, key: &str) -> io::Result<Option<File>> {
        let Some(locks) = &self.locks else { return Ok(None) };
        let hash = key.bytes().fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let file = locks.join(format!("{:02}", hash % LOCK_FILES));
        let lock = disk::open_or_create(&file)?;
        lock.lock()?;
        Ok(Some(lock))
    }
}

fn write_synced(file: &Path, parts: &[&[u8]]) -> io::Result<()> {
    disk::sync(&disk::write(file, parts)?, file)
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests;
