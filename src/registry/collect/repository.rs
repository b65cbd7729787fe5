//! The phases of a round that look at one repository after another.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;

use super::Collector;
use super::cursor::{Phase, Sets};
use super::judge::Thing;
use super::report::{Fate, Tally};
use crate::oci::{self, Descriptor, Digest};
use crate::platform::BodyError;
use crate::registry::facts::{ManifestFact, TagFact, UploadFact};
use crate::registry::limits::{CALLS_AT_ONCE_MAX, PUSH_MS_MAX};
use crate::registry::{Error, Result, layout};
use crate::store;

/// Every repository has a key of at least one of these kinds. Keys of other kinds are written after
/// the first key of these kinds and deleted before the last.
const KINDS: [&str; 4] = ["repository", "manifest", "blob", "upload"];
/// The kinds of keys that keep a repository in the catalog. Leftovers are included, because the
/// collector finds leftovers only in repositories that it finds.
const KINDS_KEPT: [&str; 9] =
    ["manifest", "blob", "upload", "tag", "warning", "tagged", "large", "referrer", "adopted"];

/// How many characters of a digest a mark has: the algorithm and 160 bits of the hash.
const MARK_CHARS: usize = "sha256:".len() + 40;

/// A manifest as the collector reads it.
pub(super) struct Seen {
    pub digest: String,
    pub fact: ManifestFact,
    /// `None` when the manifest's bytes are gone: the push of a large manifest was cut off.
    pub manifest: Option<oci::Manifest>,
}

