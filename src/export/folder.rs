//! The folder that an export writes. A file appears under its name only when it is complete, so that
//! a reader, or the next export after the end of this process, never sees half a file.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::error::{Error, Result};
use super::summary::Summary;
use super::target::{Content, CopyError, MARK, MARK_BYTES_MAX, Target};
use crate::oci::{Digest, Hasher};
use crate::platform::Body;
use crate::store::s3::Head;

/// The folder of files that are not complete yet.
const INCOMING: &str = "incoming";

/// The target folder. An export holds a lock on the mark while it runs.
pub(super) struct Folder {
    root: PathBuf,
    dry_run: bool,
    /// Whether content is taken by hard links where the file systems allow links.
    links: bool,
    /// Holds the lock.
    _mark: Option<File>,
}

impl Folder {
    /// Opens the folder of an export of this kind, or makes the folder.
    ///
    /// # Errors
    /// When the folder holds something else than an export of this kind, another export is writing
    /// there, or the folder cannot be made or written.
    pub(super) fn open(root: &Path, kind: &str, dry_run: bool, links: bool) -> Result<Self> {
        let failed = |error| Error::folder("use", root, error);
        let mark = root.join(MARK);
        match File::open(&mark) {
            Ok(file) => {
                let mut own = String::new();
                file.take(MARK_BYTES_MAX as u64).read_to_string(&mut own).map_err(failed)?;
                if own.trim_end() != kind {
                    return Err(Error::OtherKind {
                        place: root.display().to_string(),
                        kind: own.trim_end().to_owned(),
                    });
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let is_empty = match fs::read_dir(root) {
                    Ok(mut entries) => entries.next().is_none(),
                    Err(error) if error.kind() == ErrorKind::NotFound => true,
                    Err(error) => return Err(failed(error)),
                };
                if !is_empty {
                    return Err(Error::NotAnExport(root.display().to_string()));
                }
            }
            Err(error) => return Err(failed(error)),
        }
        if dry_run {
            return Ok(Self { root: root.to_owned(), dry_run, links, _mark: None });
        }
        fs::create_dir_all(root).map_err(failed)?;
        let mut file = File::options().create(true).append(true).open(&mark).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked(root.to_owned())),
            // Some network file systems have no locks. Two exports at once then risk only their
            // own files in `incoming`.
            Err(TryLockError::Error(_)) => {}
        }
        if file.metadata().map_err(failed)?.len() == 0 {
            writeln!(file, "{kind}").map_err(failed)?;
        }
        let incoming = root.join(INCOMING);
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        Ok(Self { root: root.to_owned(), dry_run, links, _mark: Some(file) })
    }

    /// A new file for bytes that come in. One export writes one file at a time.
    fn incoming(&self) -> Result<(PathBuf, File)> {
        let path = self.root.join(INCOMING).join("file");
        let failed = |error| Error::folder("write", &path, error);
        fs::create_dir_all(self.root.join(INCOMING)).map_err(failed)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let file = File::options().write(true).create_new(true).open(&path).map_err(failed)?;
        Ok((path, file))
    }

    fn place(&self, incoming: &Path, target: &Path) -> Result<()> {
        let failed = |error| Error::folder("write", target, error);
        match fs::rename(incoming, target) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(target.parent().unwrap_or(&self.root)).map_err(failed)?;
                fs::rename(incoming, target).map_err(failed)
            }
            renamed => renamed.map_err(failed),
        }
    }

    /// Whether a file of this size exists. Files of content never change, so that the size tells
    /// whether the content is there.
    fn has_file(&self, path: &str, size: u64) -> bool {
        fs::metadata(self.root.join(path)).is_ok_and(|file| file.is_file() && file.len() == size)
    }

    /// Makes a hard link to a file of a data folder. Returns whether the file systems allow the
    /// link.
    fn hard_link(&self, path: &str, from: &Path, size: u64) -> Result<bool> {
        let target = self.root.join(path);
        let (incoming, _) = self.incoming()?;
        let failed = |error| Error::folder("link", &target, error);
        fs::remove_file(&incoming).map_err(failed)?;
        if fs::hard_link(from, &incoming).is_err() {
            return Ok(false);
        }
        if fs::metadata(&incoming).map_err(failed)?.len() != size {
            fs::remove_file(&incoming).map_err(failed)?;
            return Ok(false);
        }
        self.place(&incoming, &target)?;
        Ok(true)
    }
}

