//! The phases of a round that look at the blob store, for all repositories at once.

use super::Collector;
use super::candidates::Candidate;
use super::cursor::Phase;
use super::marks::mark_of;
use super::report::Outcome;
use crate::registry::Result;
use crate::registry::facts::{BlobFact, UploadFact};
use crate::registry::layout::{Collectable, Key, Kind};
use crate::store::{self, Family, Stored};

impl Collector<'_> {
    pub(super) async fn content_of_uploads(&mut self) -> Result<()> {
        let (keys, more) = self.page(&Kind::Upload.everywhere()).await?;
        for (key, fact) in self.read_all::<UploadFact>(keys).await? {
            let names = match fact {
                Some((fact, _)) => self
                    .collection
                    .content
                    .blobs
                    .family(&fact.stage)
                    .await
                    .map(|family| vec![family.prefix().to_owned()]),
                None => Err(store::Error::corrupt(format!("cannot read key {key}"))),
            };
            self.mark_objects(&key, names).await?;
        }
        if !more {
            self.cursor.enter(Phase::ContentOfManifests);
        }
        Ok(())
    }

    /// Marks the digests of the facts of one kind, and the objects of the blob store that hold
    /// their content.
    pub(super) async fn content_of_facts(&mut self, kind: Kind, then: Phase) -> Result<()> {
        let (keys, more) = self.page(&kind.everywhere()).await?;
        for (key, fact) in self.read_all::<BlobFact>(keys).await? {
            let store = self.mark_store();
            self.cursor.sets.content.mark(&store, [mark_of(key.digest())]).await?;
            let names = match fact {
                Some((fact, _)) => self.collection.content.blobs.names_of(&fact.location).await,
                None => Err(store::Error::corrupt(format!("cannot read key {key}"))),
            };
            self.mark_objects(&key, names).await?;
        }
        if !more {
            self.cursor.enter(then);
        }
        Ok(())
    }

    async fn mark_objects(&mut self, key: &Key, names: store::Result<Vec<String>>) -> Result<()> {
        match names {
            Ok(names) => {
                let store = self.mark_store();
                self.cursor.sets.objects.mark(&store, names).await
            }
            Err(store::Error::Corrupt(_)) => {
                self.report_unknown(key);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Decides on the keys `content/<digest>`. Once the key of unused content is removed, the
    /// registry no longer finds the content by its digest, so a mount becomes an upload.
    pub(super) async fn contents(&mut self) -> Result<()> {
        let after = self.cursor.after.clone();
        let (keys, more) = self.page(&Kind::Content.everywhere()).await?;
        let store = self.mark_store();
        let mut candidates = Vec::new();
        for key in keys {
            let in_use = self.cursor.sets.content.has(&store, &mark_of(key.digest())).await?;
            candidates.push(Candidate::key(key, in_use));
        }
        self.collect_leftovers(after, candidates, more, Phase::Objects).await
    }

    pub(super) async fn objects(&mut self) -> Result<()> {
        let after = self.cursor.after.clone();
        let most = self.collection.limits.collect_page_entries_max;
        let stored = self.collection.content.blobs.list(after.as_deref(), most).await?;
        self.cursor.report.looked_at += stored.len() as u64;
        let more = stored.len() == most;
        self.cursor.after = stored.last().map(|last| last.name.clone());
        self.forget_condemnations_of_gone(after.clone(), &stored, more).await?;
        let (store, unsure) = (self.mark_store(), self.cursor.unsure);
        let (mut candidates, mut sizes) = (Vec::new(), Vec::new());
        let mut last: Option<(Family, bool)> = None;
        for Stored { name, bytes } in stored {
            let marks = &mut self.cursor.sets.objects;
            // The mark of an upload is its family, which stands for all objects of the upload.
            let family = Family::of(&name);
            let is_family_marked = match &last {
                Some((same, is_marked)) if *same == family => *is_marked,
                _ => marks.has(&store, family.prefix()).await?,
            };
            last = Some((family, is_family_marked));
            let in_use = unsure || is_family_marked || marks.has(&store, &name).await?;
            candidates.push(Candidate::object(name, in_use));
            sizes.push(bytes.unwrap_or(0));
        }
        let outcomes = self.collect_objects(after, &candidates).await?;
        for (outcome, bytes) in outcomes.into_iter().zip(sizes) {
            self.cursor.report.content.add(outcome);
            if outcome == Outcome::Removed {
                self.cursor.report.bytes_freed += bytes;
            }
        }
        if !more {
            self.cursor.enter(Phase::Evictable);
        }
        Ok(())
    }

    /// Deletes the condemnations of objects that no longer exist, from `after` to the last listed
    /// object, or to the end if `more` is false.
    async fn forget_condemnations_of_gone(&self, after: Option<String>, listed: &[Stored], more: bool) -> Result<()> {
        let condemned = Collectable::condemned_objects();
        let after = after.map(|after| condemned.key(after).into_string());
        let mut pages = self.pages(condemned.clone(), after);
        while let Some(keys) = pages.next().await? {
            for key in keys {
                let name = condemned.rest(&key);
                if more && listed.last().is_some_and(|last| name > last.name.as_str()) {
                    return Ok(());
                }
                if listed.binary_search_by(|stored| stored.name.as_str().cmp(name)).is_err() {
                    self.forget_condemnation(&Collectable::Object(name.to_owned())).await?;
                }
            }
        }
        Ok(())
    }
}
