//! Why an export stops.

use std::io;
use std::path::{Path, PathBuf};

use crate::{registry, store};

/// Why an export stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The registry could not be read.
    #[error("cannot read the registry")]
    Registry(#[from] registry::Error),
    /// The folder could not be written or read.
    #[error("cannot {action} {path}")]
    Folder {
        /// What was tried, as in `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The folder holds other files.
    #[error("{0} has files that are not of an export; name a new or an empty folder")]
    NotAnExport(PathBuf),
    /// The folder holds an export of another kind.
    #[error("{folder} is an export for {kind}; name another folder, or export for {kind}")]
    OtherKind {
        /// The folder.
        folder: PathBuf,
        /// The kind of the export in the folder.
        kind: String,
    },
    /// Another export writes the folder.
    #[error("another export is writing to {0}; wait until it has ended")]
    Locked(PathBuf),
    /// The path of the folder cannot stand in a configuration.
    #[error(
        "the path {0:?} cannot stand in the configuration of a web server: want an absolute path of letters, \
         digits and / . _ - + @"
    )]
    Path(String),
    /// A list is too long.
    #[error("{what} of {repository} are more than an export can hold in memory; export fewer repositories or tags")]
    TooMany {
        /// The names or the list.
        what: &'static str,
        /// The repository, or the word `all repositories`.
        repository: String,
    },
}

impl Error {
    pub(super) fn folder(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Folder { action, path: path.to_owned(), source }
    }
}

/// The result of an export.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Registry(error.into())
    }
}
