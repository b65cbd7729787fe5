//! A model of a disk that loses unsynced data, to test that every acknowledged change is durable.
//!
//! The model remembers the bytes of a file when the file is synced, and the names in a folder when
//! the folder is synced. A power cut leaves only the remembered data: a name leads to the bytes
//! that were synced last, or to an empty file.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_executor::block_on;

use super::{FileBlobStore, FileKeyValue};
use crate::oci::Algorithm;
use crate::platform::Platform as _;
use crate::platform::{Body, SystemPlatform};
use crate::store::{BlobStore as _, KeyValue as _, Location, Stage, When};

/// The disks that tests are watching, each identified by the folder on the disk.
static DISKS: Mutex<Vec<Arc<Disk>>> = Mutex::new(Vec::new());

/// Work of another writer.
type Rival = Box<dyn FnOnce() + Send>;

struct Disk {
    folder: PathBuf,
    /// Writers that each run when a folder is made, before the name of the folder is synced. `None`
    /// lets one folder be made without a rival.
    rivals: Mutex<VecDeque<Option<Rival>>>,
    /// By inode. Each file is held open, so that its inode number is not given to another file.
    synced: Mutex<HashMap<u64, (Synced, File)>>,
    promised: Mutex<Promised>,
}

enum Synced {
    File(Vec<u8>),
    /// Names with their inodes, and whether each is a folder.
    Folder(BTreeMap<OsString, (u64, bool)>),
}

/// Called by `disk.rs` after every sync.
pub(super) fn synced(path: &Path, file: &File) {
    let disks = DISKS.lock().unwrap().clone();
    let Some(disk) = disks.iter().find(|disk| path.starts_with(&disk.folder)) else { return };
    disk.note(path, file);
    disk.cut_power(false);
}

/// Called by `disk.rs` after every folder that it makes, before it syncs the name of the folder.
pub(super) fn made_folder(path: &Path) {
    let disks = DISKS.lock().unwrap().clone();
    let Some(disk) = disks.iter().find(|disk| path.starts_with(&disk.folder)) else { return };
    let rival = disk.rivals.lock().unwrap().pop_front().flatten();
    if let Some(rival) = rival {
        rival();
    }
}

impl Disk {
    fn note(&self, path: &Path, file: &File) {
        let found = file.metadata().unwrap();
        let what = if found.is_dir() {
            let names = fs::read_dir(path).unwrap().map(|entry| {
                let entry = entry.unwrap();
                let found = entry.metadata().unwrap();
                (entry.file_name(), (found.ino(), found.is_dir()))
            });
            Synced::Folder(names.collect())
        } else {
            Synced::File(fs::read(path).unwrap())
        };
        self.synced.lock().unwrap().insert(found.ino(), (what, file.try_clone().unwrap()));
    }

    /// Makes a copy of the data that a power cut at this moment would leave.
    fn restore(&self, inode: u64, to: &Path) {
        let synced = self.synced.lock().unwrap();
        let mut missing = vec![(inode, true, to.to_owned())];
        while let Some((inode, is_folder, to)) = missing.pop() {
            match synced.get(&inode) {
                Some((Synced::Folder(names), _)) => {
                    let _ = fs::create_dir(&to);
                    let below = names.iter().map(|(name, (inode, is_folder))| (*inode, *is_folder, to.join(name)));
                    missing.extend(below);
                }
                Some((Synced::File(bytes), _)) => fs::write(&to, bytes).unwrap(),
                None if is_folder => {
                    let _ = fs::create_dir(&to);
                }
                None => fs::write(&to, "").unwrap(),
            }
        }
    }

    /// Checks that a store keeps every promise on the data that a power cut leaves. With `deep`,
    /// staged content must also accept an append and a commit.
    fn cut_power(&self, deep: bool) {
        let copy = tempfile::tempdir().unwrap();
        self.restore(fs::metadata(&self.folder).unwrap().ino(), copy.path());
        let promised = self.promised.lock().unwrap();
        if promised.is_empty() {
            return;
        }
        let keys = FileKeyValue::open(copy.path(), Arc::new(SystemPlatform)).unwrap();
        let blobs = FileBlobStore::open(copy.path(), Arc::new(SystemPlatform)).unwrap();
        promised.check(&keys, &blobs, deep);
    }
}

/// The changes that a store has acknowledged.
#[derive(Default)]
struct Promised {
    values: BTreeMap<String, Option<Bytes>>,
    /// The key that is being changed: both its old and its new value are right.
    changing: Option<(String, Option<Bytes>)>,
    contents: BTreeMap<String, Bytes>,
    removed: Vec<String>,
    stage: Option<(Stage, Vec<u8>)>,
}