#[async_trait]
impl Target for Folder {
    fn is_dry(&self) -> bool {
        self.dry_run
    }

    async fn has(&self, path: &str, _: &Digest, size: u64) -> Result<bool> {
        Ok(self.has_file(path, size))
    }

    async fn put(&self, path: &str, _: &Head<'_>, parts: &[&[u8]], summary: &mut Summary) -> Result<()> {
        let bytes = parts.concat();
        let target = self.root.join(path);
        if self.has_file(path, bytes.len() as u64) && fs::read(&target).is_ok_and(|own| own == bytes) {
            return Ok(());
        }
        summary.files_written += 1;
        summary.bytes_written += bytes.len() as u64;
        if self.dry_run {
            return Ok(());
        }
        let (incoming, mut file) = self.incoming()?;
        let failed = |error| Error::folder("write", &target, error);
        // The file is not synced: the next export compares the bytes, and so repairs a file that a
        // power cut has emptied. The size of content is all that the next export looks at, so
        // content is synced.
        file.write_all(&bytes).map_err(failed)?;
        self.place(&incoming, &target)
    }

    async fn adopt(&self, path: &str, _: &Head<'_>, content: &Content<'_>, summary: &mut Summary) -> Result<bool> {
        let Some(file) = content.file.as_ref().filter(|_| self.links && !self.dry_run) else { return Ok(false) };
        if !self.hard_link(path, file, content.size)? {
            return Ok(false);
        }
        summary.files_written += 1;
        summary.blobs_linked += 1;
        Ok(true)
    }

    async fn fill(
        &self,
        path: &str,
        _: &Head<'_>,
        mut body: Body,
        digest: &Digest,
        summary: &mut Summary,
    ) -> Result<bool, CopyError> {
        let target = self.root.join(path);
        let failed = |error| CopyError::Target(Error::folder("write", &target, error));
        let (incoming, mut file) = self.incoming().map_err(CopyError::Target)?;
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(data) = body.next().await {
            let data = data.map_err(|error| CopyError::Source(error.into()))?;
            hasher.update(&data);
            file.write_all(&data).map_err(failed)?;
            summary.bytes_written += data.len() as u64;
        }
        if hasher.finish() != *digest {
            fs::remove_file(&incoming).map_err(failed)?;
            return Ok(false);
        }
        file.sync_data().map_err(failed)?;
        self.place(&incoming, &target).map_err(CopyError::Target)?;
        summary.files_written += 1;
        Ok(true)
    }

    async fn link(&self, path: &str, to: &str, summary: &mut Summary) -> Result<()> {
        let target = self.root.join(path);
        if fs::read_link(&target).is_ok_and(|own| own == Path::new(to)) {
            return Ok(());
        }
        summary.files_written += 1;
        if self.dry_run {
            return Ok(());
        }
        let (incoming, _) = self.incoming()?;
        let failed = |error| Error::folder("make a symbolic link at", &target, error);
        fs::remove_file(&incoming).and_then(|()| symlink(to, &incoming)).map_err(failed)?;
        self.place(&incoming, &target)
    }

    async fn remove(&self, path: &str, summary: &mut Summary) -> Result<()> {
        summary.files_removed += 1;
        if self.dry_run {
            return Ok(());
        }
        let target = self.root.join(path);
        match fs::remove_file(&target) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::folder("remove", &target, error));
            }
            _ => {}
        }
        let below_root = |folder: &&Path| folder.starts_with(&self.root) && **folder != *self.root;
        for parent in target.ancestors().skip(1).take_while(below_root) {
            // The removal fails while the folder holds other entries.
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn names(&self, path: &str) -> Result<Vec<(String, bool)>> {
        let folder = self.root.join(path);
        let failed = |error| Error::folder("list", &folder, error);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // Each name that an export writes is ASCII.
            if let Ok(name) = entry.file_name().into_string() {
                names.push((name, entry.file_type().map_err(failed)?.is_dir()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn close(&self) -> Result<()> {
        // The folder is empty after a successful export; the next export empties it otherwise.
        let _ = fs::remove_dir(self.root.join(INCOMING));
        Ok(())
    }
}

#[cfg(unix)]
fn symlink(to: &str, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, path)
}

#[cfg(not(unix))]
fn symlink(_: &str, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}
