//! Looking after what a store has besides its keys and its content.

/// What to look after, and how far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TidyRequest {
    /// The time, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// How old what a writer left behind must be to be removed, in milliseconds.
    pub grace_ms: u64,
    /// Changes nothing.
    pub dry_run: bool,
    /// Where to go on: [`Tidied::after`] of the call before.
    pub after: Option<String>,
    /// How many entries to look at.
    pub limit: usize,
}

/// What was looked after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// How many entries were looked at.
    pub looked_at: usize,
    /// How many things were removed that writers had left behind when they were killed.
    pub removed: u64,
    /// Paths of entries that are not the store's own. They are left alone.
    pub foreign: Vec<String>,
    /// Where the next call goes on.
    pub after: Option<String>,
    /// Whether there is more to look at.
    pub more: bool,
}
