//! How a push and a garbage collection run at the same time without a lock.
//!
//! Each side writes its intention before it reads the intention of the other side, so at least one
//! side sees the other, and neither side needs conditional writes. A push has an *optimistic* and a
//! *protected* way:
//!
//! - No round is under way: the push reads the collection's state, checks and writes its keys, and
//!   reads the state again. If no round has begun by then, every later round sees the writes.
//!
//! - A round is under way, or the optimistic way failed: the push first protects its keys, by
//!   writing one key `protected/<key>!<push>` for each, and only then checks that the keys exist.
//!   The collector announces the keys that it is about to remove before it reads the protections.
//!
//! docs/design/collection.md has the protocol as numbered steps, with its interleavings.

mod state;
mod window;

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

pub(super) use state::{Activity, CollectionState, ProtectionFact, TagNote};
pub(super) use window::{Deadline, Window};

use super::facts::Facts;
use super::layout::Key;
use super::limits::{CALLS_AT_ONCE_MAX, CALLS_PREPARED_MAX, PROTECTION_MS, RIGHT_OF_WAY_MS};
use super::{Error, Result, layout};
use crate::platform::Platform;
use crate::store::When;

/// How many tries a push has when rounds begin or end during the push. The first try may be
/// optimistic; the others protect the keys.
pub(super) const PUSH_TRIES_MAX: usize = 4;

/// When a push protects its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// Only while a round is under way: the first try.
    WhenActive,
    /// In any case: a try after a round has begun or ended during the try before, and the content of
    /// a large manifest.
    Always,
}

/// How the keys of a push are safe from the collector.
#[derive(Debug)]
pub(super) enum Protection {
    /// No round was under way. The keys are safe as long as no round has begun since.
    Optimistic { round: u64 },
    /// Each key has a protection. `round` is the round that the push knew when it wrote the
    /// protections: they last until the end of the next round, and until the deadline in any case.
    Protected { round: u64, deadline: Deadline },
}

impl Protection {
    /// Whether the keys have protections.
    pub(super) fn is_protected(&self) -> bool {
        matches!(self, Self::Protected { .. })
    }
}

/// Protects the keys of pushes from the collector.
#[derive(Clone)]
pub(super) struct CollectionGuard {
    pub facts: Facts,
    pub platform: Arc<dyn Platform>,
}

impl CollectionGuard {
    /// The state of the collection.
    pub(super) async fn collection_state(&self) -> Result<CollectionState> {
        Ok(self.facts.load(layout::COLLECTION_STATE).await?.unwrap_or_default())
    }

    /// Makes `keys`, which need not exist, safe from the collector for the push named `push`. The
    /// caller checks whether the keys exist after this call, and then writes and calls
    /// [`CollectionGuard::confirm`].
    ///
    /// # Errors
    /// [`Error::Busy`] when the collector is removing one of `keys` at present.
    pub(super) async fn protect(&self, push: &str, keys: &[Key], effort: Effort) -> Result<Protection> {
        let state = self.collection_state().await?;
        if effort == Effort::WhenActive && !state.is_active() {
            return Ok(Protection::Optimistic { round: state.round });
        }
        let deadline = self.write_protections(push, keys, state.round).await?;
        if self.collection_state().await?.is_sweeping(keys, self.platform.now_ms()) {
            return Err(Error::Busy);
        }
        Ok(Protection::Protected { round: state.round, deadline })
    }

    async fn write_protections(&self, push: &str, keys: &[Key], round: u64) -> Result<Deadline> {
        let since_ms = self.platform.now_ms();
        for chunk in keys.chunks(CALLS_PREPARED_MAX) {
            let writes = chunk.iter().map(|key| async move {
                let fact = ProtectionFact { round, since_ms };
                self.facts.store(&layout::protection(key, push), &fact, When::Always).await
            });
            let writes: Vec<_> = writes.collect();
            stream::iter(writes).buffer_unordered(CALLS_AT_ONCE_MAX).try_collect::<()>().await?;
        }
        Ok(Window::new(since_ms, PROTECTION_MS).deadline())
    }

    /// Removes the protections of `keys` that the push wrote, because every later round sees the
    /// writes of the push. A protection that stays delays a removal by one round and does no other
    /// harm, so an error of the store is ignored.
    pub(super) async fn unprotect(&self, push: &str, keys: &[Key]) {
        for key in keys {
            let _ = self.facts.keys.delete(&layout::protection(key, push)).await;
        }
    }

    /// Whether the keys were safe from the collector up to now, and whether every round sees the
    /// writes of the push or respects its protections. If not, the push must protect its keys and
    /// check them again.
    pub(super) async fn confirm(&self, push: &str, keys: &[Key], protection: &Protection) -> Result<bool> {
        let state = self.collection_state().await?;
        match *protection {
            Protection::Optimistic { round } => Ok(state.round == round && !state.is_active()),
            Protection::Protected { round, .. } if state.round <= round + 1 => Ok(true),
            // The round that is under way may have begun before the writes of the push. Protect the
            // keys until the end of that round, before the time of the first protections is over.
            Protection::Protected { deadline, .. } if !deadline.is_over(self.platform.now_ms()) => {
                self.write_protections(push, keys, state.round).await?;
                Ok(!deadline.is_over(self.platform.now_ms()))
            }
            Protection::Protected { .. } => Ok(false),
        }
    }

    /// Notes that a push was refused because of a collection: content was missing that a collection
    /// may have removed a moment ago, or rounds began and ended too fast. The rounds that begin
    /// during the next `RIGHT_OF_WAY_MS` remove nothing at once, so that the client can push again.
    /// Writes nothing if no round is under way and the last round ended more than `RIGHT_OF_WAY_MS`
    /// ago.
    pub(super) async fn note_refused_push(&self) -> Result<()> {
        let now_ms = self.platform.now_ms();
        if !self.collection_state().await?.is_recent(now_ms) {
            return Ok(());
        }
        self.facts.store(layout::COLLECTION_REFUSED, &now_ms, When::Always).await
    }

    /// Whether a push was refused because of a collection during the last `RIGHT_OF_WAY_MS`.
    pub(super) async fn was_push_refused(&self) -> Result<bool> {
        let refused_ms: Option<u64> = self.facts.load(layout::COLLECTION_REFUSED).await?;
        let is_recent = |at_ms| Window::new(at_ms, RIGHT_OF_WAY_MS).is_respected(self.platform.now_ms());
        Ok(refused_ms.is_some_and(is_recent))
    }
}
