//! Decorators that fail on purpose, by seed. The faults are those of a network, a full disk or a
//! retrying client.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;

use super::contract::yield_now;
use super::{
    BlobStore, Entry, Error, Family, KeyValue, Location, Object, Result, Stage, Stored, Tidied, TidyRequest, Version,
    When,
};
use crate::oci::Digest;
use crate::platform::{Body, BodyError};

/// Pseudo-random numbers that follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`. `end` must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    /// True with a chance of `chance` in a thousand.
    pub fn per_mille(&mut self, chance: u32) -> bool {
        self.roll() % 1000 < u64::from(chance)
    }
}

/// The fault of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The call fails and does nothing.
    Before,
    /// The call does its work, and the acknowledgement is lost.
    After,
    /// Other tasks run before the call.
    Delay,
    /// The body of an append or of a read breaks off. A call without a body fails.
    BreakOff,
    /// The call is carried out twice, as when a client of the store retries because the first
    /// answer was lost.
    Twice,
}

/// Decides which calls fail. The stores of one registry share the faults, so that one seed
/// determines the whole run.
pub struct Faults {
    dice: Mutex<Dice>,
    chance_per_mille: AtomicU32,
}

impl Faults {
    /// Gives a fault to `chance_per_mille` of a thousand calls.
    pub fn new(seed: u64, chance_per_mille: u32) -> Arc<Self> {
        Arc::new(Self { dice: Mutex::new(Dice::new(seed)), chance_per_mille: AtomicU32::new(chance_per_mille) })
    }

    /// Changes the chance: from now on `chance_per_mille` of a thousand calls have a fault; 0 means
    /// no faults.
    pub fn set_chance(&self, chance_per_mille: u32) {
        self.chance_per_mille.store(chance_per_mille, Ordering::Relaxed);
    }

