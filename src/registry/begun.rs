//! Recent sessions: uploads that this instance has just begun. The first chunk mostly follows at
//! once and need not read the session from the store again, which saves one request per layer over
//! an object store. A remembered session is only a guess, as another instance may have continued or
//! ended the upload. The request that uses a remembered session must therefore write with the
//! session's version, and so detects a change.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::layout::Key;
use super::limits::{BEGUN_LIFETIME_MS, BEGUN_UPLOADS_MAX};
use super::session::Session;

#[derive(Default)]
pub(super) struct Begun {
    sessions: Mutex<HashMap<Key, Session>>,
}

impl Begun {
    /// Remembers a session for its first chunk. A session without a version is not remembered,
    /// because a write could not detect that the session has changed.
    pub(super) fn keep(&self, session: Session) {
        if session.version.is_none() {
            return;
        }
        let mut sessions = self.lock();
        if sessions.len() >= BEGUN_UPLOADS_MAX {
            sessions.clear();
        }
        sessions.insert(session.key.clone(), session);
    }

    /// Removes and returns the session as it was begun, if it was begun at most `BEGUN_LIFETIME_MS`
    /// ago.
    pub(super) fn take(&self, key: &str, now_ms: u64) -> Option<Session> {
        let session = self.lock().remove(key)?;
        (now_ms.saturating_sub(session.fact.begun_ms) <= BEGUN_LIFETIME_MS).then_some(session)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
