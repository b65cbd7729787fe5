//! The key-value store and the blob store over the API of S3, which R2 and many self-hosted servers
//! speak too.
//!
//! | object | holds |
//! | --- | --- |
//! | `<prefix>keys/<key>` | a line with a random revision, then the value; `<key>` has no `/` |
//! | `<prefix>blobs/<family>.<token>` | content, or bytes of a stage that are too few for a part |
//!
//! Names of content are random, so no content is ever overwritten, and deleting content never
//! affects other content.

#[doc(hidden)]
pub mod answer;
mod blob_store;
mod client;
mod download;
mod gather;
mod key_value;
mod multipart;
mod objects;
mod settings;
mod staging;

use std::sync::Arc;

use crate::platform::Platform;
use client::Client;

pub use blob_store::S3BlobStore;
pub use key_value::S3KeyValue;
pub use settings::{
    PART_BYTES_DEFAULT, PART_BYTES_MAX, PART_BYTES_MIN, PREFIX_BYTES_MAX, REDIRECT_SECONDS_DEFAULT,
    REDIRECT_SECONDS_MAX, S3Settings, S3SettingsError,
};

/// A bucket, which can be used as a key-value store, as a blob store, or as both.
#[derive(Clone)]
pub struct S3 {
    client: Arc<Client>,
    settings: Arc<S3Settings>,
}

impl S3 {
    /// Checks the settings; sends no request.
    ///
    /// # Errors
    /// When a setting cannot be used. The error names the setting and the reason.
    pub fn new(settings: S3Settings, platform: Arc<dyn Platform>) -> Result<Self, S3SettingsError> {
        settings.check()?;
        let client = Arc::new(Client::new(&settings, platform)?);
        Ok(Self { client, settings: Arc::new(settings) })
    }

    /// Lists one name in the bucket, to find out early whether the bucket exists and the
    /// credentials are valid. The stores work without this call.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] with the cause, and the setting that is likely to be wrong.
    pub async fn reach(&self) -> super::Result<()> {
        self.client.list_objects("", None, 1).await.map(drop)
    }

    /// The key-value store in the bucket.
    pub fn key_value(&self) -> S3KeyValue {
        S3KeyValue::new(self.client.clone(), self.settings.conditional_puts)
    }

    /// The blob store in the bucket.
    pub fn blob_store(&self) -> S3BlobStore {
        S3BlobStore::new(self.client.clone(), self.settings.clone())
    }
}
