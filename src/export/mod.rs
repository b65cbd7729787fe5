//! Exports: the repositories of a live registry as a folder of files, which a web server serves as a
//! registry that can only be read, or which other tools read as OCI layouts.
//!
//! The order of writes is content, then manifests, then referrers and tags, then lists, so that a
//! client that pulls during an export finds all content that a tag leads to. A file is complete
//! when it appears, content never changes, and a second export writes only what is new.

mod error;
mod folder;
mod limits;
mod oci_layout;
mod repository;
mod request;
mod selection;
mod site;
mod summary;
mod tree;

#[cfg(test)]
mod tests;

pub use error::{Error, Result};
pub use request::{Kind, KindError, Request};
pub use selection::{Selection, Selector, SelectorError};
pub use summary::Summary;

use crate::oci::RepositoryName;
use crate::registry::{PageRequest, Registry};
use folder::Folder;
use limits::limit;
use oci_layout::OciLayouts;
use repository::Run;
use selection::Selected;
use site::{Server, Site};
use tree::Tree;

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
    let mut run = Run::new(registry, request, folder, tree(request), progress);
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

/// The places of the files of an export.
fn tree(request: &Request) -> Box<dyn Tree> {
    let site = |server| Box::new(Site::new(server, &request.served_from));
    match request.kind {
        Kind::Nginx => site(Server::Nginx),
        Kind::Apache => site(Server::Apache),
        Kind::Caddy => site(Server::Caddy),
        Kind::OciLayout => Box::new(OciLayouts),
    }
}

/// Checks that a path has no characters with a meaning in the configuration of a web server.
fn check_path(path: &str) -> Result<()> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"/._-+@".contains(&b);
    if path.starts_with('/') && path.bytes().all(known) { Ok(()) } else { Err(Error::Path(path.to_owned())) }
}
