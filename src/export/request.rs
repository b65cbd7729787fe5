//! What an export is asked to do.

use std::path::PathBuf;
use std::str::FromStr;

use super::selection::Selection;
use crate::store::s3::S3Tree;

/// What reads the folder of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// nginx.
    Nginx,
    /// Apache HTTP Server.
    Apache,
    /// Caddy.
    Caddy,
    /// A bucket of S3 or R2 that is served as it is.
    S3,
    /// Netlify.
    Netlify,
    /// Cloudflare Pages.
    CloudflarePages,
    /// Tools that read OCI image layouts: one layout for each repository.
    OciLayout,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] =
        [Self::Nginx, Self::Apache, Self::Caddy, Self::S3, Self::Netlify, Self::CloudflarePages, Self::OciLayout];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Apache => "apache",
            Self::Caddy => "caddy",
            Self::S3 => "s3",
            Self::Netlify => "netlify",
            Self::CloudflarePages => "cloudflare-pages",
            Self::OciLayout => "oci-layout",
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

impl Kind {
    /// Whether an export of this kind can go to a folder.
    pub fn goes_to_folder(self) -> bool {
        self != Self::S3
    }

    /// Whether an export of this kind can go to a bucket. Web servers need symbolic links, or a
    /// configuration beside the files.
    pub fn goes_to_bucket(self) -> bool {
        matches!(self, Self::S3 | Self::OciLayout)
    }
}

/// Where an export goes.
#[derive(Clone, Debug)]
pub enum Place {
    /// A folder, which is made if missing.
    Folder(PathBuf),
    /// A part of a bucket.
    Bucket(S3Tree),
}

/// An export.
#[derive(Clone, Debug)]
pub struct Request {
    /// What will read the folder or bucket.
    pub kind: Kind,
    /// The folder or bucket to write.
    pub place: Place,
    /// The path of the folder on the machine of the web server, for the server's configuration.
    pub served_from: String,
    /// The URL below which the blobs will be served, for hosts of static pages; `None` where the
    /// site serves the blobs itself.
    pub blobs_url: Option<String>,
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
