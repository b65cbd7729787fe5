//! Garbage collection (mark and sweep) in bounded steps, while the registry serves requests.
//!
//! A *round* marks all keys and objects that are in use. All others are candidates for removal. An
//! unused candidate is *condemned*. If a later round finds the same candidate unused again and the
//! grace period is over, the round removes the candidate. A condemned candidate that has come into
//! use again loses its condemnation.
//!
//! A round is made of *steps*. Each step looks at a bounded number of keys and saves a cursor, so
//! that the next step can run in another process. A step that is cut off is repeated. The module
//! `guard` explains how pushes are safe beside a round, docs/design/collection.md explains both.

mod blobs;
mod candidates;
mod content;
mod cursor;
mod eviction;
mod graph;
mod leftovers;
mod manifests;
mod marks;
mod report;
mod repository;
mod sweep;
mod tags;
mod upkeep;

pub use report::{Named, Report, Tally};

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::content::Content;
use super::facts::Facts;
use super::guard::{Activity, CollectionGuard, CollectionState, Deadline, Window};
use super::layout::{Key, Kind, Prefix};
use super::limits::{LEASE_MS, LEASES_LISTED_MAX, RIGHT_OF_WAY_MS};
use super::manifests::ManifestReader;
use super::mirrored::MirroredPrefixes;
use super::pages::KeyPages;
use super::uses::Uses;
use super::{Error, Limits, Result, layout};
use crate::platform::{Causes, Platform};
use crate::store::{self, Expiring, When};
use cursor::{Cursor, Evicting, Phase};

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
    collection: &'a Collection,
    cursor: Cursor,
    /// The time after which the step may not write: half of the lease is over.
    deadline: Deadline,
}

/// The value of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LeaseFact {
    /// A step took the lease at `since_ms`, in milliseconds since the Unix epoch.
    Held { since_ms: u64 },
    /// The step has ended.
    Released,
}

/// The right to do a step, which this process has taken.
struct Lease {
    key: Key,
    deadline: Deadline,
}

/// The garbage collection of a registry.
#[derive(Clone)]
pub(super) struct Collection {
    pub facts: Facts,
    pub content: Content,
    pub guard: CollectionGuard,
    pub manifests: ManifestReader,
    pub uses: Uses,
    pub platform: Arc<dyn Platform>,
    pub limits: Arc<Limits>,
    /// The keys of other layers that expire.
    pub expiring: &'static [Expiring],
    /// The repositories whose missing blobs are not reported, and whose cached manifests are
    /// evicted.
    pub mirrored: MirroredPrefixes,
}

