//! What can come of a request that is not what was asked for, one variant per outcome.

use crate::oci::digest::DigestError;
use crate::oci::{Digest, RepositoryName};
use crate::registry::SessionId;
use crate::store;

/// Why a registry did not do what it was asked. The texts are for clients, but for [`Error::Store`], whose text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The repository does not hold this blob.
    #[error("blob unknown to the repository: {0}")]
    BlobUnknown(Digest),
    /// There is no such upload session; it may have ended or expired.
    #[error("upload session unknown")]
    UploadUnknown,
    /// The request does not fit the upload: the body broke off, or its range cannot be read.
    #[error("{0}")]
    UploadInvalid(String),
    /// The chunk does not begin where the upload stands.
    #[error("the chunk is out of order: the upload stands at byte {offset}")]
    ChunkOutOfOrder {
        /// The upload.
        session: SessionId,
        /// How many bytes it has.
        offset: u64,
    },
    /// The digest is malformed, of an unsupported algorithm, or not that of the content.
    #[error("{0}")]
    DigestInvalid(String),
    /// The repository has no such manifest.
    #[error("manifest unknown to the repository: {0}")]
    ManifestUnknown(String),
    /// It is not a manifest.
    #[error("{0}")]
    ManifestInvalid(String),
    /// The manifest names content that the repository does not hold.
    #[error("the manifest names {} blobs or manifests that the repository does not hold", .0.len())]
    ManifestBlobUnknown(Vec<Digest>),
    /// There is no such repository.
    #[error("repository unknown: {0}")]
    NameUnknown(RepositoryName),
    /// The content's length is not the one declared.
    #[error("{0}")]
    SizeInvalid(String),
    /// The client sent nothing for too long in the middle of a body.
    #[error("the body stalled: nothing of it came for {limit_seconds} seconds")]
    BodyIdle {
        /// The limit, in seconds.
        limit_seconds: u64,
    },
    /// A precondition of the request does not hold.
    #[error("what the name leads to is not what the request's precondition asks for")]
    PreconditionFailed,
    /// The client sent the body of the request too slowly; the text says what the limit is.
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
    /// What the request needs is being collected just now, another step of the collection is under way, or too many requests
    /// add to the same upload at once. Nothing was acknowledged; a moment later it can be done.
    #[error("the registry is busy with what this request needs; try again")]
    Busy,
    /// Other requests use all of the memory that requests of this kind may use. Nothing was acknowledged; a moment later it
    /// can be done.
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
