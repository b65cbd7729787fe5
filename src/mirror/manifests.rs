//! Manifests and tags of mirrored repositories.

use super::facts::{self, ABSENT_MS, TagFact};
use super::{MirroredRepository, Result};
use crate::oci::{Digest, Reference, Tag};
use crate::registry::{self, Manifest};
use crate::store;
use crate::upstream::{FetchedManifest, Kind, ManifestHead};

/// A manifest that the registry holds now.
#[derive(Debug)]
pub struct MirroredManifest {
    /// The manifest.
    pub manifest: Manifest,
    /// Why the manifest may be outdated: the tag could not be checked with the upstream.
    pub warning: Option<String>,
}

impl From<Manifest> for MirroredManifest {
    fn from(manifest: Manifest) -> Self {
        Self { manifest, warning: None }
    }
}

impl MirroredRepository {
    /// Looks a manifest up, and fetches the manifest from the upstream if the registry does not
    /// hold it. A fresh tag costs one key read more than in other repositories and no request to
    /// the upstream. Another tag costs one HEAD request, and a GET if the tag has moved.
    ///
    /// # Errors
    /// [`registry::Error::ManifestUnknown`] when the upstream does not have the manifest; the error
    /// of the upstream when the manifest is not here and the upstream is in trouble.
    pub async fn manifest(&self, reference: &Reference) -> Result<MirroredManifest> {
        match reference {
            Reference::Digest(_) => match self.held(reference).await? {
                Some(manifest) => Ok(self.hit(manifest)),
                None => {
                    self.check()?;
                    Ok(self.fetch(reference).await.map_err(|error| self.absent(error, reference))?.into())
                }
            },
            Reference::Tag(tag) => self.tagged(tag, reference).await,
        }
    }

