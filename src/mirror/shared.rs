//! Fills that several requests share: one task reads the upstream, and any number of readers
//! follow, each at its own speed.
//!
//! The task never waits for a reader. A window holds the newest bytes. A reader that falls behind
//! the window reads the bytes that the upload session has acknowledged or, where the store cannot
//! read staged bytes, waits until the blob is complete. Memory is bounded by the window and one
//! piece for each fill, and the number of fills is bounded.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bytes::Bytes;
use futures_util::{FutureExt as _, stream};

use super::filler::Filler;
use super::{Error, MirroredRepository, Result};
use crate::oci::{Digest, RepositoryName};
use crate::platform::{Body, BodyError};
use crate::registry::{self, SessionId};

/// How many bytes the window of a fill holds.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// How many fills an instance runs at once. Blobs beyond stream through without being stored.
const FILLS_MAX: usize = 16;

type Key = (RepositoryName, Digest);

/// The fills of this instance.
#[derive(Clone, Default)]
pub(super) struct Fills {
    running: Arc<Mutex<HashMap<Key, Arc<Fill>>>>,
}

/// A fill and its readers.
struct Fill {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The size of the blob once the upstream has answered, or the error.
    opened: Option<Result<u64>>,
    /// The newest bytes.
    window: VecDeque<Bytes>,
    /// The first byte of the window within the blob.
    start: u64,
    /// The byte after the window.
    end: u64,
    session: Option<SessionId>,
    /// How many bytes the session has acknowledged.
    stored: u64,
    /// The end of the fill: the blob is in the registry, or the reason why not.
    outcome: Option<Result<(), BodyError>>,
    /// The readers that wait, by number.
    waiting: HashMap<u64, Waker>,
    readers: u64,
}

/// One reader of a fill.
struct Reader {
    fill: Arc<Fill>,
    repository: MirroredRepository,
    digest: Digest,
    number: u64,
    position: u64,
    /// Bytes from the session or from the registry, while the window does not have the position.
    behind: Option<Body>,
}

/// What a reader does next.
enum Step {
    Give(Bytes),
    End,
    Fail(BodyError),
    ReadSession(SessionId),
    ReadBlob,
}

impl Fills {
    /// The blob, from the running fill or from a new one: its size and its bytes. `None` if too
    /// many fills run.
    pub(super) async fn join(&self, repository: &MirroredRepository, digest: &Digest) -> Result<Option<(u64, Body)>> {
        let Some(fill) = self.find_or_start(repository, digest) else { return Ok(None) };
        let mut reader = Reader::new(fill, repository.clone(), digest.clone());
        let size = poll_fn(|cx| reader.poll(cx.waker(), |state, _| state.opened.clone())).await?;
        let bytes = stream::try_unfold(reader, |mut reader| async move {
            Ok::<_, BodyError>(reader.next().await?.map(|bytes| (bytes, reader)))
        });
        Ok(Some((size, Body::from_stream(bytes).with_length(size))))
    }

    fn find_or_start(&self, repository: &MirroredRepository, digest: &Digest) -> Option<Arc<Fill>> {
        let key = (repository.local.clone(), digest.clone());
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fill) = running.get(&key) {
            return Some(fill.clone());
        }
        if running.len() >= FILLS_MAX {
            return None;
        }
        let fill = Arc::new(Fill { state: Mutex::default() });
        running.insert(key.clone(), fill.clone());
        let entry = Entry { fills: self.clone(), key, fill: fill.clone() };
        let (repository, digest) = (repository.clone(), digest.clone());
        let platform = repository.mirror.platform.clone();
        let task = async move {
            let end = entry.fill.run(repository, digest).await;
            // A request that comes after the end begins anew, or finds the blob in the registry.
            entry.remove();
            entry.fill.end(end);
        };
        platform.spawn(task.boxed());
        Some(fill)
    }
}

/// The entry of a running fill, removed when the task ends, also by a panic.
struct Entry {
    fills: Fills,
    key: Key,
    fill: Arc<Fill>,
}

impl Entry {
    fn remove(&self) {
        let mut running = self.fills.running.lock().unwrap_or_else(PoisonError::into_inner);
        // Another fill of the blob may have begun.
        if running.get(&self.key).is_some_and(|fill| Arc::ptr_eq(fill, &self.fill)) {
            running.remove(&self.key);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.remove();
        let broken = BodyError::Interrupted("the fill of the cache was broken off".into());
        self.fill.end(Err(registry::Error::Store(broken.into()).into()));
    }
}

impl Fill {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes all readers.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_values().for_each(Waker::wake);
    }

