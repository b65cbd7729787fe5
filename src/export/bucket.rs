//! The part of a bucket that an export writes. An object appears under its name only when it is
//! complete: S3 makes objects as a whole.
//!
//! The folders that are in use are listed once, 1,000 names in a request, so that a second export
//! asks nothing about single objects.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use md5::{Digest as _, Md5};

use super::error::{Error, Result};
use super::limits::{FOLDERS_LISTED_MAX, NAMES_MAX, limit};
use super::summary::Summary;
use super::target::{Content, CopyError, MARK, MARK_BYTES_MAX, Target};
use crate::oci::Digest;
use crate::platform::Body;
use crate::store;
use crate::store::s3::{FillError, Head, Listed, S3Tree};

/// The names in a folder. An object and a folder may have the same name; `true` marks the folder.
type Names = BTreeMap<(String, bool), Listed>;

/// The target in a bucket.
pub(super) struct Bucket {
    tree: S3Tree,
    dry_run: bool,
    /// The folders that were listed, with what this export has changed since.
    folders: Mutex<HashMap<String, Names>>,
    /// The path of each content that the bucket has: repositories do not share objects, so further
    /// ones are copied from there.
    held: Mutex<HashMap<Digest, String>>,
}

impl Bucket {
    /// Opens the part of a bucket for an export of this kind.
    ///
    /// # Errors
    /// When other objects are there, or an export of another kind, or the bucket cannot be used.
    pub(super) async fn open(tree: S3Tree, kind: &str, dry_run: bool) -> Result<Self> {
        let this = Self { tree, dry_run, folders: Mutex::default(), held: Mutex::default() };
        match this.tree.get(MARK).await.map_err(this.failed("read", MARK))? {
            Some(mark) => {
                let own = String::from_utf8_lossy(&mark[..mark.len().min(MARK_BYTES_MAX)]).trim_end().to_owned();
                if own != kind {
                    return Err(Error::OtherKind { place: this.tree.address(), kind: own });
                }
            }
            None => {
                if !this.tree.list("", 1).await.map_err(this.failed("list", ""))?.is_empty() {
                    return Err(Error::NotAnExport(this.tree.address()));
                }
                if !dry_run {
                    let mark = Bytes::from(format!("{kind}\n"));
                    let put = this.tree.put(MARK, &Head::of("text/plain"), vec![mark]).await;
                    put.map_err(this.failed("write", MARK))?;
                }
            }
        }
        Ok(this)
    }

    fn failed(&self, action: &'static str, path: &str) -> impl FnOnce(store::Error) -> Error {
        let name = format!("{}{path}", self.tree.address());
        move |source| Error::Bucket { action, name, source }
    }

    fn folders(&self) -> MutexGuard<'_, HashMap<String, Names>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Digest, String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a folder that is not listed yet.
    async fn look_into(&self, folder: &str) -> Result<()> {
        if self.folders().contains_key(folder) {
            return Ok(());
        }
        let listed = self.tree.list(folder, NAMES_MAX).await.map_err(self.failed("list", folder))?;
        limit(listed.len(), "the names", folder)?;
        let names = listed.into_iter().map(|(name, listed)| ((name, listed == Listed::Folder), listed)).collect();
        let mut folders = self.folders();
        if folders.len() >= FOLDERS_LISTED_MAX {
            folders.clear();
        }
        folders.insert(folder.to_owned(), names);
        Ok(())
    }

    /// What the bucket has at a path.
    async fn listed(&self, path: &str) -> Result<Option<Listed>> {
        let (folder, name) = split(path);
        self.look_into(folder).await?;
        Ok(self.folders().get(folder).and_then(|names| names.get(&(name.to_owned(), false)).cloned()))
    }

    /// Writes down what this export has made at a path, or that the object is gone.
    fn note(&self, path: &str, listed: Option<Listed>) {
        let (folder, name) = split(path);
        if let Some(names) = self.folders().get_mut(folder) {
            match listed {
                Some(listed) => drop(names.insert((name.to_owned(), false), listed)),
                None => drop(names.remove(&(name.to_owned(), false))),
            }
        }
    }

    fn hold(&self, digest: &Digest, path: &str) -> Result<()> {
        let mut held = self.held();
        held.entry(digest.clone()).or_insert_with(|| path.to_owned());
        limit(held.len(), "the blobs", "all repositories")
    }