    async fn tagged(&self, tag: &Tag, reference: &Reference) -> Result<MirroredManifest> {
        let key = facts::tag(&self.local, tag);
        let fact: TagFact = self.mirror.load(&key).await?.unwrap_or_default();
        let age_ms = self.mirror.platform.now_ms().abs_diff(fact.checked_ms);
        if fact.is_absent && age_ms < ABSENT_MS {
            return Err(registry::Error::ManifestUnknown(reference.to_string()).into());
        }
        let Some(held) = self.held(reference).await? else {
            self.check()?;
            return self.first(&key, reference).await;
        };
        let options = &self.mirror.options;
        if !fact.is_absent && age_ms < options.fresh_ms {
            return Ok(self.hit(held));
        }
        let is_servable = !fact.is_absent && age_ms < options.fresh_ms.saturating_add(options.stale_ms);
        if is_servable && let Some(why) = self.mirror.troubles.current(self.upstream()).await {
            return Ok(self.stale(held, &why));
        }
        match self.checked(&held, &fact, &key, reference).await {
            Ok(manifest) => Ok(manifest.into()),
            Err(super::Error::Upstream(error)) if error.kind == Kind::Unknown => {
                self.note_absent(&key).await;
                // The upstream has removed the tag. Remove the cached tag, which would otherwise be
                // served when the upstream fails later.
                match self.mirror.registry.delete_manifest(&self.local, reference).await {
                    Ok(()) | Err(registry::Error::ManifestUnknown(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                Err(registry::Error::ManifestUnknown(reference.to_string()).into())
            }
            Err(super::Error::Upstream(error)) => {
                self.mirror.troubles.note(&error).await;
                if is_servable { Ok(self.stale(held, &error.to_string())) } else { Err(error.into()) }
            }
            Err(error) => Err(error),
        }
    }

    /// Fetches a tag that is not here.
    async fn first(&self, key: &str, reference: &Reference) -> Result<MirroredManifest> {
        match self.fetch_tag(key, reference).await {
            Err(super::Error::Upstream(error)) if error.kind.is_absence() => {
                self.note_absent(key).await;
                Err(self.absent(error.into(), reference))
            }
            fetched => Ok(fetched?.into()),
        }
    }

    /// Asks the upstream where a tag leads that is here, and fetches the manifest if the tag has
    /// moved.
    async fn checked(&self, held: &Manifest, fact: &TagFact, key: &str, reference: &Reference) -> Result<Manifest> {
        let client = &self.mirror.client;
        // Another request may have moved the tag since the fact was written.
        let known = fact.entity_tag.clone().filter(|_| fact.digest.as_ref() == Some(&held.digest));
        let (digest, entity_tag) = match client.head_manifest(&self.remote, reference, known.as_deref()).await? {
            ManifestHead::NotModified => (Some(held.digest.clone()), known),
            ManifestHead::Current { digest, entity_tag } => (digest, entity_tag),
        };
        let manifest = match digest {
            Some(digest) if digest == held.digest => {
                self.note_checked(key, digest, entity_tag).await;
                self.revalidated(reference);
                return self.held_again(reference).await;
            }
            Some(digest) => self.held(&Reference::Digest(digest)).await?,
            None => None,
        };
        match manifest {
            Some(manifest) => {
                self.point(reference, &manifest).await?;
                self.note_checked(key, manifest.digest, entity_tag).await;
                self.revalidated(reference);
                self.held_again(reference).await
            }
            None => self.fetch_tag(key, reference).await,
        }
    }

    async fn fetch_tag(&self, key: &str, reference: &Reference) -> Result<Manifest> {
        let fetched = self.request(reference).await?;
        let (digest, entity_tag) = (fetched.digest.clone(), fetched.entity_tag.clone());
        self.keep(reference, fetched).await?;
        self.note_checked(key, digest, entity_tag).await;
        self.held_again(reference).await
    }

    async fn fetch(&self, reference: &Reference) -> Result<Manifest> {
        let fetched = self.request(reference).await?;
        self.keep(reference, fetched).await?;
        self.held_again(reference).await
    }

    async fn request(&self, reference: &Reference) -> Result<FetchedManifest> {
        let limit_bytes = self.mirror.registry.limits().manifest_bytes_max;
        self.mirror.counters.miss();
        let fetched = self.mirror.client.manifest(&self.remote, reference, limit_bytes).await?;
        let (bytes, rest) = (fetched.bytes.len(), self.mirror.rate_limit());
        tracing::info!("{}: fetched {reference} from {}, {bytes} bytes{rest}", self.local, self.upstream());
        Ok(fetched)
    }

    /// Pushes a fetched manifest into the registry. A manifest that the registry does not take is
    /// an invalid answer of the upstream, and no fault of the client.
    async fn keep(&self, reference: &Reference, fetched: FetchedManifest) -> Result<()> {
        let FetchedManifest { digest, media_type, bytes, .. } = fetched;
        let tags: Vec<Tag> = match reference {
            Reference::Tag(tag) => vec![tag.clone()],
            Reference::Digest(_) => Vec::new(),
        };
        let by_digest = Reference::Digest(digest);
        let registry = &self.mirror.registry;
        let pushed = registry.push_manifest(&self.local, &by_digest, &tags, media_type.as_deref(), bytes.into()).await;
        match pushed {
            Ok(_) => Ok(()),
            Err(error @ (registry::Error::ManifestInvalid(_) | registry::Error::DigestInvalid(_))) => {
                Err(self.mirror.client.error(Kind::Invalid(error.to_string())).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Points a tag to a manifest that the registry holds.
    async fn point(&self, reference: &Reference, manifest: &Manifest) -> Result<()> {
        let body = self.mirror.registry.read_manifest(manifest).await?;
        let bytes = body.collect_up_to(manifest.size).await.map_err(store::Error::from);
        let bytes = bytes.map_err(registry::Error::from)?;
        let fetched = FetchedManifest {
            digest: manifest.digest.clone(),
            media_type: Some(manifest.media_type.clone()),
            entity_tag: None,
            bytes,
        };
        self.keep(reference, fetched).await
    }

    /// The manifest if the registry holds it.
    async fn held(&self, reference: &Reference) -> Result<Option<Manifest>> {
        match self.mirror.registry.manifest(&self.local, reference).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(registry::Error::ManifestUnknown(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn held_again(&self, reference: &Reference) -> Result<Manifest> {
        Ok(self.mirror.registry.manifest(&self.local, reference).await?)
    }

    async fn note_checked(&self, key: &str, digest: Digest, entity_tag: Option<String>) {
        let checked_ms = self.mirror.platform.now_ms();
        self.mirror.note(key, &TagFact { checked_ms, digest: Some(digest), entity_tag, is_absent: false }).await;
    }

    async fn note_absent(&self, key: &str) {
        let checked_ms = self.mirror.platform.now_ms();
        self.mirror.note(key, &TagFact { checked_ms, digest: None, entity_tag: None, is_absent: true }).await;
    }

    fn stale(&self, manifest: Manifest, why: &str) -> MirroredManifest {
        tracing::warn!("{}: served from the cache without a check: {why}", self.local);
        self.mirror.counters.stale();
        MirroredManifest { manifest, warning: Some(format!("stale: {why}")) }
    }

    fn hit(&self, manifest: Manifest) -> MirroredManifest {
        self.mirror.counters.hit();
        manifest.into()
    }

    /// Counts and logs that a tag leads to a manifest that is here.
    fn revalidated(&self, reference: &Reference) {
        self.mirror.counters.revalidated();
        let rest = self.mirror.rate_limit();
        tracing::info!("{}: {} confirms the manifest of {reference} that is here{rest}", self.local, self.upstream());
    }

    fn absent(&self, error: super::Error, reference: &Reference) -> super::Error {
        self.absent_is_unknown(error, reference, || registry::Error::ManifestUnknown(reference.to_string()))
    }
}
