//! The rules of a registry, without HTTP.
//!
//! A [`Registry`] is a façade over parts, each with a file or folder of its own. ARCHITECTURE.md
//! lists the parts in order: a part uses only the parts below it.
//!
//! A registry keeps all facts in its two stores, one key per fact (`layout`), so any number of
//! registries may work over the same stores. The order of writes is bytes, then membership in a
//! repository, then the manifest, then its referrer entry, then its tag, so that a crash at any
//! point leaves garbage at most, and never a dangling name.

// What all parts share.
mod error;
mod layout;
mod limits;
mod memory;
mod mirrored;
mod pages;
mod precondition;
mod session_id;

// The parts.
mod blobs;
mod collect;
mod content;
mod facts;
mod guard;
mod lists;
mod manifests;
mod sharing;
mod tags;
mod uploads;
mod uses;
mod warnings;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

pub use blobs::Blob;
pub use collect::{CollectRequest, Named, Report, Tally};
pub use error::{Error, InvalidDigest, InvalidManifest, InvalidSize, InvalidUpload, InvalidWarning, Result};
pub use limits::Limits;
pub(crate) use limits::REFERRERS_PAGE_BYTES_MAX;
pub use lists::{Page, PageRequest};
pub use manifests::{Manifest, Pushed, Referrers, ReferrersRequest};
pub(crate) use memory::Share;
pub use precondition::{Expected, Precondition};
pub use session_id::{SessionId, SessionIdError};
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub(crate) use uploads::Segments;
pub use uploads::{Chunk, Status};

use crate::oci::{Algorithm, Digest, Reference, RepositoryName, Tag};
use crate::platform::{Body, Platform};
use crate::store::check::Finding;
use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};
use crate::store::readiness::NotReady;
use crate::store::{self, BlobStore, Expiring, KeyValue};
use blobs::Blobs;
use collect::Collection;
use content::Content;
use facts::Facts;
use guard::CollectionGuard;
use lists::Lists;
use manifests::{Manifests, PushRequest, Source};
use mirrored::MirroredPrefixes;
use sharing::Sharing;
use tags::Tags;
use uploads::Uploads;
use uses::Uses;
use warnings::Warnings;

/// The result of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mounted {
    /// The repository holds the blob now.
    Blob(Digest),
    /// The blob was not found. The client can upload the blob in this new session.
    Upload(Status),
}

/// An OCI registry over a pair of stores: the operations of the distribution specification and a few
/// more, without HTTP and without permissions. A caller decides first who may do what.
///
/// A clone is cheap and shares all parts. Methods may be called at the same time, also by other
/// instances over the same stores. When a method returns without an error, its changes are safe in
/// the stores.
#[derive(Clone)]
pub struct Registry {
    /// All clones of a registry share its parts.
    parts: Arc<Parts>,
}

#[derive(Clone)]
struct Parts {
    facts: Facts,
    content: Content,
    blobs: Blobs,
    lists: Lists,
    warnings: Warnings,
    uploads: Uploads,
    uses: Uses,
    manifests: Manifests,
    collection: Collection,
    platform: Arc<dyn Platform>,
    limits: Arc<Limits>,
}

impl Registry {
    /// A registry over these stores.
    pub fn new(
        keys: Arc<dyn KeyValue>,
        blobs: Arc<dyn BlobStore>,
        platform: Arc<dyn Platform>,
        limits: Limits,
    ) -> Self {
        Self::of_parts(Facts { keys }, Content { blobs }, platform, Arc::new(limits), MirroredPrefixes::default())
    }

    fn of_parts(
        facts: Facts,
        content: Content,
        platform: Arc<dyn Platform>,
        limits: Arc<Limits>,
        mirrored: MirroredPrefixes,
    ) -> Self {
        let guard = CollectionGuard { facts: facts.clone(), platform: platform.clone() };
        let sharing = Sharing { facts: facts.clone(), content: content.clone(), guard: guard.clone() };
        let blobs = Blobs {
            facts: facts.clone(),
            content: content.clone(),
            sharing: sharing.clone(),
            platform: platform.clone(),
        };
        let lists = Lists { facts: facts.clone(), limits: limits.clone() };
        let tags = Tags { facts: facts.clone(), limits: limits.clone(), platform: platform.clone() };
        let warnings = Warnings { facts: facts.clone(), limits: limits.clone() };
        let uploads = Uploads::new(facts.clone(), content.clone(), blobs.clone(), platform.clone(), limits.clone());
        let uses = Uses { facts: facts.clone(), limits: limits.clone(), platform: platform.clone() };
        let manifests = Manifests::new(sharing, tags, uploads.clone(), limits.clone(), mirrored.clone());
        let collection = Collection {
            facts: facts.clone(),
            content: content.clone(),
            guard,
            manifests: manifests.reader.clone(),
            uses: uses.clone(),
            platform: platform.clone(),
            limits: limits.clone(),
            expiring: &[],
            mirrored,
        };
        let parts =
            Parts { facts, content, blobs, lists, warnings, uploads, uses, manifests, collection, platform, limits };
        Self { parts: Arc::new(parts) }
    }

