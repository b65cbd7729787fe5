//! Recent sessions: uploads that this instance has just begun.
//!
//! The first chunk mostly follows at once and need not read the session from the store again, which
//! saves one request per layer over an object store. A remembered session may be outdated, as
//! another instance may have continued or ended the upload. The request that uses a remembered
//! session must therefore write with the session's version, and so detects a change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::session::Session;
use crate::registry::layout::Key;
use crate::registry::limits::{RECENT_SESSION_LIFETIME_MS, RECENT_SESSIONS_MAX};

/// The sessions that this instance has just begun, by key.
#[derive(Clone, Default)]
pub(super) struct RecentSessions {
    sessions: Arc<Mutex<HashMap<Key, Session>>>,
}

impl RecentSessions {
    /// Remembers a session for its first chunk. A session without a version is not remembered,
    /// because a write could not detect that the session has changed.
    pub(super) fn remember(&self, session: Session) {
        if session.version.is_none() {
            return;
        }
        let mut sessions = self.lock();
        if sessions.len() >= RECENT_SESSIONS_MAX {
            sessions.clear();
        }
        sessions.insert(session.key.clone(), session);
    }

    /// Removes and returns the session as it began, if it began at most
    /// `RECENT_SESSION_LIFETIME_MS` ago.
    pub(super) fn take(&self, key: &str, now_ms: u64) -> Option<Session> {
        let session = self.lock().remove(key)?;
        (now_ms.saturating_sub(session.fact.begun_ms) <= RECENT_SESSION_LIFETIME_MS).then_some(session)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
