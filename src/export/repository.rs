//! Takes one repository after the other out of the registry.

use std::collections::BTreeSet;

use super::error::Result;
use super::limits::limit;
use super::request::Request;
use super::selection::Selected;
use super::summary::Summary;
use super::target::{Content, CopyError, Target};
use super::tree::{Digests, Item, Output, Taken, Tree, plain};
use crate::oci::{Descriptor, Digest, Manifest, Reference, RepositoryName, Tag};
use crate::platform::Causes;
use crate::registry::{self, PageRequest, ReferrersRequest, Registry};
use crate::store;
use crate::store::s3::Head;

/// An export under way.
pub(super) struct Run<'a> {
    registry: &'a Registry,
    request: &'a Request,
    target: Box<dyn Target>,
    tree: Box<dyn Tree>,
    progress: &'a mut (dyn FnMut(&Summary, &RepositoryName) + Send),
    pub(super) summary: Summary,
    /// What was taken from the present repository.
    taken: Taken,
    /// The manifests of the present repository that were looked at.
    seen: Digests,
}

/// A step of the walk through a manifest and all that the manifest names.
enum Step {
    /// Take what the manifest names, then the manifest.
    Enter(Digest),
    /// Take the manifest: all that the manifest names was taken.
    Leave(Digest),
}

/// A manifest with what an export needs to know of it.
struct Read {
    item: Item,
    /// `None` if the bytes cannot be parsed.
    parsed: Option<Manifest>,
}

impl Read {
    /// The digests in the manifest, which may name content.
    fn names(&self) -> BTreeSet<Digest> {
        match &self.parsed {
            Some(parsed) => parsed.digests().clone(),
            None => Digest::all_in(&self.item.bytes).collect(),
        }
    }

    /// Whether the manifest names `digest` as one of its blobs.
    fn has_blob(&self, digest: &Digest) -> bool {
        self.parsed.as_ref().is_some_and(|parsed| parsed.blobs().any(|blob| blob.digest == *digest))
    }

    /// Whether the manifest cannot be used without the content `digest`.
    fn needs(&self, digest: &Digest) -> bool {
        let is_child = |parsed: &Manifest| parsed.children().any(|child| child.digest == *digest);
        self.has_blob(digest) || self.parsed.as_ref().is_some_and(is_child)
    }

    fn descriptor(&self) -> Descriptor {
        plain(&self.item.media_type, &self.item.digest, self.item.bytes.len() as u64)
    }
}

impl<'a> Run<'a> {
    pub(super) fn new(
        registry: &'a Registry,
        request: &'a Request,
        target: Box<dyn Target>,
        tree: Box<dyn Tree>,
        progress: &'a mut (dyn FnMut(&Summary, &RepositoryName) + Send),
    ) -> Self {
        let (summary, taken, seen) = Default::default();
        Self { registry, request, target, tree, progress, summary, taken, seen }
    }

    /// Exports one repository. Returns whether the selection has anything of the repository.
    pub(super) async fn repository(&mut self, name: &RepositoryName, selected: &Selected<'_>) -> Result<bool> {
        let blobs = std::mem::take(&mut self.taken).blobs;
        self.taken.blobs = if self.tree.shares_blobs() { blobs } else { Digests::default() };
        self.seen = Digests::default();
        match selected {
            Selected::Nothing => return Ok(false),
            Selected::Everything => self.all_manifests(name).await?,
            Selected::Tags(_) => {
                let tags = self.tags(name, selected).await?;
                if tags.is_empty() {
                    return Ok(false);
                }
                self.tagged_manifests(name, &tags).await?;
            }
        }
        self.referrers(name).await?;
        for tag in self.tags(name, selected).await? {
            self.tag(name, &tag).await?;
        }
        let mut output = Output { target: &*self.target, summary: &mut self.summary };
        self.tree.end_repository(&mut output, name, &self.taken, self.request.delete).await?;
        self.summary.repositories += 1;
        (self.progress)(&self.summary, name);
        Ok(true)
    }

    /// Writes what all repositories share, and ends the export.
    pub(super) async fn finish(&mut self, exported: &[RepositoryName]) -> Result<()> {
        let mut output = Output { target: &*self.target, summary: &mut self.summary };
        self.tree.end(&mut output, exported, &self.taken.blobs, self.request.delete).await?;
        self.target.close().await
    }

    async fn all_manifests(&mut self, name: &RepositoryName) -> Result<()> {
        let mut page = PageRequest::default();
        loop {
            let found = self.registry.manifests(name, &page).await?;
            for digest in found.entries.iter().filter_map(|digest| digest.parse().ok()) {
                self.manifest(name, digest).await?;
            }
            page.last = found.next;
            if page.last.is_none() {
                return Ok(());
            }
        }
    }

