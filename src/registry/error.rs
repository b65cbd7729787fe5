//! The failures of a registry's operations, one variant per outcome.

use super::session_id::{SessionId, SessionIdError};
use crate::oci::digest::DigestError;
use crate::oci::{Digest, RepositoryName};
use crate::store;

/// Why an operation failed. The texts are for clients, except that the text of [`Error::Store`] is
/// for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The repository does not hold this blob.
    #[error("blob unknown to the repository: {0}")]
    BlobUnknown(Digest),
    /// The upload session does not exist. The session may have ended or expired.
    #[error("upload session unknown")]
    UploadUnknown,
    /// The request does not fit the upload: the body broke off, or its range cannot be read.
    #[error("{0}")]
    UploadInvalid(String),
    /// The chunk does not begin at the upload's offset.
    #[error("the chunk is out of order: the upload stands at byte {offset}")]
    ChunkOutOfOrder {
        /// The session of the upload.
        session: SessionId,
        /// How many bytes the upload has.
        offset: u64,
    },
    /// The digest is malformed, of an unsupported algorithm, or not the digest of the content.
    #[error("{0}")]
    DigestInvalid(String),
    /// The repository does not have the manifest.
    #[error("manifest unknown to the repository: {0}")]
    ManifestUnknown(String),
    /// The bytes are not a valid manifest.
    #[error("{0}")]
    ManifestInvalid(String),
    /// The manifest names content that the repository does not hold.
    #[error("the manifest names {} blobs or manifests that the repository does not hold", .0.len())]
    ManifestBlobUnknown(Vec<Digest>),
    /// The repository does not exist.
    #[error("repository unknown: {0}")]
    NameUnknown(RepositoryName),
    /// The content's length is not the declared length.
    #[error("{0}")]
    SizeInvalid(String),
    /// The client paused for too long in the middle of a body.
    #[error("the body stalled: nothing of it came for {limit_seconds} seconds")]
    BodyIdle {
        /// The limit, in seconds.
        limit_seconds: u64,
    },
    /// A precondition of the request does not hold.
    #[error("what the name leads to is not what the request's precondition asks for")]
    PreconditionFailed,
    /// The client sent the body too slowly. The text names the limit.
    #[error("the body came too slowly: {0}")]
    BodySlow(String),
    /// The content is over a limit.
    #[error("the content is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The text cannot be a warning.
    #[error("{0}")]
    WarningInvalid(String),
    /// The collector is removing content that the request needs, another step of the collection is
    /// running, or too many requests add to the same upload at once. No change was acknowledged,
    /// and the client can try again a moment later.
    #[error("the registry is busy with what this request needs; try again")]
    Busy,
    /// Other requests use all of the memory for requests of this kind. No change was acknowledged,
    /// and the client can try again a moment later.
    #[error("the registry takes in too many large manifests just now; try again")]
    Crowded,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The result of a registry's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<DigestError> for Error {
    fn from(error: DigestError) -> Self {
        Self::DigestInvalid(error.to_string())
    }
}

/// No upload session has such a name.
impl From<SessionIdError> for Error {
    fn from(_: SessionIdError) -> Self {
        Self::UploadUnknown
    }
}
