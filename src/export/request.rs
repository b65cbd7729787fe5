//! What an export is asked to do.

use std::path::PathBuf;
use std::str::FromStr;

use super::selection::Selection;

/// What reads the folder of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
}

/// The text is not the name of a kind of export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of {}", Kind::ALL.map(Kind::as_str).join(", "))]
#[non_exhaustive]
pub struct KindError;

impl FromStr for Kind {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Self, KindError> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or(KindError)
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
