//! Every bound of the HTTP layer in one place.

/// The most bytes of path and query.
pub(super) const URI_BYTES_MAX: usize = 8 * 1024;
/// The most bytes of all header names and values together.
pub(super) const HEADER_BYTES_MAX: usize = 32 * 1024;
/// The most bytes of a request that sets a warning.
pub(super) const WARNING_REQUEST_BYTES_MAX: u64 = 4 * 1024;
/// The most bytes of an unread body that are drained, so that the client can see the answer.
pub(super) const DRAIN_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// The most bytes of a request id that a client chooses.
pub(super) const REQUEST_ID_BYTES_MAX: usize = 64;
/// When a client is to retry a request that met the collection or a crowd of requests, in seconds.
pub(super) const BUSY_RETRY_AFTER_SECONDS: &str = "1";
/// When a client is to retry after the issuer of its token did not answer, in seconds.
pub(super) const ISSUER_RETRY_AFTER_SECONDS: &str = "30";
/// How often an instance probes its stores at most when clients ask whether it is ready, in
/// milliseconds.
pub(super) const READY_PROBE_EVERY_MS: u64 = 1000;
/// The most bytes of a request for a token, or about users and tokens.
pub(super) const ADMINISTRATION_REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// The most scopes of one request for a token.
pub(super) const SCOPES_PER_TOKEN_MAX: usize = 64;
/// The most words in the scopes of one request for a token, with unknown scopes.
pub(super) const SCOPE_WORDS_MAX: usize = 256;
