//! Properties of the key-value store in files that the contract does not cover: the cost of lists,
//! leftovers after deletes, and races. The folders are so small that every name reaches a limit.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use futures_executor::block_on;

use super::*;
use crate::platform::SystemPlatform;
use crate::store::contract;

/// A store with at most `names_max` names in a folder. `locks: false` is the behaviour of a
/// component, where file locks do not exist.
fn store(names_max: usize, locks: bool) -> (Arc<FileKeyValue>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = FileKeyValue::open_with(folder.path(), Arc::new(SystemPlatform), names_max, locks).unwrap();
    (Arc::new(store), folder)
}

fn put(store: &FileKeyValue, key: &str) {
    block_on(store.put(key, Bytes::copy_from_slice(key.as_bytes()), When::Always)).unwrap();
}

fn delete(store: &FileKeyValue, key: &str) {
    block_on(store.delete(key)).unwrap();
}

fn list(store: &FileKeyValue, prefix: &str) -> Vec<String> {
    block_on(store.list(prefix, None, usize::MAX)).unwrap()
}

fn paged(store: &FileKeyValue, prefix: &str, limit: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let page = block_on(store.list(prefix, all.last().map(String::as_str), limit)).unwrap();
        all.extend_from_slice(&page);
        if page.len() < limit {
            return all;
        }
    }
}

/// The result of `work`, and the number of folder entries that `work` reads.
fn cost<T>(store: &FileKeyValue, work: impl FnOnce() -> T) -> (T, u64) {
    let before = store.entries_read();
    let result = work();
    (result, store.entries_read() - before)
}

fn assert_empty(folder: &tempfile::TempDir) {
    for name in ["keys", "tmp"] {
        let left: Vec<_> = fs::read_dir(folder.path().join(name)).unwrap().collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
}

#[test]
fn the_contract_is_kept_however_small_folders_are() {
    for (names_max, locks) in [(0, true), (1, true), (2, true), (3, false)] {
        for (name, clause) in contract::KEY_VALUE {
            println!("{name}, {names_max} names in a folder");
            let (store, _folder) = store(names_max, locks);
            block_on(clause(store));
        }
    }
}

#[test]
fn deleting_all_keys_leaves_no_folder() {
    let (store, folder) = store(2, true);
    let keys: Vec<String> = (0..60).flat_map(|n| [format!("tag/a/{n}!v{n}"), format!("tag/a!v{n}")]).collect();
    keys.iter().for_each(|key| put(&store, key));
    keys.iter().for_each(|key| delete(&store, key));
    assert_empty(&folder);
}

/// A name that is too long for the file system is split over as many buckets as needed.
#[test]
fn a_long_name_is_kept() {
    let (store, folder) = store(FOLDER_NAMES_MAX, true);
    for key in ["n".repeat(1024), format!("a!{}", "%".repeat(200)), format!("{}/x", "n".repeat(256))] {
        put(&store, &key);
        assert_eq!(block_on(store.get(&key)).unwrap().unwrap().value, key);
        assert_eq!(list(&store, ""), [key.as_str()]);
        delete(&store, &key);
    }
    assert_empty(&folder);
}

/// The cost of a page does not depend on the number of keys: for keys of one folder, folders of one
/// folder, and names with the same beginning.
#[test]
fn a_page_costs_the_same_however_many_keys_there_are() {
    let names: [fn(usize) -> String; 3] = [
        |n| format!("tag/a!{:08x}", (n as u32).wrapping_mul(2_654_435_761)),
        |n| format!("repository/team/app-{n:05}!"),
        |n| format!("tag/a!a-long-beginning-that-all-have-{n:05}"),
    ];
    for name in names {
        let (store, folder) = store(8, true);
        let mut keys: Vec<String> = Vec::new();
        let most = [200, 1000].map(|count| {
            let more = keys.len()..count;
            more.clone().for_each(|n| put(&store, &name(n)));
            keys.extend(more.map(name));
            keys.sort();
            let prefix = &keys[0][..keys[0].rfind(['/', '!']).unwrap().min(12)];
            assert_eq!(paged(&store, prefix, 10), keys);
            let costs = keys.iter().step_by(7).map(|after| {
                let (page, cost) = cost(&store, || block_on(store.list(prefix, Some(after), 10)).unwrap());
                let next = keys.partition_point(|key| key <= after);
                assert_eq!(page, keys[next..keys.len().min(next + 10)]);
                cost
            });
            costs.max().unwrap()
        });
        println!("{}: at most {most:?} entries a page", keys[0]);
        assert!(most[1] <= most[0] * 3 / 2 + 50, "{}: {most:?}", keys[0]);
        keys.iter().for_each(|key| delete(&store, key));
        assert_empty(&folder);
    }
}

/// One key has two files, which happens if two creators saw the folder at different fill levels.
#[test]
fn the_first_of_two_files_counts_and_a_delete_removes_both() {
    let (store, folder) = store(8, false);
    put(&store, "tag/a!v1");
    let first = folder.path().join("keys/tag/a!/v1=");
    let second = folder.path().join("keys/tag/a!/+v/1=");
    fs::create_dir(second.parent().unwrap()).unwrap();
    fs::copy(&first, &second).unwrap();
    block_on(store.put("tag/a!v1", "new".into(), When::Always)).unwrap();
    assert_eq!(block_on(store.get("tag/a!v1")).unwrap().unwrap().value, "new");
    assert_eq!(list(&store, ""), ["tag/a!v1"]);
    let refused = block_on(store.put("tag/a!v1", Bytes::new(), When::Absent));
    assert!(matches!(refused, Err(Error::Conflict(_))));
    // A creator that finds another creator's file removes its own file, unless its own file was
    // overwritten with another value.
    let tmp = folder.path().join("tmp/mine");
    fs::write(&tmp, "mine").unwrap();
    store.folder.take_back(&first, &tmp).unwrap();
    assert_eq!(block_on(store.get("tag/a!v1")).unwrap().unwrap().value, "new");
    fs::remove_file(&first).unwrap();
    fs::hard_link(&tmp, &first).unwrap();
    store.folder.take_back(&first, &tmp).unwrap();
    assert!(!first.exists());
    fs::remove_file(&tmp).unwrap();
    fs::copy(&second, &first).unwrap();

    delete(&store, "tag/a!v1");
    assert_eq!(block_on(store.get("tag/a!v1")), Ok(None));
    assert_empty(&folder);
}

/// Several writers create and delete their own keys in shared folders, which come and go all the
/// time. An acknowledged key can be read and is listed until its owner deletes the key.
#[test]
fn no_acknowledged_key_is_lost() {
    for (names_max, locks) in [(1, true), (2, false)] {
        let (store, folder) = store(names_max, locks);
        let done = AtomicBool::new(false);
        put(&store, "tag/a!kept");
        thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    scope.spawn({
                        let store = &store;
                        move || come_and_go(store, writer)
                    })
                })
                .collect();
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let all = list(&store, "tag/");
                    assert!(all.iter().any(|key| key == "tag/a!kept"), "{all:?}");
                    assert!(all.is_sorted(), "{all:?}");
                }
            });
            let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            done.store(true, Ordering::Relaxed);
            results.into_iter().for_each(|result| result.unwrap());
        });
        assert_eq!(list(&store, ""), ["tag/a!kept"]);
        delete(&store, "tag/a!kept");
        assert_empty(&folder);
    }
}

