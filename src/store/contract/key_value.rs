//! The clauses on a [`KeyValue`].

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use super::KeyValueClause;
use crate::store::{Error, KeyValue, Version, When};

clauses! {
    /// Every clause on a [`KeyValue`], by name.
    KEY_VALUE: KeyValueClause, key_value, test_key_value,
    an_unwritten_key_is_absent
    a_written_value_is_read
    the_last_writer_wins
    a_delete_can_be_repeated
    keys_are_listed_in_byte_order
    a_listing_ends_at_its_prefix
    a_listing_goes_on_after_a_key_that_is_gone
    many_keys_are_listed_in_pages
    a_key_may_begin_like_another
    unusual_keys_are_kept_apart
    exactly_one_creator_wins
    exactly_one_compare_and_swap_wins
    a_deleted_key_has_no_version
    a_changed_value_is_not_deleted
    exactly_one_delete_or_swap_wins
    a_write_returns_its_version
}

pub(super) fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &Arc<dyn KeyValue>, key: &str, value: &str) {
    store.put(key, text(value), When::Always).await.unwrap();
}

async fn value(store: &Arc<dyn KeyValue>, key: &str) -> Option<Bytes> {
    store.get(key).await.unwrap().map(|entry| entry.value)
}

pub(crate) async fn an_unwritten_key_is_absent(store: Arc<dyn KeyValue>) {
    assert_eq!(store.get("contract/never!written").await, Ok(None));
    assert_eq!(store.list("contract/never", None, 10).await, Ok(vec![]));
}

pub(crate) async fn a_written_value_is_read(store: Arc<dyn KeyValue>) {
    let large = Bytes::from(vec![7; 300_000]);
    let binary = Bytes::from((0..=255).collect::<Vec<u8>>());
    for (key, bytes) in [("contract/w!empty", Bytes::new()), ("contract/w!binary", binary), ("contract/w!large", large)]
    {
        store.put(key, bytes.clone(), When::Always).await.unwrap();
        assert_eq!(value(&store, key).await, Some(bytes), "{key}");
    }
}

pub(crate) async fn the_last_writer_wins(store: Arc<dyn KeyValue>) {
    for written in ["one", "two", "three"] {
        put(&store, "contract/last!a", written).await;
    }
    assert_eq!(value(&store, "contract/last!a").await, Some(text("three")));
}

pub(crate) async fn a_delete_can_be_repeated(store: Arc<dyn KeyValue>) {
    put(&store, "contract/delete!a", "x").await;
    for _ in 0..2 {
        store.delete("contract/delete!a").await.unwrap();
        assert_eq!(store.get("contract/delete!a").await, Ok(None));
    }
    put(&store, "contract/delete!a", "y").await;
    assert_eq!(value(&store, "contract/delete!a").await, Some(text("y")));
}

pub(crate) async fn keys_are_listed_in_byte_order(store: Arc<dyn KeyValue>) {
    // The names are not in order here, and compare `!`, `-`, `.`, `/` and letters of both cases at
    // one position.
    let names = ["b", "a/b!x", "a!y", "a-b!x", "a.b!x", "a!B", "a!a", "a/!x", "a!", "a/a/a!x", "Z", "a0!x", "a_b!x"];
    let mut keys: Vec<String> = names.iter().map(|name| format!("contract/order/{name}")).collect();
    for key in &keys {
        put(&store, key, "").await;
    }
    keys.sort();
    assert_eq!(store.list("contract/order/", None, 100).await.unwrap(), keys);
    for limit in [1, 2, 5] {
        let mut paged: Vec<String> = Vec::new();
        loop {
            let page = store.list("contract/order/", paged.last().map(String::as_str), limit).await.unwrap();
            paged.extend_from_slice(&page);
            if page.len() < limit {
                break;
            }
        }
        assert_eq!(paged, keys, "in pages of {limit}");
    }
    assert_eq!(store.list("contract/order/", None, 0).await, Ok(vec![]));
}

pub(crate) async fn a_listing_ends_at_its_prefix(store: Arc<dyn KeyValue>) {
    for key in ["contract/p/a!1", "contract/p/ab!2", "contract/p/a/b!3", "contract/pp!4"] {
        put(&store, key, "").await;
    }
    for (prefix, expected) in [
        ("contract/p/a!", vec!["contract/p/a!1"]),
        ("contract/p/a", vec!["contract/p/a!1", "contract/p/a/b!3", "contract/p/ab!2"]),
        ("contract/p/a/", vec!["contract/p/a/b!3"]),
        ("contract/p/a!1", vec!["contract/p/a!1"]),
        ("contract/p/x", vec![]),
    ] {
        assert_eq!(store.list(prefix, None, 10).await.unwrap(), expected, "{prefix}");
        // An `after` that sorts before the prefix changes nothing. An `after` that sorts behind the
        // prefix leaves no keys.
        assert_eq!(store.list(prefix, Some("contract/a"), 10).await.unwrap(), expected, "{prefix}");
        assert_eq!(store.list(prefix, Some("contract/z"), 10).await, Ok(vec![]), "{prefix}");
    }
}