impl Collection {
    /// The settings of a round by default, from the registry's limits.
    pub(super) fn collect_request(&self) -> CollectRequest {
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
    pub(super) async fn collect_step(&self, request: &CollectRequest) -> Result<Report> {
        match self.facts.keys.for_upkeep() {
            // The collection may use the space that a full disk reserves for it.
            Some(keys) => Self { facts: Facts { keys }, ..self.clone() }.try_collect_step(request).await,
            None => self.try_collect_step(request).await,
        }
    }

    async fn try_collect_step(&self, request: &CollectRequest) -> Result<Report> {
        if request.dry_run {
            return self.step(request, Deadline::NONE).await;
        }
        let lease = self.take_lease().await?;
        let result = self.step(request, lease.deadline).await;
        // If the release fails, the lease expires by itself.
        self.facts.store(&lease.key, &LeaseFact::Released, When::Always).await?;
        result
    }

    async fn step(&self, request: &CollectRequest, deadline: Deadline) -> Result<Report> {
        let cursor = match self.load_cursor(request.dry_run).await {
            Ok(Some(cursor)) if request.dry_run || self.is_current(&cursor, deadline).await? => cursor,
            // Two concurrent steps can corrupt the cursor on a store without exact conditional
            // writes.
            Err(Error::Store(store::Error::Corrupt(why))) => {
                tracing::warn!("a round of the collection begins anew: {}", Causes(&why));
                self.begin_round(request, deadline).await?
            }
            Err(error) => return Err(error),
            Ok(_) => self.begin_round(request, deadline).await?,
        };
        let mut collector = Collector { collection: self, cursor, deadline };
        let (began_ms, began_at) = (self.platform.now_ms(), collector.cursor.report.looked_at);
        while !collector.cursor.report.done {
            let before = collector.cursor.phase;
            collector.advance().await?;
            let looked_at = collector.cursor.report.looked_at - began_at;
            let took_ms = self.platform.now_ms().saturating_sub(began_ms);
            // End the step before the phase `Protections`, so that the cursor is saved first. The
            // phase writes that the round is over, and the state that pushes read must not be ahead
            // of the saved cursor.
            let ends = !request.dry_run && before != Phase::Protections && collector.cursor.phase == Phase::Protections;
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

    /// Whether the collection state that pushes read names the cursor's round. Also clears the
    /// announcement of a sweep, if a step that was cut off left one.
    async fn is_current(&self, cursor: &Cursor, deadline: Deadline) -> Result<bool> {
        let state = self.guard.collection_state().await?;
        if let Activity::Sweeping { .. } = state.activity {
            let marking = CollectionState { activity: Activity::Marking, ..state };
            self.write_state(&marking, deadline).await?;
        }
        let is_active = state.is_active() || cursor.phase == Phase::Protections;
        Ok(is_active && state.round == cursor.report.round)
    }

    async fn begin_round(&self, request: &CollectRequest, deadline: Deadline) -> Result<Cursor> {
        let round = self.guard.collection_state().await?.round + 1;
        let report = Report { round, dry_run: request.dry_run, ..Report::default() };
        let mut least_grace_ms = 0;
        if !request.dry_run {
            if self.guard.was_push_refused().await? {
                least_grace_ms = RIGHT_OF_WAY_MS;
            }
            // Announce the round before marking begins: from here on each push protects the keys
            // that it references.
            self.write_state(&CollectionState { round, activity: Activity::Marking }, deadline).await?;
        }
        let evicting = Evicting { before_ms: self.evict_before_ms().await?, grace_ms: least_grace_ms };
        Ok(Cursor::new(report, request.grace_ms.max(least_grace_ms), request.untagged_lifetime_ms, evicting))
    }

    async fn write_state(&self, state: &CollectionState, deadline: Deadline) -> Result<()> {
        self.check_deadline(deadline)?;
        self.facts.store(layout::COLLECTION_STATE, state, When::Always).await
    }

    /// Fails with [`Error::Busy`] after the deadline: once the lease has expired another step may
    /// be under way, so nothing more may be written.
    fn check_deadline(&self, deadline: Deadline) -> Result<()> {
        deadline.check(self.platform.now_ms())
    }

    /// Takes the lease on the collection. Each lease is a key of its own, because "the key must be
    /// absent" is an exact condition on more stores than "the value must be unchanged".
    ///
    /// # Errors
    /// [`Error::Busy`] when another step holds the lease.
    async fn take_lease(&self) -> Result<Lease> {
        let leases = self.facts.keys.list(&layout::leases(), None, LEASES_LISTED_MAX).await?;
        let since_ms = self.platform.now_ms();
        let mut number = 0;
        if let Some(last) = leases.last() {
            if self.is_held(last, since_ms).await? {
                return Err(Error::Busy);
            }
            number = layout::lease_number(last) + 1;
        }
        let key = layout::lease(number);
        match self.facts.store(&key, &LeaseFact::Held { since_ms }, When::Absent).await {
            Err(Error::Store(store::Error::Conflict(_))) => return Err(Error::Busy),
            result => result?,
        }
        for old in leases {
            self.facts.keys.delete(&old).await?;
        }
        Ok(Lease { key, deadline: Window::new(since_ms, LEASE_MS).deadline() })
    }

    async fn is_held(&self, lease: &str, now_ms: u64) -> Result<bool> {
        match self.facts.load(lease).await {
            Ok(Some(LeaseFact::Held { since_ms })) => Ok(Window::new(since_ms, LEASE_MS).is_respected(now_ms)),
            Ok(Some(LeaseFact::Released) | None) | Err(Error::Store(store::Error::Corrupt(_))) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl<'a> Collector<'a> {
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
            Phase::MissingBlobs => self.missing_blobs().await,
            Phase::ReverseIndex => self.reverse_index().await,
            Phase::Referrers => self.referrers().await,
            Phase::Large => self.large().await,
            Phase::Repository => self.repository().await,
            Phase::ContentOfUploads => self.content_of_uploads().await,
            Phase::ContentOfManifests => self.content_of_facts(Kind::Large, Phase::ContentOfBlobs).await,
            Phase::ContentOfBlobs => self.content_of_facts(Kind::Blob, Phase::Contents).await,
            Phase::Contents => self.contents().await,
            Phase::Objects => self.objects().await,
            Phase::Evictable => self.evictable().await,
            Phase::Condemned => self.condemned().await,
            Phase::Uses => self.uses().await,
            Phase::TidyKeys => self.tidy_keys().await,
            Phase::TidyContent => self.tidy_content().await,
            Phase::Expired => self.expired().await,
            Phase::Protections => self.protections().await,
        }
    }

    /// Returns the next page of keys under `prefix`, after the cursor, and moves the cursor behind
    /// the page. The flag is `false` on the last page.
    async fn page(&mut self, prefix: &Prefix) -> Result<(Vec<Key>, bool)> {
        let after = self.cursor.after.take();
        let mut pages = self.pages(prefix.clone(), after);
        let keys = pages.next().await?.unwrap_or_default();
        let more = !pages.is_over();
        self.cursor.report.looked_at += keys.len() as u64;
        self.cursor.after = keys.last().map(|last| last.clone().into_string());
        Ok((keys, more))
    }

    fn pages(&self, prefix: Prefix, after: Option<String>) -> KeyPages<'a> {
        KeyPages::new(&*self.collection.facts.keys, prefix, after, self.collection.limits.collect_page_entries_max)
    }

    /// Must be called before every write.
    fn check_lease(&self) -> Result<()> {
        self.collection.check_deadline(self.deadline)
    }

    fn is_dry(&self) -> bool {
        self.cursor.report.dry_run
    }
}
