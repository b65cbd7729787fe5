//! Converts errors to answers: status, code, message and detail (distribution-spec, "Error codes").

use http::header::{ALLOW, CONTENT_RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderName, StatusCode};
use serde_json::{Value, json};

use super::limits::{BUSY_RETRY_AFTER_SECONDS, HEADER_BYTES_MAX, ISSUER_RETRY_AFTER_SECONDS, URI_BYTES_MAX};
use super::reply::Reply;
use super::request_id::RequestId;
#[cfg(feature = "accounts")]
use crate::auth::DirectoryError;
use crate::mirror;
use crate::oci::RepositoryName;
use crate::oci::name::NameError;
use crate::platform::{BodyError, Causes};
use crate::registry::{self, Status};
use crate::store;
use crate::upstream;

/// The methods that a read-only store allows.
const READ_METHODS: &str = "GET, HEAD";

/// Why a request was not carried out.
#[derive(Debug)]
pub(super) enum Error {
    NotFound,
    MethodNotAllowed {
        allowed: String,
    },
    UriTooLong,
    TooManyTags {
        most: usize,
    },
    HeadersTooLarge,
    BadHeader(HeaderName),
    BadHost,
    /// A browser sent the request for a page of another site.
    OtherSite,
    /// The request names a host other than this machine.
    OtherName,
    BadCount,
    BadCursor,
    BadDryRun,
    NameInvalid(NameError),
    RangeNotSatisfiable {
        size: u64,
    },
    ChunkOutOfOrder {
        repository: RepositoryName,
        status: Status,
    },
    UnknownCoding,
    LengthAndCoding,
    Panicked,
    /// The body is longer than the setting `body_bytes_max` allows.
    BodyTooLong {
        limit_bytes: u64,
    },
    /// A store does not answer.
    NotReady,
    Body(BodyError),
    /// The credentials are missing or wrong.
    Unauthorized {
        challenge: String,
    },
    /// The token is valid, but its scopes do not cover the request.
    InsufficientScope {
        challenge: Option<String>,
    },
    /// The caller may not do this. Without a challenge: the registry has no logins.
    Denied {
        challenge: Option<String>,
    },
    TooManyAttempts {
        retry_after_ms: u64,
    },
    /// Too many logins are in progress; this login was not checked.
    LoginsBusy {
        retry_after_ms: u64,
    },
    /// The keys of this issuer cannot be fetched.
    Issuer(String),
    TokenRequest(&'static str),
    /// A push into a repository that mirrors an upstream.
    Mirrored {
        upstream: String,
    },
    /// The parameter `ns` names no upstream.
    NoUpstream {
        namespace: String,
    },
    /// The upstream of a mirrored repository is in trouble.
    Upstream(upstream::Error),
    #[cfg(feature = "accounts")]
    Directory(DirectoryError),
    Registry(registry::Error),
}

impl From<registry::Error> for Error {
    fn from(error: registry::Error) -> Self {
        Self::Registry(error)
    }
}

impl From<mirror::Error> for Error {
    fn from(error: mirror::Error) -> Self {
        match error {
            mirror::Error::Upstream(error) => Self::Upstream(error),
            mirror::Error::Registry(error) => Self::Registry(error),
        }
    }
}

impl Error {
    /// Whether the request may have made part of its changes before the error.
    pub(super) fn may_have_changed(&self) -> bool {
        match self {
            Self::Panicked | Self::Registry(registry::Error::Store(_)) => true,
            #[cfg(feature = "accounts")]
            Self::Directory(DirectoryError::Store(_)) => true,
            _ => false,
        }
    }

