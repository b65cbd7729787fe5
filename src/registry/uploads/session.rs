//! The state of an upload that is kept between requests.

use crate::oci::{Algorithm, Digest, Hasher};
use crate::registry::error::InvalidDigest;
use crate::registry::facts::{Progress, UploadFact};
use crate::registry::layout::Key;
use crate::registry::session_id::SessionId;
use crate::registry::{Error, Result};
use crate::store::{self, Version};

/// The progress of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The name of the upload session.
    pub session: SessionId,
    /// How many bytes of the blob have arrived.
    pub offset: u64,
}

/// An upload session as written to the store or read from it.
#[derive(Clone)]
pub(super) struct Session {
    pub id: SessionId,
    pub key: Key,
    pub fact: UploadFact,
    /// `None` if the store has no conditional writes.
    pub version: Option<Version>,
}

impl Session {
    /// The state that the client knows.
    pub(super) fn acknowledged(&self) -> Progress {
        Progress::of(&self.fact)
    }

    pub(super) fn status(&self) -> Status {
        Status { session: self.id.clone(), offset: self.fact.offset }
    }

    /// The error for a request that comes too late: another request has changed the session.
    pub(super) fn overtaken(&self) -> Error {
        Error::ChunkOutOfOrder { session: self.id.clone(), offset: self.fact.offset }
    }

    /// Makes `progress` the acknowledged state.
    pub(super) fn advance(&mut self, progress: Progress, now_ms: u64) {
        let Progress { stage, hasher, offset } = progress;
        let (revision, begun_ms) = (self.fact.revision + 1, self.fact.begun_ms);
        let (ending, added_to) = (None, None);
        self.fact = UploadFact { stage, hasher, offset, revision, begun_ms, changed_ms: now_ms, ending, added_to };
    }
}

impl Progress {
    /// Whether the content hashed so far has this digest. Always `false` for a digest of another
    /// algorithm than the hasher's.
    pub(super) fn is(&self, digest: &Digest) -> Result<bool> {
        Ok(self.hasher()?.finish() == *digest)
    }

    pub(super) fn of(fact: &UploadFact) -> Self {
        Self { stage: fact.stage.clone(), hasher: fact.hasher.clone(), offset: fact.offset }
    }

    pub(super) fn hasher(&self) -> Result<Hasher> {
        let unreadable = || store::Error::corrupt("cannot read the hasher of an upload");
        Ok(Hasher::resume(&self.hasher).ok_or_else(unreadable)?)
    }

    /// The hasher that continues this state. Before the first byte the hasher is of `algorithm`;
    /// afterwards the algorithm cannot change.
    pub(super) fn hasher_for(&self, algorithm: Algorithm) -> Result<Hasher> {
        if self.offset == 0 { Ok(Hasher::new(algorithm)) } else { self.hasher() }
    }

    /// The same state with the hasher of `hasher_for`.
    pub(super) fn hashed_by(mut self, algorithm: Algorithm) -> Result<Self> {
        self.hasher = self.hasher_for(algorithm)?.state();
        Ok(self)
    }

    /// Compares `digest` with the digest of the bytes so far. A digest of another algorithm passes,
    /// as only a second reading of the content can check that digest.
    ///
    /// # Errors
    /// [`Error::DigestInvalid`].
    pub(super) fn check_digest(&self, digest: &Digest) -> Result<()> {
        let computed = self.hasher()?.finish();
        if computed.algorithm() == digest.algorithm() && computed != *digest {
            return Err(InvalidDigest::Mismatch { computed, named: digest.clone() }.into());
        }
        Ok(())
    }
}