pub(crate) async fn a_listing_goes_on_after_a_key_that_is_gone(store: Arc<dyn KeyValue>) {
    for key in ["contract/gone!a", "contract/gone!b", "contract/gone!c"] {
        put(&store, key, "").await;
    }
    store.delete("contract/gone!b").await.unwrap();
    let listed = store.list("contract/gone!", Some("contract/gone!b"), 10).await;
    assert_eq!(listed, Ok(vec!["contract/gone!c".to_owned()]));
}

/// Many keys in one place, more than a back end may keep together, with a long common beginning.
/// The last key of each page is deleted before the next page is listed.
pub(crate) async fn many_keys_are_listed_in_pages(store: Arc<dyn KeyValue>) {
    let beside = (0..60).map(|n| format!("contract/many/that-begin-alike-{n:02}!"));
    let mut keys: Vec<String> = (0..240).map(|n| format!("contract/many!that-begin-alike-{n:03}")).collect();
    keys.extend(beside);
    // The keys are not written in order, so that the order of creation differs from the order of
    // the keys.
    for n in 0..keys.len() {
        put(&store, &keys[n * 7 % 300], "").await;
    }
    keys.sort();
    let mut listed: Vec<String> = Vec::new();
    while let Ok(page) = store.list("contract/many", listed.last().map(String::as_str), 17).await
        && let Some(last) = page.last()
    {
        store.delete(last).await.unwrap();
        listed.extend(page);
    }
    assert_eq!(listed, keys);
    for key in &keys {
        store.delete(key).await.unwrap();
    }
    assert_eq!(store.list("contract/many", None, 10).await, Ok(vec![]));
    put(&store, &keys[150], "again").await;
    assert_eq!(store.list("contract/many", None, 10).await, Ok(vec![keys[150].clone()]));
    assert_eq!(value(&store, &keys[150]).await, Some(text("again")));
}

pub(crate) async fn a_key_may_begin_like_another(store: Arc<dyn KeyValue>) {
    let keys = ["contract/k", "contract/k/l", "contract/k/l/m", "contract/k!l", "contract/k!l!m", "contract/k!"];
    for key in keys {
        put(&store, key, key).await;
    }
    for key in keys {
        assert_eq!(value(&store, key).await, Some(text(key)));
    }
    store.delete("contract/k").await.unwrap();
    store.delete("contract/k/l/m").await.unwrap();
    store.delete("contract/k!l!m").await.unwrap();
    let rest = ["contract/k!", "contract/k!l", "contract/k/l"].map(str::to_owned).to_vec();
    assert_eq!(store.list("contract/k", None, 10).await, Ok(rest));
}

pub(crate) async fn unusual_keys_are_kept_apart(store: Arc<dyn KeyValue>) {
    let long = format!("contract/odd/{}!{}", "n".repeat(255), "t".repeat(128));
    let longer = format!("contract/odd/{}:{}", "%".repeat(100), "n".repeat(300));
    let odd = ["..!x", ".!x", "sha256:ab!..", "sha256:", "sha256", "sha256:/!", "a=b%!é", "+a", "a"];
    let odd = odd.map(|name| format!("contract/odd/{name}"));
    let keys: Vec<&str> = odd.iter().chain([&long, &longer]).map(String::as_str).collect();
    for key in &keys {
        put(&store, key, key).await;
    }
    for key in &keys {
        assert_eq!(value(&store, key).await, Some(text(key)));
    }
    let mut sorted = keys;
    sorted.sort_unstable();
    assert_eq!(store.list("contract/odd/", None, 100).await.unwrap(), sorted);
}

/// Writes several contents at the same time under one condition: exactly one write wins, and its
/// content is stored. `None` where the store does not support the condition.
async fn race(store: &Arc<dyn KeyValue>, key: &'static str, when: When) -> Option<()> {
    let before = value(store, key).await;
    let contents: Vec<String> = (0..8).map(|n| format!("content {n}")).collect();
    let writes = contents.iter().map(|content| store.put(key, text(content), when.clone()));
    let results = join_all(writes).await;
    let after = value(store, key).await;
    if results.iter().all(|result| matches!(result, Err(Error::Unsupported(_)))) {
        assert_eq!(after, before, "a condition that is not supported writes nothing");
        return None;
    }
    let winners: Vec<usize> = (0..8).filter(|n| results[*n].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    assert_eq!(after, Some(text(&contents[winners[0]])));
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(Error::Conflict(_)))), "{results:?}");
    Some(())
}

pub(crate) async fn exactly_one_creator_wins(store: Arc<dyn KeyValue>) {
    let key = "contract/create!a";
    store.delete(key).await.unwrap();
    if race(&store, key, When::Absent).await.is_some() {
        let again = store.put(key, text("again"), When::Absent).await;
        assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    }
}

