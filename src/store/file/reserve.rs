//! Space that is kept for the collection, so that a full disk can be emptied.
//!
//! The reserve is a few files that hold blocks and inodes. A writer makes sure that the reserve is
//! whole before each write, so writes stop with [`Error::Full`](crate::store::Error::Full) while
//! some space is left. The collector needs some space for its own facts before it can remove
//! anything, so the collector gives the reserve up when the disk is full. Uploads are then refused
//! until enough was removed to fill the reserve again. WASI cannot ask how much space is left; the
//! reserve works on every host.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::disk;

/// The folder's name in the data folder.
pub(super) const FOLDER: &str = "reserve";
/// How many files, and so inodes, the reserve keeps.
pub(super) const FILES: usize = 64;
/// The size of each file, in bytes: 4 MiB for all files together.
const FILE_BYTES: usize = 64 * 1024;
/// How often a write is tried again after the reserve was given up. Other writers may fill the
/// reserve again meanwhile.
const TRIES_MAX: usize = 3;

/// The reserve of a data folder.
#[derive(Clone)]
pub(super) struct Reserve {
    folder: PathBuf,
    /// Whether writers may use the reserve up.
    for_upkeep: bool,
}

impl Reserve {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.join(FOLDER), for_upkeep: false }
    }

    /// The same reserve, for a writer that may use it up.
    pub(super) fn for_upkeep(&self) -> Self {
        Self { for_upkeep: true, ..self.clone() }
    }

    /// Runs `write` once the reserve is whole. For upkeep, gives the reserve up if the disk is
    /// full, and runs `write` again.
    pub(super) fn write<T, E: From<io::Error>>(
        &self,
        mut write: impl FnMut() -> Result<T, E>,
        is_full: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        if !self.for_upkeep {
            self.fill()?;
            return write();
        }
        for _ in 0..TRIES_MAX {
            match write() {
                Err(error) if is_full(&error) => self.give_up()?,
                result => return result,
            }
        }
        write()
    }

    /// Makes the reserve whole. The files are made in order, so a whole last file proves that all
    /// files are whole.
    pub(super) fn fill(&self) -> io::Result<()> {
        if self.is_whole(FILES - 1)? {
            return Ok(());
        }
        for number in 0..FILES {
            if !self.is_whole(number)? {
                // The file is not synced: a reserve that a crash has damaged is filled again.
                disk::write(&self.file(number), &[&noise(number)])?;
            }
        }
        Ok(())
    }

    fn is_whole(&self, number: usize) -> io::Result<bool> {
        Ok(disk::metadata(&self.file(number))?.is_some_and(|file| file.len() == FILE_BYTES as u64))
    }

    /// Removes the reserve, last file first: a partial reserve must not look whole.
    fn give_up(&self) -> io::Result<()> {
        tracing::warn!("the disk is full: the collection uses the space in reserve, and uploads are refused meanwhile");
        for number in (0..FILES).rev() {
            disk::remove_file(&self.file(number))?;
        }
        Ok(())
    }

    fn file(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{number:02}"))
    }
}

/// Whether a file operation failed because no space or quota was left.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Bytes that no file system can compress.
fn noise(seed: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut bytes = Vec::with_capacity(FILE_BYTES);
    while bytes.len() < FILE_BYTES {
        // Xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}
