//! Manifests (distribution-spec, "Pulling manifests", "Pushing Manifests", "Deleting Manifests").

use async_trait::async_trait;
use http::Method;
use http::header::CONTENT_TYPE;

use super::pull::{Read, pull};
use super::{Call, Endpoint, Operation, operation};
use crate::auth::Action;
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::conditional;
use crate::http::error::Error;
use crate::http::head;
use crate::http::permission::Permission;
use crate::http::pulled::Pulled;
use crate::http::reply::{Freshness, Reply};
use crate::mirror::MirroredManifest;
use crate::oci::{Reference, RepositoryName, Tag};
use crate::platform::Body;

const PATH: &str = "/v2/<name>/manifests/<reference>";

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: "GET",
        path: PATH,
        parse: |target| pull(target, GetManifest { reference: target.reference()? }),
    },
    Endpoint {
        method: "PUT",
        path: PATH,
        parse: |target| {
            let (repository, reference) = (target.repository()?, target.reference()?);
            operation(PutManifest { repository, reference, tags: target.query.tags()? })
        },
    },
    Endpoint {
        method: "DELETE",
        path: PATH,
        parse: |target| operation(DeleteManifest { repository: target.repository()?, reference: target.reference()? }),
    },
];

struct GetManifest {
    reference: Reference,
}

#[async_trait]
impl Read for GetManifest {
    async fn read(self, repository: Pulled, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let Self { reference } = self;
        let (registry, head) = (&handler.registry, call.head);
        let MirroredManifest { manifest, warning } = repository.manifest(registry, call.caller, &reference).await?;
        let (tag, freshness) = match &reference {
            Reference::Tag(tag) => (Some(tag), Freshness::Tag { max_age_seconds: handler.tag_max_age_seconds }),
            Reference::Digest(_) => (None, Freshness::Immutable),
        };
        conditional::read_precondition(head).check(Some(&manifest.digest))?;
        let mut warnings = registry.warnings(repository.name(), tag).await?;
        warnings.extend(warning);
        if conditional::is_known(head, &manifest.digest) {
            return Ok(Reply::not_modified(&manifest.digest, freshness).with_warnings(&warnings));
        }
        let body = match head.method {
            Method::HEAD => Body::empty().with_length(manifest.size),
            _ => registry.read_manifest(&manifest).await?,
        };
        Ok(Reply::content(&manifest.media_type, &manifest.digest, freshness, body).with_warnings(&warnings))
    }
}

/// A push of a manifest. The tags in `tags` are set too.
struct PutManifest {
    repository: RepositoryName,
    reference: Reference,
    tags: Vec<Tag>,
}

#[async_trait]
impl Operation for PutManifest {
    fn permission(&self) -> Permission<'_> {
        Permission::Repository(Action::Push, &self.repository)
    }

    fn change(&self) -> Option<Change> {
        let named = match &self.reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        let change = Change::of_repository("push-manifest", &self.repository);
        Some(named.into_iter().chain(&self.tags).fold(change, Change::with_tag))
    }

    async fn perform(self: Box<Self>, handler: &Handler, Call { head, body, .. }: Call<'_>) -> Result<Reply, Error> {
        let Self { repository, reference, tags } = *self;
        let most = handler.registry.limits().tags_per_push_max;
        if tags.len() > most {
            return Err(Error::TooManyTags { most });
        }
        let content_type = head::text(head, &CONTENT_TYPE)?;
        let condition = conditional::precondition(head);
        let pushed =
            handler.registry.push_manifest_if(&repository, &reference, &tags, content_type, body, &condition).await?;
        Ok(Reply::manifest_created(&repository, &pushed))
    }
}

struct DeleteManifest {
    repository: RepositoryName,
    reference: Reference,
}

#[async_trait]
impl Operation for DeleteManifest {
    fn permission(&self) -> Permission<'_> {
        Permission::Repository(Action::Delete, &self.repository)
    }

    fn change(&self) -> Option<Change> {
        Some(match &self.reference {
            Reference::Tag(tag) => Change::of_repository("delete-tag", &self.repository).with_tag(tag),
            Reference::Digest(digest) => Change::of_repository("delete-manifest", &self.repository).with_digest(digest),
        })
    }

    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        let precondition = conditional::precondition(call.head);
        handler.registry.delete_manifest_if(&self.repository, &self.reference, &precondition).await?;
        Ok(Reply::accepted())
    }
}
