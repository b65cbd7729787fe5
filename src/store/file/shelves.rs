//! The names of content: a file `<upload>!<digest>` in a folder (shelf) that is named by the first two
//! letters of the upload.

use std::path::{Path, PathBuf};

use super::disk::Item;
use crate::oci::Digest;
use crate::store::{Error, Result};

/// The file of content below the folder `blobs`.
///
/// # Errors
/// [`Error::Corrupt`] if `name` is not the name of content.
pub(super) fn path_of(blobs: &Path, name: &str) -> Result<PathBuf> {
    let shelf = shelf_of(name).ok_or_else(|| Error::corrupt(format!("{name:?} is not a location of files")))?;
    Ok(blobs.join(shelf).join(name))
}

/// The folder in which content of this name lies. `None` if `name` is not a name of content.
fn shelf_of(name: &str) -> Option<&str> {
    let (family, digest) = name.split_once('!')?;
    uuid::Uuid::try_parse(family).ok()?;
    digest.parse::<Digest>().ok()?;
    family.get(..2)
}

/// Whether an entry of `blobs` is a folder of content.
pub(super) fn is_shelf(item: &Item) -> bool {
    item.is_folder && item.name.len() == 2 && item.name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether an entry of a shelf is content.
pub(super) fn is_content(shelf: &str, item: &Item) -> bool {
    item.is_file && shelf_of(&item.name) == Some(shelf)
}
