//! The catalog of repositories. Each caller sees only the repositories that the caller may list.

use super::Handler;
use super::admission::Admission;
use super::error::Error;
use super::reply::Reply;
use crate::auth::{Action, Caller, Seal};
use crate::oci::RepositoryName;
use crate::registry::PageRequest;

/// The first character of a parameter `last` that holds a sealed name. No repository's name begins
/// with `~`.
const SEALED: &str = "~";

impl Handler {
    /// A page of the repositories that the caller may list. If the next page begins after a
    /// repository that the caller may not list, the name of the repository is sealed.
    pub(super) async fn catalog(&self, caller: &Caller, request: &PageRequest) -> Result<Reply, Error> {
        let is_visible = |name: &RepositoryName| caller.may(Action::List, name);
        let mut request = request.clone();
        if let Some(sealed) = request.last.as_ref().and_then(|last| last.strip_prefix(SEALED)) {
            request.last = Some(self.seal().await?.open(sealed).ok_or(Error::BadCursor)?);
        }
        let mut page = self.registry.repositories(&request, is_visible).await?;
        if let Some(next) = &page.next
            && !next.parse().is_ok_and(|name| is_visible(&name))
        {
            page.next = Some(format!("{SEALED}{}", self.seal().await?.close(next)));
        }
        let body = serde_json::json!({ "repositories": page.entries });
        Ok(Reply::json(&body).with_next_page("/v2/_catalog", &page))
    }

    /// The key that seals names: shared by all instances, or this instance's own if the registry
    /// has no tokens.
    async fn seal(&self) -> Result<Seal, Error> {
        let shared = self.admission.access.seal().await.map_err(Admission::failure)?;
        Ok(shared.unwrap_or_else(|| self.own_seal.clone()))
    }
}
