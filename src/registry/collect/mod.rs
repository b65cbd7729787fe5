//! Garbage collection, while the registry serves, in bounded steps.
//!
//! A *round* marks what is in use and judges everything else: what is found unused is *condemned*, and what is found unused
//! again in a later round, when the grace period is over, is removed. What came into use meanwhile loses its condemnation. A round is made of
//! *steps*, each of which looks at a bounded number of keys and writes down where it stands, so the next one may
//! run in another process; one that is cut off is done again. How pushes are kept safe from it is told in `hold`.

mod content;
mod cursor;
mod graph;
mod judge;
mod marks;
mod report;
mod repository;

pub use report::{Named, Report, Tally};

use super::hold::CollectionFact;
use super::limits::{LEASE_MS, LEASES_LISTED_MAX, RIGHT_OF_WAY_MS};
use super::{Error, Registry, Result, layout};
use crate::store::{self, When};
use cursor::{Cursor, Phase};

/// What a round is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectRequest {
    /// How long something must have been condemned before it is removed, in milliseconds. With 0 keys are removed at once and content in the
    /// next round.
    pub grace_ms: u64,
    /// How old a manifest must be to be removed when no tag, index or subject holds it, in milliseconds; `None` keeps them all.
    pub untagged_lifetime_ms: Option<u64>,
    /// Changes nothing and tells what would be condemned or removed.
    pub dry_run: bool,
}

/// A round on its way through one step.
struct Collector<'a> {
    registry: &'a Registry,
    cursor: Cursor,
    /// When the lease is too old to change anything under it.
    deadline_ms: u64,
}

impl Registry {
    /// What a round does where nothing else is asked.
    pub fn collect_request(&self) -> CollectRequest {
        let limits = &self.limits;
        CollectRequest { grace_ms: limits.grace_ms, untagged_lifetime_ms: limits.untagged_lifetime_ms, dry_run: false }
    }

    /// Goes on with the round that is under way, or begins one, for one step: at most as many keys and as long as the limits
    /// say. The request counts when a round begins.
    ///
    /// # Errors
    /// [`Error::Busy`] when another step is under way. After any error the next step goes on where the last one that succeeded
    /// ended.
    pub async fn collect_step(&self, request: &CollectRequest) -> Result<Report> {
        match self.keys.for_upkeep() {
            // The facts of the collection may use space that a full disk keeps for them.
            Some(keys) => Self { keys, ..self.clone() }.try_collect_step(request).await,
            None => self.try_collect_step(request).await,
        }
    }

    async fn try_collect_step(&self, request: &CollectRequest) -> Result<Report> {
        if request.dry_run {
            return self.step(request, u64::MAX).await;
        }
        let (lease, until_ms) = self.lease().await?;
        let result = self.step(request, until_ms - LEASE_MS / 2).await;
        // If this fails the lease runs out by itself.
        self.store(&lease, &0u64, When::Always).await?;
        result
    }

    async fn step(&self, request: &CollectRequest, deadline_ms: u64) -> Result<Report> {
        let cursor = match self.load_cursor(request.dry_run).await {
            Ok(Some(cursor)) if request.dry_run || self.is_current(&cursor, deadline_ms).await? => cursor,
            // Two steps at once may do that, where the store cannot keep them apart.
            Err(Error::Store(store::Error::Corrupt(why))) => {
                log::warn!("a round of the collection begins anew: {why}");
                self.begin_round(request, deadline_ms).await?
            }
            Err(error) => return Err(error),
            Ok(_) => self.begin_round(request, deadline_ms).await?,
        };
        let mut collector = Collector { registry: self, cursor, deadline_ms };
        let (began_ms, began_at) = (self.platform.now_ms(), collector.cursor.report.looked_at);
        while !collector.cursor.report.done {
            let before = collector.cursor.phase;
            collector.advance().await?;
            let looked_at = collector.cursor.report.looked_at - began_at;
            let took_ms = self.platform.now_ms().saturating_sub(began_ms);
            // What pushes are told must not run ahead of what is written down.
            let ends = !request.dry_run && before != Phase::Rescued && collector.cursor.phase == Phase::Rescued;
            if ends || looked_at >= self.limits.collect_step_keys_max || took_ms >= self.limits.collect_step_ms_max {
                break;
            }
        }
        let cursor = &mut collector.cursor;
        if cursor.report.done {
            cursor.report.phase = "done".to_owned();
            collector.forget_cursor().await?;
        } else {
            let repository = cursor.repository.as_deref().filter(|_| cursor.phase < Phase::ContentOfUploads);
            cursor.report.phase =
                format!("{:?} {}", cursor.phase, repository.unwrap_or_default()).trim_end().to_owned();
            collector.save_cursor().await?;
        }
        Ok(collector.cursor.report)
    }

