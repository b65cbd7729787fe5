//! The failures of requests to an upstream.

/// Why a request to an upstream failed. The text is for clients and for the log, and has no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("upstream {upstream}: {kind}")]
#[non_exhaustive]
pub struct Error {
    /// The name of the upstream.
    pub upstream: String,
    /// The class of the trouble.
    pub kind: Kind,
}

/// The classes of trouble with an upstream. Callers handle each class differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Kind {
    /// The upstream does not have the content (404).
    #[error("the content is not there")]
    Unknown,
    /// The upstream does not show the content to this registry (401 or 403 although the upstream
    /// took the login). Many registries answer the same for content that does not exist.
    #[error("the content is not there, or the upstream does not show the content to this registry")]
    Denied,
    /// The upstream refuses the login that the operator has set.
    #[error("the upstream refuses the login of this registry: {0}")]
    Login(String),
    /// The upstream answers 429.
    #[error("the upstream limits the rate of requests (429)")]
    Limited {
        /// The upstream's `Retry-After`: seconds or a date, as the upstream wrote the header.
        retry_after: Option<String>,
    },
    /// The upstream cannot be reached, breaks off, or answers with a server error.
    #[error("the upstream fails: {0}")]
    Down(String),
    /// The upstream does not answer in time.
    #[error("the upstream is too slow: {0}")]
    Slow(String),
    /// The answer is not an answer of a registry, or does not have the digest that was asked for.
    #[error("the upstream's answer is invalid: {0}")]
    Invalid(String),
    /// No byte of the requested range lies within the content (416).
    #[error("the range lies outside of the content")]
    Range,
}

impl Kind {
    /// Whether the upstream says that the content does not exist, as far as this registry may know.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Unknown | Self::Denied)
    }
}
