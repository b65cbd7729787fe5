//! The warnings of a repository (`<name>`) or of a tag (`<name>:<tag>`), an extension of eyot's own.

use async_trait::async_trait;

use super::path::Target;
use super::{Call, Endpoint, Operation, operation};
use crate::auth::Action;
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::limits::WARNING_REQUEST_BYTES_MAX;
use crate::http::permission::Permission;
use crate::http::reply::Reply;
use crate::oci::{RepositoryName, Tag};
use crate::registry::{self, InvalidWarning, Registry};

const PATH: &str = "/v2/_eyot/warnings/<target>";

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint { method: "GET", path: PATH, parse: |target| operation(GetWarnings(Subject::parse(target)?)) },
    Endpoint { method: "PUT", path: PATH, parse: |target| operation(SetWarning(Subject::parse(target)?)) },
    Endpoint { method: "DELETE", path: PATH, parse: |target| operation(DeleteWarning(Subject::parse(target)?)) },
];

/// The repository or the tag that a warning belongs to.
struct Subject {
    repository: RepositoryName,
    tag: Option<Tag>,
}

impl Subject {
    fn parse(target: &Target<'_>) -> Result<Self, Error> {
        let text = target.text("target");
        let (name, tag) = match text.split_once(':') {
            None => (text, None),
            Some((name, tag)) => {
                let invalid = |error| registry::Error::from(InvalidWarning::Tag(error));
                (name, Some(tag.parse::<Tag>().map_err(invalid)?))
            }
        };
        Ok(Self { repository: name.parse().map_err(Error::NameInvalid)?, tag })
    }
}

/// With warnings switched off, pulls show no warnings, so these endpoints do not exist.
fn check_enabled(registry: &Registry) -> Result<(), Error> {
    if registry.limits().warnings { Ok(()) } else { Err(Error::NotFound) }
}

struct GetWarnings(Subject);

#[async_trait]
impl Operation for GetWarnings {
    fn permission(&self) -> Permission<'_> {
        Permission::Repository(Action::Pull, &self.0.repository)
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        check_enabled(&handler.registry)?;
        let Subject { repository, tag } = &self.0;
        let warnings = handler.registry.warnings(repository, tag.as_ref()).await?;
        Ok(Reply::json(&serde_json::json!({ "warnings": warnings })))
    }
}

struct SetWarning(Subject);

#[async_trait]
impl Operation for SetWarning {
    fn permission(&self) -> Permission<'_> {
        Permission::Repository(Action::Admin, &self.0.repository)
    }

    fn change(&self) -> Option<Change> {
        Some(Change::of_repository("set-warning", &self.0.repository))
    }

    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        check_enabled(&handler.registry)?;
        let Subject { repository, tag } = &self.0;
        let text = call.body.collect_up_to(WARNING_REQUEST_BYTES_MAX).await.map_err(Error::Body)?;
        let text = String::from_utf8_lossy(&text);
        handler.registry.set_warning(repository, tag.as_ref(), text.trim_end()).await?;
        Ok(Reply::no_content())
    }
}

struct DeleteWarning(Subject);

#[async_trait]
impl Operation for DeleteWarning {
    fn permission(&self) -> Permission<'_> {
        Permission::Repository(Action::Admin, &self.0.repository)
    }

    fn change(&self) -> Option<Change> {
        Some(Change::of_repository("delete-warning", &self.0.repository))
    }

    async fn perform(self: Box<Self>, handler: &Handler, _: Call<'_>) -> Result<Reply, Error> {
        check_enabled(&handler.registry)?;
        let Subject { repository, tag } = &self.0;
        handler.registry.delete_warning(repository, tag.as_ref()).await?;
        Ok(Reply::no_content())
    }
}
