//! Every bound of the HTTP layer in one place.

/// The most bytes of path and query.
pub(super) const URI_BYTES_MAX: usize = 8 * 1024;
/// The most bytes of all header names and values together.
pub(super) const HEADER_BYTES_MAX: usize = 32 * 1024;
/// The most bytes of a request that sets a warning.
pub(super) const WARNING_REQUEST_BYTES_MAX: u64 = 4 * 1024;
/// How much of a body that nobody wants is read, so that the client can see the answer.
pub(super) const LEFTOVER_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// How long an id may be that a client gives its request.
pub(super) const REQUEST_ID_BYTES_MAX: usize = 64;
/// When a client is to come back whose request met the collection.
pub(super) const BUSY_RETRY_AFTER_SECONDS: &str = "1";
/// When a client is to come back whose token's issuer did not answer.
pub(super) const ISSUER_RETRY_AFTER_SECONDS: &str = "30";
/// The most bytes of a request for a token, or about users and tokens.
pub(super) const ADMINISTRATION_REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// How many scopes a token can be asked for at once.
pub(super) const SCOPES_PER_TOKEN_MAX: usize = 64;
/// How many words a request for a token may have as scopes, with those that name nothing here.
pub(super) const SCOPE_WORDS_MAX: usize = 256;
