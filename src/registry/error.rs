//! The failures of a registry's operations, one variant per outcome, and the reasons why a request
//! is invalid.
//!
//! All texts are for clients, except that the text of [`Error::Store`] is for the log.

use super::session_id::{SessionId, SessionIdError};
use crate::oci::digest::DigestError;
use crate::oci::manifest::ManifestError;
use crate::oci::name::TagError;
use crate::oci::{Digest, RepositoryName};
use crate::platform::BodyError;
use crate::store;

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The repository does not hold this blob.
    #[error("the repository does not have the blob {0}")]
    BlobUnknown(Digest),
    /// The upload session does not exist.
    #[error("the upload session does not exist: it has ended, was cancelled, or has expired")]
    UploadUnknown,
    /// The request does not fit the upload.
    #[error(transparent)]
    UploadInvalid(#[from] InvalidUpload),
    /// The chunk does not begin at the upload's offset.
    #[error("the chunk is out of order: the upload continues at byte {offset}")]
    ChunkOutOfOrder {
        /// The session of the upload.
        session: SessionId,
        /// How many bytes the upload has.
        offset: u64,
    },
    /// The digest cannot be used, or is not the digest of the content.
    #[error(transparent)]
    DigestInvalid(#[from] InvalidDigest),
    /// The repository does not have the manifest of this tag or digest.
    #[error("the repository does not have the manifest {0}")]
    ManifestUnknown(String),
    /// The request does not push a valid manifest.
    #[error(transparent)]
    ManifestInvalid(#[from] InvalidManifest),
    /// The manifest names content that the repository does not hold.
    #[error("the manifest names {} blobs or manifests that the repository does not have", .0.len())]
    ManifestBlobUnknown(Vec<Digest>),
    /// The repository does not exist.
    #[error("the repository {0} does not exist")]
    NameUnknown(RepositoryName),
    /// The content's length is not the declared length.
    #[error(transparent)]
    SizeInvalid(#[from] InvalidSize),
    /// The client paused for too long in the middle of a body.
    #[error("the client sent nothing of the body for {limit_seconds} seconds")]
    BodyIdle {
        /// The limit, in seconds.
        limit_seconds: u64,
    },
    /// A precondition of the request does not hold.
    #[error("the tag or digest does not lead to the content that the request's precondition names")]
    PreconditionFailed,
    /// The client sent the body too slowly. The text names the limit.
    #[error("the client sent the body too slowly: {0}")]
    BodySlow(String),
    /// The content is over a limit.
    #[error("the content is larger than the limit of {limit_bytes} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The text cannot be a warning, or the tag of a warning cannot be read.
    #[error(transparent)]
    WarningInvalid(#[from] InvalidWarning),
    /// The collector is removing content that the request needs, another step of the collection is
    /// running, or too many requests add to the same upload at once. No change was acknowledged,
    /// and the client can try again a moment later.
    #[error("the registry is busy with content that this request needs; try again")]
    Busy,
    /// Other requests use all of the memory for requests of this kind. No change was acknowledged,
    /// and the client can try again a moment later.
    #[error("the registry receives too many large manifests at present; try again")]
    Crowded,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The result of a registry's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request does not fit its upload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUpload {
    /// The client broke the body off.
    #[error(transparent)]
    BrokenOff(BodyError),
    /// The header `Content-Range` cannot be read.
    #[error("the header Content-Range must be <first byte>-<last byte>, as in 0-1023")]
    ContentRange,
}

/// Why a digest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDigest {
    /// The request names no digest.
    #[error("the request has no parameter digest")]
    Missing,
    /// The text is malformed, or names an algorithm that is not supported.
    #[error(transparent)]
    Malformed(#[from] DigestError),
    /// The content has another digest.
    #[error("the content has the digest {computed}, not {named}")]
    Mismatch {
        /// The digest of the content.
        computed: Digest,
        /// The digest that the client names.
        named: Digest,
    },
}

/// Why a pushed manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidManifest {
    /// The body failed.
    #[error(transparent)]
    Body(BodyError),
    /// The bytes are not a manifest.
    #[error(transparent)]
    Malformed(#[from] ManifestError),
    /// A tag of the push cannot be read.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// The manifest names too many descriptors and digests.
    #[error("the manifest names more than {most} descriptors and digests")]
    TooManyReferences {
        /// The limit.
        most: usize,
    },
    /// The indexes below the manifest name too many manifests.
    #[error("the manifest leads to more than {most} manifests")]
    TooManyNested {
        /// The limit.
        most: usize,
    },
    /// The manifest has a subject, and is too large to be listed there.
    #[error(
        "the descriptor of this manifest, with its annotations and artifactType, has {bytes} bytes; \
         a manifest with a subject may have {most}"
    )]
    ReferrerTooLarge {
        /// The size of the descriptor as JSON.
        bytes: u64,
        /// The limit.
        most: u64,
    },
}

/// Why the size of a body is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSize {
    /// The body is shorter or longer than its declared length.
    #[error("the body has {received} bytes of {declared} declared")]
    Body {
        /// How many bytes arrived before the body was found to be wrong.
        received: u64,
        /// The declared length of the body, or of its range.
        declared: u64,
    },
    /// The read begins after the last byte of the upload.
    #[error("the upload has only {end} bytes")]
    BeyondUpload {
        /// The number of bytes that the upload has.
        end: u64,
    },
    /// The range has another length than the body declares.
    #[error("a body of {length} bytes does not fill a range of {range} bytes")]
    Range {
        /// The declared length of the body.
        length: u64,
        /// The length of the range.
        range: u64,
    },
}

/// Why a warning is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWarning {
    /// The text is empty or too long.
    #[error("a warning must have 1 to {most} bytes")]
    Length {
        /// The limit, in bytes.
        most: usize,
    },
    /// The text has other characters than printable ASCII.
    #[error("a warning must be one line of printable ASCII")]
    Characters,
    /// The tag cannot be read.
    #[error(transparent)]
    Tag(#[from] TagError),
}

impl From<DigestError> for Error {
    fn from(error: DigestError) -> Self {
        Self::DigestInvalid(error.into())
    }
}

/// No upload session has a name that is not a UUID.
impl From<SessionIdError> for Error {
    fn from(_: SessionIdError) -> Self {
        Self::UploadUnknown
    }
}