    /// Whether pushes know of the round in which the cursor is.
    async fn is_current(&self, cursor: &Cursor, deadline_ms: u64) -> Result<bool> {
        let collection = self.collection().await?;
        if !collection.sweeping.is_empty() {
            // Left by a step that was cut off.
            let collection = CollectionFact { sweeping: Vec::new(), ..collection.clone() };
            self.check_deadline(deadline_ms)?;
            self.store(layout::COLLECTION, &collection, When::Always).await?;
        }
        let is_active = collection.active || cursor.phase == Phase::Rescued;
        Ok(is_active && collection.round == cursor.report.round)
    }

    async fn begin_round(&self, request: &CollectRequest, deadline_ms: u64) -> Result<Cursor> {
        let collection = self.collection().await?;
        let round = collection.round + 1;
        let report = Report { round, dry_run: request.dry_run, ..Report::default() };
        let mut grace_ms = request.grace_ms;
        if !request.dry_run {
            if self.is_asked_for_time().await? {
                grace_ms = grace_ms.max(RIGHT_OF_WAY_MS);
            }
            // Before anything is marked: from here on pushes see to it themselves that what they lean on stays.
            let collection = CollectionFact { round, active: true, ..CollectionFact::default() };
            self.check_deadline(deadline_ms)?;
            self.store(layout::COLLECTION, &collection, When::Always).await?;
        }
        Ok(Cursor::new(report, grace_ms, request.untagged_lifetime_ms))
    }

    /// Another step may be under way when the lease has run out: from then on nothing may be written.
    fn check_deadline(&self, deadline_ms: u64) -> Result<()> {
        if self.platform.now_ms() > deadline_ms { Err(Error::Busy) } else { Ok(()) }
    }

    /// Takes the lease on the collection; gives its key and its end. Each lease is a key of its own, as a key that must be absent is exact on more
    /// stores than one that must be unchanged.
    async fn lease(&self) -> Result<(String, u64)> {
        let keys = self.keys.list(layout::COLLECTION_LEASES, None, LEASES_LISTED_MAX).await?;
        let now_ms = self.platform.now_ms();
        let mut number = 0;
        if let Some(last) = keys.last() {
            let until_ms: u64 = match self.load(last).await {
                Err(Error::Store(store::Error::Corrupt(_))) => 0,
                until_ms => until_ms?.unwrap_or_default(),
            };
            // One that ends later than any clock would let it comes from before a clock was set back.
            if until_ms > now_ms && until_ms - now_ms <= 2 * LEASE_MS {
                return Err(Error::Busy);
            }
            number = last[layout::COLLECTION_LEASES.len()..].parse::<u64>().unwrap_or_default() + 1;
        }
        let key = format!("{}{number:016}", layout::COLLECTION_LEASES);
        let until_ms = now_ms + LEASE_MS;
        match self.store(&key, &until_ms, When::Absent).await {
            Err(Error::Store(store::Error::Conflict(_))) => return Err(Error::Busy),
            result => result?,
        }
        for old in keys {
            self.keys.delete(&old).await?;
        }
        Ok((key, until_ms))
    }
}

impl Collector<'_> {
    /// Looks at one page of what the cursor stands at.
    async fn advance(&mut self) -> Result<()> {
        match self.cursor.phase {
            Phase::NextRepository => self.next_repository().await,
            Phase::Uploads => self.uploads().await,
            Phase::Tags => self.tags().await,
            Phase::Pushes => self.pushes().await,
            Phase::Present => self.present().await,
            Phase::Graph => self.graph().await,
            Phase::Follow => self.follow().await,
            Phase::Reached => self.reached().await,
            Phase::Manifests => self.manifests().await,
            Phase::Blobs => self.blobs().await,
            Phase::Holes => self.holes().await,
            Phase::Ways => self.ways().await,
            Phase::Referrers => self.referrers().await,
            Phase::Adopted => self.adopted().await,
            Phase::Large => self.large().await,
            Phase::Repository => self.repository().await,
            Phase::ContentOfUploads => self.content_of_uploads().await,
            Phase::ContentOfManifests => self.content_of_facts("large/", Phase::ContentOfBlobs).await,
            Phase::ContentOfBlobs => self.content_of_facts("blob/", Phase::Contents).await,
            Phase::Contents => self.contents().await,
            Phase::Stored => self.stored().await,
            Phase::Condemned => self.condemned().await,
            Phase::TidyKeys => self.tidy_keys().await,
            Phase::TidyContent => self.tidy_content().await,
            Phase::Rescued => self.rescued().await,
        }
    }

    /// The next page of the keys under `prefix`, behind the cursor. The cursor moves behind them; `false`: it was the last page.
    async fn page(&mut self, prefix: &str) -> Result<(Vec<String>, bool)> {
        let most = self.registry.limits.collect_page_entries_max;
        let keys = self.registry.keys.list(prefix, self.cursor.after.as_deref(), most).await?;
        self.cursor.report.looked_at += keys.len() as u64;
        let more = keys.len() == most;
        if let Some(last) = keys.last() {
            self.cursor.after = Some(last.clone());
        }
        Ok((keys, more))
    }

    /// To be asked before every write.
    fn check_lease(&self) -> Result<()> {
        self.registry.check_deadline(self.deadline_ms)
    }

    fn is_dry(&self) -> bool {
        self.cursor.report.dry_run
    }
}
