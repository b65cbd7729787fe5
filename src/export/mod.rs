//! Exports: the repositories of a live registry as a folder of files, which a web server serves as a
//! registry that can only be read, or which other tools read as OCI layouts.
//!
//! The order of writes is content, then manifests, then referrers and tags, then lists, so that a
//! client that pulls during an export finds all content that a tag leads to. A file is complete
//! when it appears, content never changes, and a second export writes only what is new.

mod folder;
mod oci_layout;
mod repository;
mod selection;
mod site;
mod tree;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use selection::{Selection, Selector, SelectorError};

use crate::oci::RepositoryName;
use crate::registry::{self, PageRequest, Registry};
use folder::Folder;
use oci_layout::OciLayouts;
use repository::Run;
use selection::Selected;
use site::{Server, Site};
use tree::Tree;

/// The most problems that a summary names. Further problems are counted.
const PROBLEMS_NAMED_MAX: usize = 100;
/// The most names that an export keeps in memory for each purpose: manifests, subjects and tags of
/// one repository, content of all repositories. A name takes less than 200 bytes.
const NAMES_MAX: usize = 10_000_000;
/// The largest list that an export writes, in bytes: the tags of a repository, the referrers of a
/// manifest, the index of an OCI layout, or the catalog. A list is put together in memory.
const LIST_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What reads the folder of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// nginx.
    Nginx,
    /// Apache HTTP Server.
    Apache,
    /// Caddy.
    Caddy,
    /// Tools that read OCI image layouts: one layout for each repository.
    OciLayout,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Nginx, Self::Apache, Self::Caddy, Self::OciLayout];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Apache => "apache",
            Self::Caddy => "caddy",
            Self::OciLayout => "oci-layout",
        }
    }

    fn tree(self, served_from: &str) -> Box<dyn Tree> {
        match self {
            Self::Nginx => Box::new(Site::new(Server::Nginx, served_from)),
            Self::Apache => Box::new(Site::new(Server::Apache, served_from)),
            Self::Caddy => Box::new(Site::new(Server::Caddy, served_from)),
            Self::OciLayout => Box::new(OciLayouts::default()),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| format!("not one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// An export.
#[derive(Clone, Debug)]
pub struct Request {
    /// What will read the folder.
    pub kind: Kind,
    /// The folder to write.
    pub folder: PathBuf,
    /// The path of the folder on the machine of the web server, for the server's configuration.
    pub served_from: String,
    /// The repositories and tags to take.
    pub selection: Selection,
    /// Remove what the selection does not have (any more).
    pub delete: bool,
    /// Change nothing, and count what would change.
    pub dry_run: bool,
    /// Make hard links to the files of the data folder in place of copies, where the file systems
    /// allow links.
    pub link: bool,
}

/// What an export has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// The repositories that were looked at.
    pub repositories: u64,
    /// The tags that were looked at.
    pub tags: u64,
    /// The manifests that were looked at.
    pub manifests: u64,
    /// The different blobs that were looked at.
    pub blobs: u64,
    /// The files, links included, that were written.
    pub files_written: u64,
    /// The bytes that were written.
    pub bytes_written: u64,
    /// The blobs that were taken by a hard link.
    pub blobs_linked: u64,
    /// The files that were removed.
    pub files_removed: u64,
    /// How much could not be exported as it should be.
    pub problems: u64,
    /// The first problems, each a sentence.
    pub named_problems: Vec<String>,
}

impl Summary {
    fn problem(&mut self, text: String) {
        self.problems += 1;
        if self.named_problems.len() < PROBLEMS_NAMED_MAX {
            self.named_problems.push(text);
        }
    }
}

/// Why an export stopped.
#[derive(Debug, thiserror::Error)]
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
    fn folder(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Folder { action, path: path.to_owned(), source }
    }
}

/// The result of an export.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Exports repositories. `progress` is called after each manifest and each repository.
///
/// Content that is missing in the registry or has a wrong digest is a problem in the summary, and
/// the export continues.
///
/// # Errors
/// When the registry cannot be read or the folder cannot be written. The same export can be run
/// again, and continues where the failed one stopped.
pub async fn export(
    registry: &Registry,
    request: &Request,
    progress: &mut (dyn FnMut(&Summary, &RepositoryName) + Send),
) -> Result<Summary> {
    if request.kind != Kind::OciLayout {
        check_path(&request.served_from)?;
    }
    let folder = Folder::open(&request.folder, request.kind.as_str(), request.dry_run)?;
    let mut run = Run::new(registry, request, folder, request.kind.tree(&request.served_from), progress);
    let mut exported: Vec<RepositoryName> = Vec::new();
    let mut page = PageRequest::default();
    loop {
        let found = registry.repositories(&page, |name| request.selection.of(name) != Selected::Nothing).await?;
        for name in found.entries.iter().filter_map(|name| name.parse::<RepositoryName>().ok()) {
            if run.repository(&name, &request.selection.of(&name)).await? {
                exported.push(name);
                limit(exported.len(), "the names", "all repositories")?;
            }
        }
        page.last = found.next;
        if page.last.is_none() {
            break;
        }
    }
    run.finish(&exported)?;
    for pattern in request.selection.unmatched(&exported) {
        run.summary.problem(format!("no repository has the name {pattern}, or none of its tags is selected"));
    }
    Ok(run.summary)
}

fn limit(count: usize, what: &'static str, repository: impl ToString) -> Result<()> {
    if count > NAMES_MAX { Err(Error::TooMany { what, repository: repository.to_string() }) } else { Ok(()) }
}

/// Checks that a path has no characters with a meaning in the configuration of a web server.
fn check_path(path: &str) -> Result<()> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"/._-+@".contains(&b);
    if path.starts_with('/') && path.bytes().all(known) { Ok(()) } else { Err(Error::Path(path.to_owned())) }
}
