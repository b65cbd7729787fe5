//! Facts as files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::path::{self, Part};
use super::{absent_is_none, create_folder, place_in_folder, sync_folder, unblock};
use crate::store::{Entry, Error, KeyValue, Platform, Result, Version, When};

/// A value's file begins with its version, a UUID, and a line feed.
const VERSION_BYTES: usize = 36;
/// How many names of one folder are held in memory at once while it is listed.
const NAMES_HELD_MAX: usize = 4096;
/// How often the reading of a folder is begun anew when it breaks off because others remove entries.
const LISTING_TRIES_MAX: usize = 100;
/// How many files the locks of all keys are spread over.
#[cfg(not(target_family = "wasm"))]
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
    keys: PathBuf,
    tmp: PathBuf,
    #[cfg(not(target_family = "wasm"))]
    locks: PathBuf,
}

impl FileKeyValue {
    /// Opens `folder`, or makes it.
    ///
    /// # Errors
    /// When the folder cannot be made or written to.
    pub fn open(folder: &Path, platform: Arc<dyn Platform>) -> io::Result<Self> {
        let this = Folder {
            keys: folder.join("keys"),
            tmp: folder.join("tmp"),
            #[cfg(not(target_family = "wasm"))]
            locks: folder.join("locks"),
        };
        create_folder(&this.keys)?;
        create_folder(&this.tmp)?;
        #[cfg(not(target_family = "wasm"))]
        create_folder(&this.locks)?;
        // Better to hear of a folder that cannot be written now than with the first push.
        let trial = this.tmp.join(platform.uuid());
        write_synced(&trial, &[])?;
        fs::remove_file(trial)?;
        Ok(Self { folder: this, platform })
    }
}

#[async_trait]
impl KeyValue for FileKeyValue {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let file = path::file_of(&self.folder.keys, key);
        let keys = self.folder.keys.clone();
        let read = move || match absent_is_none(fs::read(file))? {
            // A folder that is gone says nothing about what was in it.
            None => fs::metadata(keys).map(|_| None),
            read => Ok(read),
        };
        let Some(bytes) = unblock(read).await? else { return Ok(None) };
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

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<()> {
        let (folder, key, version) = (self.folder.clone(), key.to_owned(), self.platform.uuid());
        unblock(move || folder.put(&key, &value, &version, when)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let (folder, key) = (self.folder.clone(), key.to_owned());
        unblock(move || folder.delete(&key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let keys = self.folder.keys.clone();
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        unblock(move || {
            let mut listing = Listing { prefix: &prefix, after: after.as_deref(), limit, found: Vec::new() };
            fs::metadata(&keys)?;
            let (base, _) = path::split(&prefix);
            listing.walk(&path::folder_of(&keys, base), base)?;
            Ok(listing.found)
        })
        .await
    }
}

impl Folder {
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
        let target = path::file_of(&self.keys, key);
        match when {
            When::Absent => {
                match place_in_folder(&target, |target| fs::hard_link(tmp, target)) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        return Err(Error::Conflict(key.to_owned()));
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                        return Err(Error::Unsupported("this file system has no hard links"));
                    }
                    result => result?,
                }
                fs::remove_file(tmp)?;
            }
            When::Always => {
                let _lock = self.lock(key)?;
                place_in_folder(&target, |target| fs::rename(tmp, target))?;
            }
            When::Unchanged(expected) => {
                let Some(_lock) = self.lock(key)? else {
                    return Err(Error::Unsupported("WASI has no file locks"));
                };
                let current = absent_is_none(fs::read(&target))?;
                if current.is_none_or(|current| !current.starts_with(expected.0.as_bytes())) {
                    return Err(Error::Conflict(key.to_owned()));
                }
                place_in_folder(&target, |target| fs::rename(tmp, target))?;
            }
        }
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<()> {
        let target = path::file_of(&self.keys, key);
        let _lock = self.lock(key)?;
        if absent_is_none(fs::remove_file(&target))?.is_none() {
            return Ok(());
        }
        let mut folder = target.parent();
        if let Some(parent) = folder {
            // Somebody else may have removed the folder already, which took the name with it.
            absent_is_none(sync_folder(parent))?;
        }
        // Empty folders are removed for as far up as there are any; one that is in use refuses.
        while let Some(empty) = folder.filter(|folder| **folder != *self.keys) {
            if fs::remove_dir(empty).is_err() {
                break;
            }
            folder = empty.parent();
        }
        Ok(())
    }

    /// Locks a key's writers out, in this process and others, until the answer is dropped. The kernel gives
    /// the lock back when a process dies.
    #[cfg(not(target_family = "wasm"))]
    fn lock(&self, key: &str) -> io::Result<Option<File>> {
        let hash = key.bytes().fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let file = self.locks.join(format!("{:02}", hash % LOCK_FILES));
        let lock = File::options().create(true).append(true).open(file)?;
        lock.lock()?;
        Ok(Some(lock))
    }

    #[cfg(target_family = "wasm")]
    #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "natively it can fail and uses both")]
    fn lock(&self, _key: &str) -> io::Result<Option<File>> {
        Ok(None)
    }
}

fn write_synced(file: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = File::create(file)?;
    file.write_all(&parts.concat())?;
    file.sync_all()
}

/// A walk through the folders in the keys' byte order.
struct Listing<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    found: Vec<String>,
}

