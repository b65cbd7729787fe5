//! Walks through the folders of a store, removes leftovers of killed writers, and reports entries
//! that are not the store's own.
//!
//! Old files in `tmp` are removed: the file of a live writer is at most seconds old. Folders of
//! keys and of content are removed when they are empty; a writer that needs the folder makes it
//! again. Foreign entries are reported and left alone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::disk::{self, Item};
use super::{path, reserve, shelves, stages};
use crate::store::{Tidied, TidyRequest};

/// How old a file in `tmp` must be to be removed, whatever the request says.
const TMP_AGE_MS_MIN: u64 = 5_000;

/// An area of a data folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    Blobs,
    Keys,
    Locks,
    Reserve,
    Stages,
    Tmp,
}

/// The kinds of entries in a data folder.
enum Kind {
    /// A folder of the store's own. The walk looks into the folder, and removes the folder if it is
    /// empty.
    Folder,
    Own,
    /// A leftover of a killed writer.
    Left,
    Foreign,
}

impl Area {
    fn folder(self) -> &'static str {
        match self {
            Area::Blobs => "blobs",
            Area::Keys => "keys",
            Area::Locks => "locks",
            Area::Reserve => reserve::FOLDER,
            Area::Stages => "stages",
            Area::Tmp => "tmp",
        }
    }

    /// The kind of an entry of `folder`, which lies `depth` folders below the area's own folder.
    fn kind(self, folder: &Path, depth: usize, item: &Item, request: &TidyRequest) -> Kind {
        let own = match self {
            _ if !item.is_text => false,
            Area::Blobs if depth == 0 && shelves::is_shelf(item) => return Kind::Folder,
            Area::Blobs => {
                let shelf = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                depth == 1 && shelves::is_content(shelf, item)
            }
            Area::Keys => match path::part_of(item) {
                Some(path::KeyPart::Leaf(_)) => true,
                Some(_) => return Kind::Folder,
                None => false,
            },
            Area::Locks => item.is_file && item.name.len() == 2 && item.name.parse::<u8>().is_ok(),
            Area::Reserve => item.is_file && item.name.parse::<usize>().is_ok_and(|number| number < reserve::FILES),
            Area::Stages => stages::is_family(item),
            Area::Tmp => {
                let name = item.name.strip_suffix(".back").unwrap_or(&item.name);
                let own = item.is_file && uuid::Uuid::try_parse(name).is_ok();
                if own && is_old(&folder.join(&item.name), request) {
                    return Kind::Left;
                }
                own
            }
        };
        if own { Kind::Own } else { Kind::Foreign }
    }
}

/// Whether a file is old enough to be removed. A date far enough in the future counts as old too,
/// because then the clock was set back.
fn is_old(file: &Path, request: &TidyRequest) -> bool {
    let Ok(Some(found)) = disk::metadata(file) else { return false };
    let Ok(modified) = found.modified() else { return false };
    let modified_ms = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    modified_ms.abs_diff(request.now_ms) > request.grace_ms.max(TMP_AGE_MS_MIN)
}

/// Continues behind `request.after` for at most `request.limit` entries, in the order of their
/// paths. `areas` must be in the order of their folders.
pub(super) fn tidy(folder: &Path, areas: &[Area], request: &TidyRequest) -> io::Result<Tidied> {
    let after = request.after.as_deref().unwrap_or_default();
    let after: Vec<&str> = after.split('/').filter(|name| !name.is_empty()).collect();
    let mut walk = Walk { request, tidied: Tidied::default(), root: folder };
    for area in areas {
        let rest = match after.split_first() {
            Some((first, _)) if area.folder() < *first => continue,
            Some((first, rest)) if area.folder() == *first => Some(rest),
            _ => None,
        };
        if !walk.folder(*area, &folder.join(area.folder()), 0, rest)? {
            walk.tidied.more = true;
            break;
        }
    }
    Ok(walk.tidied)
}

struct Walk<'a> {
    request: &'a TidyRequest,
    tidied: Tidied,
    root: &'a Path,
}

impl Walk<'_> {
    /// Looks at the entries of a folder behind `after`. Returns `false` when more entries remain
    /// than the request allows.
    fn folder(&mut self, area: Area, folder: &Path, depth: usize, after: Option<&[&str]>) -> io::Result<bool> {
        let (first, rest) = match after.and_then(|after| after.split_first()) {
            Some((first, rest)) => (Some(*first), rest),
            None => (None, &[][..]),
        };
        for item in disk::list(folder)? {
            let is_begun = first == Some(item.name.as_str());
            if first.is_some_and(|first| *item.name < *first) || (is_begun && rest.is_empty()) {
                continue;
            }
            if self.tidied.looked_at >= self.request.limit {
                return Ok(false);
            }
            let path = folder.join(&item.name);
            match area.kind(folder, depth, &item, self.request) {
                Kind::Own => {}
                Kind::Foreign => self.tidied.foreign.push(self.relative(&path)),
                Kind::Left => self.remove(|| disk::remove_file(&path).map(drop))?,
                Kind::Folder => {
                    if !self.folder(area, &path, depth + 1, is_begun.then_some(rest))? {
                        return Ok(false);
                    }
                    if disk::entries(&path)?.next().is_none() {
                        // The removal fails if another writer has put an entry into the folder
                        // meanwhile.
                        self.remove(|| disk::remove_folder(&path).or(Ok(())))?;
                    }
                }
            }
            self.tidied.looked_at += 1;
            self.tidied.after = Some(self.relative(&path));
        }
        Ok(true)
    }

    fn remove(&mut self, remove: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.tidied.removed += 1;
        if self.request.dry_run { Ok(()) } else { remove() }
    }

    /// A path as the report shows it: relative to the data folder.
    fn relative(&self, path: &Path) -> String {
        let path: PathBuf = path.strip_prefix(self.root).unwrap_or(path).to_owned();
        path.to_string_lossy().into_owned()
    }
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests;
