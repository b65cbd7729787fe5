//! Changes that requests make, for programs that act on pushes.

use std::net::IpAddr;

use crate::oci::{Digest, RepositoryName, Tag};

/// A change that a request has made. [`Handler::with_observer`](crate::Handler::with_observer) says
/// when an observer is called.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The action, with the name that the audit log uses: `push-manifest`, `push-blob`,
    /// `mount-blob`, `delete-tag`, `delete-manifest`, `delete-blob`, `set-warning`,
    /// `delete-warning`, `put-user`, `delete-user`, `put-token`, `delete-token` or `collect`.
    pub action: &'static str,
    /// The repository; `None` for actions that concern no single repository.
    pub repository: Option<RepositoryName>,
    /// The tags that the change points or removes.
    pub tags: Vec<Tag>,
    /// The digest of the content that was pushed, mounted or removed.
    pub digest: Option<Digest>,
    /// The user; `None` for anonymous callers.
    pub user: Option<String>,
    /// The address of the client, if the host reports addresses by [`Peer`](super::Peer).
    pub address: Option<IpAddr>,
}

impl Event {
    pub(super) fn new(action: &'static str) -> Self {
        Self { action, repository: None, tags: Vec::new(), digest: None, user: None, address: None }
    }
}