/// What a folder's entry leads to.
enum Lead {
    Key,
    Folder(PathBuf),
}

impl Listing<'_> {
    /// Walks `folder`, whose keys all begin with `base`.
    fn walk(&mut self, folder: &Path, base: &str) -> io::Result<()> {
        let mut passed: Option<String> = None;
        loop {
            let leads = self.leads(folder, base, passed.as_deref())?;
            let all_held = leads.len() < NAMES_HELD_MAX;
            for (key, lead) in leads {
                if self.found.len() == self.limit {
                    return Ok(());
                }
                passed = Some(key.clone());
                match lead {
                    Lead::Key => self.found.push(key),
                    Lead::Folder(folder) => self.walk(&folder, &key)?,
                }
            }
            if all_held {
                return Ok(());
            }
        }
    }

    /// The first leads of a folder behind `passed`, in order; a full map means that there may be more.
    fn leads(&self, folder: &Path, base: &str, passed: Option<&str>) -> io::Result<BTreeMap<String, Lead>> {
        for _ in 0..LISTING_TRIES_MAX {
            if let Some(leads) = self.try_leads(folder, base, passed)? {
                return Ok(leads);
            }
        }
        Err(io::Error::other(format!("{} changes faster than it can be read", folder.display())))
    }

    /// `None` when the reading broke off: under WASI it does where an entry is removed meanwhile, and those behind it would be
    /// missing from the list.
    fn try_leads(&self, folder: &Path, base: &str, passed: Option<&str>) -> io::Result<Option<BTreeMap<String, Lead>>> {
        let mut leads = BTreeMap::new();
        let mut add = |key: String, lead: Lead| {
            let wanted = match &lead {
                Lead::Key => self.wants_key(&key),
                Lead::Folder(_) => self.wants_folder(&key),
            };
            if wanted && passed.is_none_or(|passed| key.as_str() > passed) {
                leads.insert(key, lead);
                if leads.len() > NAMES_HELD_MAX {
                    leads.pop_last();
                }
            }
        };
        let Some(entries) = absent_is_none(fs::read_dir(folder))? else { return Ok(Some(leads)) };
        for entry in entries {
            let Some(entry) = absent_is_none(entry)? else { return Ok(None) };
            let Some(kind) = absent_is_none(entry.file_type())? else { continue };
            let name = entry.file_name();
            match name.to_str().and_then(|name| path::part_of(name, kind.is_dir())) {
                Some(Part::Leaf(name)) => add(format!("{base}{name}"), Lead::Key),
                Some(Part::Folder(name)) => {
                    for (separator, below) in path::below(folder, &name) {
                        add(format!("{base}{name}{separator}"), Lead::Folder(below));
                    }
                }
                None => {}
            }
        }
        Ok(Some(leads))
    }

    fn wants_key(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && self.after.is_none_or(|after| key > after)
    }

    /// Whether a key that begins with `base` can be wanted.
    fn wants_folder(&self, base: &str) -> bool {
        (base.starts_with(self.prefix) || self.prefix.starts_with(base))
            && self.after.is_none_or(|after| after < base || after.starts_with(base))
    }
}