impl Promised {
    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.contents.is_empty()
    }

    fn check(&self, keys: &FileKeyValue, blobs: &FileBlobStore, deep: bool) {
        for (key, value) in &self.values {
            let found = block_on(keys.get(key)).unwrap_or_else(|why| panic!("{key}: {why}")).map(|entry| entry.value);
            let or = self.changing.as_ref().filter(|(changing, _)| changing == key).map(|(_, to)| to);
            assert!(
                found == *value || Some(&found) == or,
                "{key} has {found:?}, was acknowledged as {value:?}, then {or:?}"
            );
            let listed = block_on(keys.list(key, None, 1)).unwrap().first() == Some(key);
            assert_eq!(listed, found.is_some(), "{key}");
        }
        let stored: Vec<String> =
            block_on(blobs.list(None, usize::MAX)).unwrap().into_iter().map(|stored| stored.name).collect();
        for (location, bytes) in &self.contents {
            let body = block_on(blobs.read(&Location(location.clone()), 0..bytes.len() as u64));
            let read = block_on(body.unwrap().collect_up_to(1 << 20)).unwrap();
            assert_eq!(read, bytes, "{location}");
            assert!(stored.contains(location), "{location}");
        }
        for location in &self.removed {
            assert!(!stored.contains(location), "{location} was removed");
        }
        if let Some((stage, bytes)) = self.stage.as_ref().filter(|_| deep) {
            let whole = [bytes, &b"the end"[..]].concat();
            let stage = block_on(blobs.append(stage, "the end".into())).unwrap_or_else(|why| panic!("a stage: {why}"));
            let location = block_on(blobs.commit(&stage, &Algorithm::Sha256.digest(&whole))).unwrap();
            let body = block_on(blobs.read(&location, 0..whole.len() as u64)).unwrap();
            assert_eq!(block_on(body.collect_up_to(1 << 20)).unwrap(), whole);
        }
    }
}

/// Stores on a watched disk.
struct WatchedStores {
    disk: Arc<Disk>,
    keys: FileKeyValue,
    blobs: FileBlobStore,
    _folder: tempfile::TempDir,
}

impl WatchedStores {
    fn new(locks: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        fs::create_dir(&root).unwrap();
        let disk = Disk {
            folder: root.clone(),
            rivals: Mutex::default(),
            synced: Mutex::default(),
            promised: Mutex::default(),
        };
        let disk = Arc::new(disk);
        DISKS.lock().unwrap().push(disk.clone());
        // The limit of two names in a folder causes buckets to be made and removed all the time.
        let keys = FileKeyValue::open_with(&root, Arc::new(SystemPlatform), 2, locks).unwrap();
        let blobs = FileBlobStore::open(&root, Arc::new(SystemPlatform)).unwrap();
        Self { disk, keys, blobs, _folder: folder }
    }

    fn promised<T>(&self, change: impl FnOnce(&mut Promised) -> T) -> T {
        change(&mut self.disk.promised.lock().unwrap())
    }

    /// Cuts the power after an answer, and so after an acknowledgement.
    fn answered(&self) {
        self.disk.cut_power(true);
    }

    fn change(&self, key: &str, value: Option<Bytes>, when: When) {
        self.promised(|promised| {
            promised.values.entry(key.to_owned()).or_default();
            promised.changing = Some((key.to_owned(), value.clone()));
        });
        match &value {
            Some(value) => block_on(self.keys.put(key, value.clone(), when)).map(drop).unwrap(),
            None => block_on(self.keys.delete(key)).unwrap(),
        }
        self.promised(|promised| {
            promised.changing = None;
            promised.values.insert(key.to_owned(), value);
        });
        self.answered();
    }

    fn put(&self, key: &str, value: &str, when: When) {
        self.change(key, Some(Bytes::copy_from_slice(value.as_bytes())), when);
    }

    fn append(&self, bytes: &str) {
        let (stage, mut whole) = match self.promised(|promised| promised.stage.take()) {
            Some(begun) => begun,
            None => (block_on(self.blobs.stage()).unwrap(), Vec::new()),
        };
        let body = Body::from(Bytes::copy_from_slice(bytes.as_bytes()));
        let stage = block_on(self.blobs.append(&stage, body)).unwrap();
        whole.extend_from_slice(bytes.as_bytes());
        self.promised(|promised| promised.stage = Some((stage, whole)));
        self.answered();
    }

    /// Appends to a stage that another append has just taken, so that the earlier bytes are copied.
    fn append_to_fork(&self, bytes: &str) {
        self.fork();
        self.append(bytes);
    }

    fn fork(&self) {
        let (stage, _) = self.promised(|promised| promised.stage.clone()).unwrap();
        block_on(self.blobs.append(&stage, "of another fork".into())).unwrap();
    }

    fn commit(&self) -> String {
        let (stage, whole) = self.promised(|promised| promised.stage.take()).unwrap();
        let location = block_on(self.blobs.commit(&stage, &Algorithm::Sha256.digest(&whole))).unwrap();
        self.promised(|promised| promised.contents.insert(location.0.clone(), whole.into()));
        self.answered();
        location.0
    }