fn come_and_go(store: &FileKeyValue, writer: usize) {
    let mut mine = BTreeSet::new();
    for round in 0..120 {
        let number = round * 7 % 12;
        let key = match number % 3 {
            0 => format!("tag/a!v{number}-{writer}"),
            1 => format!("tag/a/v{number}{writer}!v"),
            _ => format!("tag/a!{writer}"),
        };
        if mine.remove(&key) {
            delete(store, &key);
            assert_eq!(block_on(store.get(&key)), Ok(None), "{key}");
        } else {
            let when = if round % 2 == 0 { When::Always } else { When::Absent };
            block_on(store.put(&key, Bytes::copy_from_slice(key.as_bytes()), when)).unwrap();
            mine.insert(key);
        }
        for key in &mine {
            assert_eq!(block_on(store.get(key)).unwrap().expect(key).value, *key);
        }
        let all = list(store, "tag/a");
        assert!(mine.iter().all(|key| all.contains(key)), "{mine:?} in {all:?}");
    }
    mine.iter().for_each(|key| delete(store, key));
}

/// Many writers create the same key while folders fill up and empty. Each key has exactly one
/// creator, with locks and without.
#[test]
fn exactly_one_creator_wins_while_folders_fill_up() {
    for locks in [true, false] {
        let (store, folder) = store(1, locks);
        for round in 0..12 {
            let key = format!("tag/a!race-{}", round % 4);
            let beside: Vec<String> = (0..4).map(|n| format!("tag/a!{}{n}", &"race-"[..1 + n])).collect();
            let winners: usize = thread::scope(|scope| {
                let (store, key) = (&store, &key);
                let creators = (0..4).map(|creator: usize| {
                    scope.spawn(move || {
                        let value = Bytes::from(format!("creator {creator}"));
                        match block_on(store.put(key, value.clone(), When::Absent)) {
                            Ok(_) => Some(value),
                            Err(Error::Conflict(_)) => None,
                            Err(error) => panic!("{error}"),
                        }
                    })
                });
                let creators: Vec<_> = creators.collect();
                for name in &beside {
                    scope.spawn(move || put(store, name));
                }
                let won: Vec<Bytes> = creators.into_iter().filter_map(|creator| creator.join().unwrap()).collect();
                assert_eq!(block_on(store.get(key)).unwrap().map(|entry| entry.value).as_ref(), won.first());
                won.len()
            });
            assert_eq!(winners, 1, "locks: {locks}");
            delete(&store, &key);
            assert_eq!(block_on(store.get(&key)), Ok(None));
            beside.iter().for_each(|name| delete(&store, name));
        }
        assert_empty(&folder);
    }
}

/// Writers and deleters share keys without locks. After an acknowledged delete, no old value
/// reappears later.
#[test]
fn a_deleted_key_stays_deleted() {
    let (store, folder) = store(1, false);
    for _ in 0..15 {
        thread::scope(|scope| {
            for name in ["v", "va", "vb", "vab", "vab", "vab"] {
                let store = &store;
                scope.spawn(move || {
                    let key = format!("tag/a!{name}");
                    put(store, &key);
                    delete(store, &key);
                });
            }
        });
        assert_eq!(list(&store, ""), [""; 0]);
        assert_empty(&folder);
    }
}
