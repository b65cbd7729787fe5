//! The objects of a bucket as a tree of files.

use async_trait::async_trait;

use super::error::{Error, Result};
use super::files::{Files, Name, Origin, Section, normal, unreadable};
use super::limits::FOLDER_NAMES_MAX;
use crate::store::s3::{Listed, S3Tree};

/// The name of a bucket in the text of an error about a path.
const BUCKET: &str = "the bucket";

/// A part of a bucket.
pub(super) struct Bucket(S3Tree);

impl Bucket {
    pub(super) fn new(tree: S3Tree) -> Self {
        Self(tree)
    }
}

#[async_trait]
impl Files for Bucket {
    async fn list(&self, folder: &str) -> Result<Vec<Name>> {
        let folder = normal(folder, BUCKET)?;
        let listed = self.0.list(&folder, FOLDER_NAMES_MAX).await.map_err(|error| unreadable(&folder, &error))?;
        if listed.len() > FOLDER_NAMES_MAX {
            return Err(Error::refused(format!("the folder {folder} has more than {FOLDER_NAMES_MAX} names")));
        }
        Ok(listed.into_iter().map(|(text, found)| Name { text, is_folder: found == Listed::Folder }).collect())
    }

    async fn find(&self, path: &str) -> Result<Option<Section>> {
        let path = normal(path, BUCKET)?;
        let found = self.0.find(&path).await.map_err(|error| unreadable(&path, &error))?;
        Ok(found.map(|found| Section {
            origin: Origin::Object { tree: self.0.clone(), path },
            length: found.bytes,
            media_type: found.content_type,
        }))
    }
}
