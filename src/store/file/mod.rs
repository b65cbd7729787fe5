//! Both ports in a folder of files: for a native process, for a WASI host's preopened folder, for a Spin mount.
//!
//! ```text
//! <folder>/keys/…           facts, a file each           (key_value.rs, tree.rs, path.rs)
//! <folder>/blobs/ab/…       content, named by its upload and its digest (blob_store.rs)
//! <folder>/stages/<family>/ content on its way in        (blob_store.rs)
//! <folder>/tmp/, locks/     files not yet in place; locks
//! ```
//!
//! Nothing is answered before it is on the disk: a file is written under another name, synced, renamed into place, and
//! the folder that holds the name is synced too. Several processes may share a folder.

mod blob_store;
mod key_value;
mod listing;
mod path;
mod reading;
mod tree;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

pub use blob_store::FileBlobStore;
pub use key_value::FileKeyValue;

use super::Error;

/// How often an operation is tried again when a folder was removed under it because it had become empty.
const VANISHED_FOLDER_TRIES_MAX: usize = 16;

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Runs blocking file work where it does not hold up other requests: on threads natively; a component has none.
async fn unblock<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(not(target_family = "wasm"))]
    return blocking::unblock(work).await;
    #[cfg(target_family = "wasm")]
    return work();
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes a folder with all that are missing above it, durably.
fn create_folder(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => match folder.parent() {
            Some(parent) => {
                create_folder(parent)?;
                return create_folder(folder);
            }
            None => return Err(error),
        },
        Err(error) => return Err(error),
    }
    match folder.parent() {
        // The folder of a name without one is where the process is.
        Some(parent) if parent.as_os_str().is_empty() => sync_folder(Path::new(".")),
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

/// Puts a name into a folder with `place`, making the folder first where it is missing, and makes the name durable.
fn place_in_folder(target: &Path, mut place: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let mut tries = 0..VANISHED_FOLDER_TRIES_MAX;
    loop {
        match place(target) {
            // The folder may be missing, or may have been until just now, or it is what is to be placed that is not there.
            Err(error) if error.kind() == ErrorKind::NotFound && tries.next().is_some() => {
                // Where it is gone again already, the next try will tell.
                absent_is_none(create_folder(folder))?;
            }
            Err(error) => return Err(error),
            // Who has removed the name since may have removed the folder with it.
            Ok(()) => return absent_is_none(sync_folder(folder)).map(drop),
        }
    }
}

/// What a missing file means where it is no error.
fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        // A path that leads through a file cannot exist either.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}
