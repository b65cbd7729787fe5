//! Periods that one process announces and all others respect.

use super::super::{Error, Result};

/// A period of time that its owner announces in the store: the lease of a step, the announcement of
/// a sweep, a push that is about to set tags, or the protection of keys.
///
/// Other processes respect the whole window. The owner acts only until the [`Deadline`], the middle
/// of the window: the second half allows for writes that arrive late and for clocks that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Window {
    begin_ms: u64,
    length_ms: u64,
}

/// The time after which the owner of a window changes nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Deadline(u64);

impl Window {
    /// A window of `length_ms` milliseconds that begins at `begin_ms`, in milliseconds since the
    /// Unix epoch.
    pub(in crate::registry) const fn new(begin_ms: u64, length_ms: u64) -> Self {
        Self { begin_ms, length_ms }
    }

    /// Whether other processes must respect the window. A window that begins in the future is
    /// respected only if the window lies ahead by less than its length. Otherwise the clock was set
    /// back since the announcement, and the window must not block anybody until then.
    pub(in crate::registry) const fn is_respected(self, now_ms: u64) -> bool {
        now_ms.abs_diff(self.begin_ms) <= self.length_ms
    }

    /// The time until which the owner may act.
    pub(in crate::registry) const fn deadline(self) -> Deadline {
        Deadline(self.begin_ms.saturating_add(self.length_ms / 2))
    }
}

impl Deadline {
    /// The deadline of work that needs no window.
    pub(in crate::registry) const NONE: Self = Self(u64::MAX);

    pub(in crate::registry) const fn is_over(self, now_ms: u64) -> bool {
        now_ms > self.0
    }

    /// # Errors
    /// [`Error::Busy`] after the deadline.
    pub(in crate::registry) fn check(self, now_ms: u64) -> Result<()> {
        if self.is_over(now_ms) { Err(Error::Busy) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_stops_before_others_stop_respecting_the_window() {
        let window = Window::new(10_000, 1_000);
        for (now_ms, is_over, is_respected) in [
            (10_500, false, true),
            (10_501, true, true),
            (11_000, true, true),
            (11_001, true, false),
            (9_000, false, true),
            (8_999, false, false),
        ] {
            assert_eq!(window.deadline().is_over(now_ms), is_over, "{now_ms}");
            assert_eq!(window.is_respected(now_ms), is_respected, "{now_ms}");
        }
        assert!(!Deadline::NONE.is_over(u64::MAX));
    }
}
