//! Both ports in memory, for tests and for programs whose registry need not outlive them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;

use super::{BlobStore, Entry, Error, Family, KeyValue, Location, Result, Stage, Stored, Version, When};
use crate::oci::Digest;
use crate::platform::{Body, Platform};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code in this file panics while holding one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Facts in memory, with exact conditions.
#[derive(Default)]
pub struct MemoryKeyValue {
    state: Mutex<KeyValueState>,
}

#[derive(Default)]
struct KeyValueState {
    entries: BTreeMap<String, (Bytes, u64)>,
    writes: u64,
}

#[async_trait]
impl KeyValue for MemoryKeyValue {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let state = lock(&self.state);
        let entry = state.entries.get(key);
        Ok(entry.map(|(value, version)| Entry { value: value.clone(), version: Version(version.to_string()) }))
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        let mut state = lock(&self.state);
        let current = state.entries.get(key).map(|(_, version)| version.to_string());
        match (when, current) {
            (When::Always, _) | (When::Absent, None) => {}
            (When::Unchanged(Version(expected)), Some(current)) if expected == current => {}
            _ => return Err(Error::condition_failed(key)),
        }
        state.writes += 1;
        let version = state.writes;
        state.entries.insert(key.to_owned(), (value, version));
        Ok(Some(Version(version.to_string())))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        lock(&self.state).entries.remove(key);
        Ok(())
    }

    async fn delete_unchanged(&self, key: &str, version: &Version) -> Result<()> {
        let mut state = lock(&self.state);
        match state.entries.get(key) {
            Some((_, current)) if current.to_string() == version.0 => {}
            _ => return Err(Error::condition_failed(key)),
        }
        state.entries.remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let state = lock(&self.state);
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let keys = state.entries.range::<str, _>((start, Bound::Unbounded)).map(|(key, _)| key);
        Ok(keys.take_while(|key| key.starts_with(prefix)).take(limit).cloned().collect())
    }
}

/// Content in memory. A blob is the list of the pieces that arrived; pieces are never joined.
pub struct MemoryBlobStore {
    platform: Arc<dyn Platform>,
    // By family, which `stage` begins: the last piece of every fork, by the fork's name.
    stages: Mutex<HashMap<String, HashMap<String, Arc<Piece>>>>,
    // Committed content, by family and digest.
    blobs: Mutex<BTreeMap<String, Arc<[Bytes]>>>,
}

/// Each piece links to the piece before it, so that a fork costs nothing and shares the earlier
/// pieces.
struct Piece {
    before: Option<Arc<Piece>>,
    bytes: Vec<Bytes>,
    /// The bytes of all pieces up to and including this piece.
    length: usize,
}

/// Drops a chain of pieces in a loop. Recursion would need a stack frame for each piece.
impl Drop for Piece {
    fn drop(&mut self) {
        let mut before = self.before.take();
        while let Some(mut piece) = before.and_then(Arc::into_inner) {
            before = piece.before.take();
        }
    }
}

impl Piece {
    /// The bytes of this piece and all pieces before it.
    fn content(&self) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        let mut piece = Some(self);
        while let Some(this) = piece {
            pieces.extend(this.bytes.iter().rev().cloned());
            piece = this.before.as_deref();
        }
        pieces.reverse();
        pieces
    }
}

/// The bytes of `range` in pieces of content; `None` if the content is too short.
fn slice(pieces: &[Bytes], range: Range<u64>) -> Option<Body> {
    let size: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
    if range.end > size || range.start > range.end {
        return None;
    }
    let length = range.end - range.start;
    let mut offset = 0;
    let slices: Vec<Result<Bytes, Error>> = pieces
        .iter()
        .filter_map(|piece| {
            let (from, to) = (offset, offset + piece.len() as u64);
            offset = to;
            let (start, end) = (range.start.clamp(from, to), range.end.clamp(from, to));
            (start < end).then(|| Ok(piece.slice((start - from) as usize..(end - from) as usize)))
        })
        .collect();
    Some(Body::from_stream(stream::iter(slices)).with_length(length))
}

/// A stage's family, fork and length.
fn parts(stage: &Stage) -> [&str; 3] {
    let mut parts = stage.0.split('/');
    [(); 3].map(|()| parts.next().unwrap_or_default())
}

impl MemoryBlobStore {
    /// An empty store.
    pub fn new(platform: Arc<dyn Platform>) -> Self {
        Self { platform, stages: Mutex::default(), blobs: Mutex::default() }
    }