    /// Whether an object has these bytes. The ETag of an object that is encrypted with a key of a
    /// key service is no MD5 hash: such an object is read.
    async fn is_equal(&self, path: &str, bytes: &[u8], etag: &str) -> Result<bool> {
        let own = if path.ends_with('/') {
            // The list of a folder does not have the object that is named as the folder. Some
            // servers tell a wrong size of such an object.
            self.tree.find(path).await.map_err(self.failed("look at", path))?.map(|found| found.etag)
        } else {
            match self.listed(path).await? {
                Some(Listed::Object { bytes: Some(size), etag }) if size == bytes.len() as u64 => Some(etag),
                _ => None,
            }
        };
        match own {
            None => return Ok(false),
            Some(own) if own.as_deref() == Some(etag) => return Ok(true),
            Some(_) => {}
        }
        Ok(self.tree.get(path).await.map_err(self.failed("read", path))?.is_some_and(|own| own == bytes))
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[async_trait]
impl Target for Bucket {
    fn is_dry(&self) -> bool {
        self.dry_run
    }

    async fn has(&self, path: &str, digest: &Digest, size: u64) -> Result<bool> {
        let listed = self.listed(path).await?;
        let has = matches!(listed, Some(Listed::Object { bytes: Some(bytes), .. }) if bytes == size);
        if has {
            self.hold(digest, path)?;
        }
        Ok(has)
    }

    async fn put(&self, path: &str, head: &Head<'_>, parts: &[&[u8]], summary: &mut Summary) -> Result<()> {
        let bytes = Bytes::from(parts.concat());
        let etag = hex::encode(Md5::digest(&bytes));
        if self.is_equal(path, &bytes, &etag).await? {
            return Ok(());
        }
        summary.files_written += 1;
        summary.bytes_written += bytes.len() as u64;
        if self.dry_run {
            return Ok(());
        }
        let size = bytes.len() as u64;
        self.tree.put(path, head, vec![bytes]).await.map_err(self.failed("write", path))?;
        self.note(path, Some(Listed::Object { bytes: Some(size), etag: Some(etag) }));
        Ok(())
    }

    async fn adopt(&self, path: &str, head: &Head<'_>, content: &Content<'_>, summary: &mut Summary) -> Result<bool> {
        let held = self.held().get(content.digest).map(|held| self.tree.object(held));
        for from in content.object.clone().into_iter().chain(held) {
            let is_copied = match self.dry_run {
                true => self.tree.reaches(&from),
                false => {
                    let copied = self.tree.copy(path, head, &from, content.size).await;
                    copied.map_err(self.failed("write", path))?
                }
            };
            if is_copied {
                summary.files_written += 1;
                summary.blobs_copied += 1;
                self.note(path, Some(Listed::Object { bytes: Some(content.size), etag: None }));
                self.hold(content.digest, path)?;
                return Ok(true);
            }
        }
        if self.dry_run {
            self.hold(content.digest, path)?;
        }
        Ok(false)
    }

    async fn fill(
        &self,
        path: &str,
        head: &Head<'_>,
        body: Body,
        digest: &Digest,
        summary: &mut Summary,
    ) -> Result<bool, CopyError> {
        let size = body.length();
        match self.tree.fill(path, head, body, digest).await {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(FillError::Source(error)) => return Err(CopyError::Source(error.into())),
            Err(FillError::Target(error)) => return Err(CopyError::Target(self.failed("write", path)(error))),
        }
        summary.files_written += 1;
        summary.bytes_written += size.unwrap_or_default();
        self.note(path, Some(Listed::Object { bytes: size, etag: None }));
        self.hold(digest, path).map_err(CopyError::Target)?;
        Ok(true)
    }

    async fn link(&self, path: &str, _: &str, _: &mut Summary) -> Result<()> {
        Err(self.failed("make a link at", path)(store::Error::unavailable("a bucket has no links")))
    }

    async fn remove(&self, path: &str, summary: &mut Summary) -> Result<()> {
        summary.files_removed += 1;
        if self.dry_run {
            return Ok(());
        }
        self.tree.remove(path).await.map_err(self.failed("remove", path))?;
        self.note(path, None);
        Ok(())
    }

    async fn names(&self, path: &str) -> Result<Vec<(String, bool)>> {
        self.look_into(path).await?;
        Ok(self.folders().get(path).map(|names| names.keys().cloned().collect()).unwrap_or_default())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