    /// A registry whose collections also remove the expired keys of other layers.
    #[must_use]
    pub fn with_expiring(mut self, expiring: &'static [Expiring]) -> Self {
        Arc::make_mut(&mut self.parts).collection.expiring = expiring;
        self
    }

    /// A registry in which the repositories below these prefixes mirror other registries. A manifest
    /// there may name content that is not here, and the collection does not report the content as
    /// missing. To be called before the registry is used.
    #[must_use]
    pub fn with_mirrored_prefixes(self, prefixes: Vec<String>) -> Self {
        let Parts { facts, content, platform, limits, collection, .. } = Arc::unwrap_or_clone(self.parts);
        let registry = Self::of_parts(facts, content, platform, limits, MirroredPrefixes::new(prefixes));
        registry.with_expiring(collection.expiring)
    }

    /// A registry that forgets everything when it is dropped.
    pub fn in_memory(platform: Arc<dyn Platform>) -> Self {
        let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
        Self::new(Arc::new(MemoryKeyValue::default()), blobs, platform, Limits::default())
    }

    pub(crate) fn platform(&self) -> &dyn Platform {
        &*self.parts.platform
    }

    pub(crate) fn shared_platform(&self) -> &Arc<dyn Platform> {
        &self.parts.platform
    }

    pub(crate) fn keys(&self) -> &Arc<dyn KeyValue> {
        &self.parts.facts.keys
    }

    /// Tests the stores of this host, and returns the findings about what the stores really
    /// guarantee.
    ///
    /// # Errors
    /// When a store cannot be reached.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        Ok(store::check::check(&self.parts.facts.keys, &self.parts.content.blobs, &self.parts.platform).await?)
    }

    /// The stores that do not answer a harmless read within
    /// [five seconds](store::readiness::WAIT_MAX); none if the registry is ready.
    pub async fn not_ready(&self) -> Vec<NotReady> {
        store::readiness::not_ready(&self.parts.facts.keys, &self.parts.content.blobs, &self.parts.platform).await
    }

    /// The time, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        self.parts.platform.now_ms()
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.parts.limits
    }
}

/// Blobs.
impl Registry {
    /// Looks a blob up (distribution-spec, "Pulling blobs"): one key read.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] when the repository does not hold the blob, even if another
    /// repository does.
    pub async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Blob> {
        self.parts.blobs.get(repository, digest).await
    }

    /// The blob's bytes in `range`, which must lie within the blob. The bytes come in pieces, and a
    /// failure in the middle is an error of the body.
    ///
    /// # Errors
    /// [`Error::Store`] when the blob store fails or has lost the bytes.
    pub async fn read_blob(&self, blob: &Blob, range: Range<u64>) -> Result<Body> {
        self.parts.blobs.read(blob, range).await
    }

    /// A URL from which a client can read the blob's bytes without the registry, if the blob store
    /// offers such URLs (distribution-spec, "Pulling blobs": the answer may be a redirect). The URL is
    /// valid for a limited time, which the store says.
    ///
    /// # Errors
    /// [`Error::Store`] when the blob store fails.
    pub async fn redirect_blob(&self, blob: &Blob) -> Result<Option<String>> {
        self.parts.blobs.redirect(blob).await
    }

    /// The file on this machine that holds exactly the bytes of the blob, and that never changes.
    /// `None` where the blob store does not keep the blob as a file of its own.
    pub fn blob_file(&self, blob: &Blob) -> Option<PathBuf> {
        self.parts.blobs.file(blob)
    }

    /// Removes a blob from a repository (distribution-spec, "Deleting Blobs"). The bytes stay for other repositories until no repository
    /// holds the blob and a collection removes the bytes.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] when the repository does not hold the blob.
    pub async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.delete_blob_if(repository, digest, &Precondition::default()).await
    }

    /// As [`Registry::delete_blob`], if the precondition holds.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] when the repository does not hold the blob, whatever the
    /// precondition; [`Error::PreconditionFailed`] when the precondition does not hold.
    pub async fn delete_blob_if(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        precondition: &Precondition,
    ) -> Result<()> {
        self.parts.blobs.delete(repository, digest, precondition).await
    }
}