    fn dice<T>(&self, use_it: impl FnOnce(&mut Dice) -> T) -> T {
        use_it(&mut self.dice.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn next(&self) -> Fault {
        const FAULTS: [Fault; 5] = [Fault::Before, Fault::After, Fault::Delay, Fault::BreakOff, Fault::Twice];
        match self.chance_per_mille.load(Ordering::Relaxed) {
            0 => Fault::None,
            chance => self.dice(|dice| if dice.per_mille(chance) { FAULTS[dice.below(5)] } else { Fault::None }),
        }
    }

    async fn delay(&self) {
        for _ in 0..self.dice(|dice| 1 + dice.below(3)) {
            yield_now().await;
        }
    }
}

fn outage() -> Error {
    Error::unavailable("the store fails on purpose")
}

/// A store with faults.
pub struct Faulty<S: ?Sized> {
    faults: Arc<Faults>,
    inner: Arc<S>,
}

impl<S: ?Sized> Faulty<S> {
    /// Applies `faults` to the calls to `inner`.
    pub fn new(faults: Arc<Faults>, inner: Arc<S>) -> Self {
        Self { faults, inner }
    }
}

/// Makes a call without a body, with the next fault.
macro_rules! faulty {
    ($self:ident, $call:expr) => {
        match $self.faults.next() {
            Fault::None => $call.await,
            Fault::Before | Fault::BreakOff => Err(outage()),
            Fault::After => {
                let _ = $call.await;
                Err(outage())
            }
            Fault::Delay => {
                $self.faults.delay().await;
                $call.await
            }
            Fault::Twice => {
                let _ = $call.await;
                $call.await
            }
        }
    };
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a decorator forwards every method")]
impl<S: KeyValue + ?Sized> KeyValue for Faulty<S> {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        faulty!(self, self.inner.get(key))
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        faulty!(self, self.inner.put(key, value.clone(), when.clone()))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        faulty!(self, self.inner.delete(key))
    }

    async fn delete_unchanged(&self, key: &str, version: &Version) -> Result<()> {
        faulty!(self, self.inner.delete_unchanged(key, version))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        faulty!(self, self.inner.list(prefix, after, limit))
    }

    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied> {
        faulty!(self, self.inner.tidy(request))
    }

    fn for_upkeep(&self) -> Option<Arc<dyn KeyValue>> {
        let inner = self.inner.for_upkeep()?;
        Some(Arc::new(Faulty::new(self.faults.clone(), inner)))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a decorator forwards every method")]
impl<S: BlobStore + ?Sized> BlobStore for Faulty<S> {
    async fn stage(&self) -> Result<Stage> {
        faulty!(self, self.inner.stage())
    }

    async fn append(&self, stage: &Stage, body: Body) -> Result<Stage> {
        match self.faults.next() {
            Fault::None => self.inner.append(stage, body).await,
            Fault::Before => Err(outage()),
            Fault::After => {
                let _ = self.inner.append(stage, body).await;
                Err(outage())
            }
            Fault::Delay => {
                self.faults.delay().await;
                self.inner.append(stage, body).await
            }
            Fault::BreakOff => {
                let pieces = self.broken_off(pieces_of(body).await);
                self.inner.append(stage, body_of_pieces(pieces)).await
            }
            Fault::Twice => {
                let pieces = pieces_of(body).await;
                let _ = self.inner.append(stage, body_of_pieces(pieces.clone())).await;
                self.inner.append(stage, body_of_pieces(pieces)).await
            }
        }
    }

    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location> {
        faulty!(self, self.inner.commit(stage, digest))
    }

    async fn discard(&self, stage: &Stage) -> Result<()> {
        faulty!(self, self.inner.discard(stage))
    }

    fn kept_append_bytes(&self) -> Option<u64> {
        self.inner.kept_append_bytes()
    }

    async fn abandon(&self, stage: &Stage, before: Option<&Stage>) -> Result<()> {
        faulty!(self, self.inner.abandon(stage, before))
    }

    async fn read_stage(&self, stage: &Stage, range: Range<u64>) -> Result<Option<Body>> {
        match self.faults.next() {
            Fault::None | Fault::Twice => self.inner.read_stage(stage, range).await,
            Fault::Before | Fault::After => Err(outage()),
            Fault::Delay => {
                self.faults.delay().await;
                self.inner.read_stage(stage, range).await
            }
            Fault::BreakOff => {
                let length = range.end.saturating_sub(range.start);
                let Some(body) = self.inner.read_stage(stage, range).await? else { return Ok(None) };
                let pieces = pieces_of(body).await;
                Ok(Some(body_of_pieces(self.broken_off(pieces)).with_length(length)))
            }
        }
    }

    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body> {
        let length = range.end.saturating_sub(range.start);
        match self.faults.next() {
            Fault::None | Fault::Twice => self.inner.read(location, range).await,
            Fault::Before | Fault::After => Err(outage()),
            Fault::Delay => {
                self.faults.delay().await;
                self.inner.read(location, range).await
            }
            Fault::BreakOff => {
                let pieces = pieces_of(self.inner.read(location, range).await?).await;
                Ok(body_of_pieces(self.broken_off(pieces)).with_length(length))
            }
        }
    }

    async fn redirect(&self, location: &Location) -> Result<Option<String>> {
        faulty!(self, self.inner.redirect(location))
    }

    fn file(&self, location: &Location) -> Option<PathBuf> {
        self.inner.file(location)
    }

    fn object(&self, location: &Location) -> Option<Object> {
        self.inner.object(location)
    }

    async fn family(&self, stage: &Stage) -> Result<Family> {
        faulty!(self, self.inner.family(stage))
    }

    async fn names_of(&self, location: &Location) -> Result<Vec<String>> {
        faulty!(self, self.inner.names_of(location))
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>> {
        faulty!(self, self.inner.list(after, limit))
    }

    async fn probe(&self) -> Result<()> {
        faulty!(self, self.inner.probe())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        faulty!(self, self.inner.remove(name))
    }

    async fn tidy(&self, request: &TidyRequest) -> Result<Tidied> {
        faulty!(self, self.inner.tidy(request))
    }
}

type Pieces = Vec<Result<Bytes, BodyError>>;

impl<S: ?Sized> Faulty<S> {
    /// The beginning of a body, possibly the whole body, followed by an error.
    fn broken_off(&self, mut pieces: Pieces) -> Pieces {
        let keep = self.faults.dice(|dice| dice.below(pieces.len() + 1));
        if let Some(Ok(cut)) = pieces.get_mut(keep) {
            cut.truncate(self.faults.dice(|dice| dice.below(cut.len())));
        }
        pieces.truncate(keep + 1);
        pieces.push(Err(outage().into()));
        pieces
    }
}

/// All pieces of a body, held in memory: the decorators are not meant for bodies of any size.
async fn pieces_of(mut body: Body) -> Pieces {
    let mut pieces = Vec::new();
    while let Some(piece) = body.next().await {
        let is_end = piece.is_err();
        pieces.push(piece);
        if is_end {
            break;
        }
    }
    pieces
}

fn body_of_pieces(pieces: Pieces) -> Body {
    Body::from_stream(stream::iter(pieces))
}
