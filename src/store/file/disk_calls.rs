//! Counts the calls to the file system in a folder, so that tests can state what a request costs.

use std::path::Path;

#[cfg(any(test, feature = "testing"))]
pub use watch::{DiskCalls, DiskWatch};

/// The kinds of calls to the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    SyncFile,
    SyncFolder,
    /// A rename, or a hard link.
    Name,
    MakeFolder,
    Open,
    Look,
    Remove,
}

/// Called by `disk.rs` before each call to the file system. Counts the call for the tests that watch
/// the folder of `path`.
#[cfg(any(test, feature = "testing"))]
pub(super) fn made(call: Call, path: &Path) {
    watch::made(call, path);
}

/// Does nothing: only tests count.
#[cfg(not(any(test, feature = "testing")))]
pub(super) fn made(_: Call, _: &Path) {}

#[cfg(any(test, feature = "testing"))]
mod watch {
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex, PoisonError};

    use super::Call;

    /// The folders that tests watch.
    static WATCHED: Mutex<Vec<Arc<Watched>>> = Mutex::new(Vec::new());

    /// How many calls to the file system there were, by kind.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct DiskCalls {
        /// Syncs of files.
        pub file_syncs: u64,
        /// Syncs of folders.
        pub folder_syncs: u64,
        /// Renames and hard links.
        pub names: u64,
        /// New folders.
        pub folders_made: u64,
        /// Files that were opened or made, to read or to write.
        pub opens: u64,
        /// Questions for the metadata of a path.
        pub looks: u64,
        /// Removed files.
        pub removals: u64,
    }

    struct Watched {
        folder: PathBuf,
        calls: Mutex<DiskCalls>,
    }

    /// Counts the calls that the file stores make below one folder, until the watch is dropped.
    pub struct DiskWatch(Arc<Watched>);

    impl DiskWatch {
        /// Begins to count the calls below `folder`.
        pub fn new(folder: &Path) -> Self {
            let watched = Arc::new(Watched { folder: folder.to_owned(), calls: Mutex::default() });
            WATCHED.lock().unwrap_or_else(PoisonError::into_inner).push(watched.clone());
            Self(watched)
        }

        /// The calls since the watch began, or since the previous call of `take`.
        pub fn take(&self) -> DiskCalls {
            std::mem::take(&mut *self.0.calls.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    impl Drop for DiskWatch {
        fn drop(&mut self) {
            WATCHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|watched| !Arc::ptr_eq(watched, &self.0));
        }
    }

    pub(super) fn made(call: Call, path: &Path) {
        let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        for watched in watched.iter().filter(|watched| path.starts_with(&watched.folder)) {
            let mut calls = watched.calls.lock().unwrap_or_else(PoisonError::into_inner);
            *match call {
                Call::SyncFile => &mut calls.file_syncs,
                Call::SyncFolder => &mut calls.folder_syncs,
                Call::Name => &mut calls.names,
                Call::MakeFolder => &mut calls.folders_made,
                Call::Open => &mut calls.opens,
                Call::Look => &mut calls.looks,
                Call::Remove => &mut calls.removals,
            } += 1;
        }
    }
}