/// Uploads.
impl Registry {
    /// Begins an upload whose content is hashed by `algorithm` (distribution-spec, "Pushing Blobs").
    /// An upload to which nothing is added for [`Limits::upload_lifetime_ms`] is over.
    ///
    /// # Errors
    /// [`Error::Store`] when a store fails.
    pub async fn begin_upload(&self, repository: &RepositoryName, algorithm: Algorithm) -> Result<Status> {
        self.parts.uploads.begin(repository, algorithm).await
    }

    /// Adds a blob to `repository` that is already stored, in the repository `from` or, without
    /// `from`, in any repository (distribution-spec, "Mounting a blob from another repository"). Begins
    /// an upload if the blob is not found. Whether the caller may read `from` is for the caller to
    /// decide first.
    ///
    /// # Errors
    /// [`Error::Busy`] when a collection is just removing the blob; [`Error::Store`] when a store fails.
    pub async fn mount_or_begin(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<Mounted> {
        if self.parts.blobs.mount(repository, digest, from).await? {
            return Ok(Mounted::Blob(digest.clone()));
        }
        Ok(Mounted::Upload(self.parts.uploads.begin(repository, digest.algorithm()).await?))
    }

    /// The number of bytes that an upload has (distribution-spec, "Pushing a blob in chunks"). The client may continue from there.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when the upload has ended, was cancelled or has expired.
    pub async fn upload_status(&self, repository: &RepositoryName, session: &SessionId) -> Result<Status> {
        self.parts.uploads.status(repository, session).await
    }

    /// How long ago a request last changed an upload, in milliseconds.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when the upload has ended, was cancelled or has expired.
    pub async fn upload_idle_ms(&self, repository: &RepositoryName, id: &SessionId) -> Result<u64> {
        self.parts.uploads.idle_ms(repository, id, self.parts.platform.now_ms()).await
    }

    /// The bytes of an upload from `start` to the end of its acknowledged state. `None` where the
    /// store can only read committed content.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when the upload has ended or was cancelled, also while the bytes are
    /// looked for; [`Error::SizeInvalid`] when the upload has fewer than `start` bytes.
    pub async fn read_upload(&self, repository: &RepositoryName, id: &SessionId, start: u64) -> Result<Option<Body>> {
        self.parts.uploads.read(repository, id, start).await
    }

    /// Adds a chunk to an upload (distribution-spec, "Pushing a blob in chunks"). A chunk has any
    /// length up to [`Limits::blob_bytes_max`], and is never held in memory as a whole.
    ///
    /// # Errors
    /// [`Error::ChunkOutOfOrder`] when the chunk's range does not begin at the upload's offset,
    /// also because another request was faster; [`Error::Busy`] when too many requests add to the
    /// upload at once. [`Error::UploadInvalid`], [`Error::SizeInvalid`] and [`Error::BodyIdle`]
    /// when the client breaks the body off: the bytes that arrived count, and
    /// [`Registry::upload_status`] says how many. Any other error leaves the upload unchanged.
    pub async fn append_upload(&self, repository: &RepositoryName, id: &SessionId, chunk: Chunk) -> Result<Status> {
        self.parts.uploads.append(repository, id, chunk).await
    }

    /// Ends an upload with its last bytes, if `chunk` has any (distribution-spec, "POST then PUT" and
    /// "Pushing a blob in chunks"). The content must hash to `digest`.
    /// When the upload does not exist and the repository holds `digest`, the call succeeds and
    /// ignores `chunk`: an earlier request has ended the upload, and its answer was lost.
    ///
    /// # Errors
    /// [`Error::DigestInvalid`] when the content has another digest. The upload then keeps the
    /// state from before this request, unless `digest` is of another algorithm than the upload
    /// began with: then the upload is over. Other errors as in [`Registry::append_upload`].
    pub async fn complete_upload(
        &self,
        repository: &RepositoryName,
        id: &SessionId,
        digest: &Digest,
        chunk: Chunk,
    ) -> Result<()> {
        self.parts.uploads.complete(repository, id, digest, chunk).await
    }

    /// Ends an upload with the bytes that the upload has, and makes these bytes a blob of the
    /// repository under their own digest. Returns the digest.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when the upload has ended or was cancelled.
    pub async fn close_upload(&self, repository: &RepositoryName, id: &SessionId) -> Result<Digest> {
        self.parts.uploads.close(repository, id).await
    }

    /// Uploads a whole blob in one request (distribution-spec, "Single POST").
    ///
    /// # Errors
    /// As [`Registry::complete_upload`].
    pub async fn push_blob(&self, repository: &RepositoryName, digest: &Digest, body: Body) -> Result<()> {
        self.parts.uploads.push(repository, digest, body).await
    }

    /// Ends an upload without a blob. Succeeds also when the upload does not exist: the upload has
    /// ended already, and the answer to an earlier cancellation may have been lost.
    ///
    /// # Errors
    /// [`Error::Store`] when a store fails.
    pub async fn cancel_upload(&self, repository: &RepositoryName, session: &SessionId) -> Result<()> {
        self.parts.uploads.cancel(repository, session).await
    }
}

/// Manifests, tags and referrers.
impl Registry {
    /// Whether a manifest was ever pushed to a repository: one key read.
    ///
    /// # Errors
    /// [`Error::Store`] when the key-value store fails.
    pub async fn has_repository(&self, repository: &RepositoryName) -> Result<bool> {
        Ok(self.parts.facts.keys.get(&layout::repository(repository)).await?.is_some())
    }

