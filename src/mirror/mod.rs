//! The pull-through cache: repositories that mirror the repositories of an upstream.
//!
//! A mirrored repository is an ordinary repository of the registry whose name is a prefix and the
//! upstream's name of the repository (`docker.io/library/alpine`). A pull first looks into the
//! registry. Content that is absent comes from the upstream, and goes to the client and into the
//! registry at the same time (`filler`). A tag is checked with the upstream when the tag is not
//! fresh any more (`manifests`). Facts about mirrored content have keys of their own (`facts`).
//!
//! Natively one task fetches a blob for all clients that ask for the blob meanwhile (`shared`). In
//! a component no request may wait for another (docs/decisions/0001), so the request that misses
//! first fills, and other requests stream through without storing.

mod blobs;
mod checks;
mod counters;
mod error;
mod facts;
mod filler;
mod lists;
mod manifests;
mod settings;
mod shared;
#[cfg(all(test, not(target_family = "wasm")))]
mod tests;
mod trouble;

use std::sync::Arc;

pub use blobs::{BlobRange, BlobSource, MirroredBlob, ServedRange};
pub use checks::UpstreamFinding;
pub use counters::Counts;
pub use error::{Error, Result};
pub use lists::Listed;
pub use manifests::MirroredManifest;
pub use settings::{LineError, Mirroring, Options, SettingsError};

use crate::auth::Seal;
use crate::oci::RepositoryName;
use crate::platform::Platform;
use crate::registry::{self, Registry};
use crate::store::{Expiring, KeyValue};
use crate::upstream::Client;
use counters::Counters;
use shared::Fills;
use trouble::Troubles;

/// The keys of this layer that a collection may remove when they have expired.
pub const EXPIRING: [Expiring; 4] = [facts::TAGS, facts::LISTS, facts::FILLS, trouble::TROUBLES];

/// All upstreams that a registry mirrors.
#[derive(Clone)]
pub struct Mirrors {
    mirrors: Arc<[Mirror]>,
}

/// The mirror of one upstream.
#[derive(Clone)]
pub struct Mirror {
    client: Client,
    options: Arc<Options>,
    registry: Registry,
    keys: Arc<dyn KeyValue>,
    platform: Arc<dyn Platform>,
    troubles: Troubles,
    fills: Fills,
    counters: Arc<Counters>,
}

/// A repository of an upstream and its place in this registry.
#[derive(Clone)]
pub struct MirroredRepository {
    mirror: Mirror,
    /// The repository's name here.
    local: RepositoryName,
    /// The upstream's name of the repository.
    remote: RepositoryName,
}

impl Mirrors {
    /// Mirrors the upstreams of `settings` into `registry`, which must have the prefixes of the
    /// settings ([`Mirroring::prefixes`], [`Registry::with_mirrored_prefixes`]). The registry's
    /// key-value store also holds the facts about mirrored content. `seal` encrypts the tokens of
    /// upstreams in that store, so all instances over one store need the same seal. The registry's
    /// platform sends the requests to the upstreams.
    pub fn new(settings: Mirroring, registry: &Registry, seal: &Seal) -> Self {
        Self::over(settings, registry, registry.shared_platform(), seal)
    }

    /// As [`Mirrors::new`], with a platform of its own for the requests to the upstreams.
    pub fn over(settings: Mirroring, registry: &Registry, platform: &Arc<dyn Platform>, seal: &Seal) -> Self {
        let keys = registry.keys();
        let (troubles, fills) = (Troubles::new(keys.clone(), platform.clone()), Fills::default());
        let mirrors = settings.upstreams.into_iter().map(|(upstream, options)| Mirror {
            client: Client::new(upstream, keys.clone(), platform.clone(), seal.clone()),
            options: Arc::new(options),
            registry: registry.clone(),
            keys: keys.clone(),
            platform: platform.clone(),
            troubles: troubles.clone(),
            fills: fills.clone(),
            counters: Arc::default(),
        });
        Self { mirrors: mirrors.collect() }
    }

    /// The mirrored repository with this name; `None` for a name outside of all prefixes.
    pub fn find(&self, name: &RepositoryName) -> Option<MirroredRepository> {
        self.mirrors.iter().find_map(|mirror| mirror.below_prefix(name))
    }

    /// The mirrored repository that a client means by a name and a namespace (the `ns` parameter);
    /// `None` if no upstream has the namespace. The namespace only chooses among the upstreams of
    /// the settings, and is never used as an address. The name may begin with the upstream's prefix:
    /// BuildKit and containerd send both where the URL of a mirror ends in the prefix.
    pub fn in_namespace(&self, namespace: &str, name: &RepositoryName) -> Option<MirroredRepository> {
        let mirror = self.mirrors.iter().find(|mirror| mirror.client.upstream().serves_namespace(namespace))?;
        mirror.below_prefix(name).or_else(|| mirror.repository(name.as_str()))
    }

    /// The repository of the default upstream with this name; `None` without a default upstream.
    pub fn by_default(&self, name: &RepositoryName) -> Option<MirroredRepository> {
        self.mirrors.iter().find(|mirror| mirror.options.is_default)?.repository(name.as_str())
    }
}

impl Mirror {
    fn name(&self) -> &str {
        self.client.upstream().name()
    }

    /// The mirrored repository with this name, if the name begins with the upstream's prefix.
    fn below_prefix(&self, name: &RepositoryName) -> Option<MirroredRepository> {
        self.repository(name.as_str().strip_prefix(self.name())?.strip_prefix('/')?)
    }

    fn repository(&self, remote: &str) -> Option<MirroredRepository> {
        let remote = self.client.upstream().repository(remote)?;
        let local = format!("{}/{remote}", self.name()).parse().ok()?;
        Some(MirroredRepository { mirror: self.clone(), local, remote })
    }
}

impl MirroredRepository {
    /// The repository's name in this registry.
    pub fn name(&self) -> &RepositoryName {
        &self.local
    }

    /// The name of the upstream.
    pub fn upstream(&self) -> &str {
        self.mirror.name()
    }

    /// Whether clients are redirected to where the upstream redirects pulls of blobs.
    pub fn redirects(&self) -> bool {
        self.mirror.options.redirects
    }

    /// Makes the upstream's absence an error of the registry, as in every other repository.
    /// `unknown` is that error, for the content that `named` names.
    fn absent_is_unknown(
        &self,
        error: impl Into<Error>,
        named: impl std::fmt::Display,
        unknown: impl FnOnce() -> registry::Error,
    ) -> Error {
        match error.into() {
            Error::Upstream(error) if error.kind.is_absence() => {
                tracing::info!("{}: {named} is not there: {error}", self.local);
                unknown().into()
            }
            error => error,
        }
    }

    /// Fails for a repository that the settings do not mirror.
    fn check(&self) -> Result<()> {
        if self.mirror.options.mirrors(&self.remote) {
            return Ok(());
        }
        Err(registry::Error::NameUnknown(self.local.clone()).into())
    }
}