    /// Takes the manifests of tags, all that these manifests name, and all that refers to any of
    /// them.
    async fn tagged_manifests(&mut self, name: &RepositoryName, tags: &[Tag]) -> Result<()> {
        for tag in tags {
            if let Some(manifest) = self.find(name, &Reference::Tag(tag.clone())).await? {
                self.manifest(name, manifest.digest).await?;
            }
        }
        let mut asked = Digests::default();
        loop {
            let new: Vec<Digest> =
                self.taken.manifests.keys().filter(|digest| !asked.contains(digest)).cloned().collect();
            if new.is_empty() {
                return Ok(());
            }
            for subject in new {
                asked.insert(&subject);
                for referrer in self.referrers_of(name, &subject).await? {
                    self.manifest(name, referrer.digest).await?;
                }
            }
        }
    }

    /// The selected tags.
    async fn tags(&self, name: &RepositoryName, selected: &Selected<'_>) -> Result<Vec<Tag>> {
        let (mut tags, mut page) = (Vec::new(), PageRequest::default());
        loop {
            let found = self.registry.tags(name, &page).await?;
            tags.extend(found.entries.iter().filter(|tag| selected.has_tag(tag)).filter_map(|tag| tag.parse().ok()));
            limit(tags.len(), "the tags", name)?;
            page.last = found.next;
            if page.last.is_none() {
                return Ok(tags);
            }
        }
    }

