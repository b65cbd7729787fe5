//! Uploads that this instance has just begun, so that their first chunk, which mostly follows at once, need not read them again:
//! over an object store that is one request less for each layer. What is remembered is only a guess, as another instance may
//! have gone on with the upload or ended it; whoever uses it must write with the version that it has, and finds out.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::limits::{BEGUN_LIFETIME_MS, BEGUN_UPLOADS_MAX};
use super::session::Session;

#[derive(Default)]
pub(super) struct Begun {
    sessions: Mutex<HashMap<String, Session>>,
}

impl Begun {
    /// Keeps a session for its first chunk. Without a version nobody would find out that it has changed.
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

    /// The session as it began, once.
    pub(super) fn take(&self, key: &str, now_ms: u64) -> Option<Session> {
        let session = self.lock().remove(key)?;
        (now_ms.saturating_sub(session.fact.begun_ms) <= BEGUN_LIFETIME_MS).then_some(session)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
