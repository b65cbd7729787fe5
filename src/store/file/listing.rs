//! Lists the keys in folders, in the byte order of the keys.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::path::{Path, PathBuf};

use super::path::{self, End, KeyPart};
use super::tree::Tree;

/// The candidates for the next keys, smallest first. A folder is queued under the common beginning
/// of its keys, so no key in the folder sorts before the folder's place in the queue. The folder is
/// read when its turn comes. So only folders that a page needs are read, and memory holds only the
/// names in the folders on the way to one key.
pub(super) struct Listing<'a> {
    tree: &'a Tree,
    prefix: &'a [u8],
    after: Option<&'a [u8]>,
    ahead: BinaryHeap<Reverse<(Vec<u8>, Lead)>>,
}

/// A queued beginning of keys is either a complete key or leads to a folder of keys.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Lead {
    Key,
    Folder(PathBuf),
}

/// See [`KeyValue::list`](crate::store::KeyValue::list).
pub(super) fn list(tree: &Tree, prefix: &str, after: Option<&str>, limit: usize) -> io::Result<Vec<String>> {
    let (base, _) = path::split(prefix);
    let folders = tree.folders(base)?.into_iter();
    let ahead = folders.map(|folder| Reverse((base.into(), Lead::Folder(folder)))).collect();
    let mut listing = Listing { tree, prefix: prefix.as_bytes(), after: after.map(str::as_bytes), ahead };
    let mut found: Vec<String> = Vec::new();
    while found.len() < limit
        && let Some(key) = listing.next()?
    {
        // A key can have two files, so the same key may come twice.
        if found.last() != Some(&key) {
            found.push(key);
        }
    }
    Ok(found)
}

impl Listing<'_> {
    fn next(&mut self) -> io::Result<Option<String>> {
        while let Some(Reverse((key, lead))) = self.ahead.pop() {
            match lead {
                Lead::Folder(folder) => self.read(&folder, &key)?,
                Lead::Key => {
                    // A name that is not UTF-8 is not a key of the store.
                    if let Ok(key) = String::from_utf8(key) {
                        return Ok(Some(key));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Queues the entries of a folder whose keys all begin with `base`.
    fn read(&mut self, folder: &Path, base: &[u8]) -> io::Result<()> {
        for part in self.tree.read(folder)? {
            match part {
                KeyPart::Leaf(name) => self.add([base, &name].concat(), Lead::Key),
                KeyPart::Folder(name, separator) => {
                    if let Some(below) = path::path_of(folder, &name, End::Separator(separator)) {
                        self.add([base, &name, &[separator as u8]].concat(), Lead::Folder(below));
                    }
                }
                KeyPart::Bucket(byte) => self.add([base, &[byte]].concat(), Lead::Folder(path::bucket(folder, byte))),
            }
        }
        Ok(())
    }

    fn add(&mut self, key: Vec<u8>, lead: Lead) {
        let wanted = match &lead {
            Lead::Key => self.wants_key(&key),
            Lead::Folder(_) => self.wants_folder(&key),
        };
        if wanted {
            self.ahead.push(Reverse((key, lead)));
        }
    }

    fn wants_key(&self, key: &[u8]) -> bool {
        key.starts_with(self.prefix) && self.after.is_none_or(|after| key > after)
    }

    /// Whether a wanted key can begin with `base`.
    fn wants_folder(&self, base: &[u8]) -> bool {
        (base.starts_with(self.prefix) || self.prefix.starts_with(base))
            && self.after.is_none_or(|after| after < base || after.starts_with(base))
    }
}
