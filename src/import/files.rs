//! The port for a tree of files that can only be read: a folder, the files in an archive, or the
//! objects of a bucket.
//!
//! Paths are relative, with `/` between their parts. A path out of the tree is refused by name.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;

use super::error::{Error, Result};
use super::limits::{FOLDERS_MAX, PIECE_BYTES};
use super::source::FoundBlob;
use crate::platform::{Body, BodyError, Causes};
use crate::store;
use crate::store::s3::S3Tree;

/// A tree of files.
#[async_trait]
pub(super) trait Files: Send + Sync {
    /// The names directly in a folder, in byte order. Empty for a path that is no folder.
    async fn list(&self, folder: &str) -> Result<Vec<Name>>;

    /// A file; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Refused`] for a path or a link that leads out of the tree, and for anything else
    /// than a regular file.
    async fn find(&self, path: &str) -> Result<Option<Section>>;
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) text: String,
    /// Whether the name is that of a folder itself, and not of a link to a folder.
    pub(super) is_folder: bool,
}

/// A walk through a folder of a tree and all folders below, in no order.
pub(super) struct FolderWalk<'a> {
    files: &'a dyn Files,
    top: String,
    /// The folders that are still to be looked into, relative to the top.
    folders: Vec<String>,
    looked_into: usize,
}

impl<'a> FolderWalk<'a> {
    pub(super) fn new(files: &'a dyn Files, top: impl Into<String>) -> Self {
        Self { files, top: top.into(), folders: vec![String::new()], looked_into: 0 }
    }

    /// A folder, relative to the top, and its names; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Refused`] after `FOLDERS_MAX` folders.
    pub(super) async fn next(&mut self) -> Result<Option<(String, Vec<Name>)>> {
        let Some(folder) = self.folders.pop() else { return Ok(None) };
        self.looked_into += 1;
        if self.looked_into > FOLDERS_MAX {
            let top = if self.top.is_empty() { "the source" } else { &self.top };
            return Err(Error::refused(format!("{top} has more than {FOLDERS_MAX} folders below it")));
        }
        let names = self.files.list(&join(&self.top, &folder)).await?;
        Ok(Some((folder, names)))
    }

    /// Goes on into those folders among the names of `folder` that `wanted` chooses.
    pub(super) fn enter(&mut self, folder: &str, names: &[Name], wanted: impl Fn(&str) -> bool) {
        let below = names.iter().filter(|name| name.is_folder && wanted(&name.text));
        self.folders.extend(below.map(|name| join(folder, &name.text)));
    }
}

/// The folders below `top` that have a folder `mark`, in byte order: the repositories of trees in
/// which each repository's own folders begin with `_`, as no part of a repository's name does.
pub(super) async fn repositories_with(files: &dyn Files, top: &str, mark: &str) -> Result<Vec<String>> {
    let (mut repositories, mut walk) = (Vec::new(), FolderWalk::new(files, top));
    while let Some((folder, names)) = walk.next().await? {
        walk.enter(&folder, &names, |name| !name.starts_with('_'));
        if names.iter().any(|name| name.text == mark) {
            repositories.push(folder);
        }
    }
    repositories.sort();
    Ok(repositories)
}

/// The bytes of a file, which can be read from any position.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) origin: Origin,
    /// The number of bytes.
    pub(super) length: u64,
    /// The media type, where the tree of files keeps one.
    pub(super) media_type: Option<String>,
}

/// Where the bytes of a section are.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// In an open file from byte `start`: a whole file, or a file in an archive.
    File { file: Arc<File>, start: u64 },
    /// In an object of a bucket.
    Object { tree: S3Tree, path: String },
}

impl Section {
    /// A section of an open file.
    pub(super) fn of_file(file: Arc<File>, start: u64, length: u64) -> Self {
        Self { origin: Origin::File { file, start }, length, media_type: None }
    }

    /// The bytes from `from` to the end of the section.
    async fn body(&self, from: u64) -> Result<Body> {
        let from = from.min(self.length);
        let (file, start) = match &self.origin {
            Origin::File { file, start } => (file, start),
            Origin::Object { tree, path } => {
                let body = tree.read(path, from, self.length).await.map_err(|error| unreadable(path, &error))?;
                let gone = || Error::absent(format!("{path} was removed or has become shorter"));
                return body.map(|body| body.with_length(self.length - from)).ok_or_else(gone);
            }
        };
        let state = (file.clone(), start + from, self.length - from);
        let pieces = stream::try_unfold(state, |(file, at, left)| async move {
            if left == 0 {
                return Ok::<_, BodyError>(None);
            }
            let bytes = left.min(PIECE_BYTES as u64);
            let (reader, length) = (file.clone(), bytes as usize);
            let piece = blocking::unblock(move || read_at(&reader, at, length)).await;
            let piece = piece.map_err(|error| BodyError::Interrupted(error.to_string()))?;
            Ok(Some((piece, (file, at + bytes, left - bytes))))
        });
        Ok(Body::from_stream(pieces).with_length(self.length - from))
    }

    /// The whole section in memory.
    ///
    /// # Errors
    /// [`Error::Refused`] when the section is larger than `limit_bytes`; no byte is read then.
    pub(super) async fn read(&self, name: &str, limit_bytes: u64) -> Result<Bytes> {
        if self.length > limit_bytes {
            let length = self.length;
            return Err(Error::refused(format!("{name} has {length} bytes, and at most {limit_bytes} are read")));
        }
        let body = self.body(0).await?;
        let read = body.collect_up_to(self.length).await;
        read.map_err(|error| Error::Unreadable(format!("{name}: {error}")))
    }

    /// The section as a blob from byte `start`.
    pub(super) async fn blob(&self, start: u64) -> Result<FoundBlob> {
        let start = start.min(self.length);
        Ok(FoundBlob { start, size: self.length, body: self.body(start).await? })
    }
}

/// The error for a tree of files in a bucket that cannot be read.
pub(super) fn unreadable(path: &str, error: &store::Error) -> Error {
    Error::Unreadable(format!("{path}: {}", Causes(error)))
}

fn read_at(file: &File, at: u64, length: usize) -> io::Result<Bytes> {
    let mut piece = vec![0; length];
    file.read_exact_at(&mut piece, at)?;
    Ok(piece.into())
}

/// The whole file in memory; `None` if there is no file. Errors as in [`Files::find`] and
/// [`Section::read`].
pub(super) async fn read(files: &dyn Files, path: &str, limit_bytes: u64) -> Result<Option<Bytes>> {
    match files.find(path).await? {
        Some(section) => Ok(Some(section.read(path, limit_bytes).await?)),
        None => Ok(None),
    }
}

/// A path without `.` and without empty parts. `..` leads to the folder above.
///
/// # Errors
/// [`Error::Refused`] when the path is absolute or leads out of the tree.
pub(super) fn normal(path: &str, within: &str) -> Result<String> {
    let outside = || Error::refused(format!("{path} leads out of {within}"));
    if path.starts_with('/') || path.contains('\0') {
        return Err(outside());
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(outside)?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// The path of a name in a folder; the empty text is the top folder.
pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_in_its_tree() {
        for (path, expected) in [("a/b", "a/b"), ("./a//b/", "a/b"), ("a/../b", "b"), ("", ""), ("a/..", "")] {
            assert_eq!(normal(path, "the folder").as_deref(), Ok(expected), "{path}");
        }
        for path in ["/a", "..", "a/../../b", "../a", "a\0b"] {
            let error = normal(path, "the folder").unwrap_err().to_string();
            assert_eq!(error, format!("{path} leads out of the folder"));
        }
    }
}
