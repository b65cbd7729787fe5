//! Decides on the blobs of a repository, and reports missing blobs.

use std::collections::BTreeSet;

use super::Collector;
use super::candidates::Candidate;
use super::cursor::Phase;
use super::manifests::needed_blobs;
use super::marks::{mark_of, needed, unneeded};
use crate::registry::Result;
use crate::registry::layout::Kind;

impl Collector<'_> {
    pub(super) async fn blobs(&mut self) -> Result<()> {
        let after = self.cursor.after.clone();
        let blobs = self.keys_of(Kind::Blob);
        let (keys, more) = self.page(&blobs).await?;
        let marks: Vec<String> = keys.iter().map(|key| mark_of(key.digest())).collect();
        let from = after.as_ref().map_or(String::new(), |after| needed(&mark_of(blobs.rest(after))));
        let named = self.named_among(&marks, from, more).await?;
        let unsure = self.cursor.unsure;
        let candidate = |(key, mark)| Candidate::key(key, unsure || named.contains(mark));
        let candidates: Vec<Candidate> = keys.into_iter().zip(&marks).map(candidate).collect();
        let outcomes = self.collect_keys(after.as_deref(), &candidates).await?;
        outcomes.iter().for_each(|outcome| self.cursor.report.blobs.add(*outcome));
        self.measure_blobs(&candidates, &outcomes).await?;
        if !more {
            let is_mirrored =
                self.cursor.repository.as_ref().is_some_and(|name| self.collection.mirrored.contain(name));
            let is_complete = self.cursor.sets.missing.is_empty() || is_mirrored;
            self.cursor.enter(if is_complete { Phase::ReverseIndex } else { Phase::MissingBlobs });
        }
        Ok(())
    }

    /// Returns the marks of the `listed` blobs that a manifest names. `from` is where the page
    /// before ended; `more` tells whether pages follow. Also records in `missing` the blobs that a
    /// manifest needs but that are not listed, from `from` to the last listed blob, or to the end
    /// of the named blobs on the last page. `missing` takes at most `marks_max` blobs.
    async fn named_among(&mut self, listed: &[String], mut from: String, more: bool) -> Result<BTreeSet<String>> {
        let until = listed.last().filter(|_| more).map(|last| needed(last));
        let store = self.mark_store();
        let sets = &mut self.cursor.sets;
        let mut found = BTreeSet::new();
        loop {
            let names = sets.named.after(&store, &from).await?;
            let Some(last) = names.last() else { return Ok(found) };
            from.clone_from(last);
            for name in names {
                if until.as_ref().is_some_and(|until| name > *until) {
                    return Ok(found);
                }
                let mark = unneeded(&name);
                if listed.binary_search_by(|other| other.as_str().cmp(mark)).is_ok() {
                    found.insert(mark.to_owned());
                } else if mark != name && sets.missing.len() < store.collection.limits.marks_max {
                    sets.missing.mark(&store, [mark.to_owned()]).await?;
                }
            }
        }
    }

    /// Reports the manifests that need missing blobs.
    pub(super) async fn missing_blobs(&mut self) -> Result<()> {
        let manifests = self.keys_of(Kind::Manifest);
        let (keys, more) = self.page(&manifests).await?;
        let repository = self.cursor.repository.clone().unwrap_or_default();
        let (mut missing, mut names) = (Vec::new(), Vec::new());
        for read in self.read_manifests(keys).await?.into_iter().filter_map(|(_, read)| read) {
            for blob in read.manifest.iter().flat_map(needed_blobs) {
                if self.cursor.sets.missing.may_have(&mark_of(blob.digest.as_str())) {
                    names.push(format!("{repository}@{} names {}", read.digest, blob.digest));
                    missing.push(manifests.key(&blob.digest));
                }
            }
        }
        // A child with a media type that the registry does not know may be stored as a manifest.
        let exist = self.collection.facts.are_there(&missing).await?;
        let missing = names.into_iter().zip(exist).filter(|(_, exists)| !exists);
        missing.for_each(|(name, _)| self.cursor.report.missing_blobs.add(name));
        if !more {
            self.cursor.enter(Phase::ReverseIndex);
        }
        Ok(())
    }
}
