//! Takes manifests: their content first, then the manifest, then its tags.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use serde::Deserialize;

use super::blobs::{Context, Place, TakenBlob, Wanted};
use super::error::{Error, Result};
use super::limits::{BLOBS_AT_ONCE_MAX, BUSY_TRIES_MAX, NESTING_MAX};
use super::report::Report;
use crate::oci::manifest::is_readable;
use crate::oci::{Digest, Manifest, Reference, Tag};
use crate::registry;
use crate::store;

/// The media type of a Docker schema 1 manifest with signatures, and of one without.
const SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
];

/// A repository that is being imported.
pub(super) struct Visit<'a> {
    context: &'a Context<'a>,
    place: &'a Place,
    report: &'a mut Report,
    /// The result for each manifest so far.
    seen: HashMap<Digest, Outcome>,
    /// The manifests that the repository has now, in the order in which they were taken.
    taken: Vec<Digest>,
    /// The blobs that the repository has, as far as this import has looked.
    blobs: HashSet<Digest>,
    /// The manifests that an index, a tag or a subject keeps.
    named: HashSet<Digest>,
}

/// The result for a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The manifest is stored now, or would be in an import that is no dry run.
    Stored,
    /// The manifest was here before.
    Here,
    /// The source does not have the manifest or its content.
    Absent(String),
    /// The manifest is not stored, for this reason.
    Failed(String),
}

/// A manifest that was found, here or in the source.
struct Found {
    bytes: Bytes,
    media_type: Option<String>,
    is_here: bool,
}

impl<'a> Visit<'a> {
    pub(super) fn new(context: &'a Context<'a>, place: &'a Place, report: &'a mut Report) -> Self {
        let (seen, blobs, named) = (HashMap::new(), HashSet::new(), HashSet::new());
        Self { context, place, report, seen, taken: Vec::new(), blobs, named }
    }

    /// The manifests that the repository has now, in the order in which they were taken.
    pub(super) fn taken(&self) -> &[Digest] {
        &self.taken
    }

    /// Whether this import has looked at a manifest.
    pub(super) fn has_seen(&self, digest: &Digest) -> bool {
        self.seen.contains_key(digest)
    }

    /// Takes a manifest with its content.
    ///
    /// # Errors
    /// Only those that end the import.
    pub(super) async fn take(&mut self, digest: &Digest) -> Result<Outcome> {
        self.take_nested(digest, 0).await
    }

    fn take_nested<'b>(&'b mut self, digest: &'b Digest, depth: usize) -> BoxFuture<'b, Result<Outcome>> {
        async move {
            if let Some(outcome) = self.seen.get(digest) {
                return Ok(outcome.clone());
            }
            let outcome = match self.take_new(digest, depth).await {
                Ok(outcome) => outcome,
                Err(error) if error.ends_the_import() => return Err(error),
                Err(Error::Absent(why)) => Outcome::Absent(why),
                Err(error) => Outcome::Failed(error.to_string()),
            };
            match outcome {
                Outcome::Stored => self.report.manifests += 1,
                Outcome::Here => self.report.manifests_here += 1,
                _ => {}
            }
            if matches!(outcome, Outcome::Stored | Outcome::Here) {
                self.taken.push(digest.clone());
            }
            self.seen.insert(digest.clone(), outcome.clone());
            Ok(outcome)
        }
        .boxed()
    }

    async fn take_new(&mut self, digest: &Digest, depth: usize) -> Result<Outcome> {
        if depth > NESTING_MAX {
            return Err(Error::refused(format!("indexes are nested more than {NESTING_MAX} deep")));
        }
        let found = self.find(digest).await?;
        let (manifest, media_type) = parse(&found.bytes, found.media_type.as_deref())?;
        if manifest.subject.is_some() {
            self.named.insert(digest.clone());
        }
        let mut missing = None;
        let mut blobs: BTreeSet<Wanted> = manifest.blobs().map(wanted).collect();
        for child in manifest.children() {
            if !child.is_manifest() {
                blobs.insert(wanted(child));
                continue;
            }
            self.named.insert(child.digest.clone());
            match self.take_nested(&child.digest, depth + 1).await? {
                Outcome::Stored | Outcome::Here => {}
                outcome => worst(&mut missing, outcome),
            }
        }
        if !is_readable(&media_type) {
            let is_named = |digest: &Digest| blobs.iter().any(|blob| blob.digest == *digest);
            let others: Vec<Digest> = manifest.digests().iter().filter(|digest| !is_named(digest)).cloned().collect();
            blobs.extend(others.into_iter().map(|digest| Wanted { digest, size: None }));
        }
        self.take_blobs(blobs, &mut missing).await?;
        let is_sparse = self.context.registry.limits().sparse_manifests || found.is_here;
        match missing {
            Some(Outcome::Absent(_)) if is_sparse => {}
            Some(outcome) => return Ok(outcome),
            None => {}
        }
        if found.is_here {
            return Ok(Outcome::Here);
        }
        if !self.context.dry_run {
            self.push(digest, &[], &media_type, &found.bytes).await?;
        }
        Ok(Outcome::Stored)
    }

