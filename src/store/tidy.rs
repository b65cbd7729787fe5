//! Tidying of a store: leftovers of killed writers, and entries that are neither keys nor content.

/// The scope of one call to tidy a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TidyRequest {
    /// The time, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// How old, in milliseconds, a leftover of a killed writer must be before the store removes it.
    pub grace_ms: u64,
    /// Whether to report only and change nothing.
    pub dry_run: bool,
    /// Where to continue: [`Tidied::after`] of the previous call.
    pub after: Option<String>,
    /// The most entries to look at.
    pub limit: usize,
}

/// The result of tidying.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// How many entries were looked at.
    pub looked_at: usize,
    /// How many leftovers of killed writers were removed, or would be removed without `dry_run`.
    pub removed: u64,
    /// Paths of entries that are not the store's own. The store leaves such entries alone.
    pub foreign: Vec<String>,
    /// Where the next call continues.
    pub after: Option<String>,
    /// Whether more entries remain.
    pub more: bool,
}
