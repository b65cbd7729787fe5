//! The catalog. Each caller sees the repositories that the caller may see.

use super::Handler;
use super::admission::Admission;
use super::error::Error;
use super::reply::Reply;
use crate::auth::{Action, Caller, Seal};
use crate::oci::RepositoryName;
use crate::registry::PageRequest;

/// The beginning of a parameter `last` that holds a sealed name. No repository's name begins so.
const SEALED: &str = "~";

impl Handler {
    /// A page of the repositories that the caller may see. The place where the next page begins may be a repository that the
    /// caller may not see: its name is sealed then.
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

    /// Where there are no tokens no other instance shares the key.
    async fn seal(&self) -> Result<Seal, Error> {
        let shared = self.admission.access.seal().await.map_err(Admission::failure)?;
        Ok(shared.unwrap_or_else(|| self.own_seal.clone()))
    }
}
