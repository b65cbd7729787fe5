//! Blobs of mirrored repositories that the registry does not hold.

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};

use super::filler::Filler;
use super::{Error, MirroredRepository, Result};
use crate::oci::Digest;
use crate::platform::{Body, BodyError};
use crate::registry;
use crate::upstream::BlobPlace;

/// Where a client gets a blob that the registry does not hold.
#[derive(Debug)]
pub enum BlobSource {
    /// From this registry.
    Stream(MirroredBlob),
    /// From the URL to which the upstream redirects.
    Redirect(String),
}

/// A blob from the upstream.
#[derive(Debug)]
pub struct MirroredBlob {
    /// The size of the blob, in bytes.
    pub size: u64,
    /// The blob. The body breaks off before its end if the blob is not right.
    pub body: Body,
}

/// The answer to a range of a blob that the registry does not hold.
#[derive(Debug)]
pub struct BlobRange {
    /// The media type of a body with several ranges; `None` for the blob's own bytes.
    pub media_type: Option<String>,
    /// The part of the blob that the upstream serves.
    pub served: ServedRange,
    /// The bytes. The body's length is exact. The digest is not checked, as only the whole blob has
    /// the digest.
    pub body: Body,
}

/// The part of a blob that an upstream serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServedRange {
    /// The whole blob: the upstream does not serve the range.
    Whole,
    /// One range, as in the header `Content-Range`.
    Part(String),
    /// Several ranges.
    Parts,
}

impl From<Filler> for MirroredBlob {
    fn from(filler: Filler) -> Self {
        let size = filler.size;
        let bytes = stream::try_unfold(filler, |mut filler| async move {
            Ok::<Option<(Bytes, Filler)>, BodyError>(filler.next().await?.map(|bytes| (bytes, filler)))
        });
        Self { size, body: Body::from_stream(bytes).with_length(size) }
    }
}

impl MirroredRepository {
    /// Fetches a blob that the registry does not hold, and stores the blob meanwhile. Natively all
    /// requests for the blob share one fetch, which goes on when its clients leave. An upstream with
    /// the option `redirect` gives the URL to which it redirects; a blob that such an upstream serves
    /// itself streams through without being stored.
    ///
    /// # Errors
    /// [`registry::Error::BlobUnknown`] when the upstream does not have the blob; the error of the
    /// upstream when the upstream is in trouble.
    pub async fn blob(&self, digest: &Digest) -> Result<BlobSource> {
        self.begin(digest)?;
        let found = match self.mirror.options.redirects {
            true => self.blob_place(digest).await,
            false => self.filled(digest).await.map(BlobSource::Stream),
        };
        found.map_err(|error| self.absent_blob(error, digest))
    }

    async fn filled(&self, digest: &Digest) -> Result<MirroredBlob> {
        if self.mirror.platform.runs_tasks()
            && let Some((size, body)) = self.mirror.fills.join(self, digest).await?
        {
            return Ok(MirroredBlob { size, body });
        }
        Ok(Filler::begin(self.clone(), digest.clone()).await?.into())
    }

    async fn blob_place(&self, digest: &Digest) -> Result<BlobSource> {
        match self.mirror.client.blob_place(&self.remote, digest).await? {
            BlobPlace::Elsewhere(url) => {
                tracing::info!("{}: {} redirects the client for {digest}", self.local, self.upstream());
                Ok(BlobSource::Redirect(url.into()))
            }
            BlobPlace::Here(part) => {
                Ok(BlobSource::Stream(Filler::without_storing(self.clone(), digest.clone(), part).into()))
            }
        }
    }

    /// The size of a blob that the registry does not hold, in bytes. Nothing is stored.
    ///
    /// # Errors
    /// As [`MirroredRepository::blob`].
    pub async fn blob_size(&self, digest: &Digest) -> Result<u64> {
        self.begin(digest)?;
        let size = self.mirror.client.blob_size(&self.remote, digest).await;
        size.map_err(|error| self.absent_blob(error, digest))
    }

    /// The upstream's answer to a client's `Range` header for a blob that the registry does not
    /// hold. Nothing is stored.
    ///
    /// # Errors
    /// As [`MirroredRepository::blob`]; also [`Kind::Range`](crate::upstream::Kind::Range).
    pub async fn blob_range(&self, digest: &Digest, range: &HeaderValue) -> Result<BlobRange> {
        self.begin(digest)?;
        let answer = self.mirror.client.blob_range(&self.remote, digest, range).await;
        let (head, body) = answer.map_err(|error| self.absent_blob(error, digest))?.into_parts();
        let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let length = body.length().or_else(|| text(CONTENT_LENGTH)?.parse().ok());
        let length = length.ok_or_else(|| self.invalid("an answer to a range without a length"))?;
        let media_type = text(CONTENT_TYPE).filter(|text| text.starts_with("multipart/byteranges"));
        let served = match (head.status, text(CONTENT_RANGE)) {
            (StatusCode::PARTIAL_CONTENT, Some(range)) => ServedRange::Part(range.to_owned()),
            (StatusCode::PARTIAL_CONTENT, None) if media_type.is_some() => ServedRange::Parts,
            (StatusCode::PARTIAL_CONTENT, None) => return Err(self.invalid("a partial answer without a range").into()),
            _ => ServedRange::Whole,
        };
        Ok(BlobRange { media_type: media_type.map(str::to_owned), served, body: body.with_length(length) })
    }

    /// Begins a pull of a blob that is not here.
    fn begin(&self, digest: &Digest) -> Result<()> {
        self.check()?;
        tracing::debug!("{}: {digest} is not here", self.local);
        self.mirror.counters.miss();
        Ok(())
    }

    fn absent_blob(&self, error: impl Into<Error>, digest: &Digest) -> Error {
        self.absent_is_unknown(error, digest, || registry::Error::BlobUnknown(digest.clone()))
    }
}
