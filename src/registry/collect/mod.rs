//! Garbage collection (mark and sweep) in bounded steps, while the registry serves requests.
//!
//! A *round* marks all keys and objects that are in use and judges all others. An unused key or
//! object is *condemned*. If a later round finds the same key or object unused again and the grace
//! period is over, the round removes the key or object. A condemned key or object that has come
//! into use again loses its condemnation.
//!
//! A round is made of *steps*. Each step looks at a bounded number of keys and saves a cursor, so
//! that the next step can run in another process. A step that is cut off is repeated. The module
//! `hold` explains how pushes are safe beside a round: a push protects a key by writing a rescue
//! key, `rescued/<key>`.

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
use crate::platform::Causes;
use crate::store::{self, When};
use cursor::{Cursor, Phase};

/// The settings of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectRequest {
    /// How long a key or object must have been condemned before its removal, in milliseconds. With
    /// 0 a round removes unused keys at once, and unused content in the next round.
    pub grace_ms: u64,
    /// How old a manifest must be before its removal, in milliseconds, if no tag, index or subject
    /// refers to the manifest. `None` keeps all manifests.
    pub untagged_lifetime_ms: Option<u64>,
    /// Reports removals and condemnations without performing them. Only the dry run's own cursor
    /// and marks are written.
    pub dry_run: bool,
}

/// The state of a round during one step.
struct Collector<'a> {
    registry: &'a Registry,
    cursor: Cursor,
    /// The time after which the step may not write, in milliseconds since the Unix epoch: half of
    /// the lease is over.
    deadline_ms: u64,
}

impl Registry {
    /// The settings of a round by default, from the registry's limits.
    pub fn collect_request(&self) -> CollectRequest {
        let limits = &self.limits;
        CollectRequest { grace_ms: limits.grace_ms, untagged_lifetime_ms: limits.untagged_lifetime_ms, dry_run: false }
    }

    /// Continues the current round by one step, or begins a round. A step ends once it has looked
    /// at `collect_step_keys_max` keys or has taken `collect_step_ms_max` milliseconds (see the
    /// limits). `grace_ms` and `untagged_lifetime_ms` of the request take effect only in the step
    /// that begins a round; a dry run has a round of its own.
    ///
    /// # Errors
    /// [`Error::Busy`] when another step is under way. After any error the next step continues
    /// where the last successful step ended.
    pub async fn collect_step(&self, request: &CollectRequest) -> Result<Report> {
        match self.keys.for_upkeep() {
            // The collection may use the space that a full disk reserves for it.
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
        // If the release fails, the lease expires by itself.
        self.store(&lease, &0u64, When::Always).await?;
        result
    }

    async fn step(&self, request: &CollectRequest, deadline_ms: u64) -> Result<Report> {
        let cursor = match self.load_cursor(request.dry_run).await {
            Ok(Some(cursor)) if request.dry_run || self.is_current(&cursor, deadline_ms).await? => cursor,
            // Two concurrent steps can corrupt the cursor on a store without exact conditional
            // writes.
            Err(Error::Store(store::Error::Corrupt(why))) => {
                tracing::warn!("a round of the collection begins anew: {}", Causes(&why));
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
            // End the step before the phase `Rescued`, so that the cursor is saved first. The phase
            // tells pushes that the round is over, and the state that pushes read must not be ahead
            // of the saved cursor.
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

    /// Whether the collection state that pushes read names the cursor's round. Also clears the list
    /// of keys being removed, if a step that was cut off left one.
    async fn is_current(&self, cursor: &Cursor, deadline_ms: u64) -> Result<bool> {
        let collection = self.collection().await?;
        if !collection.sweeping.is_empty() {
            // The list of keys was left by a step that was cut off.
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
            // Announce the round before marking begins: from here on each push protects the keys
            // that it references.
            let collection = CollectionFact { round, active: true, ..CollectionFact::default() };
            self.check_deadline(deadline_ms)?;
            self.store(layout::COLLECTION, &collection, When::Always).await?;
        }
        Ok(Cursor::new(report, grace_ms, request.untagged_lifetime_ms))
    }

    /// Fails with [`Error::Busy`] after the deadline: once the lease has expired another step may
    /// be under way, so nothing more may be written.
    fn check_deadline(&self, deadline_ms: u64) -> Result<()> {
        if self.platform.now_ms() > deadline_ms { Err(Error::Busy) } else { Ok(()) }
    }

    /// Takes the lease on the collection. Returns the lease's key and its end, in milliseconds
    /// since the Unix epoch. Each lease is a key of its own, because "the key must be absent" is an
    /// exact condition on more stores than "the value must be unchanged".
    async fn lease(&self) -> Result<(String, u64)> {
        let keys = self.keys.list(layout::COLLECTION_LEASES, None, LEASES_LISTED_MAX).await?;
        let now_ms = self.platform.now_ms();
        let mut number = 0;
        if let Some(last) = keys.last() {
            let until_ms: u64 = match self.load(last).await {
                Err(Error::Store(store::Error::Corrupt(_))) => 0,
                until_ms => until_ms?.unwrap_or_default(),
            };
            // Ignore a lease that ends more than two lease times from now: a clock was set back
            // after the lease was written.
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
    /// Processes one page of keys in the cursor's phase.
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
            Phase::Expired => self.expired().await,
            Phase::Rescued => self.rescued().await,
        }
    }

    /// Returns the next page of keys under `prefix`, after the cursor, and moves the cursor behind
    /// the page. The flag is `false` on the last page.
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

    /// Must be called before every write.
    fn check_lease(&self) -> Result<()> {
        self.registry.check_deadline(self.deadline_ms)
    }

    fn is_dry(&self) -> bool {
        self.cursor.report.dry_run
    }
}
