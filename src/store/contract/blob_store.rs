//! The clauses on a [`BlobStore`].

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;

use super::{BlobStoreClause, yield_now};
use crate::oci::{Algorithm, Digest};
use crate::platform::{Body, BodyError};
use crate::store::{BlobStore, Error, Family, Location, Result, Stage};

clauses! {
    /// Every clause on a [`BlobStore`], by name.
    BLOB_STORE: BlobStoreClause, blob_store, test_blob_store,
    appended_bytes_are_read
    ranges_are_exact
    empty_content_is_content
    any_number_of_appends_is_one_content
    staged_bytes_are_read_before_the_commit
    a_large_append_is_one_content
    forks_are_kept_apart
    forks_at_the_same_time_are_kept_apart
    an_error_in_a_body_is_an_error
    an_append_can_be_tried_again
    a_commit_after_a_failed_append_has_the_bytes_before_it
    a_discarded_stage_never_yields_other_bytes
    a_commit_can_be_repeated
    missing_content_is_no_content
    content_can_be_removed_twice
    stored_objects_are_listed
    content_is_listed_with_its_size
    a_removal_leaves_nothing_and_keeps_equal_content
}

/// Content that differs at every place and from seed to seed.
pub(super) fn content(seed: u8, length: usize) -> Bytes {
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

pub(super) fn broken(bytes: Bytes) -> Body {
    Body::from_stream(stream::iter([Ok(bytes), Err(BodyError::Interrupted("on purpose".into()))]))
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

/// Commits `stage` and checks that the committed bytes are `expected`. Returns the error of a
/// refused commit.
pub(super) async fn commit_and_read(store: &Arc<dyn BlobStore>, stage: &Stage, expected: &Bytes) -> Result<()> {
    let location = store.commit(stage, &digest(expected)).await?;
    let body = store.read(&location, 0..expected.len() as u64).await.unwrap();
    assert_eq!(body.length(), Some(expected.len() as u64));
    assert!(body.collect_up_to(u64::MAX).await.unwrap() == *expected, "other bytes were read than appended");
    Ok(())
}

pub(super) async fn stored(store: &Arc<dyn BlobStore>, bytes: &Bytes) -> Location {
    let stage = store.stage().await.unwrap();
    let stage = store.append(&stage, bytes.clone().into()).await.unwrap();
    store.commit(&stage, &digest(bytes)).await.unwrap()
}

pub(crate) async fn appended_bytes_are_read(store: Arc<dyn BlobStore>) {
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

/// A store that cannot read staged bytes says so for every range alike.
pub(crate) async fn staged_bytes_are_read_before_the_commit(store: Arc<dyn BlobStore>) {
    let bytes = content(3, 1_300_000);
    let mut stage = store.stage().await.unwrap();
    for part in bytes.chunks(70_000) {
        stage = store.append(&stage, Bytes::copy_from_slice(part).into()).await.unwrap();
    }
    let mut can_read = Vec::new();
    for range in [0..0, 0..1, 69_999..70_001, 1_000_000..1_300_000, 0..1_300_000] {
        let body = store.read_stage(&stage, range.start as u64..range.end as u64).await.unwrap();
        can_read.push(body.is_some());
        let Some(body) = body else { continue };
        assert_eq!(body.length(), Some(range.len() as u64));
        assert!(body.collect_up_to(u64::MAX).await.unwrap() == bytes[range.clone()], "{range:?}");
    }
    assert!(can_read.iter().all(|can| *can == can_read[0]), "{can_read:?}");
    if can_read[0] {
        assert!(store.read_stage(&stage, 0..1_300_001).await.is_err(), "beyond the stage");
    }
    commit_and_read(&store, &stage, &bytes).await.unwrap();
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

pub(crate) async fn a_large_append_is_one_content(store: Arc<dyn BlobStore>) {
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

async fn remove(store: &Arc<dyn BlobStore>, location: &Location) {
    for name in store.names_of(location).await.unwrap() {
        store.remove(&name).await.unwrap();
    }
}

pub(crate) async fn content_can_be_removed_twice(store: Arc<dyn BlobStore>) {
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

pub(crate) async fn stored_objects_are_listed(store: Arc<dyn BlobStore>) {
    let bytes = content(26, 200_000);
    let location = stored(&store, &bytes).await;
    let equal = stored(&store, &bytes).await;
    let stage = store.stage().await.unwrap();
    let stage = store.append(&stage, content(27, 100_000).into()).await.unwrap();
    let (mine, of_equal) = (store.names_of(&location).await.unwrap(), store.names_of(&equal).await.unwrap());
    assert!(mine.iter().all(|name| !of_equal.contains(name)), "{mine:?} {of_equal:?}");
    let family = store.family(&stage).await.unwrap();
    for limit in [1, 2, 1000] {
        let all = names(&store, limit).await;
        assert!(mine.iter().chain(&of_equal).all(|name| all.contains(name)), "{mine:?} {all:?}");
        assert!(all.iter().any(|name| Family::of(name) == family), "{family:?} {all:?}");
    }
    // The names of a stage cover the names of the content committed from the stage.
    let committed = store.commit(&stage, &digest(&content(27, 100_000))).await.unwrap();
    for name in store.names_of(&committed).await.unwrap() {
        assert!(Family::of(&name) == family, "{family:?} {name}");
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

pub(crate) async fn a_removal_leaves_nothing_and_keeps_equal_content(store: Arc<dyn BlobStore>) {
    let bytes = content(28, 200_000);
    let (gone, equal) = (stored(&store, &bytes).await, stored(&store, &bytes).await);
    let of_gone = store.names_of(&gone).await.unwrap();
    remove(&store, &gone).await;
    let read = store.read(&equal, 0..200_000).await.unwrap().collect_up_to(u64::MAX).await;
    assert!(read.unwrap() == bytes);
    // An abandoned stage is removed by the names that the store lists.
    let stage = store.stage().await.unwrap();
    let stage = store.append(&stage, content(29, 100_000).into()).await.unwrap();
    let family = store.family(&stage).await.unwrap();
    for name in names(&store, 1000).await {
        if Family::of(&name) == family {
            store.remove(&name).await.unwrap();
        }
    }
    let left = names(&store, 1000).await;
    assert!(!left.iter().any(|name| Family::of(name) == family || of_gone.contains(name)), "{left:?}");
}