    /// Looks a manifest up (distribution-spec, "Pulling manifests"): two key reads by tag, one by digest.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] when the repository does not have the manifest.
    pub async fn manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<Manifest> {
        self.parts.manifests.reader.get(repository, reference).await
    }

    /// The manifest's bytes, as they were pushed: at most [`Limits::manifest_bytes_max`] bytes.
    ///
    /// # Errors
    /// [`Error::Store`] when a store fails or has lost the bytes.
    pub async fn read_manifest(&self, manifest: &Manifest) -> Result<Body> {
        self.parts.manifests.reader.read(manifest).await
    }

    /// Stores a manifest (distribution-spec, "Pushing Manifests"), then points tags to the manifest: the tag in `reference`, if `reference`
    /// is a tag, and all of `tags`. When the store fails after the first of `tags` was pointed, the
    /// result names the tags that were pointed.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::ManifestInvalid`]; [`Error::DigestInvalid`] when the bytes do
    /// not have the digest in `reference`; [`Error::ManifestBlobUnknown`] when the manifest names
    /// content that the repository does not hold. The subject may be absent. After each of these
    /// errors nothing is stored.
    pub async fn push_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        content_type: Option<&str>,
        body: Body,
    ) -> Result<Pushed> {
        self.push_manifest_if(repository, reference, tags, content_type, body, &Precondition::default()).await
    }

    /// As [`Registry::push_manifest`], if the precondition holds for the digest that `reference`
    /// leads to. The precondition does not apply to `tags`.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] when the precondition does not hold. When another push moves
    /// the tag between the first check and the compare-and-swap of the tag, the manifest is stored,
    /// and this request points no tag to the manifest.
    pub async fn push_manifest_if(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        content_type: Option<&str>,
        body: Body,
        precondition: &Precondition,
    ) -> Result<Pushed> {
        let source = Source::Client;
        let request = PushRequest { repository, reference, tags, content_type, precondition, source };
        self.parts.manifests.push(&request, body).await
    }

    /// Stores a manifest that was fetched from an upstream, then points `tag` to the manifest. The
    /// collector may evict the manifest later ([`Limits::mirror_lifetime_ms`],
    /// [`Limits::mirror_bytes_max`]), unless a client has pushed the manifest to the repository.
    ///
    /// # Errors
    /// As [`Registry::push_manifest`].
    pub async fn cache_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        tag: Option<&Tag>,
        content_type: Option<&str>,
        body: Body,
    ) -> Result<Pushed> {
        let (reference, precondition) = (Reference::Digest(digest.clone()), Precondition::default());
        let (reference, tags) = (&reference, tag.map(std::slice::from_ref).unwrap_or_default());
        let (precondition, source) = (&precondition, Source::Upstream);
        let request = PushRequest { repository, reference, tags, content_type, precondition, source };
        self.parts.manifests.push(&request, body).await
    }

    /// Notes that a client pulls a manifest. Costs nothing for a manifest that was pushed or
    /// recently fetched, else one key read, and at most one write a day
    /// ([`Limits::use_noted_ms`]).
    ///
    /// # Errors
    /// [`Error::Store`] when the key-value store fails.
    pub async fn note_use(&self, repository: &RepositoryName, manifest: &Manifest) -> Result<()> {
        match manifest.fetched_ms {
            Some(fetched_ms) => self.parts.uses.note(repository, &manifest.digest, fetched_ms).await,
            None => Ok(()),
        }
    }

    /// Removes a tag, or a manifest with all tags that point to the manifest (distribution-spec,
    /// "Deleting tags" and "Deleting Manifests").
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] when the repository does not have the manifest.
    pub async fn delete_manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<()> {
        self.delete_manifest_if(repository, reference, &Precondition::default()).await
    }

    /// As [`Registry::delete_manifest`], if the precondition holds. The deletion of a tag is a
    /// compare-and-swap where the store has conditional deletes: a push that moves the tag after
    /// the check keeps its tag. Elsewhere the tag is checked right before the deletion.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] when the manifest does not exist, whatever the precondition;
    /// [`Error::PreconditionFailed`] when the precondition does not hold; [`Error::Busy`] when
    /// pushes move the tag faster than the registry can check the tag.
    pub async fn delete_manifest_if(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        precondition: &Precondition,
    ) -> Result<()> {
        self.parts.manifests.delete(repository, reference, precondition).await
    }

    /// The manifests of a repository that refer to `subject`, whether or not the subject exists
    /// (distribution-spec, "Listing Referrers").
    /// Costs one listing, and one read for each manifest that is looked at. A page ends at the
    /// limit of manifests or at the limit of bytes read.
    ///
    /// # Errors
    /// [`Error::Store`] when a store fails.
    pub async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        request: &ReferrersRequest,
    ) -> Result<Referrers> {
        self.parts.manifests.referrers.page(repository, subject, request).await
    }
}

