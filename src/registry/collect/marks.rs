//! Marks of keys and objects in use: sorted sets of names, of any size in bounded memory.
//!
//! A set keeps its newest names in memory. When the names in memory exceed the limit, the set
//! writes them to the key-value store as a sorted *run*. Many runs are merged into one, as in an
//! external sort. The collector asks for names in sorted order, in which stores also list keys and
//! content, so each run is read once from beginning to end.

use std::collections::BTreeSet;
use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Collection;
use crate::registry::guard::Deadline;
use crate::registry::layout::{self, Key};
use crate::registry::{Error, Result};
use crate::store::When;

/// How many runs of the first level a set may have before they are merged into one run of the
/// second level.
const RUNS_MAX: usize = 16;
/// The least number of names in a value of a run; only the last value of a run may have fewer.
const VALUE_NAMES_MIN: usize = 1024;

/// How many characters of a digest a mark has: the algorithm and 160 bits of the hash.
const MARK_CHARS: usize = "sha256:".len() + 40;

/// Ends the mark of a blob that a manifest needs.
const NEEDED: char = '!';

/// Where the runs are stored, and until when a step may write them.
#[derive(Clone, Copy)]
pub(super) struct MarkStore<'a> {
    pub collection: &'a Collection,
    pub dry_run: bool,
    /// The time after which the step may not write.
    pub deadline: Deadline,
}

/// A set of names. In memory are at most `marks_max` names (see the limits), plus the names of one
/// call of [`Marks::mark`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Marks {
    #[serde(skip)]
    in_memory: BTreeSet<String>,
    runs: Vec<Run>,
}

/// Sorted names, stored in several values. One value at a time is in memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Run {
    id: String,
    values: usize,
    is_merged: bool,
    /// The number of the value that was read last.
    at: usize,
    #[serde(skip)]
    names: Option<Vec<String>>,
}

impl MarkStore<'_> {
    fn key(&self, run: &str, number: usize) -> Key {
        layout::run_of_marks(self.dry_run, run, number)
    }

    async fn put(&self, run: &str, number: usize, names: &[String]) -> Result<()> {
        self.collection.check_deadline(self.deadline)?;
        let value = Bytes::from(names.join("\n"));
        self.collection.facts.keys.put(&self.key(run, number), value, When::Always).await?;
        Ok(())
    }

    /// # Errors
    /// [`Error::Busy`] when the value is gone: another step is under way, or the store lost the
    /// value. In either case the next step begins a new round.
    async fn get(&self, run: &str, number: usize) -> Result<Vec<String>> {
        let key = self.key(run, number);
        let value = self.collection.facts.keys.get(&key).await?.map(|entry| entry.value);
        let text = value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
        if let Some(text) = text {
            return Ok(text.split('\n').map(str::to_owned).collect());
        }
        self.collection.check_deadline(self.deadline)?;
        tracing::warn!("a round of the collection begins anew: the value of {key} is gone");
        self.collection.facts.keys.delete(layout::cursor(self.dry_run)).await?;
        Err(Error::Busy)
    }

    fn value_names(&self) -> usize {
        (self.collection.limits.marks_max / 8).max(VALUE_NAMES_MIN)
    }
}

impl Run {
    /// Loads the value that has `name`, if the run has the name at all. Returns the value's names.
    async fn seek(&mut self, store: &MarkStore<'_>, name: &str) -> Result<&[String]> {
        self.load(store).await?;
        while self.at > 0 && self.names().first().is_some_and(|first| first.as_str() > name) {
            self.go_to(store, self.at - 1).await?;
        }
        while self.at + 1 < self.values && self.names().last().is_some_and(|last| last.as_str() < name) {
            self.go_to(store, self.at + 1).await?;
        }
        Ok(self.names())
    }

    /// Loads the value with the first name after `after`. Returns the names of the value that
    /// follow `after`.
    async fn seek_after(&mut self, store: &MarkStore<'_>, after: &str) -> Result<&[String]> {
        self.seek(store, after).await?;
        if self.at + 1 < self.values && self.names().last().is_some_and(|last| last.as_str() <= after) {
            self.go_to(store, self.at + 1).await?;
        }
        let names = self.names();
        Ok(&names[names.partition_point(|name| name.as_str() <= after)..])
    }

    async fn go_to(&mut self, store: &MarkStore<'_>, at: usize) -> Result<()> {
        (self.at, self.names) = (at, None);
        self.load(store).await
    }

    async fn load(&mut self, store: &MarkStore<'_>) -> Result<()> {
        if self.names.is_none() {
            self.names = Some(store.get(&self.id, self.at).await?);
        }
        Ok(())
    }

    fn names(&self) -> &[String] {
        self.names.as_deref().unwrap_or_default()
    }
}