    fn remove(&self, location: String) {
        self.promised(|promised| promised.contents.remove(&location));
        block_on(self.blobs.remove(&location)).unwrap();
        self.promised(|promised| promised.removed.push(location));
        self.answered();
    }
}

impl Drop for WatchedStores {
    fn drop(&mut self) {
        DISKS.lock().unwrap_or_else(|broken| broken.into_inner()).retain(|disk| !Arc::ptr_eq(disk, &self.disk));
    }
}

/// Power is cut at every sync of every operation, and after every answer.
#[test]
fn acknowledged_changes_survive_a_power_cut() {
    for locks in [true, false] {
        let watched = WatchedStores::new(locks);
        for name in ["v1", "v12", "v123", "v1234", "w"] {
            watched.put(&format!("tag/team/app!{name}"), name, When::Absent);
            watched.put(&format!("tag/team/app!{name}"), "moved", When::Always);
        }
        watched.put("content/sha256:ab", "a", When::Always);
        if locks {
            let version = block_on(watched.keys.get("content/sha256:ab")).unwrap().unwrap().version;
            watched.put("content/sha256:ab", "b", When::Unchanged(version));
        }
        watched.append("begun, ");
        watched.append("gone on with, ");
        watched.append_to_fork("forked");
        let first = watched.commit();
        watched.append("other content");
        watched.fork();
        watched.commit();
        watched.remove(first);
        for name in ["v12", "v1", "w", "v1234"] {
            watched.change(&format!("tag/team/app!{name}"), None, When::Always);
        }
        watched.put("tag/team/app!v12", "again", When::Absent);
        watched.append("not yet committed");
    }
}

/// A writer makes a folder, and before the folder's name is synced a rival writes into the same
/// folder and is acknowledged. Power is cut after the rival's acknowledgement.
#[test]
fn a_write_into_a_folder_that_another_writer_just_made_survives_a_power_cut() {
    assert_eq!(write_beside_rivals(|_| ()), 4, "a rival ran at each of the folders reserve, tag, team and app!");
}

/// As above, in folders that were known to be durable before they were removed.
#[test]
fn a_folder_that_is_made_again_counts_as_new() {
    let rivals_run = write_beside_rivals(|watched| {
        watched.put("tag/team/app!v0", "removed", When::Absent);
        watched.change("tag/team/app!v0", None, When::Always);
        assert!(!watched.disk.folder.join("keys/tag").exists(), "the folders of the key are removed with the key");
    });
    assert_eq!(rivals_run, 3, "a rival ran at each of the folders tag, team and app!");
}

/// Repeats a write after `before`, each time with a rival at another of the folders that the write
/// makes. Returns how many rivals ran.
fn write_beside_rivals(before: impl Fn(&WatchedStores)) -> usize {
    for folders_before in 0.. {
        let watched = WatchedStores::new(false);
        before(&watched);
        let rival = FileKeyValue::open_with(&watched.disk.folder, Arc::new(SystemPlatform), 2, false).unwrap();
        let disk = watched.disk.clone();
        let write: Rival = Box::new(move || {
            block_on(rival.put("tag/team/app!v2", "rival".into(), When::Absent)).unwrap();
            disk.promised.lock().unwrap().values.insert("tag/team/app!v2".into(), Some("rival".into()));
            disk.cut_power(true);
        });
        let mut rivals: VecDeque<Option<Rival>> = (0..folders_before).map(|_| None).collect();
        rivals.push_back(Some(write));
        *watched.disk.rivals.lock().unwrap() = rivals;
        watched.put("tag/team/app!v1", "first", When::Absent);
        if !watched.disk.rivals.lock().unwrap().is_empty() {
            return folders_before;
        }
    }
    unreachable!("a write makes a bounded number of folders")
}

/// The model must lose unsynced data, or the other tests would prove nothing.
#[test]
fn unsynced_changes_do_not_survive() {
    let watched = WatchedStores::new(true);
    let folder = watched.disk.folder.join("keys");
    let value = format!("{}\nvalue", SystemPlatform.uuid());
    let restored = |watched: &WatchedStores| {
        let copy = tempfile::tempdir().unwrap();
        watched.disk.restore(fs::metadata(&watched.disk.folder).unwrap().ino(), copy.path());
        fs::read_to_string(copy.path().join("keys/a=")).ok()
    };
    fs::write(folder.join("a="), &value).unwrap();
    assert_eq!(restored(&watched), None);
    super::disk::sync_folder(&folder).unwrap();
    assert_eq!(restored(&watched), Some(String::new()));
    super::disk::sync(&File::open(folder.join("a=")).unwrap(), &folder.join("a=")).unwrap();
    assert_eq!(restored(&watched), Some(value));
    fs::remove_file(folder.join("a=")).unwrap();
    assert!(restored(&watched).is_some());
    super::disk::sync_folder(&folder).unwrap();
    assert_eq!(restored(&watched), None);
}
