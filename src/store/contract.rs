//! The clauses that every back end of a port must keep, as functions that panic when a clause is
//! broken.
//!
//! To run the clauses against another back end:
//!
//! ```
//! use std::sync::Arc;
//! use eyot::store::{contract, memory::MemoryKeyValue};
//!
//! for (name, clause) in contract::KEY_VALUE {
//!     println!("{name}");
//!     futures_executor::block_on(clause(Arc::new(MemoryKeyValue::default())));
//! }
//! ```
//!
//! A back end must refuse a condition that it cannot honour as
//! [`Unsupported`](super::Error::Unsupported), and write nothing. The clauses use keys that begin
//! with `contract`, so the store may hold other data.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream;

use super::{BlobStore, Error, KeyValue, Result, Stage, Version, When};
use crate::oci::{Algorithm, Digest};
use crate::platform::{Body, BodyError};

/// A clause on a [`KeyValue`].
pub type KeyValueClause = fn(Arc<dyn KeyValue>) -> BoxFuture<'static, ()>;
/// A clause on a [`BlobStore`].
pub type BlobStoreClause = fn(Arc<dyn BlobStore>) -> BoxFuture<'static, ()>;

macro_rules! clauses {
    ($(#[$documentation:meta])* $list:ident: $clause:ty, $stamp:ident, $($name:ident)*) => {
        $(#[$documentation])*
        pub const $list: &[(&str, $clause)] = &[$((stringify!($name), |store| Box::pin($name(store)))),*];

        /// Makes a named test of each clause, on a store that `$make` gives.
        #[cfg(all(test, not(target_family = "wasm")))]
        macro_rules! $stamp {
            ($make:expr) => {
                $(#[test] fn $name() {
                    let (store, _guard) = $make;
                    futures_executor::block_on($crate::store::contract::$name(store));
                })*
            };
        }
    };
}

clauses! {
    /// Every clause on a [`KeyValue`], by name.
    KEY_VALUE: KeyValueClause, test_key_value,
    what_was_never_written_is_absent
    what_was_written_is_read
    the_last_writer_wins
    a_delete_can_be_repeated
    keys_are_listed_in_byte_order
    a_listing_ends_at_its_prefix
    a_listing_goes_on_after_a_key_that_is_gone
    many_keys_are_listed_in_pages
    a_key_may_begin_like_another
    unusual_keys_are_kept_apart
    one_creator_wins
    one_swapper_wins
    a_deleted_key_has_no_version
    a_changed_value_is_not_deleted
    one_deleter_or_swapper_wins
    a_write_gives_its_version
}

clauses! {
    /// Every clause on a [`BlobStore`], by name.
    BLOB_STORE: BlobStoreClause, test_blob_store,
    what_was_appended_is_read
    ranges_are_exact
    empty_content_is_content
    any_number_of_appends_is_one_content
    one_large_append_is_one_content
    forks_are_kept_apart
    forks_at_the_same_time_are_kept_apart
    an_error_in_a_body_is_an_error
    an_append_can_be_tried_again
    a_commit_after_a_failed_append_has_the_bytes_before_it
    a_discarded_stage_never_yields_other_bytes
    a_commit_can_be_repeated
    missing_content_is_no_content
    a_content_can_be_removed_twice
    what_is_held_is_listed
    content_is_listed_with_its_size
    what_is_removed_leaves_nothing_and_its_twin_whole
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &Arc<dyn KeyValue>, key: &str, value: &str) {
    store.put(key, text(value), When::Always).await.unwrap();
}

async fn value(store: &Arc<dyn KeyValue>, key: &str) -> Option<Bytes> {
    store.get(key).await.unwrap().map(|entry| entry.value)
}

pub(crate) async fn what_was_never_written_is_absent(store: Arc<dyn KeyValue>) {
    assert_eq!(store.get("contract/never!written").await, Ok(None));
    assert_eq!(store.list("contract/never", None, 10).await, Ok(vec![]));
}

pub(crate) async fn what_was_written_is_read(store: Arc<dyn KeyValue>) {
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

pub(crate) async fn one_creator_wins(store: Arc<dyn KeyValue>) {
    let key = "contract/create!a";
    store.delete(key).await.unwrap();
    if race(&store, key, When::Absent).await.is_some() {
        let again = store.put(key, text("again"), When::Absent).await;
        assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    }
}

pub(crate) async fn one_swapper_wins(store: Arc<dyn KeyValue>) {
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
pub(crate) async fn one_deleter_or_swapper_wins(store: Arc<dyn KeyValue>) {
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

pub(crate) async fn a_write_gives_its_version(store: Arc<dyn KeyValue>) {
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

/// Content that differs at every place and from seed to seed.
fn content(seed: u8, length: usize) -> Bytes {
    let byte = |at: usize| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8).wrapping_add(seed);
    (0..length).map(byte).collect::<Vec<u8>>().into()
}

/// A body that arrives in pieces and lets other tasks run in between.
fn in_pieces(bytes: Bytes, piece: usize) -> Body {
    let pieces: Vec<Bytes> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
    Body::from_stream(stream::unfold(pieces.into_iter(), |mut pieces| async move {
        yield_now().await;
        pieces.next().map(|piece| (Ok::<_, BodyError>(piece), pieces))
    }))
}

/// Lets other tasks run.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

fn broken(bytes: Bytes) -> Body {
    Body::from_stream(stream::iter([Ok(bytes), Err(BodyError::Interrupted("on purpose".into()))]))
}

fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

/// Commits `stage` and checks that the committed bytes are `expected`. Returns the error of a
/// refused commit.
async fn commit_and_read(store: &Arc<dyn BlobStore>, stage: &Stage, expected: &Bytes) -> Result<()> {
    let location = store.commit(stage, &digest(expected)).await?;
    let body = store.read(&location, 0..expected.len() as u64).await.unwrap();
    assert_eq!(body.length(), Some(expected.len() as u64));
    assert!(body.collect_up_to(u64::MAX).await.unwrap() == *expected, "other bytes were read than appended");
    Ok(())
}

async fn stored(store: &Arc<dyn BlobStore>, bytes: &Bytes) -> super::Location {
    let stage = store.stage().await.unwrap();
    let stage = store.append(&stage, bytes.clone().into()).await.unwrap();
    store.commit(&stage, &digest(bytes)).await.unwrap()
}

pub(crate) async fn what_was_appended_is_read(store: Arc<dyn BlobStore>) {
    let bytes = content(1, 100_000);
    let stage = store.stage().await.unwrap();
    let stage = store.append(&stage, in_pieces(bytes.clone(), 3000)).await.unwrap();
    commit_and_read(&store, &stage, &bytes).await.unwrap();
}

pub(crate) async fn ranges_are_exact(store: Arc<dyn BlobStore>) {
    // Back ends cut content at sizes around 64 KiB and 1 MiB.
    let bytes = content(2, 2_200_000);
    let location = stored(&store, &bytes).await;
    let ranges: [Range<usize>; 8] = [
        0..0,
        0..1,
        65_535..65_537,
        131_072..131_073,
        983_039..983_042,
        1_048_575..2_097_153,
        2_199_999..2_200_000,
        2_200_000..2_200_000,
    ];
    for range in ranges {
        let body = store.read(&location, range.start as u64..range.end as u64).await.unwrap();
        let read = body.collect_up_to(u64::MAX).await.unwrap();
        assert!(read == bytes[range.clone()], "{range:?}");
    }
    // A range beyond the end is refused at once or breaks off. The answer is never complete.
    match store.read(&location, 2_199_999..2_200_001).await {
        Ok(body) => assert!(body.collect_up_to(u64::MAX).await.is_err()),
        Err(error) => assert!(matches!(error, Error::Corrupt(_)), "{error}"),
    }
}

pub(crate) async fn empty_content_is_content(store: Arc<dyn BlobStore>) {
    let stage = store.stage().await.unwrap();
    commit_and_read(&store, &stage, &Bytes::new()).await.unwrap();
    let stage = store.stage().await.unwrap();
    let stage = store.append(&stage, Body::empty()).await.unwrap();
    commit_and_read(&store, &stage, &Bytes::new()).await.unwrap();
}

pub(crate) async fn any_number_of_appends_is_one_content(store: Arc<dyn BlobStore>) {
    let bytes = content(3, 700_000);
    let mut stage = store.stage().await.unwrap();
    let mut rest = bytes.clone();
    for n in 0.. {
        if rest.is_empty() {
            break;
        }
        // Small appends, empty appends and a few that fill a chunk.
        let size = [1000, 1, 0, 17_000, 500, 70_000][n % 6].min(rest.len());
        stage = store.append(&stage, rest.split_to(size).into()).await.unwrap();
    }
    commit_and_read(&store, &stage, &bytes).await.unwrap();
    // Many appends, each too large to stay in the stage, so that lists of appends must be moved out
    // more than once.
    let bytes = content(4, 17_000 * 700);
    let mut stage = store.stage().await.unwrap();
    for piece in bytes.chunks(17_000) {
        stage = store.append(&stage, Bytes::copy_from_slice(piece).into()).await.unwrap();
        assert!(stage.0.len() < 100_000, "a stage stays small");
    }
    commit_and_read(&store, &stage, &bytes).await.unwrap();
}

pub(crate) async fn one_large_append_is_one_content(store: Arc<dyn BlobStore>) {
    let bytes = content(5, 5_000_001);
    let stage = store.stage().await.unwrap();
    let stage = store.append(&stage, in_pieces(bytes.clone(), 65_536)).await.unwrap();
    commit_and_read(&store, &stage, &bytes).await.unwrap();
}

/// Commits both forks in the given order. The first fork yields its bytes; the second fork yields
/// its bytes or is refused.
async fn commit_forks(store: &Arc<dyn BlobStore>, forks: [(&Stage, &Bytes); 2]) {
    let [(first, first_bytes), (second, second_bytes)] = forks;
    commit_and_read(store, first, first_bytes).await.unwrap();
    if let Err(error) = commit_and_read(store, second, second_bytes).await {
        assert!(matches!(error, Error::Conflict(_)), "{error}");
    }
}

pub(crate) async fn forks_are_kept_apart(store: Arc<dyn BlobStore>) {
    for first in [0, 1] {
        let (start, one, two) = (content(6, 30_000), content(7, 40_000), content(8, 20_000));
        let stage = store.stage().await.unwrap();
        let stage = store.append(&stage, start.clone().into()).await.unwrap();
        let mut forks = Vec::new();
        for more in [one, two] {
            let fork = store.append(&stage, more.clone().into()).await.unwrap();
            forks.push((fork, Bytes::from([start.clone(), more].concat())));
        }
        let [a, b] = [first, 1 - first].map(|n| (&forks[n].0, &forks[n].1));
        commit_forks(&store, [a, b]).await;
    }
}

pub(crate) async fn forks_at_the_same_time_are_kept_apart(store: Arc<dyn BlobStore>) {
    for start in [Bytes::new(), content(9, 100_000)] {
        let stage = store.stage().await.unwrap();
        let stage = store.append(&stage, start.clone().into()).await.unwrap();
        let more: Vec<Bytes> = (0..4).map(|seed| content(10 + seed, 1_500_000)).collect();
        let appends = more.iter().map(|more| store.append(&stage, in_pieces(more.clone(), 50_000)));
        let mut committed = 0;
        for (fork, more) in join_all(appends).await.into_iter().zip(more) {
            let all = Bytes::from([start.clone(), more].concat());
            let result = match fork {
                Ok(fork) => commit_and_read(&store, &fork, &all).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => committed += 1,
                Err(error) => assert!(matches!(error, Error::Conflict(_)), "{error}"),
            }
        }
        assert!(committed > 0, "one fork at least can be committed");
    }
}

pub(crate) async fn an_error_in_a_body_is_an_error(store: Arc<dyn BlobStore>) {
    for length in [0, 10, 300_000, 2_000_000] {
        let stage = store.stage().await.unwrap();
        assert!(store.append(&stage, broken(content(14, length))).await.is_err());
    }
}

pub(crate) async fn an_append_can_be_tried_again(store: Arc<dyn BlobStore>) {
    let (start, rest) = (content(15, 100_000), content(16, 50_000));
    let mut stage = store.stage().await.unwrap();
    for more in [start.clone(), rest.clone()] {
        assert!(store.append(&stage, broken(content(17, 1_200_000))).await.is_err());
        assert!(store.append(&stage, broken(content(18, 10))).await.is_err());
        stage = store.append(&stage, more.into()).await.unwrap();
    }
    commit_and_read(&store, &stage, &Bytes::from([start, rest].concat())).await.unwrap();
}

pub(crate) async fn a_commit_after_a_failed_append_has_the_bytes_before_it(store: Arc<dyn BlobStore>) {
    let bytes = content(19, 100_000);
    let stage = store.stage().await.unwrap();
    let stage = store.append(&stage, bytes.clone().into()).await.unwrap();
    assert!(store.append(&stage, broken(content(20, 1_200_000))).await.is_err());
    commit_and_read(&store, &stage, &bytes).await.unwrap();
}

pub(crate) async fn a_discarded_stage_never_yields_other_bytes(store: Arc<dyn BlobStore>) {
    let (bytes, more) = (content(21, 100_000), content(22, 1000));
    let stage = store.stage().await.unwrap();
    let stage = store.append(&stage, bytes.clone().into()).await.unwrap();
    store.discard(&stage).await.unwrap();
    store.discard(&stage).await.unwrap();
    let result = match store.append(&stage, more.clone().into()).await {
        Ok(after) => commit_and_read(&store, &after, &Bytes::from([bytes, more].concat())).await,
        Err(error) => Err(error),
    };
    assert!(matches!(result, Ok(_) | Err(Error::Conflict(_))), "{result:?}");
}

pub(crate) async fn a_commit_can_be_repeated(store: Arc<dyn BlobStore>) {
    let bytes = content(23, 100_000);
    let stage = store.stage().await.unwrap();
    let stage = store.append(&stage, bytes.clone().into()).await.unwrap();
    commit_and_read(&store, &stage, &bytes).await.unwrap();
    let again = commit_and_read(&store, &stage, &bytes).await;
    assert!(matches!(again, Ok(()) | Err(Error::Conflict(_))), "{again:?}");
    // The same content can be uploaded once more, and is read from the new location.
    let location = stored(&store, &bytes).await;
    let read = store.read(&location, 0..100_000).await.unwrap().collect_up_to(u64::MAX).await;
    assert!(read.unwrap() == bytes);
}

pub(crate) async fn missing_content_is_no_content(store: Arc<dyn BlobStore>) {
    let bytes = content(24, 200_000);
    let location = stored(&store, &bytes).await;
    remove(&store, &location).await;
    match store.read(&location, 0..200_000).await {
        Ok(body) => assert!(body.collect_up_to(u64::MAX).await.is_err()),
        Err(error) => assert!(matches!(error, Error::Corrupt(_)), "{error}"),
    }
}

async fn remove(store: &Arc<dyn BlobStore>, location: &super::Location) {
    for name in store.names_of(location).await.unwrap() {
        store.remove(&name).await.unwrap();
    }
}

pub(crate) async fn a_content_can_be_removed_twice(store: Arc<dyn BlobStore>) {
    let location = stored(&store, &content(25, 10)).await;
    remove(&store, &location).await;
    remove(&store, &location).await;
}

/// The names of all objects in the store, listed in pages of `limit`.
async fn names(store: &Arc<dyn BlobStore>, limit: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let page = store.list(names.last().map(String::as_str), limit).await.unwrap();
        assert!(page.len() <= limit);
        let is_last = page.len() < limit;
        names.extend(page.into_iter().map(|stored| stored.name));
        if is_last {
            assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
            return names;
        }
    }
}

fn covers(mine: &[String], name: &str) -> bool {
    mine.iter().any(|mine| mine == name || (mine.ends_with('!') && name.starts_with(mine.as_str())))
}

pub(crate) async fn what_is_held_is_listed(store: Arc<dyn BlobStore>) {
    let bytes = content(26, 200_000);
    let location = stored(&store, &bytes).await;
    let twin = stored(&store, &bytes).await;
    let stage = store.stage().await.unwrap();
    let stage = store.append(&stage, content(27, 100_000).into()).await.unwrap();
    let (mine, of_twin) = (store.names_of(&location).await.unwrap(), store.names_of(&twin).await.unwrap());
    assert!(mine.iter().all(|name| !of_twin.contains(name)), "{mine:?} {of_twin:?}");
    let of_stage = store.names_of_stage(&stage).await.unwrap();
    for limit in [1, 2, 1000] {
        let all = names(&store, limit).await;
        assert!(mine.iter().chain(&of_twin).all(|name| all.contains(name)), "{mine:?} {all:?}");
        assert!(all.iter().any(|name| covers(&of_stage, name)), "{of_stage:?} {all:?}");
    }
    // The names of a stage cover the names of the content committed from the stage.
    let committed = store.commit(&stage, &digest(&content(27, 100_000))).await.unwrap();
    for name in store.names_of(&committed).await.unwrap() {
        assert!(covers(&of_stage, &name), "{of_stage:?} {name}");
    }
}

/// A collection needs the sizes to report how many bytes it freed.
pub(crate) async fn content_is_listed_with_its_size(store: Arc<dyn BlobStore>) {
    for (seed, sizes) in [(30, vec![0]), (31, vec![1]), (32, vec![100_000]), (33, vec![200_000, 7, 70_000, 20_000])] {
        let parts: Vec<Bytes> = sizes.iter().map(|size| content(seed, *size)).collect();
        let whole = Bytes::from(parts.concat());
        let mut stage = store.stage().await.unwrap();
        for part in parts {
            stage = store.append(&stage, part.into()).await.unwrap();
        }
        let location = store.commit(&stage, &digest(&whole)).await.unwrap();
        let own = store.names_of(&location).await.unwrap();
        for limit in [1, 1000] {
            let (mut bytes, mut after) = (0, None);
            loop {
                let page = store.list(after.as_deref(), limit).await.unwrap();
                for stored in page.iter().filter(|stored| own.contains(&stored.name)) {
                    bytes += stored.bytes.unwrap_or_else(|| panic!("{} has no size", stored.name));
                }
                if page.len() < limit {
                    break;
                }
                after = page.last().map(|last| last.name.clone());
            }
            assert_eq!(bytes, whole.len() as u64, "{own:?} in pages of {limit}");
        }
    }
}

pub(crate) async fn what_is_removed_leaves_nothing_and_its_twin_whole(store: Arc<dyn BlobStore>) {
    let bytes = content(28, 200_000);
    let (gone, twin) = (stored(&store, &bytes).await, stored(&store, &bytes).await);
    let of_gone = store.names_of(&gone).await.unwrap();
    remove(&store, &gone).await;
    let read = store.read(&twin, 0..200_000).await.unwrap().collect_up_to(u64::MAX).await;
    assert!(read.unwrap() == bytes);
    // An abandoned stage is removed by the names that the store lists.
    let stage = store.stage().await.unwrap();
    let stage = store.append(&stage, content(29, 100_000).into()).await.unwrap();
    let of_stage = store.names_of_stage(&stage).await.unwrap();
    for name in names(&store, 1000).await {
        if covers(&of_stage, &name) {
            store.remove(&name).await.unwrap();
        }
    }
    let left = names(&store, 1000).await;
    assert!(!left.iter().any(|name| covers(&of_stage, name) || of_gone.contains(name)), "{left:?}");
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests;