    /// The manifest from the registry, or else from the source.
    async fn find(&self, digest: &Digest) -> Result<Found> {
        let Context { registry, source, .. } = self.context;
        let limit_bytes = registry.limits().manifest_bytes_max;
        match registry.manifest(&self.place.here, &Reference::Digest(digest.clone())).await {
            Ok(held) => {
                let body = registry.read_manifest(&held).await?;
                let bytes = body
                    .collect_up_to(held.size)
                    .await
                    .map_err(|error| registry::Error::from(store::Error::from(error)))?;
                return Ok(Found { bytes, media_type: Some(held.media_type), is_here: true });
            }
            Err(registry::Error::ManifestUnknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let found = self.context.counted(source.manifest(&self.place.there, digest, limit_bytes).await)?;
        if !digest.matches(&found.bytes) {
            let has = digest.algorithm().digest(&found.bytes);
            return Err(Error::refused(format!("the manifest {digest} has the digest {has}: its bytes were changed")));
        }
        Ok(Found { bytes: found.bytes, media_type: found.media_type, is_here: false })
    }

    /// Takes the blobs of a manifest, several at once. `missing` gets what could not be taken.
    async fn take_blobs(&mut self, blobs: BTreeSet<Wanted>, missing: &mut Option<Outcome>) -> Result<()> {
        let new: Vec<Wanted> = blobs.into_iter().filter(|blob| !self.blobs.contains(&blob.digest)).collect();
        let (context, place) = (self.context, self.place);
        let mut taking = stream::iter(new)
            .map(|blob| async move {
                let taken = context.take_blob(place, &blob).await;
                (blob.digest, taken)
            })
            .buffer_unordered(BLOBS_AT_ONCE_MAX);
        while let Some((digest, taken)) = taking.next().await {
            match taken {
                Ok(TakenBlob::Here) => self.report.blobs_here += 1,
                Ok(TakenBlob::Read { bytes }) => {
                    self.report.blobs += 1;
                    self.report.bytes += bytes;
                }
                Ok(TakenBlob::None) => continue,
                Err(error) if error.ends_the_import() => return Err(error),
                Err(Error::Absent(why)) => {
                    worst(missing, Outcome::Absent(why));
                    continue;
                }
                Err(error) => {
                    worst(missing, Outcome::Failed(format!("the blob {digest}: {error}")));
                    continue;
                }
            }
            self.blobs.insert(digest);
        }
        Ok(())
    }

    async fn push(&self, digest: &Digest, tags: &[Tag], media_type: &str, bytes: &Bytes) -> Result<Vec<Tag>> {
        let (registry, reference) = (self.context.registry, Reference::Digest(digest.clone()));
        for _ in 1..BUSY_TRIES_MAX {
            let body = bytes.clone().into();
            match registry.push_manifest(&self.place.here, &reference, tags, Some(media_type), body).await {
                Err(registry::Error::Busy | registry::Error::Crowded) => self.context.wait().await,
                pushed => return Ok(pushed?.tags),
            }
        }
        let body = bytes.clone().into();
        Ok(registry.push_manifest(&self.place.here, &reference, tags, Some(media_type), body).await?.tags)
    }

    /// Points a tag to a manifest that [`Visit::take`] has taken. Returns whether the tag led there
    /// before.
    pub(super) async fn point(&mut self, tag: &Tag, digest: &Digest) -> Result<bool> {
        self.named.insert(digest.clone());
        let registry = self.context.registry;
        match registry.manifest(&self.place.here, &Reference::Tag(tag.clone())).await {
            Ok(held) if held.digest == *digest => {
                self.report.tags_here += 1;
                return Ok(true);
            }
            Ok(_) | Err(registry::Error::ManifestUnknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if !self.context.dry_run {
            let found = self.find(digest).await?;
            let (_, media_type) = parse(&found.bytes, found.media_type.as_deref())?;
            let pointed = self.push(digest, std::slice::from_ref(tag), &media_type, &found.bytes).await?;
            if !pointed.contains(tag) {
                return Err(registry::Error::Busy.into());
            }
        }
        self.report.tags += 1;
        Ok(false)
    }

    /// The subject of a manifest, without taking the manifest.
    pub(super) async fn subject(&self, digest: &Digest) -> Option<Digest> {
        let found = self.find(digest).await.ok()?;
        let (manifest, _) = parse(&found.bytes, found.media_type.as_deref()).ok()?;
        Some(manifest.subject?.digest)
    }

    /// Adds the manifests to the report that were stored and that nothing keeps.
    pub(super) fn count_unnamed(&mut self) {
        let stored = self.seen.iter().filter(|(_, outcome)| **outcome == Outcome::Stored);
        self.report.unnamed += stored.filter(|(digest, _)| !self.named.contains(*digest)).count() as u64;
    }
}

fn wanted(descriptor: &crate::oci::Descriptor) -> Wanted {
    Wanted { digest: descriptor.digest.clone(), size: Some(descriptor.size) }
}

/// Keeps the worse of two outcomes: a failure before an absence.
fn worst(missing: &mut Option<Outcome>, outcome: Outcome) {
    if !matches!((&missing, &outcome), (Some(Outcome::Failed(_)), _) | (Some(_), Outcome::Absent(_))) {
        *missing = Some(outcome);
    }
}

/// Parses a manifest. The body's own media type comes before the type that the source states.
fn parse(bytes: &[u8], stated: Option<&str>) -> Result<(Manifest, String)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct OfSchema1 {
        schema_version: u64,
        signatures: Option<serde::de::IgnoredAny>,
    }
    let schema_1 = || {
        let manifest: OfSchema1 =
            serde_json::from_slice(bytes).ok().filter(|found: &OfSchema1| found.schema_version == 1)?;
        let media_type = SCHEMA_1[usize::from(manifest.signatures.is_none())];
        Manifest::parse(bytes, Some(media_type)).ok()
    };
    let parsed = Manifest::parse(bytes, stated).or_else(|error| Manifest::parse(bytes, None).map_err(|_| error));
    parsed.or_else(|error| schema_1().ok_or_else(|| Error::refused(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::manifest::{DOCKER_IMAGE, OCI_IMAGE, OCI_INDEX};

    #[test]
    fn the_body_tells_the_media_type() {
        let image =
            r#"{"schemaVersion": 2, "config": {"mediaType": "x/y", "digest": "DIGEST", "size": 2}, "layers": []"#;
        let image = image.replace("DIGEST", &format!("sha256:{}", "a".repeat(64)));
        let index = r#"{"schemaVersion": 2, "manifests": []}"#;
        for (text, stated, expected) in [
            (format!("{image}}}"), None, OCI_IMAGE),
            (format!("{image}}}"), Some(DOCKER_IMAGE), DOCKER_IMAGE),
            (format!(r#"{image}, "mediaType": "{DOCKER_IMAGE}"}}"#), Some(OCI_IMAGE), DOCKER_IMAGE),
            (format!(r#"{image}, "mediaType": "{DOCKER_IMAGE}"}}"#), Some("text/plain"), DOCKER_IMAGE),
            (index.to_owned(), None, OCI_INDEX),
            (r#"{"schemaVersion": 1, "fsLayers": []}"#.to_owned(), None, SCHEMA_1[1]),
            (r#"{"schemaVersion": 1, "signatures": []}"#.to_owned(), None, SCHEMA_1[0]),
        ] {
            assert_eq!(parse(text.as_bytes(), stated).unwrap().1, expected, "{text}");
        }
        assert!(parse(br#"{"schemaVersion": 2}"#, None).is_err());
    }

    #[test]
    fn a_failure_is_worse_than_an_absence() {
        let (absent, failed) = (|| Outcome::Absent("a".into()), |why: &str| Outcome::Failed(why.into()));
        let mut missing = None;
        worst(&mut missing, absent());
        worst(&mut missing, failed("b"));
        worst(&mut missing, failed("c"));
        worst(&mut missing, absent());
        assert_eq!(missing, Some(failed("b")));
    }
}