    /// Fills to the end, whether or not a reader is left. Returns the error of a fill that could not
    /// begin, or else the outcome of the fill.
    async fn run(&self, repository: MirroredRepository, digest: Digest) -> Result<Result<(), BodyError>> {
        // An earlier fill may have ended since the request looked for the blob.
        if let Ok(blob) = repository.mirror.registry.blob(&repository.local, &digest).await {
            self.change(|state| state.opened = Some(Ok(blob.size)));
            return Ok(Ok(()));
        }
        let mut filler = Filler::begin(repository, digest).await?;
        self.change(|state| state.opened = Some(Ok(filler.size)));
        loop {
            let next = filler.next().await;
            let (session, stored) = (filler.session().cloned(), filler.stored);
            match next {
                Ok(Some(bytes)) => self.change(|state| {
                    (state.session, state.stored) = (session, stored);
                    state.push(bytes);
                }),
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Publishes the end of the fill, once.
    fn end(&self, end: Result<Result<(), BodyError>>) {
        self.change(|state| match end {
            Ok(outcome) => _ = state.outcome.get_or_insert(outcome),
            Err(error) => {
                let broken = BodyError::Interrupted(error.to_string());
                state.opened.get_or_insert(Err(error));
                state.outcome.get_or_insert(Err(broken));
            }
        });
    }
}

impl State {
    fn push(&mut self, bytes: Bytes) {
        self.end += bytes.len() as u64;
        self.window.push_back(bytes);
        while self.end - self.start > WINDOW_BYTES && self.window.len() > 1 {
            let oldest = self.window.pop_front().unwrap_or_default();
            self.start += oldest.len() as u64;
        }
    }

    /// The window's bytes from `position` on, as far as one piece has them.
    fn at(&self, position: u64) -> Option<Bytes> {
        let mut start = self.start;
        for bytes in &self.window {
            let end = start + bytes.len() as u64;
            if (start..end).contains(&position) {
                return Some(bytes.slice((position - start) as usize..));
            }
            start = end;
        }
        None
    }

    /// What a reader at `position` does next; `None` if the reader has to wait.
    fn step(&self, position: u64) -> Option<Step> {
        if let Some(bytes) = self.at(position) {
            return Some(Step::Give(bytes));
        }
        let size = self.opened.as_ref().and_then(|opened| opened.as_ref().ok());
        match (&self.outcome, &self.session) {
            _ if size == Some(&position) && self.outcome == Some(Ok(())) => Some(Step::End),
            (Some(Ok(())), _) => Some(Step::ReadBlob),
            (Some(Err(error)), _) => Some(Step::Fail(error.clone())),
            (None, Some(session)) if position < self.start && position < self.stored => {
                Some(Step::ReadSession(session.clone()))
            }
            _ => None,
        }
    }
}

impl Reader {
    fn new(fill: Arc<Fill>, repository: MirroredRepository, digest: Digest) -> Self {
        let mut state = fill.state();
        state.readers += 1;
        let number = state.readers;
        drop(state);
        Self { fill, repository, digest, number, position: 0, behind: None }
    }

    /// Asks the state for something, and waits for a change if the state does not have it yet.
    fn poll<T>(&mut self, waker: &Waker, ask: impl FnOnce(&State, u64) -> Option<T>) -> Poll<T> {
        let mut state = self.fill.state();
        match ask(&state, self.position) {
            Some(answer) => Poll::Ready(answer),
            None => {
                state.waiting.insert(self.number, waker.clone());
                Poll::Pending
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            if let Some(body) = &mut self.behind {
                match body.next().await {
                    Some(Ok(bytes)) => {
                        self.position += bytes.len() as u64;
                        return Ok(Some(bytes));
                    }
                    Some(Err(error)) => return Err(error),
                    None => self.behind = None,
                }
            }
            match poll_fn(|cx| self.poll(cx.waker(), State::step)).await {
                Step::Give(bytes) => {
                    self.position += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Step::End => return Ok(None),
                Step::Fail(error) => return Err(error),
                Step::ReadSession(session) => self.behind = self.read_session(&session).await?,
                Step::ReadBlob => self.behind = Some(self.read_blob().await?),
            }
        }
    }

    /// The acknowledged bytes of the session from the reader's position on. Waits for the end of
    /// the fill where the store cannot read staged bytes.
    async fn read_session(&mut self, session: &SessionId) -> Result<Option<Body>, BodyError> {
        let registry = &self.repository.mirror.registry;
        match registry.read_upload(&self.repository.local, session, self.position).await {
            Ok(Some(body)) if body.length() != Some(0) => return Ok(Some(body)),
            Ok(_) => {}
            // The fill has committed the blob, or is just writing to the stage.
            Err(registry::Error::UploadUnknown) => {}
            Err(error) => return Err(source(error)),
        }
        poll_fn(|cx| self.poll(cx.waker(), |state, _| state.outcome.as_ref().map(|_| ()))).await;
        Ok(None)
    }

    /// The rest of the blob, which the registry has now.
    async fn read_blob(&mut self) -> Result<Body, BodyError> {
        let registry = &self.repository.mirror.registry;
        let blob = registry.blob(&self.repository.local, &self.digest).await.map_err(source)?;
        registry.read_blob(&blob, self.position..blob.size).await.map_err(source)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.fill.state().waiting.remove(&self.number);
    }
}

fn source(error: impl Into<Error>) -> BodyError {
    BodyError::Interrupted(error.into().to_string())
}
