//! The part of a round that looks at one repository after the other.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;

use super::Collector;
use super::cursor::Phase;
use super::judge::Thing;
use super::marks::{self, Marks};
use super::report::{Fate, Tally};
use crate::oci::{self, Descriptor, Digest};
use crate::registry::facts::{ManifestFact, TagFact, UploadFact};
use crate::registry::limits::{CALLS_AT_ONCE_MAX, PUSH_MS_MAX};
use crate::registry::{Error, Result, layout};
use crate::store::{self, BodyError};

/// The kinds of keys of which a repository has at least one; what else there is comes after one of these and goes before it.
const KINDS: [&str; 4] = ["repository", "manifest", "blob", "upload"];
/// The kinds of keys that keep a repository in the catalog; leftovers as well, as they would not be found without it.
const KINDS_KEPT: [&str; 9] =
    ["manifest", "blob", "upload", "tag", "warning", "tagged", "large", "referrer", "adopted"];

/// A manifest as the collector sees it.
struct Seen {
    digest: String,
    fact: ManifestFact,
    /// `None` when its bytes are gone: those of a large manifest whose push was cut off.
    manifest: Option<oci::Manifest>,
}

/// What manifests whose bytes are gone hold: nobody knows.
const UNKNOWN: &str = "unknown";

impl Collector<'_> {
    pub(super) async fn next_repository(&mut self) -> Result<()> {
        let mut next: Option<String> = None;
        for kind in KINDS {
            let after = self.cursor.repository.as_ref();
            let after = after.map(|repository| format!("{}{}", layout::of_repository(kind, repository), char::MAX));
            let first = self.registry.keys.list(&format!("{kind}/"), after.as_deref(), 1).await?;
            let Some(repository) = first.first().and_then(|key| layout::repository_in(kind, key)) else { continue };
            // In the order of the keys, in which a name is followed by `!`.
            let found = format!("{repository}!");
            next = Some(next.map_or(found.clone(), |next| next.min(found)));
        }
        let most = self.registry.limits.marks_max;
        let cursor = &mut self.cursor;
        (cursor.marks, cursor.kept, cursor.present) = (Marks::new(most), Marks::new(most), Marks::new(most));
        cursor.unsure = false;
        cursor.edges.clear();
        let Some(next) = next else {
            cursor.go_on(Phase::ContentOfUploads);
            return Ok(());
        };
        cursor.repository = Some(next.trim_end_matches('!').to_owned());
        cursor.report.repositories += 1;
        // So that steps end also where there are many repositories with nothing in them.
        cursor.report.looked_at += 1;
        cursor.go_on(Phase::Uploads);
        Ok(())
    }

    fn prefix(&self, kind: &str) -> String {
        layout::of_repository(kind, &self.cursor.repository.as_deref().unwrap_or_default())
    }

    pub(super) async fn uploads(&mut self) -> Result<()> {
        let (keys, more) = self.page(&self.prefix("upload")).await?;
        let now_ms = self.registry.platform.now_ms();
        let lifetime_ms = self.registry.limits.upload_lifetime_ms;
        for (key, fact) in self.read_all::<UploadFact>(keys).await? {
            let Some((fact, _)) = fact else { continue };
            if now_ms.saturating_sub(fact.changed_ms) <= lifetime_ms {
                self.cursor.report.uploads.add(Fate::Kept);
                continue;
            }
            self.cursor.report.uploads.add(Fate::Removed);
            if !self.is_dry() {
                self.check_lease()?;
                // What the blob store still has of it then is found there.
                self.registry.keys.delete(&key).await?;
                // What a broken request left belongs to an upload that may live on.
                if fact.added_to.is_none() {
                    self.registry.blobs.discard(&fact.stage).await?;
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

    /// Marks what tags point to.
    async fn mark_tags(&mut self, keys: Vec<String>) -> Result<()> {
        let prefix = self.prefix("tag");
        for (key, fact) in self.read_all::<TagFact>(keys).await? {
            let Some((fact, _)) = fact else { continue };
            self.cursor.kept.mark(fact.digest.as_str());
            self.cursor.kept.mark(&way(fact.digest.as_str(), &key[prefix.len()..]));
        }
        Ok(())
    }

    /// A push notes the way back from a manifest to its tag before it points the tag. A round that begins in between must not take the manifest
    /// for untagged, nor the way for one that leads nowhere. Where the push says that it is done, the tag is looked at once more: it may
    /// have been read too early.
    pub(super) async fn pushes(&mut self) -> Result<()> {
        let prefix = self.prefix("tagged");
        let (mut keys, more) = self.page(&prefix).await?;
        let parts = |key: &str| {
            let (digest, tag) = key[prefix.len()..].split_once('!').unwrap_or_default();
            (digest.to_owned(), tag.to_owned())
        };
        keys.retain(|key| {
            let (digest, tag) = parts(key);
            !self.cursor.kept.has(&way(&digest, &tag))
        });
        let now_ms = self.registry.platform.now_ms();
        let mut done = Vec::new();
        for (key, noted_ms) in self.read_all::<u64>(keys).await? {
            let (digest, tag) = parts(&key);
            if noted_ms.is_some_and(|(noted_ms, _)| now_ms.saturating_sub(noted_ms) <= PUSH_MS_MAX) {
                self.note_due(now_ms + PUSH_MS_MAX);
                self.cursor.kept.mark(&digest);
                self.cursor.kept.mark(&way(&digest, &tag));
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

    /// Notes which manifests there are, so that the graph has room for these and not for every layer that they name.
    pub(super) async fn present(&mut self) -> Result<()> {
        let prefix = self.prefix("manifest");
        let (keys, more) = self.page(&prefix).await?;
        keys.iter().for_each(|key| self.cursor.present.mark(&key[prefix.len()..]));
        if !more {
            self.cursor.go_on(Phase::Graph);
        }
        Ok(())
    }

    pub(super) async fn graph(&mut self) -> Result<()> {
        let (keys, more) = self.page(&self.prefix("manifest")).await?;
        let now_ms = self.registry.platform.now_ms();
        let lifetime_ms = self.cursor.untagged_lifetime_ms.unwrap_or(u64::MAX);
        for seen in self.see(keys).await?.into_iter().filter_map(|(_, seen)| seen) {
            let cursor = &mut self.cursor;
            if now_ms.saturating_sub(seen.fact.pushed_ms) < lifetime_ms {
                cursor.kept.mark(&seen.digest);
            }
            // A manifest holds whatever it names, and a subject what refers to it.
            let digest = seen.digest.as_str();
            let named = seen.manifest.iter().flat_map(|manifest| manifest.digests());
            let may_be_manifest = |name: &&Digest| !cursor.present.is_whole() || cursor.present.has(name.as_str());
            let children = named.filter(may_be_manifest).map(|child| (digest, child.as_str()));
            let subject = seen.fact.subject.iter().map(|subject| (subject.as_str(), digest));
            let unknown = seen.manifest.is_none().then_some((digest, UNKNOWN));
            let edges = children.chain(subject).chain(unknown);
            cursor.edges.extend(edges.map(|(parent, child)| marks::edge(parent, child)));
        }
        let cursor = &mut self.cursor;
        // Then not all can be known that is in use.
        cursor.unsure |= cursor.edges.len() > self.registry.limits.marks_max || !cursor.kept.is_whole();
        if cursor.unsure {
            cursor.edges.clear();
        }
        if !more {
            let edges = std::mem::take(&mut cursor.edges);
            cursor.kept.follow(&edges);
            cursor.unsure |= cursor.kept.has(UNKNOWN);
            cursor.go_on(Phase::Manifests);
        }
        Ok(())
    }

    pub(super) async fn manifests(&mut self) -> Result<()> {
        let after = self.cursor.after.clone();
        let (keys, more) = self.page(&self.prefix("manifest")).await?;
        // One that is gone by now is not among them.
        let all = self.see(keys).await?;
        let fates = if self.cursor.marks.is_first() {
            let things: Vec<Thing> = all.iter().map(|(key, seen)| self.manifest(key, seen.as_ref())).collect();
            let fates = self.judge(after.as_deref(), &things).await?;
            fates.iter().for_each(|fate| self.cursor.report.manifests.add(*fate));
            fates
        } else {
            vec![Fate::Kept; all.len()]
        };
        for ((key, seen), _) in all.into_iter().zip(fates).filter(|(_, fate)| *fate != Fate::Removed) {
            match seen.and_then(|seen| seen.manifest) {
                Some(manifest) => manifest.digests().iter().for_each(|named| self.cursor.marks.mark(named.as_str())),
                None => self.tell_unknown(key),
            }
        }
        if !more {
            self.cursor.go_on(Phase::Blobs);
        }
        Ok(())
    }

    /// Nothing that a manifest may name is removed which stays and cannot be read.
    fn tell_unknown(&mut self, key: String) {
        self.cursor.unsure = true;
        if self.cursor.marks.is_first() {
            self.cursor.report.unknown.add(key);
        }
    }

    fn manifest(&self, key: &str, seen: Option<&Seen>) -> Thing {
        let cursor = &self.cursor;
        let keeps_all = cursor.untagged_lifetime_ms.is_none() || cursor.unsure || seen.is_none();
        let digest = key.rsplit_once('!').unwrap_or_default().1;
        let mut thing = Thing::new(key, keeps_all || cursor.kept.has(digest));
        if let Some(subject) = seen.and_then(|seen| seen.fact.subject.as_ref()) {
            thing.names.push(format!("{}{subject}!{digest}", self.prefix("referrer")));
        }
        thing
    }

    pub(super) async fn blobs(&mut self) -> Result<()> {
        let after = self.cursor.after.clone();
        let prefix = self.prefix("blob");
        let (keys, more) = self.page(&prefix).await?;
        let mut things = Vec::new();
        for key in keys {
            let digest = &key[prefix.len()..];
            if self.cursor.marks.covers(digest) {
                things.push(Thing::new(key.clone(), self.cursor.unsure || self.cursor.marks.has(digest)));
                self.cursor.marks.meet(digest);
            }
        }
        let fates = self.judge(after.as_deref(), &things).await?;
        fates.into_iter().for_each(|fate| self.cursor.report.blobs.add(fate));
        if !more {
            // What is left was named and not met.
            let whole = self.cursor.marks.is_empty();
            self.cursor.go_on(Phase::Holes);
            if whole {
                self.after_holes();
            }
        }
        Ok(())
    }

    pub(super) async fn holes(&mut self) -> Result<()> {
        let (keys, more) = self.page(&self.prefix("manifest")).await?;
        let repository = self.cursor.repository.clone().unwrap_or_default();
        let (mut missing, mut names) = (Vec::new(), Vec::new());
        for seen in self.see(keys).await?.into_iter().filter_map(|(_, seen)| seen) {
            for blob in seen.manifest.iter().flat_map(needed_blobs) {
                if self.cursor.marks.has(blob.digest.as_str()) {
                    names.push(format!("{repository}@{} names {}", seen.digest, blob.digest));
                    missing.push(format!("{}{}", self.prefix("manifest"), blob.digest));
                }
            }
        }
        // A child of a type that the registry does not know may be here as a manifest.
        let there = self.registry.are_there(missing).await?;
        let holes = names.into_iter().zip(there).filter(|(_, there)| !there);
        holes.for_each(|(name, _)| self.cursor.report.holes.add(name));
        if !more {
            self.after_holes();
        }
        Ok(())
    }

    fn after_holes(&mut self) {
        let again = self.cursor.marks.next();
        self.cursor.go_on(if again { Phase::Manifests } else { Phase::Ways });
    }

    /// Ways back from a digest to a tag that points elsewhere.
    pub(super) async fn ways(&mut self) -> Result<()> {
        let prefix = self.prefix("tagged");
        let live = |this: &Self, key: &str| {
            let (digest, tag) = key[prefix.len()..].split_once('!').unwrap_or_default();
            !this.cursor.kept.is_whole() || this.cursor.kept.has(&way(digest, tag))
        };
        let after = self.cursor.after.clone();
        let (keys, more) = self.page(&prefix).await?;
        let things: Vec<Thing> = keys.iter().map(|key| Thing::new(key.as_str(), live(self, key))).collect();
        self.judge_leftovers(after, things, more, Phase::Referrers).await
    }

    /// Referrers whose manifest is gone.
    pub(super) async fn referrers(&mut self) -> Result<()> {
        let manifests = self.prefix("manifest");
        let holder = |key: &str| format!("{manifests}{}", key.rsplit_once('!').unwrap_or_default().1);
        self.leftovers("referrer", holder, Phase::Adopted).await
    }

    /// Notes about fallback tags that are gone.
    pub(super) async fn adopted(&mut self) -> Result<()> {
        let tags = self.prefix("tag");
        let holder = |key: &str| {
            let subject = key.rsplit_once('!').unwrap_or_default().1;
            format!("{tags}{}", subject.replacen(':', "-", 1))
        };
        self.leftovers("adopted", holder, Phase::Large).await
    }

    /// Where the bytes of manifests are that are gone.
    pub(super) async fn large(&mut self) -> Result<()> {
        let manifests = self.prefix("manifest");
        let holder = |key: &str| format!("{manifests}{}", key.rsplit_once('!').unwrap_or_default().1);
        self.leftovers("large", holder, Phase::Repository).await
    }

    /// Judges keys that are in use as long as another one is there.
    async fn leftovers(&mut self, kind: &str, holder: impl Fn(&str) -> String, then: Phase) -> Result<()> {
        let after = self.cursor.after.clone();
        let (keys, more) = self.page(&self.prefix(kind)).await?;
        let holders = keys.iter().map(|key| holder(key)).collect();
        let held = self.registry.are_there(holders).await?;
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
            live = live || !self.registry.keys.list(&self.prefix(kind), None, 1).await?.is_empty();
        }
        let key = self.prefix("repository");
        if self.registry.keys.get(&key).await?.is_some() {
            let fates = self.judge(None, &[Thing::new(key, live)]).await?;
            let tally: &mut Tally = &mut self.cursor.report.leftovers;
            fates.into_iter().filter(|fate| *fate != Fate::Kept).for_each(|fate| tally.add(fate));
        }
        self.cursor.go_on(Phase::NextRepository);
        Ok(())
    }

    /// Reads manifests. One that cannot be read makes what it may name unknown.
    async fn see(&mut self, keys: Vec<String>) -> Result<Vec<(String, Option<Seen>)>> {
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
                let read = match self.registry.read_large(&format!("{}{digest}", self.prefix("large"))).await {
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
        // What was pushed is what the digest says, and can be parsed.
        let is_it = digest.parse::<Digest>().is_ok_and(|digest| digest.matches(&bytes));
        let parsed = oci::Manifest::parse(&bytes, Some(&fact.media_type)).ok().filter(|_| is_it);
        Ok(parsed.map(|(manifest, _)| Seen { digest, fact, manifest: Some(manifest) }))
    }

    /// Reads facts with what lies behind them. A key that is gone by now is left out; of one that cannot be read there is
    /// nothing.
    pub(super) async fn read_all<T: DeserializeOwned>(
        &mut self,
        keys: Vec<String>,
    ) -> Result<Vec<(String, Option<(T, Bytes)>)>> {
        let registry = self.registry;
        let reads = keys.into_iter().map(|key| async move {
            let read = registry.load_version::<T>(&key).await;
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

/// What a manifest needs its repository to hold as a blob.
fn needed_blobs(manifest: &oci::Manifest) -> impl Iterator<Item = &Descriptor> {
    manifest.blobs().chain(manifest.children().filter(|child| !child.is_manifest()))
}

/// How the way back from a digest to a tag is marked.
fn way(digest: &str, tag: &str) -> String {
    format!("{digest} {tag}")
}

fn store_error(error: BodyError) -> store::Error {
    error.into()
}
