//! Both ports in a folder of files: for a native process, the preopened folder of a WASI host, or a
//! Spin mount.
//!
//! ```text
//! <folder>/keys/…           facts, a file each           (key_value.rs, tree.rs, path.rs)
//! <folder>/blobs/ab/…       content, named by its upload and its digest (blob_store.rs)
//! <folder>/stages/<family>/ content on its way in        (blob_store.rs)
//! <folder>/tmp/, locks/     files not yet in place; locks
//! <folder>/reserve/         space that is kept for the collection (reserve.rs)
//! <folder>/format           which format the folder has  (format.rs)
//! ```
//!
//! A store answers only after the change is on the disk: a file is written under another name,
//! synced, renamed into place, and the folder that holds the name is synced too, and so are the
//! names of new folders above it (`power_cut.rs` tests the order). Several processes may
//! share a folder. Calls to the file system go through `disk.rs`, in the order that `turns.rs` sets;
//! `tidy.rs` removes leftovers of killed writers and reports entries that are not the store's own.

mod blob_store;
mod disk;
mod error;
mod format;
mod key_value;
mod listing;
mod path;
#[cfg(all(test, not(target_family = "wasm")))]
mod power_cut;
mod reading;
mod reserve;
mod shelves;
mod stages;
mod tidy;
mod tree;
mod turns;

use std::io;
use std::path::Path;

pub use blob_store::FileBlobStore;
pub use key_value::FileKeyValue;
use turns::{in_turn, list_in_turn, read_at_once};

/// Opens a data folder for a store, and makes missing folders. Opening fails without `needed`.
/// Without the folders `beside`, the store can only read.
fn open_folder(folder: &Path, needed: &Path, beside: &[&Path]) -> io::Result<()> {
    format::check(folder)?;
    let made = disk::create_folder(needed);
    if !needed.is_dir() {
        made?;
        return Err(io::Error::other(format!("ENOTDIR: {} is not a folder", needed.display())));
    }
    for path in beside {
        if let Err(error) = disk::create_folder(path) {
            tracing::debug!("the data folder can only be read: {error}");
        }
    }
    #[cfg(unix)]
    warn_of_readers(folder, needed);
    Ok(())
}

/// Warns if other users may read the folder, as in folders that an older version made. A component
/// cannot see the mode of a folder.
#[cfg(unix)]
fn warn_of_readers(folder: &Path, part: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(Some(found)) = disk::metadata(part) else { return };
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            "other users of this machine may read {} (mode {mode:03o}), where keys and password hashes may lie; close it: chmod -R go= {}",
            part.display(),
            folder.display()
        );
    }
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_in_the_place_of_a_part_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs");
        open_folder(folder.path(), &blobs, &[]).unwrap();
        fs::remove_dir(&blobs).unwrap();
        fs::write(&blobs, "a file").unwrap();
        let refused = open_folder(folder.path(), &blobs, &[]).unwrap_err().to_string();
        assert_eq!(refused, format!("ENOTDIR: {} is not a folder", blobs.display()));
    }
}
