//! Durable names: a name in a folder survives a power cut once the folder is synced, and so are the
//! folders above whose own names are new.
//!
//! `durable.rs` remembers the folders whose names are durable, so most names cost one sync.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use super::disk::{self, absent_is_none};
use super::durable::{self, Identity};

/// How often an operation is tried again when its folder was removed because the folder had become
/// empty.
const VANISHED_FOLDER_TRIES_MAX: usize = 16;
/// How long a folder counts as new: longer than the time between making a folder and syncing its
/// name, and longer than the kernel waits before it writes a name by itself.
const NEW_FOLDER_AGE: Duration = Duration::from_secs(60);

/// Makes a name in a folder with `make`, durably. Makes the folder first if it is missing. `root` is
/// the data folder.
pub(super) fn create_name(root: &Path, target: &Path, make: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    create_unsynced_name(target, make)?;
    // Another process that removed the name meanwhile may have removed the folder too.
    absent_is_none(sync_name(root, target)).map(drop)
}

/// Makes a name in a folder with `make`. Makes the folder first if it is missing. Only `sync_name`
/// makes the name durable.
pub(super) fn create_unsynced_name(target: &Path, mut make: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let mut tries = 0..VANISHED_FOLDER_TRIES_MAX;
    loop {
        match make(target) {
            // The folder is missing, or was missing until just now, or the file that gets the name
            // is missing.
            Err(error) if error.kind() == ErrorKind::NotFound && tries.next().is_some() => {
                // If the folder is gone again already, the next try reports the error.
                absent_is_none(disk::create_folder(folder))?;
            }
            result => return result,
        }
    }
}

/// Makes the name `target` durable. `root` is the data folder.
///
/// # Errors
/// [`ErrorKind::NotFound`] when the folder of the name is gone.
pub(super) fn sync_name(root: &Path, target: &Path) -> io::Result<()> {
    let folder = target.parent().unwrap_or(Path::new("."));
    disk::sync_folder(folder)?;
    sync_new_folders(root, folder)
}

/// Makes the names of new folders durable: `folder`, and all folders above it up to `root`. Another
/// writer may have made such a folder a moment ago, and may not have synced its name yet.
///
/// The walk up ends at a folder whose name is known to be durable. A folder in which no name was
/// made for a while holds no new folder, and is not new itself, so the walk ends there too. All times
/// are of the file system's clock: `folder` has just been changed.
fn sync_new_folders(root: &Path, folder: &Path) -> io::Result<()> {
    let mut synced = Vec::new();
    let mut below = folder;
    let mut now = None;
    for above in folder.ancestors().skip(1).take_while(|above| above.starts_with(root)) {
        let Some(found) = disk::metadata(below)? else { return Ok(()) };
        let identity = Identity::of(&found);
        if identity.is_some_and(|identity| durable::is_durable(below, identity)) {
            break;
        }
        let modified = found.modified()?;
        let now = *now.get_or_insert(modified);
        // The identity is read before the name is synced. If the folder is replaced in between, the
        // remembered identity is that of the folder before, and the new folder counts as new.
        synced.extend(identity.map(|identity| (below.to_owned(), identity)));
        let changed = disk::metadata(above)?.map(|found| found.modified()).transpose()?;
        if changed.and_then(|changed| now.duration_since(changed).ok()).is_some_and(|age| age > NEW_FOLDER_AGE) {
            break;
        }
        disk::sync_folder(above)?;
        below = above;
    }
    // A folder is remembered only when the names of all folders above are durable too.
    durable::remember(synced);
    Ok(())
}