impl Collector<'_> {
    pub(super) async fn next_repository(&mut self) -> Result<()> {
        let mut next: Option<String> = None;
        for kind in KINDS {
            let after = self.cursor.repository.as_ref();
            let after = after.map(|repository| format!("{}{}", layout::of_repository(kind, repository), char::MAX));
            let first = self.collection.facts.keys.list(&format!("{kind}/"), after.as_deref(), 1).await?;
            let Some(repository) = first.first().and_then(|key| layout::repository_in(kind, key)) else { continue };
            // Compare names as the keys sort: with a `!` after the name.
            let found = format!("{repository}!");
            next = Some(next.map_or(found.clone(), |next| next.min(found)));
        }
        let cursor = &mut self.cursor;
        (cursor.sets, cursor.unsure, cursor.follows) = (Sets::default(), false, 0);
        let Some(next) = next else {
            cursor.go_on(Phase::ContentOfUploads);
            return Ok(());
        };
        cursor.repository = Some(next.trim_end_matches('!').to_owned());
        cursor.report.repositories += 1;
        // Count the repository itself, so that a step also ends among many empty repositories.
        cursor.report.looked_at += 1;
        cursor.go_on(Phase::Uploads);
        Ok(())
    }

    pub(super) fn prefix(&self, kind: &str) -> String {
        layout::of_repository(kind, &self.cursor.repository.as_deref().unwrap_or_default())
    }

    pub(super) async fn uploads(&mut self) -> Result<()> {
        let (keys, more) = self.page(&self.prefix("upload")).await?;
        let now_ms = self.collection.platform.now_ms();
        let lifetime_ms = self.collection.limits.upload_lifetime_ms;
        for (key, fact) in self.read_all::<UploadFact>(keys).await? {
            let Some((fact, _)) = fact else { continue };
            if now_ms.saturating_sub(fact.changed_ms) <= lifetime_ms {
                self.cursor.report.uploads.add(Fate::Kept);
                continue;
            }
            self.cursor.report.uploads.add(Fate::Removed);
            if !self.is_dry() {
                self.check_lease()?;
                // Delete the session first. If the step is cut off before `discard`, the phase
                // `Stored` finds the stage.
                self.collection.facts.keys.delete(&key).await?;
                // A fact with `added_to` records bytes that a broken request left in an upload's
                // stage. The upload may still be live, so keep the stage.
                if fact.added_to.is_none() {
                    self.collection.content.blobs.discard(&fact.stage).await?;
                }
            }
        }
        if !more {
            self.cursor.go_on(Phase::Tags);
        }
        Ok(())
    }

    pub(super) async fn tags(&mut self) -> Result<()> {
        let (keys, more) = self.page(&self.prefix("tag")).await?;
        self.mark_tags(keys).await?;
        if !more {
            self.cursor.go_on(Phase::Pushes);
        }
        Ok(())
    }

    /// Marks the manifests to which the tags point, and the tags' entries in the reverse index
    /// (digest to tag).
    async fn mark_tags(&mut self, keys: Vec<String>) -> Result<()> {
        let prefix = self.prefix("tag");
        for (key, fact) in self.read_all::<TagFact>(keys).await? {
            let Some((fact, _)) = fact else { continue };
            self.keep_tagged(fact.digest.as_str(), &key[prefix.len()..]).await?;
        }
        Ok(())
    }

    async fn keep_tagged(&mut self, digest: &str, tag: &str) -> Result<()> {
        self.cursor.sets.kept.mark(&self.shelf(), [mark_of(digest), way(digest, tag)]).await
    }

    /// Keeps the manifests of pushes that are about to set a tag. A push writes the reverse-index
    /// entry (digest to tag) before the tag. In a round that begins between the two writes, the
    /// manifest must not count as untagged, nor the entry as an orphan. If the entry says that the
    /// push is done, or is older than `PUSH_MS_MAX`, the tag is read again: the phase `Tags` may
    /// have read the tag too early.
    pub(super) async fn pushes(&mut self) -> Result<()> {
        let prefix = self.prefix("tagged");
        let (keys, more) = self.page(&prefix).await?;
        let parts = |key: &str| {
            let (digest, tag) = key[prefix.len()..].split_once('!').unwrap_or_default();
            (digest.to_owned(), tag.to_owned())
        };
        let mut unmarked = Vec::new();
        for key in keys {
            let (digest, tag) = parts(&key);
            if !self.cursor.sets.kept.has(&self.shelf(), &way(&digest, &tag)).await? {
                unmarked.push(key);
            }
        }
        let now_ms = self.collection.platform.now_ms();
        let mut done = Vec::new();
        for (key, noted_ms) in self.read_all::<u64>(unmarked).await? {
            let (digest, tag) = parts(&key);
            if noted_ms.is_some_and(|(noted_ms, _)| now_ms.abs_diff(noted_ms) <= PUSH_MS_MAX) {
                self.note_due(now_ms + PUSH_MS_MAX);
                self.keep_tagged(&digest, &tag).await?;
            } else {
                done.push(format!("{}{tag}", self.prefix("tag")));
            }
        }
        self.mark_tags(done).await?;
        if !more {
            let keeps_all = self.cursor.untagged_lifetime_ms.is_none();
            self.cursor.go_on(if keeps_all { Phase::Manifests } else { Phase::Present });
        }
        Ok(())
    }

    pub(super) async fn manifests(&mut self) -> Result<()> {
        let after = self.cursor.after.clone();
        let (keys, more) = self.page(&self.prefix("manifest")).await?;
        // Manifests that were deleted since the listing are left out.
        let all = self.see(keys).await?;
        let mut things = Vec::new();
        for (key, seen) in &all {
            things.push(self.manifest(key, seen.as_ref()).await?);
        }
        let fates = self.judge(after.as_deref(), &things).await?;
        fates.iter().for_each(|fate| self.cursor.report.manifests.add(*fate));
        for ((key, seen), _) in all.into_iter().zip(fates).filter(|(_, fate)| *fate != Fate::Removed) {
            match seen.and_then(|seen| seen.manifest) {
                Some(manifest) => {
                    let needs: BTreeSet<&Digest> = needed_blobs(&manifest).map(|blob| &blob.digest).collect();
                    let mark = |named: &Digest| {
                        let mark = mark_of(named.as_str());
                        if needs.contains(named) { needed(&mark) } else { mark }
                    };
                    let named = manifest.digests().iter().map(mark);
                    self.cursor.sets.named.mark(&self.shelf(), named).await?;
                }
                None => self.tell_unknown(key),
            }
        }
        if !more {
            self.cursor.go_on(Phase::Blobs);
        }
        Ok(())
    }

    /// Reports a manifest that stays but cannot be read. From here on the collector keeps
    /// everything in the repository that a manifest may name.
    fn tell_unknown(&mut self, key: String) {
        self.cursor.unsure = true;
        self.cursor.report.unknown.add(key);
    }

    async fn manifest(&mut self, key: &str, seen: Option<&Seen>) -> Result<Thing> {
        let shelf = self.shelf();
        let cursor = &mut self.cursor;
        let keeps_all = cursor.untagged_lifetime_ms.is_none() || cursor.unsure || seen.is_none();
        let digest = key.rsplit_once('!').unwrap_or_default().1;
        let live = keeps_all || cursor.sets.kept.has(&shelf, &mark_of(digest)).await?;
        let mut thing = Thing::new(key, live);
        if let Some(subject) = seen.and_then(|seen| seen.fact.subject.as_ref()) {
            thing.names.push(format!("{}{subject}!{digest}", self.prefix("referrer")));
        }
        Ok(thing)
    }

    pub(super) async fn blobs(&mut self) -> Result<()> {
        let after = self.cursor.after.clone();
        let prefix = self.prefix("blob");
        let (keys, more) = self.page(&prefix).await?;
        let marks: Vec<String> = keys.iter().map(|key| mark_of(&key[prefix.len()..])).collect();
        let from = after.as_ref().map_or(String::new(), |after| needed(&mark_of(&after[prefix.len()..])));
        let named = self.named_of(&marks, from, more).await?;
        let unsure = self.cursor.unsure;
        let things: Vec<Thing> =
            keys.into_iter().zip(&marks).map(|(key, mark)| Thing::new(key, unsure || named.contains(mark))).collect();
        let fates = self.judge(after.as_deref(), &things).await?;
        fates.into_iter().for_each(|fate| self.cursor.report.blobs.add(fate));
        if !more {
            let is_whole = self.cursor.sets.missing.is_empty();
            self.cursor.go_on(if is_whole { Phase::Ways } else { Phase::Holes });
        }
        Ok(())
    }

    /// Returns the marks of the `listed` blobs that a manifest names. `from` is where the page
    /// before ended; `more` tells whether pages follow. Also records in `missing` the blobs that a
    /// manifest needs but that are not listed, from `from` to the last listed blob, or to the end
    /// of the named blobs on the last page. `missing` takes at most `marks_max` blobs.
    async fn named_of(&mut self, listed: &[String], mut from: String, more: bool) -> Result<BTreeSet<String>> {
        let until = listed.last().filter(|_| more).map(|last| needed(last));
        let shelf = self.shelf();
        let sets = &mut self.cursor.sets;
        let mut found = BTreeSet::new();
        loop {
            let names = sets.named.behind(&shelf, &from).await?;
            let Some(last) = names.last() else { return Ok(found) };
            from.clone_from(last);
            for name in names {
                if until.as_ref().is_some_and(|until| name > *until) {
                    return Ok(found);
                }
                let mark = name.trim_end_matches('!');
                if listed.binary_search_by(|other| other.as_str().cmp(mark)).is_ok() {
                    found.insert(mark.to_owned());
                } else if mark != name && sets.missing.len() < shelf.collection.limits.marks_max {
                    sets.missing.mark(&shelf, [mark.to_owned()]).await?;
                }
            }
        }
    }

    /// Reports the manifests that need missing blobs.
    pub(super) async fn holes(&mut self) -> Result<()> {
        let (keys, more) = self.page(&self.prefix("manifest")).await?;
        let repository = self.cursor.repository.clone().unwrap_or_default();
        let (mut missing, mut names) = (Vec::new(), Vec::new());
        for seen in self.see(keys).await?.into_iter().filter_map(|(_, seen)| seen) {
            for blob in seen.manifest.iter().flat_map(needed_blobs) {
                if self.cursor.sets.missing.may_have(&mark_of(blob.digest.as_str())) {
                    names.push(format!("{repository}@{} names {}", seen.digest, blob.digest));
                    missing.push(format!("{}{}", self.prefix("manifest"), blob.digest));
                }
            }
        }
        // A child with a media type that the registry does not know may be stored as a manifest.
        let there = self.collection.facts.are_there(missing).await?;
        let holes = names.into_iter().zip(there).filter(|(_, there)| !there);
        holes.for_each(|(name, _)| self.cursor.report.holes.add(name));
        if !more {
            self.cursor.go_on(Phase::Ways);
        }
        Ok(())
    }

    /// Judges the reverse-index entries (digest to tag). An entry is an orphan if the tag points to
    /// another digest.
    pub(super) async fn ways(&mut self) -> Result<()> {
        let prefix = self.prefix("tagged");
        let after = self.cursor.after.clone();
        let (keys, more) = self.page(&prefix).await?;
        let mut things = Vec::new();
        for key in keys {
            let (digest, tag) = key[prefix.len()..].split_once('!').unwrap_or_default();
            let live = self.cursor.sets.kept.has(&self.shelf(), &way(digest, tag)).await?;
            things.push(Thing::new(key, live));
        }
        self.judge_leftovers(after, things, more, Phase::Referrers).await
    }

    /// Judges the referrer entries. An entry is an orphan if its manifest is gone.
    pub(super) async fn referrers(&mut self) -> Result<()> {
        let manifests = self.prefix("manifest");
        let holder = |key: &str| format!("{manifests}{}", key.rsplit_once('!').unwrap_or_default().1);
        self.leftovers("referrer", holder, Phase::Adopted).await
    }

    /// Judges the notes about fallback tags. A note is an orphan if its tag is gone.
    pub(super) async fn adopted(&mut self) -> Result<()> {
        let tags = self.prefix("tag");
        let holder = |key: &str| {
            let subject = key.rsplit_once('!').unwrap_or_default().1;
            format!("{tags}{}", subject.replacen(':', "-", 1))
        };
        self.leftovers("adopted", holder, Phase::Large).await
    }

    /// Judges the facts that say where the bytes of large manifests are. A fact is an orphan if its
    /// manifest is gone.
    pub(super) async fn large(&mut self) -> Result<()> {
        let manifests = self.prefix("manifest");
        let holder = |key: &str| format!("{manifests}{}", key.rsplit_once('!').unwrap_or_default().1);
        self.leftovers("large", holder, Phase::Repository).await
    }

    /// Judges keys that are in use as long as another key, the holder, exists.
    async fn leftovers(&mut self, kind: &str, holder: impl Fn(&str) -> String, then: Phase) -> Result<()> {
        let after = self.cursor.after.clone();
        let (keys, more) = self.page(&self.prefix(kind)).await?;
        let holders = keys.iter().map(|key| holder(key)).collect();
        let held = self.collection.facts.are_there(holders).await?;
        let things = keys.into_iter().zip(held).map(|(key, held)| Thing::new(key, held)).collect();
        self.judge_leftovers(after, things, more, then).await
    }

    async fn judge_leftovers(
        &mut self,
        after: Option<String>,
        things: Vec<Thing>,
        more: bool,
        then: Phase,
    ) -> Result<()> {
        let fates = self.judge(after.as_deref(), &things).await?;
        fates.into_iter().for_each(|fate| self.cursor.report.leftovers.add(fate));
        if !more {
            self.cursor.go_on(then);
        }
        Ok(())
    }

    pub(super) async fn repository(&mut self) -> Result<()> {
        let mut live = false;
        for kind in KINDS_KEPT {
            live = live || !self.collection.facts.keys.list(&self.prefix(kind), None, 1).await?.is_empty();
        }
        let key = self.prefix("repository");
        if self.collection.facts.keys.get(&key).await?.is_some() {
            let fates = self.judge(None, &[Thing::new(key, live)]).await?;
            let tally: &mut Tally = &mut self.cursor.report.leftovers;
            fates.into_iter().filter(|fate| *fate != Fate::Kept).for_each(|fate| tally.add(fate));
        }
        self.cursor.go_on(Phase::NextRepository);
        Ok(())
    }

    /// Reads and parses manifests. Manifests that were deleted since the listing are left out. A
    /// manifest that cannot be read gives `None` and sets `unsure`, because its references are
    /// unknown.
    pub(super) async fn see(&mut self, keys: Vec<String>) -> Result<Vec<(String, Option<Seen>)>> {
        let prefix = self.prefix("manifest");
        let mut all = Vec::new();
        for (key, fact) in self.read_all::<ManifestFact>(keys).await? {
            let digest = key[prefix.len()..].to_owned();
            let seen = match fact {
                Some((fact, inline)) => self.parse(digest, fact, inline).await?,
                None => None,
            };
            self.cursor.unsure |= seen.is_none();
            all.push((key, seen));
        }
        Ok(all)
    }

    async fn parse(&self, digest: String, fact: ManifestFact, inline: Bytes) -> Result<Option<Seen>> {
        let bytes = match fact.large {
            false => inline,
            true => {
                let read =
                    match self.collection.manifests.read_large(&format!("{}{digest}", self.prefix("large"))).await {
                        Ok(body) => body.collect_up_to(fact.size).await.map_err(|error| store_error(error).into()),
                        Err(error) => Err(error),
                    };
                match read {
                    Ok(bytes) => bytes,
                    Err(Error::Store(store::Error::Corrupt(_))) => {
                        return Ok(Some(Seen { digest, fact, manifest: None }));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        // A manifest that was pushed matches its digest and can be parsed. Anything else is
        // damaged.
        let is_it = digest.parse::<Digest>().is_ok_and(|digest| digest.matches(&bytes));
        let parsed = oci::Manifest::parse(&bytes, Some(&fact.media_type)).ok().filter(|_| is_it);
        Ok(parsed.map(|(manifest, _)| Seen { digest, fact, manifest: Some(manifest) }))
    }

    /// Reads facts together with the bytes stored after each fact. Keys that were deleted since the
    /// listing are left out. A fact that cannot be read gives `None`.
    pub(super) async fn read_all<T: DeserializeOwned>(
        &mut self,
        keys: Vec<String>,
    ) -> Result<Vec<(String, Option<(T, Bytes)>)>> {
        let facts = &self.collection.facts;
        let reads = keys.into_iter().map(|key| async move {
            let read = facts.load_version::<T>(&key).await;
            (key, read)
        });
        let reads: Vec<_> = stream::iter(reads.collect::<Vec<_>>()).buffered(CALLS_AT_ONCE_MAX).collect().await;
        let mut all = Vec::new();
        for (key, read) in reads {
            match read {
                Ok(Some((fact, behind, _))) => all.push((key, Some((fact, behind)))),
                Ok(None) => {}
                Err(Error::Store(store::Error::Corrupt(_))) => all.push((key, None)),
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

/// The blobs that a manifest needs in its repository.
fn needed_blobs(manifest: &oci::Manifest) -> impl Iterator<Item = &Descriptor> {
    manifest.blobs().chain(manifest.children().filter(|child| !child.is_manifest()))
}

/// The mark of a digest: a prefix so long that two digests never share it. Marks sort as digests
/// do.
pub(super) fn mark_of(digest: &str) -> String {
    digest.chars().take(MARK_CHARS).collect()
}

/// The mark of a blob that a manifest needs, from the mark of the blob's digest.
fn needed(mark: &str) -> String {
    format!("{mark}!")
}

/// The mark of a reverse-index entry (digest to tag). The marks sort as the keys do.
fn way(digest: &str, tag: &str) -> String {
    format!("{digest}!{tag}")
}

fn store_error(error: BodyError) -> store::Error {
    error.into()
}
