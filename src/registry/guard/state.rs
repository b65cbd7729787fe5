//! The state of the collection, as pushes read it, and the notes of pushes, as the collector reads
//! them.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::super::layout::Key;
use super::super::limits::{PROTECTION_MS, PUSH_MS_MAX, RIGHT_OF_WAY_MS, SWEEPING_MS_MAX};
use super::window::Window;

/// The state of the collection: the value under `collection/state`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::registry) struct CollectionState {
    /// The number of the current round or, between two rounds, of the last one.
    pub round: u64,
    pub activity: Activity,
}

/// What the collection does at present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::registry) enum Activity {
    /// No round is under way. The last round ended at `since_ms`, in milliseconds since the Unix
    /// epoch; 0 before the first round.
    Idle { since_ms: u64 },
    /// A round is under way, and removes no key at present.
    Marking,
    /// The round under way is removing these keys. The announcement was made at `since_ms`.
    Sweeping { keys: Vec<Key>, since_ms: u64 },
}

impl Default for Activity {
    fn default() -> Self {
        Self::Idle { since_ms: 0 }
    }
}

impl CollectionState {
    /// Whether a round is under way.
    pub(in crate::registry) fn is_active(&self) -> bool {
        !matches!(self.activity, Activity::Idle { .. })
    }

    /// Whether the collector is removing one of `keys` at present. An announcement whose window is
    /// over comes from a collector that was cut off, and is ignored.
    pub(in crate::registry) fn is_sweeping(&self, keys: &[Key], now_ms: u64) -> bool {
        let Activity::Sweeping { keys: swept, since_ms } = &self.activity else { return false };
        if !Window::new(*since_ms, SWEEPING_MS_MAX).is_respected(now_ms) {
            return false;
        }
        let swept: HashSet<&Key> = swept.iter().collect();
        keys.iter().any(|key| swept.contains(key))
    }

    /// Whether a round is under way, or the last round ended a moment ago, so that a collection may
    /// have caused the failure of a push.
    pub(in crate::registry) fn is_recent(&self, now_ms: u64) -> bool {
        match self.activity {
            Activity::Idle { since_ms } => Window::new(since_ms, RIGHT_OF_WAY_MS).is_respected(now_ms),
            _ => true,
        }
    }
}

/// The value of an entry of the reverse index (digest to tag): how far the push has come that wrote
/// the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::registry) enum TagNote {
    /// The push is about to set the tag. The entry was written at `since_ms`, in milliseconds since
    /// the Unix epoch.
    Pending { since_ms: u64 },
    /// The push has set the tag, or has given up.
    Done,
}

impl TagNote {
    /// Whether the tag may still be set.
    pub(in crate::registry) fn is_pending(self, now_ms: u64) -> bool {
        match self {
            Self::Pending { since_ms } => Window::new(since_ms, PUSH_MS_MAX).is_respected(now_ms),
            Self::Done => false,
        }
    }
}

/// The value under `protected/<key>!<push>`: a push protects the key from the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::registry) struct ProtectionFact {
    /// The round that the push knew. The key stays protected until the end of the next round.
    pub round: u64,
    /// When the push wrote this fact, in milliseconds since the Unix epoch. The key stays protected
    /// for `PROTECTION_MS`, however many rounds begin and end meanwhile.
    pub since_ms: u64,
}

impl ProtectionFact {
    /// Whether the protection is over at the end of round `round`.
    pub(in crate::registry) fn is_over(self, round: u64, now_ms: u64) -> bool {
        self.round < round && !Window::new(self.since_ms, PROTECTION_MS).is_respected(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protection_lasts_for_its_rounds_and_for_its_time() {
        let fact = ProtectionFact { round: 5, since_ms: 1_000 };
        let late_ms = 1_001 + PROTECTION_MS;
        for (round, now_ms, is_over) in
            [(5, late_ms, false), (6, late_ms, true), (6, late_ms - 1, false), (9, 0, false)]
        {
            assert_eq!(fact.is_over(round, now_ms), is_over, "round {round} at {now_ms}");
        }
    }

    #[test]
    fn a_sweep_that_was_cut_off_is_ignored() {
        let key = Key::listed("blob/a!x".to_owned());
        let activity = Activity::Sweeping { keys: vec![key.clone()], since_ms: SWEEPING_MS_MAX };
        let state = CollectionState { round: 1, activity };
        let keys = [key];
        assert!(state.is_sweeping(&keys, 0) && state.is_sweeping(&keys, 2 * SWEEPING_MS_MAX));
        assert!(!state.is_sweeping(&keys, 2 * SWEEPING_MS_MAX + 1));
        assert!(!state.is_sweeping(&[Key::listed("blob/a!y".to_owned())], 0));
    }
}