pub(crate) async fn exactly_one_compare_and_swap_wins(store: Arc<dyn KeyValue>) {
    let key = "contract/swap!a";
    // The same value written again has another version.
    put(&store, key, "same").await;
    let stale = store.get(key).await.unwrap().unwrap().version;
    put(&store, key, "same").await;
    let version = store.get(key).await.unwrap().unwrap().version;
    let late = store.put(key, text("late"), When::Unchanged(stale)).await;
    assert!(matches!(late, Err(Error::Conflict(_) | Error::Unsupported(_))), "{late:?}");
    assert_eq!(value(&store, key).await, Some(text("same")));
    race(&store, key, When::Unchanged(version)).await;
}

pub(crate) async fn a_deleted_key_has_no_version(store: Arc<dyn KeyValue>) {
    let key = "contract/deleted!a";
    put(&store, key, "x").await;
    let version = store.get(key).await.unwrap().unwrap().version;
    store.delete(key).await.unwrap();
    for version in [version, Version("nonsense".into())] {
        let late = store.put(key, text("late"), When::Unchanged(version)).await;
        assert!(matches!(late, Err(Error::Conflict(_) | Error::Unsupported(_))), "{late:?}");
        assert_eq!(store.get(key).await, Ok(None));
    }
}

pub(crate) async fn a_changed_value_is_not_deleted(store: Arc<dyn KeyValue>) {
    let key = "contract/delete-changed!a";
    let nonsense = Version("nonsense".into());
    // The same value written again has another version.
    put(&store, key, "same").await;
    let stale = store.get(key).await.unwrap().unwrap().version;
    put(&store, key, "same").await;
    let current = store.get(key).await.unwrap().unwrap().version;
    for version in [&stale, &nonsense] {
        let late = store.delete_unchanged(key, version).await;
        assert!(matches!(late, Err(Error::Conflict(_) | Error::Unsupported(_))), "{late:?}");
        assert_eq!(value(&store, key).await, Some(text("same")));
    }
    store.delete(key).await.unwrap();
    for version in [&stale, &current, &nonsense] {
        let late = store.delete_unchanged(key, version).await;
        assert!(matches!(late, Err(Error::Conflict(_) | Error::Unsupported(_))), "{late:?}");
        assert_eq!(store.get(key).await, Ok(None));
    }
}

/// Deletions and writes race under one version: at most one operation succeeds and determines the
/// state of the key.
pub(crate) async fn exactly_one_delete_or_swap_wins(store: Arc<dyn KeyValue>) {
    let key = "contract/delete-race!a";
    for writers in [0, 4] {
        put(&store, key, "before").await;
        let version = store.get(key).await.unwrap().unwrap().version;
        let contents: Vec<String> = (0..writers).map(|n| format!("content {n}")).collect();
        let deletes = join_all((0..4).map(|_| store.delete_unchanged(key, &version)));
        let writes = contents.iter().map(|content| store.put(key, text(content), When::Unchanged(version.clone())));
        let (deletes, writes) = futures_util::future::join(deletes, join_all(writes)).await;
        let mut outcomes: Vec<Option<Bytes>> = Vec::new();
        for (number, write) in writes.iter().enumerate() {
            match write {
                Ok(_) => outcomes.push(Some(text(&contents[number]))),
                Err(error) => assert!(matches!(error, Error::Conflict(_) | Error::Unsupported(_)), "{error:?}"),
            }
        }
        let are_supported = !deletes.iter().all(|delete| matches!(delete, Err(Error::Unsupported(_))));
        for delete in &deletes {
            match delete {
                Ok(()) => outcomes.push(None),
                Err(error) => assert_eq!(matches!(error, Error::Conflict(_)), are_supported, "{error:?}"),
            }
        }
        assert!(outcomes.len() <= 1, "{deletes:?} {writes:?}");
        assert!(!are_supported || outcomes.len() == 1, "{deletes:?} {writes:?}");
        let expected = outcomes.pop().unwrap_or(Some(text("before")));
        assert_eq!(value(&store, key).await, expected, "{deletes:?} {writes:?}");
    }
}

pub(crate) async fn a_write_returns_its_version(store: Arc<dyn KeyValue>) {
    let key = "contract/written!a";
    put(&store, key, "before").await;
    let Some(first) = store.put(key, text("first"), When::Always).await.unwrap() else { return };
    assert_eq!(store.get(key).await.unwrap().unwrap().version, first);
    // Each returned version fits the next conditional write.
    let second = store.put(key, text("second"), When::Unchanged(first.clone())).await.unwrap().unwrap();
    let late = store.put(key, text("late"), When::Unchanged(first)).await;
    assert!(matches!(late, Err(Error::Conflict(_))), "{late:?}");
    store.put(key, text("third"), When::Unchanged(second)).await.unwrap();
    assert_eq!(value(&store, key).await, Some(text("third")));
}