impl Marks {
    /// Adds names. Writes the set's names to the store when too many are in memory.
    pub(super) async fn mark(&mut self, store: &MarkStore<'_>, names: impl IntoIterator<Item = String>) -> Result<()> {
        self.in_memory.extend(names);
        if self.in_memory.len() <= store.collection.limits.marks_max {
            return Ok(());
        }
        let mut writer = Writer::new(store);
        for name in std::mem::take(&mut self.in_memory) {
            writer.write(name).await?;
        }
        self.runs.extend(writer.finish(false).await?);
        if self.runs.iter().filter(|run| !run.is_merged).count() >= RUNS_MAX {
            self.merge(store).await?;
        }
        Ok(())
    }

    async fn merge(&mut self, store: &MarkStore<'_>) -> Result<()> {
        let (merged, runs) = std::mem::take(&mut self.runs).into_iter().partition(|run| run.is_merged);
        self.runs = merged;
        let mut many = Self { in_memory: BTreeSet::new(), runs };
        many.rewind();
        let mut writer = Writer::new(store);
        let mut after = String::new();
        loop {
            let names = many.after(store, &after).await?;
            let Some(last) = names.last() else { break };
            after.clone_from(last);
            for name in names {
                writer.write(name).await?;
            }
        }
        self.runs.extend(writer.finish(true).await?);
        Ok(())
    }