    pub(super) fn reply(self, head: &Parts) -> Reply {
        match self {
            Self::NotFound => error(StatusCode::NOT_FOUND, "UNSUPPORTED", "the registry has no such endpoint"),
            Self::MethodNotAllowed { allowed } => {
                let message = format!("this endpoint allows only {allowed}");
                error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message).with(ALLOW, allowed)
            }
            Self::UriTooLong => {
                let message = format!("the URL has more than {URI_BYTES_MAX} bytes");
                error(StatusCode::URI_TOO_LONG, "UNSUPPORTED", message)
            }
            Self::TooManyTags { most } => {
                error(StatusCode::URI_TOO_LONG, "UNSUPPORTED", format!("at most {most} tags can be pushed at once"))
            }
            Self::HeadersTooLarge => {
                let message = format!("the headers have more than {HEADER_BYTES_MAX} bytes");
                error(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "UNSUPPORTED", message)
            }
            Self::BadHeader(name) => {
                error(StatusCode::BAD_REQUEST, "UNSUPPORTED", format!("the header {name} is not text"))
            }
            Self::BadHost => {
                error(StatusCode::BAD_REQUEST, "UNSUPPORTED", "the request must name one host, in one Host header")
            }
            Self::OtherSite => {
                let message = "a page of another site must not change this registry; if the page is of this site, set public_url to its URL";
                denied(StatusCode::FORBIDDEN, message, None)
            }
            Self::OtherName => {
                let message = "this registry serves this machine only: use one of its names, an address such as \
                               127.0.0.1, localhost, or the host of the setting public_url";
                denied(StatusCode::FORBIDDEN, message, None)
            }
            Self::BadCount => {
                error(StatusCode::BAD_REQUEST, "UNSUPPORTED", "the parameter n must be a number of entries")
            }
            Self::BadCursor => error(
                StatusCode::BAD_REQUEST,
                "UNSUPPORTED",
                "the parameter last must come from a Link of this registry",
            ),
            Self::BadDryRun => {
                error(StatusCode::BAD_REQUEST, "UNSUPPORTED", "the parameter dry_run must be true or false")
            }
            Self::NameInvalid(why) => error(StatusCode::BAD_REQUEST, "NAME_INVALID", why.to_string()),
            Self::RangeNotSatisfiable { size } => {
                let message = format!("no byte of the range lies within the {size} bytes of the blob");
                error(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", message)
                    .with(CONTENT_RANGE, format!("bytes */{size}"))
            }
            Self::ChunkOutOfOrder { repository, status } => {
                let message = format!("the chunk is out of order: the upload stands at byte {}", status.offset);
                error(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message)
                    .with_upload(&repository, &status)
            }
            Self::Unauthorized { challenge } => {
                let message = "log in: the credentials are missing or wrong";
                error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message).with(WWW_AUTHENTICATE, challenge)
            }
            Self::InsufficientScope { challenge } => denied(
                StatusCode::UNAUTHORIZED,
                "the token does not cover this request; ask for a token with the scope of the challenge",
                challenge,
            ),
            Self::Denied { challenge: Some(challenge) } => {
                denied(StatusCode::FORBIDDEN, "the user lacks the permission for this request", Some(challenge))
            }
            Self::Denied { challenge: None } => denied(
                StatusCode::FORBIDDEN,
                "nobody has the permission for this request, because no login is set up (setting auth_mode)",
                None,
            ),
            Self::TooManyAttempts { retry_after_ms } => {
                let message = "too many failed logins; wait before the next one";
                error(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message)
                    .with(RETRY_AFTER, retry_after_ms.div_ceil(1000).to_string())
            }
            Self::LoginsBusy { retry_after_ms } => {
                error(StatusCode::SERVICE_UNAVAILABLE, "UNKNOWN", "too many clients log in at once; try again")
                    .with(RETRY_AFTER, retry_after_ms.div_ceil(1000).to_string())
            }
            Self::Issuer(issuer) => {
                let message = format!("the keys of issuer {issuer} cannot be fetched just now{}", see_log(head));
                error(StatusCode::SERVICE_UNAVAILABLE, "UNKNOWN", message).with(RETRY_AFTER, ISSUER_RETRY_AFTER_SECONDS)
            }
            Self::TokenRequest(why) => error(StatusCode::BAD_REQUEST, "UNSUPPORTED", why),
            Self::Body(why) => error(StatusCode::BAD_REQUEST, "UNSUPPORTED", why.to_string()),
            #[cfg(feature = "accounts")]
            Self::Directory(DirectoryError::Invalid(why)) => {
                error(StatusCode::BAD_REQUEST, "UNSUPPORTED", why.to_string())
            }
            #[cfg(feature = "accounts")]
            Self::Directory(DirectoryError::Store(why)) => of_registry(&why.into(), head),
            Self::UnknownCoding => error(
                StatusCode::NOT_IMPLEMENTED,
                "UNSUPPORTED",
                "the registry knows no transfer coding except chunked",
            ),
            Self::LengthAndCoding => {
                let message = "the request must not have both a Content-Length and a Transfer-Encoding";
                error(StatusCode::BAD_REQUEST, "UNSUPPORTED", message)
            }
            Self::BodyTooLong { limit_bytes } => {
                let message = format!(
                    "this registry takes at most {limit_bytes} bytes in one request (setting body_bytes_max): \
                     push the blob in chunks of at most {limit_bytes} bytes, each with a PATCH"
                );
                error(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message)
            }
            Self::NotReady => {
                let message = format!("a store of the registry does not answer{}", see_log(head));
                error(StatusCode::SERVICE_UNAVAILABLE, "UNKNOWN", message)
            }
            // The log has the cause, under the request id in the answer.
            Self::Panicked => error(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the registry failed"),
            Self::Mirrored { upstream } => {
                let message = format!("this repository mirrors the upstream {upstream}: nothing can be pushed here");
                error(StatusCode::FORBIDDEN, "DENIED", message)
            }
            Self::NoUpstream { namespace } => {
                let message = format!("no upstream here has the namespace {namespace:?}; see the setting upstreams");
                error(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message)
            }
            Self::Upstream(error) => of_upstream(&error),
            Self::Registry(error) => of_registry(&error, head),
        }
    }
}

/// The answer to trouble with an upstream. The class of the trouble is kept, and the message names
/// the upstream.
fn of_upstream(why: &upstream::Error) -> Reply {
    use upstream::Kind;
    tracing::warn!("{why}");
    let (status, code) = match &why.kind {
        Kind::Unknown | Kind::Denied => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
        Kind::Limited { .. } => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
        Kind::Range => (StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID"),
        Kind::Slow(_) => (StatusCode::GATEWAY_TIMEOUT, "UNKNOWN"),
        Kind::Login(_) | Kind::Down(_) | Kind::Invalid(_) => (StatusCode::BAD_GATEWAY, "UNKNOWN"),
    };
    let reply = error(status, code, why.to_string());
    match &why.kind {
        Kind::Limited { retry_after: Some(retry_after) } => reply.with(RETRY_AFTER, retry_after),
        _ => reply,
    }
}

fn of_registry(outcome: &registry::Error, head: &Parts) -> Reply {
    use registry::Error as Outcome;
    let (status, code) = match outcome {
        Outcome::BlobUnknown(_) => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        Outcome::UploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        Outcome::UploadInvalid(_) => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
        Outcome::ChunkOutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
        Outcome::DigestInvalid(_) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
        Outcome::ManifestUnknown(_) => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        Outcome::ManifestInvalid(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
        Outcome::ManifestBlobUnknown(missing) => {
            let each = missing.iter().map(|digest| {
                let message = "the manifest names content that the repository does not hold";
                json!({ "code": "MANIFEST_BLOB_UNKNOWN", "message": message, "detail": { "digest": digest } })
            });
            return errors(StatusCode::BAD_REQUEST, each.collect());
        }
        Outcome::NameUnknown(_) => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
        Outcome::SizeInvalid(_) => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
        Outcome::WarningInvalid(_) => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
        Outcome::BodyIdle { .. } | Outcome::BodySlow(_) => (StatusCode::REQUEST_TIMEOUT, "UNSUPPORTED"),
        Outcome::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "UNSUPPORTED"),
        Outcome::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
        Outcome::Busy | Outcome::Crowded => {
            let reply = error(StatusCode::SERVICE_UNAVAILABLE, "UNKNOWN", outcome.to_string());
            return reply.with(RETRY_AFTER, BUSY_RETRY_AFTER_SECONDS);
        }
        Outcome::Store(why) => {
            tracing::error!("{} {}: {}", head.method, head.uri.path(), Causes(why));
            return of_store(why, head);
        }
    };
    error(status, code, outcome.to_string())
}

/// The answer to a failure of the store: the kind of failure, and a pointer to the log, which has
/// the details.
fn of_store(why: &store::Error, head: &Parts) -> Reply {
    let (status, code, kind) = match why {
        store::Error::Full(_) => (
            StatusCode::INSUFFICIENT_STORAGE,
            "UNKNOWN",
            "the registry has no space left: nothing can be pushed until something is deleted and collected, or the disk grows",
        ),
        store::Error::ReadOnly(_) => (
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            "the registry's store is read-only: nothing can be pushed or deleted",
        ),
        store::Error::Unavailable(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "UNKNOWN",
            "the registry's store cannot be reached or refuses its requests",
        ),
        store::Error::Corrupt(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "stored data of the registry is damaged")
        }
        store::Error::Conflict(_) | store::Error::Unsupported(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the registry's store failed")
        }
    };
    let reply = error(status, code, format!("{kind}{}", see_log(head)));
    if status == StatusCode::METHOD_NOT_ALLOWED { reply.with(ALLOW, READ_METHODS) } else { reply }
}

fn see_log(head: &Parts) -> String {
    let id = head.extensions.get::<RequestId>().map(|id| format!(" at {id}")).unwrap_or_default();
    format!("; the registry's log says more{id}")
}

fn denied(status: StatusCode, message: &str, challenge: Option<String>) -> Reply {
    let reply = error(status, "DENIED", message);
    match challenge {
        Some(challenge) => reply.with(WWW_AUTHENTICATE, challenge),
        None => reply,
    }
}

fn error(status: StatusCode, code: &str, message: impl Into<String>) -> Reply {
    errors(status, vec![json!({ "code": code, "message": message.into() })])
}

fn errors(status: StatusCode, errors: Vec<Value>) -> Reply {
    Reply::json(&json!({ "errors": errors })).with_status(status)
}
