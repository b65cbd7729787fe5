//! Foreign entries in every folder of a data folder, and leftovers of killed writers.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_executor::block_on;

use super::*;
use crate::oci::Algorithm;
use crate::platform::SystemPlatform;
use crate::store::file::{FileBlobStore, FileKeyValue};
use crate::store::{BlobStore, KeyValue, Tidied, When};

const NOW_MS: u64 = 1_700_000_000_000;
const GRACE_MS: u64 = 60_000;
/// The deepest nesting of folders in these tests.
const DEPTH_MAX: usize = 8;
const KEYS: [&str; 4] = ["content/sha256:ab", "tag/a!v1", "tag/a/b!v2", "upload/a!0"];

struct Data {
    keys: FileKeyValue,
    blobs: FileBlobStore,
    location: String,
    folder: tempfile::TempDir,
}

/// A data folder with keys, a stored blob, and an unfinished upload.
fn data() -> Data {
    let folder = tempfile::tempdir().unwrap();
    let keys = FileKeyValue::open(folder.path(), Arc::new(SystemPlatform)).unwrap();
    let blobs = FileBlobStore::open(folder.path(), Arc::new(SystemPlatform)).unwrap();
    for key in KEYS {
        block_on(keys.put(key, key.into(), When::Always)).unwrap();
    }
    let stage = block_on(blobs.stage()).unwrap();
    let stage = block_on(blobs.append(&stage, "content".into())).unwrap();
    let location = block_on(blobs.commit(&stage, &Algorithm::Sha256.digest(b"content"))).unwrap().0;
    let stage = block_on(blobs.stage()).unwrap();
    block_on(blobs.append(&stage, "on its way".into())).unwrap();
    Data { keys, blobs, location, folder }
}

impl Data {
    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn file(&self, path: &str, age_ms: u64) {
        let file = File::create(self.path(path)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_millis(NOW_MS - age_ms)).unwrap();
    }

    /// The combined results of both stores, read in pages of `limit`.
    fn tidy(&self, limit: usize, dry_run: bool) -> Tidied {
        let mut all = Tidied::default();
        for of_keys in [true, false] {
            let mut request = TidyRequest { now_ms: NOW_MS, grace_ms: GRACE_MS, dry_run, after: None, limit };
            loop {
                let page = match of_keys {
                    true => block_on(self.keys.tidy(&request)).unwrap(),
                    false => block_on(self.blobs.tidy(&request)).unwrap(),
                };
                // A folder is counted when the store has finished with the folder, so a page may
                // exceed the limit.
                assert!(page.looked_at <= limit + DEPTH_MAX, "{page:?}");
                assert!(!page.more || page.looked_at > 0 && page.after != request.after, "{page:?}");
                all.looked_at += page.looked_at;
                all.removed += page.removed;
                all.foreign.extend(page.foreign);
                if !page.more {
                    break;
                }
                request.after = page.after;
            }
        }
        all.foreign.sort();
        all
    }

    fn is_whole(&self) {
        assert_eq!(block_on(self.keys.list("", None, 100)).unwrap(), KEYS);
        for key in KEYS {
            assert_eq!(block_on(self.keys.get(key)).unwrap().unwrap().value, key);
        }
        let stored = block_on(self.blobs.list(None, 100)).unwrap();
        assert_eq!(stored.len(), 2, "{stored:?}");
        assert!(stored.iter().any(|stored| stored.name == self.location));
    }
}

fn all_paths(folder: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            paths.extend(all_paths(&path));
        }
        paths.push(path);
    }
    paths.sort();
    paths
}

#[test]
fn a_folder_as_it_should_be_is_left_as_it_is() {
    let data = data();
    let before = all_paths(data.folder.path());
    for limit in [1, 2, 7, 1000] {
        let tidied = data.tidy(limit, false);
        assert_eq!((tidied.removed, &tidied.foreign), (0, &Vec::new()));
        assert_eq!(all_paths(data.folder.path()), before);
    }
    data.is_whole();
}

