//! The folders whose names are known to be durable, up to the data folder.
//!
//! A folder is remembered by its path, inode and time of creation: a folder that was removed and made
//! again counts as new. A component cannot tell such folders apart, and remembers nothing.

use std::collections::HashMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// How many folders are remembered. At the limit, all are forgotten.
const REMEMBERED_FOLDERS_MAX: usize = 4096;

static DURABLE: LazyLock<Mutex<HashMap<PathBuf, Identity>>> = LazyLock::new(Mutex::default);

/// Tells a folder from a later folder at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    inode: u64,
    created: SystemTime,
}

impl Identity {
    /// `None` where the host or the file system does not tell a folder from a later one.
    #[cfg(unix)]
    pub(super) fn of(folder: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        Some(Self { inode: folder.ino(), created: folder.created().ok()? })
    }

    /// `None`: the host does not tell a folder from a later one.
    #[cfg(not(unix))]
    pub(super) fn of(_: &Metadata) -> Option<Self> {
        None
    }
}

/// Whether the name of the folder at `path` is known to be durable, and the names of all folders
/// above as well.
pub(super) fn is_durable(path: &Path, folder: Identity) -> bool {
    durable().get(path) == Some(&folder)
}

/// Remembers that the names of folders, and of all folders above them, are durable.
pub(super) fn remember(folders: Vec<(PathBuf, Identity)>) {
    let mut durable = durable();
    if durable.len() + folders.len() > REMEMBERED_FOLDERS_MAX {
        durable.clear();
    }
    durable.extend(folders);
}

/// Notes that this process has made a folder, whose name is not durable yet.
pub(super) fn made_folder(path: &Path) {
    durable().remove(path);
}

fn durable() -> MutexGuard<'static, HashMap<PathBuf, Identity>> {
    DURABLE.lock().unwrap_or_else(PoisonError::into_inner)
}
