//! Exports: the repositories of a live registry as files in a folder or a bucket, which are served as
//! a registry that can only be read, or which other tools read as OCI layouts.
//!
//! The order of writes is content, then manifests, then referrers and tags, then lists, so that a
//! client that pulls during an export finds all content that a tag leads to. A file is complete
//! when it appears, content never changes, and a second export writes only what is new.

mod api_paths;
mod bucket;
mod error;
mod folder;
mod limits;
mod oci_layout;
mod pages;
mod repository;
mod request;
mod selection;
mod site;
mod summary;
mod target;
mod tree;

#[cfg(test)]
mod tests;

pub use error::{Error, Result};
pub use request::{Kind, Place, Request};
pub use selection::{Selection, Selector, SelectorError};
pub use summary::Summary;

use crate::oci::RepositoryName;
use crate::registry::{PageRequest, Registry};
use api_paths::ApiPaths;
use bucket::Bucket;
use folder::Folder;
use limits::limit;
use oci_layout::OciLayouts;
use pages::{Pages, PagesHost};
use repository::Run;
use selection::Selected;
use site::{Server, Site};
use target::Target;
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
    if let Some(url) = request.blobs_url.as_ref().filter(|url| !is_url(url)) {
        return Err(Error::BlobsUrl(url.clone()));
    }
    let target = target(request).await?;
    let mut run = Run::new(registry, request, target, tree(request), progress);
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
    run.finish(&exported).await?;
    for pattern in request.selection.unmatched(&exported) {
        run.summary.problem(format!("no repository has the name {pattern}, or none of its tags is selected"));
    }
    Ok(run.summary)
}

/// Opens the folder or bucket of an export.
async fn target(request: &Request) -> Result<Box<dyn Target>> {
    let Request { kind, dry_run, link, .. } = *request;
    let is_server = matches!(kind, Kind::Nginx | Kind::Apache | Kind::Caddy);
    let refusal = |wanted, place| Err(Error::Place { kind: kind.as_str(), wanted, place });
    match &request.place {
        Place::Folder(folder) if !kind.goes_to_folder() => {
            refusal("a bucket (s3://BUCKET/PREFIX)", folder.display().to_string())
        }
        Place::Bucket(tree) if !kind.goes_to_bucket() => refusal("a folder", tree.address()),
        Place::Folder(folder) => {
            if is_server {
                check_path(&request.served_from)?;
            }
            Ok(Box::new(Folder::open(folder, kind.as_str(), dry_run, link)?))
        }
        Place::Bucket(tree) => Ok(Box::new(Bucket::open(tree.clone(), kind.as_str(), dry_run).await?)),
    }
}

/// The places of the files of an export.
fn tree(request: &Request) -> Box<dyn Tree> {
    let site = |server| Box::new(Site::new(server, &request.served_from));
    let pages = |host| Box::new(Pages::new(host, request.blobs_url.as_deref()));
    match request.kind {
        Kind::Nginx => site(Server::Nginx),
        Kind::Apache => site(Server::Apache),
        Kind::Caddy => site(Server::Caddy),
        Kind::S3 => Box::new(ApiPaths),
        Kind::Netlify => pages(PagesHost::Netlify),
        Kind::CloudflarePages => pages(PagesHost::Cloudflare),
        Kind::OciLayout => Box::new(OciLayouts),
    }
}

/// Whether a text is a URL that can stand in a redirect.
fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let known = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:@".contains(&b);
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(known))
}

/// Checks that a path has no characters with a meaning in the configuration of a web server.
fn check_path(path: &str) -> Result<()> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"/._-+@".contains(&b);
    if path.starts_with('/') && path.bytes().all(known) { Ok(()) } else { Err(Error::Path(path.to_owned())) }
}