#[test]
fn foreign_entries_are_told_by_path_and_left_alone() {
    let data = data();
    let shelf = &data.location[..2];
    let other = if shelf == "00" { "11" } else { "00" };
    let stage = "6e2fc1a4-7a1c-4a3e-9d5a-111111111111";
    let foreign_files = [
        "README".to_owned(), // Beside the known folders, so never reported.
        "blobs/README".to_owned(),
        "blobs/ff".replace("ff", if shelf == "ff" { "fe" } else { "ff" }),
        format!("blobs/{shelf}/.nfs0001"),
        format!("blobs/{shelf}/{shelf}~"),
        format!("blobs/{other}/{}", data.location),
        "keys/README.md".to_owned(),
        "keys/.nfs0001".to_owned(),
        "keys/tag/a!/v 1=".to_owned(),
        "keys/tag/a/+z".to_owned(),
        "keys/tag/a!/!".to_owned(),
        "keys/warning".to_owned(),
        "keys/tag/b".to_owned(),
        "locks/README".to_owned(),
        "reserve/README".to_owned(),
        "stages/README".to_owned(),
        format!("stages/{stage}"),
        "tmp/README".to_owned(),
    ];
    let foreign_folders = [
        "blobs/lost+found".to_owned(),
        format!("blobs/{shelf}/{}", data.location.replace(&data.location[9..13], "0000")),
        "keys/tag/a!/folder=".to_owned(),
        "keys/lost+found".to_owned(),
        "stages/snapshot".to_owned(),
        "tmp/6e2fc1a4-7a1c-4a3e-9d5a-222222222222".to_owned(),
    ];
    fs::create_dir_all(data.path(&format!("blobs/{other}"))).unwrap();
    foreign_files.iter().for_each(|path| data.file(path, 10 * GRACE_MS));
    foreign_folders.iter().for_each(|path| fs::create_dir(data.path(path)).unwrap());
    let mut expected: Vec<String> =
        foreign_files.iter().skip(1).chain(&foreign_folders).map(|path| path.to_string()).collect();
    expected.sort();
    let before = all_paths(data.folder.path());
    for limit in [1, 3, 1000] {
        let tidied = data.tidy(limit, false);
        assert_eq!(tidied.foreign, expected);
        assert_eq!(tidied.removed, 0);
        assert_eq!(all_paths(data.folder.path()), before);
        data.is_whole();
    }
}

/// If another entry occupies the place of a key or of a folder on the key's path, the key is stored
/// in another place.
#[test]
fn keys_find_a_place_beside_foreign_entries() {
    let data = data();
    fs::create_dir(data.path("keys/tag/a!/v3=")).unwrap();
    fs::write(data.path("keys/referrer"), "a file in a folder's place").unwrap();
    for key in ["tag/a!v3", "referrer/a!x"] {
        assert_eq!(block_on(data.keys.get(key)).unwrap(), None, "{key}");
        block_on(data.keys.delete(key)).unwrap();
        block_on(data.keys.put(key, "value".into(), When::Absent)).unwrap();
        block_on(data.keys.put(key, "newer".into(), When::Always)).unwrap();
        assert_eq!(block_on(data.keys.get(key)).unwrap().unwrap().value, "newer", "{key}");
        assert_eq!(block_on(data.keys.list(key, None, 10)).unwrap(), [key]);
        block_on(data.keys.delete(key)).unwrap();
        assert_eq!(block_on(data.keys.get(key)).unwrap(), None, "{key}");
    }
}

#[test]
fn names_that_are_no_text_are_told() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let data = data();
    let foreign = ["blobs", "keys", "stages", "tmp"].map(|part| {
        fs::write(data.path(part).join(OsStr::from_bytes(b"\xff")), "").unwrap();
        format!("{part}/\u{fffd}")
    });
    assert_eq!(data.tidy(1, false).foreign, foreign);
    data.is_whole();
}

#[test]
fn old_leftovers_of_killed_writers_are_removed() {
    let data = data();
    let name = |number: u32| format!("tmp/6e2fc1a4-7a1c-4a3e-9d5a-00000000000{number}");
    data.file(&name(1), 2 * GRACE_MS);
    data.file(&format!("{}.back", name(2)), 2 * GRACE_MS);
    // The file of a live writer.
    data.file(&name(3), GRACE_MS / 2);
    // The clock was ahead when the file was written.
    File::create(data.path(&name(4)))
        .and_then(|file| file.set_modified(UNIX_EPOCH + Duration::from_millis(NOW_MS + 2 * GRACE_MS)))
        .unwrap();
    fs::create_dir_all(data.path("keys/tag/gone!/+v/+1")).unwrap();
    fs::create_dir_all(data.path("blobs/0a")).unwrap();

    let before = all_paths(data.folder.path());
    let told = data.tidy(1000, true);
    assert_eq!(all_paths(data.folder.path()), before);
    // In a dry run, no folder becomes empty, so the emptied folders are not counted.
    assert_eq!((told.removed, &told.foreign), (5, &Vec::new()));

    let tidied = data.tidy(2, false);
    assert_eq!((tidied.removed, &tidied.foreign), (7, &Vec::new()));
    for gone in [name(1), format!("{}.back", name(2)), name(4), "keys/tag/gone!".into(), "blobs/0a".into()] {
        assert!(!data.path(&gone).exists(), "{gone}");
    }
    assert!(data.path(&name(3)).exists());
    assert_eq!(data.tidy(2, false).removed, 0);
    data.is_whole();
}

/// Even without a grace period, the temporary file of a live writer is kept for a few seconds. A
/// writer whose file was removed writes its value again.
#[test]
fn a_live_writer_is_not_disturbed() {
    let data = data();
    let name = "tmp/6e2fc1a4-7a1c-4a3e-9d5a-000000000001";
    data.file(name, TMP_AGE_MS_MIN - 1);
    let request = TidyRequest { now_ms: NOW_MS, grace_ms: 0, dry_run: false, after: None, limit: 1000 };
    block_on(data.keys.tidy(&request)).unwrap();
    assert!(data.path(name).exists());
    data.file(name, TMP_AGE_MS_MIN + 1);
    block_on(data.keys.tidy(&request)).unwrap();
    assert!(!data.path(name).exists());
}
