//! Both ports over the API of S3, which R2 and many self-hosted servers speak too.
//!
//! | object | holds |
//! | --- | --- |
//! | `<prefix>keys/<key>` | a fact, its key without `/` (`key_value`): a line with a random revision, then the value |
//! | `<prefix>blobs/<name>` | content that came in parts |
//! | `<prefix>blobs/<name>.<token>` | small content, or bytes of a stage that are too few for a part |
//!
//! Names are drawn anew, so nothing is ever overwritten and deleting one content harms no other.

mod answer;
mod blob_store;
mod client;
mod gather;
mod key_value;
mod staging;

use std::sync::Arc;
use std::time::Duration;

use super::Platform;
use client::Client;
use key_value::list_page;

pub use blob_store::S3BlobStore;
pub use key_value::S3KeyValue;

/// The smallest part that S3 takes, but for the last.
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
/// The largest part that S3 takes.
pub const PART_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// A part's size when nothing else is set: what an upload of unknown length holds in memory, twice.
pub const PART_BYTES_DEFAULT: u64 = 16 * 1024 * 1024;
/// The longest that a signature can be valid, in seconds: a week.
pub const REDIRECT_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;

/// Where the bucket is, and how to use it.
#[derive(Clone)]
pub struct S3Settings {
    /// The server's URL.
    pub endpoint: String,
    /// The server's URL as clients know it, for redirects; that of the server where it is the same.
    pub public_endpoint: Option<String>,
    /// The region, which is part of every signature.
    pub region: String,
    /// The bucket, which must exist.
    pub bucket: String,
    /// What the names of all objects begin with; empty or ending in `/`.
    pub prefix: String,
    /// Whether the bucket is named in the path or in the host name of URLs.
    pub path_style: bool,
    /// The access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// The token of temporary credentials.
    pub session_token: Option<String>,
    /// How large parts are, in bytes, from [`PART_BYTES_MIN`] to [`PART_BYTES_MAX`]. The later ones of many are larger.
    pub part_bytes: u64,
    /// Whether all parts but the last must have one size (R2), which then is `part_bytes`.
    pub equal_parts: bool,
    /// Whether the server honours `If-None-Match` and `If-Match` on PUT. Some ignore them without a word.
    pub conditional_puts: bool,
    /// How long the URLs of redirects are valid: at least a second, at most [`REDIRECT_SECONDS_MAX`].
    pub redirect_lifetime: Duration,
}

/// Without the secrets.
impl std::fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, bucket, prefix, .. } = self;
        write!(f, "S3Settings({endpoint}, {bucket}, {prefix:?})")
    }
}

/// A bucket, of which a key-value store, a blob store or both are made.
#[derive(Clone)]
pub struct S3 {
    client: Arc<Client>,
    settings: Arc<S3Settings>,
}

impl S3 {
    /// Sends nothing yet.
    ///
    /// # Errors
    /// A text that names the setting and what is wrong with it.
    pub fn new(settings: S3Settings, platform: Arc<dyn Platform>) -> Result<Self, String> {
        let client = Arc::new(Client::new(&settings, platform)?);
        Ok(Self { client, settings: Arc::new(settings) })
    }

    /// Asks the bucket for a name, to see early whether it is there and the credentials are good. Nothing depends on it.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]: what is wrong, and which setting is likely to be the cause.
    pub async fn reach(&self) -> super::Result<()> {
        list_page(&self.client, "", None, 1).await.map(drop)
    }

    /// Facts in the bucket.
    pub fn key_value(&self) -> S3KeyValue {
        S3KeyValue::new(self.client.clone(), self.settings.conditional_puts)
    }

    /// Content in the bucket.
    pub fn blob_store(&self) -> S3BlobStore {
        S3BlobStore::new(self.client.clone(), self.settings.clone())
    }
}
