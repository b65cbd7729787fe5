//! The repository that a pull reads: an own repository, or one that mirrors an upstream.

use http::request::Parts;

use super::error::Error;
use super::permission::Permission;
use super::query::Query;
use crate::auth::{Action, Caller};
use crate::mirror::{MirroredManifest, MirroredRepository, Mirrors};
use crate::oci::{Digest, Reference, RepositoryName};
use crate::registry::{self, Blob, Registry};

/// The repository that a pull names, and where its content comes from.
pub(super) struct Pulled {
    name: RepositoryName,
    source: Source,
}

enum Source {
    /// This registry.
    Own,
    /// An upstream, through the cache.
    Mirror(MirroredRepository),
    /// This registry if the repository exists here, and else the default upstream.
    OwnOrDefault(MirroredRepository),
}

/// A repository that a pull has decided for.
pub(super) enum Chosen {
    Own,
    Mirror(Box<MirroredRepository>),
}

/// A blob that a pull has found.
pub(super) enum FoundBlob {
    /// In this registry, and the upstream that the blob came from.
    Here(Blob, Option<Box<MirroredRepository>>),
    /// Not here, but maybe at the upstream of this repository.
    Upstream(Box<MirroredRepository>),
}

impl From<RepositoryName> for Pulled {
    fn from(name: RepositoryName) -> Self {
        Self { name, source: Source::Own }
    }
}

impl Pulled {
    /// The repository's name in this registry.
    pub(super) fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// Finds out which upstream the repository mirrors: by the parameter `ns` (distribution-spec,
    /// "Registry Proxying"), by the prefix of the name, or by default. Returns the value of `ns` if
    /// the parameter decided.
    ///
    /// # Errors
    /// [`Error::NoUpstream`] when `ns` names no upstream of the settings. A pull that is meant for
    /// another registry must not get content of an own repository with the same name.
    pub(super) fn route(&mut self, mirrors: &Mirrors, head: &Parts) -> Result<Option<String>, Error> {
        let namespace = Query(head.uri.query().unwrap_or_default()).text("ns");
        if let Some(namespace) = namespace {
            let Some(mirrored) = mirrors.in_namespace(&namespace, &self.name) else {
                return Err(Error::NoUpstream { namespace: namespace.chars().take(100).collect() });
            };
            self.mirror(mirrored);
            return Ok(Some(namespace));
        }
        match mirrors.find(&self.name) {
            Some(mirrored) => self.mirror(mirrored),
            None => {
                if let Some(mirrored) = mirrors.by_default(&self.name) {
                    self.source = Source::OwnOrDefault(mirrored);
                }
            }
        }
        Ok(None)
    }

    fn mirror(&mut self, mirrored: MirroredRepository) {
        self.name = mirrored.name().clone();
        self.source = Source::Mirror(mirrored);
    }

    /// The permission to pull. Where the default upstream may have the repository, the permission
    /// to pull either repository is enough, and [`Pulled::choose`] decides by the caller.
    pub(super) fn permission(&self) -> Permission<'_> {
        match &self.source {
            Source::Own | Source::Mirror(_) => Permission::Repository(Action::Pull, &self.name),
            Source::OwnOrDefault(mirrored) => Permission::PullEither { own: &self.name, mirrored: mirrored.name() },
        }
    }

    /// Decides for the own repository or the mirrored one. Whether an own repository exists matters
    /// only to a caller who may pull the own repository, so the answer reveals nothing to others.
    pub(super) async fn choose(&self, registry: &Registry, caller: &Caller) -> Result<Chosen, registry::Error> {
        Ok(match &self.source {
            Source::Own => Chosen::Own,
            Source::Mirror(mirrored) => Chosen::Mirror(Box::new(mirrored.clone())),
            Source::OwnOrDefault(mirrored) => {
                let is_own = caller.may(Action::Pull, &self.name) && registry.has_repository(&self.name).await?;
                match is_own || !caller.may(Action::Pull, mirrored.name()) {
                    true => Chosen::Own,
                    false => Chosen::Mirror(Box::new(mirrored.clone())),
                }
            }
        })
    }

    /// Whether an own repository is looked at first, without knowing whether the repository exists.
    fn begins_here(&self, caller: &Caller) -> bool {
        matches!(self.source, Source::Own) || self.is_default() && caller.may(Action::Pull, &self.name)
    }

    /// Whether the default upstream may have the repository.
    pub(super) fn is_default(&self) -> bool {
        matches!(self.source, Source::OwnOrDefault(_))
    }

    /// Looks a manifest up. A manifest of an own repository costs no more than without upstreams.
    pub(super) async fn manifest(
        &self,
        registry: &Registry,
        caller: &Caller,
        reference: &Reference,
    ) -> Result<MirroredManifest, Error> {
        if self.begins_here(caller) {
            match registry.manifest(&self.name, reference).await {
                Err(registry::Error::ManifestUnknown(_)) if self.is_default() => {}
                found => return Ok(found?.into()),
            }
        }
        match self.choose(registry, caller).await? {
            Chosen::Own => Err(registry::Error::ManifestUnknown(reference.to_string()).into()),
            Chosen::Mirror(mirrored) => Ok(mirrored.manifest(reference).await?),
        }
    }

    /// Looks a blob up. The content of a mirrored blob that is here costs no more than that of an
    /// own blob.
    pub(super) async fn blob(&self, registry: &Registry, caller: &Caller, digest: &Digest) -> Result<FoundBlob, Error> {
        if self.begins_here(caller) {
            match registry.blob(&self.name, digest).await {
                Err(registry::Error::BlobUnknown(_)) if self.is_default() => {}
                found => return Ok(FoundBlob::Here(found?, None)),
            }
        }
        let mirrored = match &self.source {
            Source::Mirror(mirrored) => Box::new(mirrored.clone()),
            _ => match self.choose(registry, caller).await? {
                Chosen::Own => return Err(registry::Error::BlobUnknown(digest.clone()).into()),
                Chosen::Mirror(mirrored) => mirrored,
            },
        };
        match registry.blob(mirrored.name(), digest).await {
            Err(registry::Error::BlobUnknown(_)) => Ok(FoundBlob::Upstream(mirrored)),
            found => {
                let blob = found?;
                mirrored.count_hit();
                Ok(FoundBlob::Here(blob, Some(mirrored)))
            }
        }
    }
}