    /// Takes a manifest, and before the manifest all that it names: blobs and other manifests.
    async fn manifest(&mut self, name: &RepositoryName, digest: Digest) -> Result<()> {
        let mut steps = vec![Step::Enter(digest)];
        while let Some(step) = steps.pop() {
            match step {
                Step::Enter(digest) if !self.seen.insert(&digest) => {}
                Step::Enter(digest) => {
                    limit(self.seen.len(), "the manifests", name)?;
                    // A manifest that was deleted since it was listed is no problem.
                    let Some(read) = self.read(name, &digest).await? else { continue };
                    let manifests = self.content_of(name, &read).await?;
                    if manifests.is_empty() {
                        self.put(name, &read).await?;
                    } else {
                        steps.push(Step::Leave(digest));
                        steps.extend(manifests.into_iter().map(Step::Enter));
                    }
                }
                Step::Leave(digest) => {
                    if let Some(read) = self.read(name, &digest).await? {
                        self.put(name, &read).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the blobs that a manifest names. Returns the manifests that the manifest names and that
    /// were not looked at yet.
    async fn content_of(&mut self, name: &RepositoryName, read: &Read) -> Result<Vec<Digest>> {
        let mut manifests = Vec::new();
        for digest in read.names() {
            if self.seen.contains(&digest) {
                continue;
            }
            let is_blob = self.blob(name, &digest).await?;
            // Clients push some manifests as blobs, too. A layer need not be looked up as a manifest.
            let is_manifest = !(is_blob && read.has_blob(&digest))
                && self.find(name, &Reference::Digest(digest.clone())).await?.is_some();
            if is_manifest {
                manifests.push(digest);
            } else if !is_blob && read.needs(&digest) {
                let manifest = &read.item.digest;
                self.summary.problem(format!("{name}: the manifest {manifest} needs {digest}, which is missing"));
            }
        }
        Ok(manifests)
    }

    /// Takes a blob. Returns whether the repository has the blob.
    async fn blob(&mut self, name: &RepositoryName, digest: &Digest) -> Result<bool> {
        let blob = match self.registry.blob(name, digest).await {
            Err(registry::Error::BlobUnknown(_)) => return Ok(false),
            blob => blob?,
        };
        if !self.taken.blobs.insert(digest) {
            return Ok(true);
        }
        limit(self.taken.blobs.len(), "the blobs", name)?;
        self.summary.blobs += 1;
        if let Some(reason) = self.tree.blob_refusal(blob.size) {
            self.summary.problem(format!("{name}: the blob {digest} has {} bytes: {reason}", blob.size));
            return Ok(true);
        }
        let path = self.tree.blob(name, digest);
        if self.target.has(&path, digest, blob.size).await? {
            return Ok(true);
        }
        let head = Head { content_type: "application/octet-stream", digest: Some(digest), is_immutable: true };
        let (file, object) = (self.registry.blob_file(&blob), self.registry.blob_object(&blob));
        let content = Content { digest, size: blob.size, file, object };
        if self.target.adopt(&path, &head, &content, &mut self.summary).await? {
            return Ok(true);
        }
        if self.target.is_dry() {
            self.summary.files_written += 1;
            self.summary.bytes_written += blob.size;
            return Ok(true);
        }
        let filled = match self.registry.read_blob(&blob, 0..blob.size).await {
            Ok(body) => self.target.fill(&path, &head, body, digest, &mut self.summary).await,
            Err(registry::Error::Store(error)) => Err(CopyError::Source(error)),
            Err(error) => return Err(error.into()),
        };
        match filled {
            Ok(true) => {}
            Ok(false) => self.summary.problem(format!("{name}: the content of blob {digest} has another digest")),
            Err(CopyError::Source(error @ store::Error::Corrupt(_))) => {
                self.summary.problem(format!("{name}: cannot read blob {digest}: {}", Causes(&error)));
            }
            Err(CopyError::Source(error)) => return Err(error.into()),
            Err(CopyError::Target(error)) => return Err(error),
        }
        (self.progress)(&self.summary, name);
        Ok(true)
    }

    /// Writes a manifest whose content was taken.
    async fn put(&mut self, name: &RepositoryName, read: &Read) -> Result<()> {
        let item = &read.item;
        self.summary.manifests += 1;
        if let Some(reason) = self.tree.refusal(&item.media_type) {
            let Item { digest, media_type, .. } = item;
            self.summary.problem(format!("{name}: the manifest {digest} has the media type {media_type:?}: {reason}"));
            return Ok(());
        }
        let mut output = Output { target: &*self.target, summary: &mut self.summary };
        self.tree.put_manifest(&mut output, name, item).await?;
        if let Some(parsed) = &read.parsed {
            for child in parsed.children() {
                self.taken.children.insert(&child.digest);
            }
            self.taken.subjects.extend(parsed.subject.as_ref().map(|subject| subject.digest.clone()));
        }
        self.taken.manifests.insert(item.digest.clone(), (item.media_type.clone(), item.bytes.len() as u64));
        (self.progress)(&self.summary, name);
        Ok(())
    }

    /// Writes the lists of referrers.
    async fn referrers(&mut self, name: &RepositoryName) -> Result<()> {
        let mut subjects = self.taken.subjects.clone();
        if self.tree.lists_all_referrers() {
            subjects.extend(self.taken.manifests.keys().cloned());
        }
        for subject in subjects {
            let mut referrers = match self.taken.subjects.contains(&subject) {
                true => self.referrers_of(name, &subject).await?,
                false => Vec::new(),
            };
            referrers.retain(|referrer| self.taken.manifests.contains_key(&referrer.digest));
            let mut output = Output { target: &*self.target, summary: &mut self.summary };
            self.tree.put_referrers(&mut output, name, &subject, &referrers).await?;
        }
        Ok(())
    }

    async fn referrers_of(&self, name: &RepositoryName, subject: &Digest) -> Result<Vec<Descriptor>> {
        let (mut referrers, mut request) = (Vec::new(), ReferrersRequest::default());
        loop {
            let page = self.registry.referrers(name, subject, &request).await?;
            referrers.extend(page.descriptors);
            limit(referrers.len(), "the referrers of a manifest", name)?;
            request.last = page.next;
            if request.last.is_none() {
                return Ok(referrers);
            }
        }
    }

    /// Points a tag to its manifest. A manifest that was pushed during the export is taken first.
    async fn tag(&mut self, name: &RepositoryName, tag: &Tag) -> Result<()> {
        let Some(manifest) = self.find(name, &Reference::Tag(tag.clone())).await? else { return Ok(()) };
        self.summary.tags += 1;
        self.manifest(name, manifest.digest.clone()).await?;
        if !self.taken.manifests.contains_key(&manifest.digest) {
            return Ok(());
        }
        let Some(read) = self.read(name, &manifest.digest).await? else { return Ok(()) };
        let mut output = Output { target: &*self.target, summary: &mut self.summary };
        self.tree.put_tag(&mut output, name, tag.as_str(), &read.item).await?;
        self.taken.tags.insert(tag.as_str().to_owned(), read.descriptor());
        Ok(())
    }

    async fn find(&self, name: &RepositoryName, reference: &Reference) -> Result<Option<registry::Manifest>> {
        match self.registry.manifest(name, reference).await {
            Err(registry::Error::ManifestUnknown(_)) => Ok(None),
            manifest => Ok(Some(manifest?)),
        }
    }

    async fn read(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<Read>> {
        let Some(manifest) = self.find(name, &Reference::Digest(digest.clone())).await? else { return Ok(None) };
        let body = self.registry.read_manifest(&manifest).await?;
        let bytes = body.collect_up_to(manifest.size).await.map_err(store::Error::from);
        let bytes = bytes.map_err(registry::Error::from)?;
        let parsed = Manifest::parse(&bytes, Some(&manifest.media_type)).ok().map(|(parsed, _)| parsed);
        let item = Item { digest: manifest.digest, media_type: manifest.media_type, bytes };
        Ok(Some(Read { item, parsed }))
    }
}