    /// The size in bytes of committed content.
    fn length(&self, name: &str) -> Option<usize> {
        lock(&self.blobs).get(name).map(|pieces| pieces.iter().map(Bytes::len).sum())
    }

    fn find(&self, stage: &Stage) -> Result<(String, Arc<Piece>)> {
        let gone = || Error::conflict("the stage is gone");
        let [family, fork, _] = parts(stage);
        let stages = lock(&self.stages);
        let piece = stages.get(family).and_then(|forks| forks.get(fork)).ok_or_else(gone)?;
        Ok((family.to_owned(), piece.clone()))
    }
}

#[async_trait]
impl BlobStore for MemoryBlobStore {
    async fn stage(&self) -> Result<Stage> {
        let family = self.platform.uuid();
        let nothing = Arc::new(Piece { before: None, bytes: Vec::new(), length: 0 });
        lock(&self.stages).insert(family.clone(), HashMap::from([("0".to_owned(), nothing)]));
        Ok(Stage(format!("{family}/0/0")))
    }

    async fn append(&self, stage: &Stage, mut body: Body) -> Result<Stage> {
        let (family, before) = self.find(stage)?;
        let mut bytes = Vec::new();
        while let Some(data) = body.next().await {
            bytes.push(data?);
        }
        let fork = self.platform.uuid();
        let length = before.length + bytes.iter().map(Bytes::len).sum::<usize>();
        match lock(&self.stages).get_mut(&family) {
            Some(forks) => forks.insert(fork.clone(), Arc::new(Piece { before: Some(before), bytes, length })),
            None => return Err(Error::conflict("the stage is gone")),
        };
        Ok(Stage(format!("{family}/{fork}/{length}")))
    }

    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location> {
        let [family, _, length] = parts(stage);
        let name = format!("{family}!{digest}");
        let location = Location(name.clone());
        let (_, last) = match self.find(stage) {
            Ok(found) => found,
            Err(gone) => {
                // The answer to an earlier commit may have been lost.
                let known = self.length(&name).is_some_and(|known| known.to_string() == length);
                return if known { Ok(location) } else { Err(gone) };
            }
        };
        lock(&self.blobs).insert(name, last.content().into());
        lock(&self.stages).remove(family);
        Ok(location)
    }

    async fn discard(&self, stage: &Stage) -> Result<()> {
        lock(&self.stages).remove(parts(stage)[0]);
        Ok(())
    }

    async fn abandon(&self, stage: &Stage, _before: Option<&Stage>) -> Result<()> {
        let [family, fork, _] = parts(stage);
        if let Some(forks) = lock(&self.stages).get_mut(family) {
            forks.remove(fork);
        }
        Ok(())
    }

    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body> {
        let blob = lock(&self.blobs).get(&location.0).cloned();
        let pieces = blob.ok_or_else(|| Error::corrupt(format!("content {} is missing", location.0)))?;
        slice(&pieces, range).ok_or_else(|| Error::corrupt(format!("content {} is too short", location.0)))
    }

    async fn read_stage(&self, stage: &Stage, range: Range<u64>) -> Result<Option<Body>> {
        let (_, last) = self.find(stage)?;
        let body = slice(&last.content(), range);
        body.map(Some).ok_or_else(|| Error::corrupt("the stage is too short"))
    }

    async fn family(&self, stage: &Stage) -> Result<Family> {
        Ok(Family::named(parts(stage)[0]))
    }

    async fn names_of(&self, location: &Location) -> Result<Vec<String>> {
        Ok(vec![location.0.clone()])
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>> {
        let stages: Vec<String> = lock(&self.stages).keys().map(|family| format!("{family}!")).collect();
        let mut names: BTreeSet<String> =
            stages.into_iter().filter(|name| after.is_none_or(|after| name.as_str() > after)).collect();
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let committed = lock(&self.blobs);
        names.extend(committed.range::<str, _>((after, Bound::Unbounded)).map(|(name, _)| name.clone()).take(limit));
        drop(committed);
        let stored = |name: String| Stored { bytes: self.length(&name).map(|bytes| bytes as u64), name };
        Ok(names.into_iter().take(limit).map(stored).collect())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        lock(&self.stages).remove(name.trim_end_matches('!'));
        lock(&self.blobs).remove(name);
        Ok(())
    }
}