    /// Whether a name is in the set. Cheap if each call asks for a name that sorts after the name
    /// of the call before.
    pub(super) async fn has(&mut self, store: &MarkStore<'_>, name: &str) -> Result<bool> {
        if self.in_memory.contains(name) {
            return Ok(true);
        }
        for run in &mut self.runs {
            if run.seek(store, name).await?.binary_search_by(|other| other.as_str().cmp(name)).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a name may be in the set. Reads only memory: with runs in the store the answer is
    /// always `true`.
    pub(super) fn may_have(&self, name: &str) -> bool {
        !self.runs.is_empty() || self.in_memory.contains(name)
    }

    /// The next names that sort after `after`; an empty list at the end of the set. Names are never
    /// empty.
    pub(super) async fn after(&mut self, store: &MarkStore<'_>, after: &str) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        // The names up to the horizon are complete: each run has been read at least that far.
        let mut horizon: Option<String> = None;
        for run in &mut self.runs {
            let rest = run.seek_after(store, after).await?;
            names.extend(rest.iter().cloned());
            let last = rest.last().cloned();
            if run.at + 1 < run.values {
                horizon = horizon.into_iter().chain(last).min();
            }
        }
        let in_memory = self.in_memory.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        names.extend(in_memory.take_while(|name| horizon.as_ref().is_none_or(|horizon| *name <= horizon)).cloned());
        names.retain(|name| horizon.as_ref().is_none_or(|horizon| name <= horizon));
        Ok(names.into_iter().collect())
    }

    /// The first name that sorts after `after`; `None` at the end of the set.
    pub(super) async fn first_after(&mut self, store: &MarkStore<'_>, after: &str) -> Result<Option<String>> {
        let in_memory = self.in_memory.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        let mut first = in_memory.take(1).next().cloned();
        for run in &mut self.runs {
            let next = run.seek_after(store, after).await?.first().cloned();
            first = first.into_iter().chain(next).min();
        }
        Ok(first)
    }

    /// Prepares for questions that start from the first name again.
    pub(super) fn rewind(&mut self) {
        for run in &mut self.runs {
            (run.at, run.names) = (0, None);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_memory.is_empty() && self.runs.is_empty()
    }

    /// How many names are in memory.
    pub(super) fn len(&self) -> usize {
        self.in_memory.len()
    }

    pub(super) fn is_in_memory(&self) -> bool {
        self.runs.is_empty()
    }

    /// Adds the children of all names in the set, and their children, until no new name is found.
    /// Both sets must be in memory. Each name in `edges` is a parent and a child with a space
    /// between.
    pub(super) fn follow(&mut self, edges: &Self) {
        let mut open: Vec<String> = self.in_memory.iter().cloned().collect();
        while let Some(parent) = open.pop() {
            let prefix = format!("{parent} ");
            let from = edges.in_memory.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
            for child in from.map_while(|edge| edge.strip_prefix(&prefix)) {
                if self.in_memory.insert(child.to_owned()) {
                    open.push(child.to_owned());
                }
            }
        }
    }

    /// The keys of all values in the store.
    pub(super) fn keys(&self, store: &MarkStore<'_>) -> Vec<Key> {
        let of = |run: &Run| (0..run.values).map(|number| store.key(&run.id, number)).collect::<Vec<_>>();
        self.runs.iter().flat_map(of).collect()
    }

    /// The names in memory, for [`Marks::restore`].
    pub(super) fn text(&self) -> String {
        self.in_memory.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn restore(&mut self, text: &str) {
        self.in_memory = text.split('\n').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    }
}

/// Writes one run from names that arrive in sorted order.
struct Writer<'a> {
    store: &'a MarkStore<'a>,
    id: String,
    values: usize,
    names: Vec<String>,
}

impl<'a> Writer<'a> {
    fn new(store: &'a MarkStore<'a>) -> Self {
        // A random id, so that two concurrent steps never write the same run.
        Self { store, id: store.collection.platform.uuid(), values: 0, names: Vec::new() }
    }

    async fn write(&mut self, name: String) -> Result<()> {
        self.names.push(name);
        if self.names.len() < self.store.value_names() {
            return Ok(());
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<()> {
        self.store.put(&self.id, self.values, &self.names).await?;
        self.values += 1;
        self.names.clear();
        Ok(())
    }

    async fn finish(mut self, is_merged: bool) -> Result<Option<Run>> {
        if !self.names.is_empty() {
            self.flush().await?;
        }
        let Self { id, values, .. } = self;
        Ok((values > 0).then_some(Run { id, values, is_merged, at: 0, names: None }))
    }
}

/// The mark of a digest: a prefix so long that two digests never share it. Marks sort as digests
/// do.
pub(super) fn mark_of(digest: &str) -> String {
    digest.chars().take(MARK_CHARS).collect()
}

/// The mark of a blob that a manifest needs, from the mark of the blob's digest.
pub(super) fn needed(mark: &str) -> String {
    format!("{mark}{NEEDED}")
}

/// The mark of a digest, from a mark that may say that a manifest needs the blob.
pub(super) fn unneeded(mark: &str) -> &str {
    mark.trim_end_matches(NEEDED)
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use std::sync::Arc;

    use futures_executor::block_on;

    use super::*;
    use crate::platform::SystemPlatform;
    use crate::registry::{Limits, Registry};
    use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};

    fn collection(marks_max: usize) -> Collection {
        let platform = Arc::new(SystemPlatform);
        let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
        let limits = Limits { marks_max, ..Limits::default() };
        Registry::new(Arc::new(MemoryKeyValue::default()), blobs, platform, limits).parts.collection.clone()
    }

    /// The set as another process would load it.
    fn read_back(marks: &Marks) -> Marks {
        let mut read: Marks = serde_json::from_str(&serde_json::to_string(marks).unwrap()).unwrap();
        read.restore(&marks.text());
        read
    }

    #[test]
    fn a_set_has_all_marked_names_however_few_fit_into_memory() {
        // The names are unsorted; the loop below repeats the first 500.
        let names: Vec<String> = (0..20_000_u64).map(|n| format!("{:05}", n * 7919 % 30_011)).collect();
        for marks_max in [1000, 100, 30_000] {
            let collection = collection(marks_max);
            let store = MarkStore { collection: &collection, dry_run: false, deadline: Deadline::NONE };
            let mut marks = Marks::default();
            for name in names.iter().chain(&names[..500]) {
                block_on(marks.mark(&store, [name.clone()])).unwrap();
                assert!(marks.len() <= marks_max);
            }
            let mut marks = read_back(&marks);
            let mut all: Vec<&String> = names.iter().collect();
            all.sort();
            for n in 0..30_011 {
                let name = format!("{n:05}");
                let next = all.get(all.partition_point(|other| ***other <= *name)).map(|next| (*next).clone());
                assert_eq!(block_on(marks.first_after(&store, &name)), Ok(next), "after {name}");
                assert_eq!(block_on(marks.has(&store, &name)), Ok(all.binary_search(&&name).is_ok()), "{name}");
            }
            marks.rewind();
            let (mut listed, mut after) = (Vec::new(), String::new());
            loop {
                let behind = block_on(marks.after(&store, &after)).unwrap();
                let Some(last) = behind.last() else { break };
                after.clone_from(last);
                listed.extend(behind);
                marks = read_back(&marks);
            }
            assert!(listed.iter().eq(all.iter().copied()), "{} of {}", listed.len(), all.len());
            // Runs that were merged are not read again.
            assert!(marks.runs.iter().filter(|run| !run.is_merged).count() < RUNS_MAX);
        }
    }

    #[test]
    fn marks_follow_edges() {
        let set =
            |names: &[&str]| Marks { in_memory: names.iter().map(|name| (*name).to_owned()).collect(), runs: vec![] };
        let mut marks = set(&["a"]);
        marks.follow(&set(&["b c", "a b", "x y", "c a"]));
        assert_eq!(marks.in_memory, set(&["a", "b", "c"]).in_memory);
    }

    #[test]
    fn a_set_can_be_asked_in_any_order() {
        let collection = collection(10);
        let store = MarkStore { collection: &collection, dry_run: false, deadline: Deadline::NONE };
        let mut marks = Marks::default();
        for n in (0..1000).step_by(2) {
            block_on(marks.mark(&store, [format!("{n:03}")])).unwrap();
        }
        for n in (0..1000).rev().chain([0, 999, 998, 3, 500]) {
            assert_eq!(block_on(marks.has(&store, &format!("{n:03}"))), Ok(n % 2 == 0));
        }
    }

    #[test]
    fn a_missing_run_is_an_error() {
        let collection = collection(1);
        let store = MarkStore { collection: &collection, dry_run: false, deadline: Deadline::NONE };
        let mut marks = Marks::default();
        block_on(marks.mark(&store, ["a".to_owned(), "b".to_owned()])).unwrap();
        block_on(collection.facts.keys.delete(&marks.keys(&store)[0])).unwrap();
        assert_eq!(block_on(marks.has(&store, "a")), Err(Error::Busy));
    }
}