/// Lists and warnings.
impl Registry {
    /// A repository's tags in byte order, page by page (distribution-spec, "Listing Tags"). A page has
    /// at most [`Limits::page_entries_max`] tags.
    ///
    /// # Errors
    /// [`Error::NameUnknown`] when no manifest was ever pushed to the repository.
    pub async fn tags(&self, repository: &RepositoryName, request: &PageRequest) -> Result<Page> {
        self.parts.lists.tags(repository, request).await
    }

    /// The digests of a repository's manifests, tagged or not. The list of a repository that does
    /// not exist is empty.
    ///
    /// # Errors
    /// [`Error::Store`] when the key-value store fails.
    pub async fn manifests(&self, repository: &RepositoryName, request: &PageRequest) -> Result<Page> {
        self.parts.lists.manifests(repository, request).await
    }

    /// The repositories to which manifests were pushed, out of those that are `visible`. The number
    /// of names that one page looks at is limited, so a caller who may see few of many repositories
    /// gets short pages.
    ///
    /// # Errors
    /// [`Error::Store`] when the key-value store fails.
    pub async fn repositories(&self, request: &PageRequest, visible: impl Fn(&RepositoryName) -> bool) -> Result<Page> {
        self.parts.lists.repositories(request, visible).await
    }

    /// The warnings of a repository, and of one of its tags: one key read each. When the limits
    /// turn warnings off, the list is empty and no key is read.
    ///
    /// # Errors
    /// [`Error::Store`] when the key-value store fails.
    pub async fn warnings(&self, repository: &RepositoryName, tag: Option<&Tag>) -> Result<Vec<String>> {
        self.parts.warnings.get(repository, tag).await
    }

    /// Attaches a warning to a repository or to one of its tags, and replaces an earlier warning.
    ///
    /// # Errors
    /// [`Error::WarningInvalid`] when the text is empty, is longer than `WARNING_BYTES_MAX`, or has
    /// characters other than printable ASCII.
    pub async fn set_warning(&self, repository: &RepositoryName, tag: Option<&Tag>, text: &str) -> Result<()> {
        self.parts.warnings.set(repository, tag, text).await
    }

    /// Removes a warning. Succeeds also when there is no warning.
    ///
    /// # Errors
    /// [`Error::Store`] when the key-value store fails.
    pub async fn delete_warning(&self, repository: &RepositoryName, tag: Option<&Tag>) -> Result<()> {
        self.parts.warnings.delete(repository, tag).await
    }
}

/// Garbage collection.
impl Registry {
    /// The settings of a round by default, from the registry's limits.
    pub fn collect_request(&self) -> CollectRequest {
        self.parts.collection.collect_request()
    }

    /// Continues the current round by one step, or begins a round. A step ends once it has looked
    /// at `collect_step_keys_max` keys or has taken `collect_step_ms_max` milliseconds (see the
    /// limits). `grace_ms` and `untagged_lifetime_ms` of the request take effect only in the step
    /// that begins a round; a dry run has a round of its own.
    ///
    /// # Errors
    /// [`Error::Busy`] when another step is under way. After any error the next step continues
    /// where the last successful step ended.
    pub async fn collect_step(&self, request: &CollectRequest) -> Result<Report> {
        self.parts.collection.collect_step(request).await
    }
}
