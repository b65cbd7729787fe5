//! The blob store in S3: content is an object, and is staged by a multipart upload.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join;
use futures_util::stream::{self, StreamExt as _};
use http::StatusCode;
use rusty_s3::Method;

use super::answer::Upload;
use super::client::{Call, Client, Payload};
use super::gather::Gather;
use super::multipart::{Completed, gone};
use super::objects::{LIST_OBJECTS_MAX, ObjectPage};
use super::settings::S3Settings;
use super::staging::{Cut, PARKED_MAX, Parked, Staging, TAIL_BYTES_MAX};
use crate::oci::{Digest, Hasher};
use crate::platform::{Body, Causes};
use crate::store::{BlobStore, Error, Family, Location, Object, Result, Stage, Stored};

/// The separator between the family and the token in the name of an object. Listed names have `!`
/// in its place; objects do not, because S3 servers treat `!` differently.
const FAMILY_END: &str = ".";
/// The most bytes of a streamed upload that are lost when the client disconnects.
const STREAMED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The most requests for parked objects at the same time.
const PARKED_AT_ONCE_MAX: usize = 8;

/// A blob store in a bucket.
///
/// Bytes are sent to S3 once, in the parts of a multipart upload. Completing the upload makes the
/// object, so a commit copies nothing. An append holds up to two parts in memory; an append of
/// known length that is larger than a part is streamed and holds none, unless parts must be equal.
/// Bytes at the end of an append that are too few for a part are parked in an object of their own
/// until more bytes arrive.
pub struct S3BlobStore {
    client: Arc<Client>,
    settings: Arc<S3Settings>,
    cut: Cut,
}

impl S3BlobStore {
    pub(super) fn new(client: Arc<Client>, settings: Arc<S3Settings>) -> Self {
        let cut = Cut::new(&settings);
        Self { client, settings, cut }
    }

    /// Parks the bytes at the end of an append that are too few for a part: in the stage itself, or
    /// in an object.
    async fn park(&self, staging: &mut Staging, bytes: Vec<Bytes>) -> Result<()> {
        let length: usize = bytes.iter().map(Bytes::len).sum();
        if staging.tail.len() + length <= TAIL_BYTES_MAX {
            bytes.iter().for_each(|bytes| staging.tail.extend_from_slice(bytes));
            return Ok(());
        }
        let mut all = Vec::new();
        if staging.parked.len() >= PARKED_MAX {
            all = self.load_all_parked(&staging.parked).await?;
            staging.retire_parked();
        }
        all.push(std::mem::take(&mut staging.tail).into());
        all.extend(bytes);
        let object = self.new_name(&staging.family);
        let length = all.iter().map(|bytes| bytes.len() as u64).sum();
        self.put(&object, all).await?;
        staging.parked.push(Parked { object, length });
        Ok(())
    }

    /// Sends the parked bytes, and the bytes of `gather` after them, in parts. `length` is the
    /// total of all these bytes, if the total is known.
    async fn write_parts(&self, staging: &mut Staging, mut gather: Gather, length: Option<u64>) -> Result<()> {
        let mut rest = self.load_all_parked(&staging.parked).await?;
        rest.push(std::mem::take(&mut staging.tail).into());
        gather.prepend(rest);
        staging.retire_parked();
        let is_new = staging.upload.is_none();
        if is_new {
            // The upload gets a new name, so another append to the same stage completes another
            // object.
            staging.name = self.new_name(&staging.family);
            staging.upload = Some(self.create_upload(&staging.name).await?);
        }
        let written = match length.filter(|length| self.cut.streams(*length)) {
            Some(length) => self.stream_parts(staging, gather, length).await,
            None => self.gather_parts(staging, gather).await,
        };
        if written.is_err() && is_new {
            // No stage refers to this upload yet, so aborting it harms no other append.
            self.abort(staging).await;
        }
        written
    }

    /// A new name for an object of a family; no other object has this name.
    fn new_name(&self, family: &str) -> String {
        format!("{family}{FAMILY_END}{}", self.client.platform().uuid())
    }

    /// Streams `length` bytes to S3 in parts of known length as the bytes arrive.
    async fn stream_parts(&self, staging: &mut Staging, gather: Gather, length: u64) -> Result<()> {
        let shared = gather.into_stream();
        let mut left = length;
        while left > 0 {
            let size = Cut::streamed_part_bytes(left);
            let etag = self.upload_part(staging, Payload::Stream(shared.part(size))).await?;
            staging.parts.push(etag);
            left -= size;
        }
        shared.finish().await
    }

    /// Gathers parts in memory; the next part is gathered while a part is sent.
    async fn gather_parts(&self, staging: &mut Staging, mut gather: Gather) -> Result<()> {
        let mut part: Option<Vec<Bytes>> = None;
        loop {
            let index = staging.parts.len() + usize::from(part.is_some());
            let size = self.cut.part_bytes(index)?;
            let enough = size + self.cut.kept_back_bytes();
            let upload = async {
                match part.take() {
                    Some(part) => Some(self.upload_part(staging, Payload::Bytes(part)).await),
                    None => None,
                }
            };
            // Wait for both, even after an error: dropping a request that is half sent would break
            // its connection.
            let (uploaded, filled) = join(upload, gather.fill(enough)).await;
            filled?;
            staging.parts.extend(uploaded.transpose()?);
            part = match gather.length() {
                length if length >= enough => Some(gather.take(size)),
                length if length >= self.cut.least_part_bytes() => Some(gather.take(length)),
                0 => return Ok(()),
                _ => return self.park(staging, gather.take(u64::MAX)).await,
            };
        }
    }

    async fn create_upload(&self, name: &str) -> Result<String> {
        self.client.create_upload(&object(name)).await
    }

    /// Sends the next part of the stage and returns its ETag.
    async fn upload_part(&self, staging: &Staging, payload: Payload) -> Result<String> {
        let object = object(&staging.name);
        self.client.upload_part(&object, upload_id(staging), staging.parts.len() + 1, payload).await
    }

    async fn complete(&self, staging: &Staging, digest: &Digest) -> Result<()> {
        let object = object(&staging.name);
        match self.client.complete_upload(&object, upload_id(staging), &staging.parts).await? {
            Completed::Surely => Ok(()),
            Completed::Perhaps if self.is_of_content(&object, digest).await? => Ok(()),
            Completed::Perhaps => Err(Error::conflict(format!("another request completed {object} from other parts"))),
        }
    }

    /// Reads an object and compares its digest, where ETags do not show which upload made the
    /// object.
    async fn is_of_content(&self, object: &str, digest: &Digest) -> Result<bool> {
        tracing::info!("the ETag of {object} does not name its parts, so eyot reads the object to check its digest");
        let mut hasher = Hasher::new(digest.algorithm());
        if let Some(length) = self.client.length(object).await?.filter(|length| *length > 0)
            && let Some(mut body) = self.client.read(object, 0..length).await?
        {
            while let Some(data) = body.next().await {
                hasher.update(&data?);
            }
        }
        Ok(hasher.finish() == *digest)
    }

    async fn put(&self, name: &str, bytes: Vec<Bytes>) -> Result<()> {
        let object = object(name);
        self.client.expect(Call::new(Method::Put, &object).payload(Payload::Bytes(bytes)), &[]).await?;
        Ok(())
    }

    /// Reads the bytes of parked objects, in order.
    async fn load_all_parked(&self, parked: &[Parked]) -> Result<Vec<Bytes>> {
        let reads = parked.iter().cloned().map(|parked| load_parked(self.client.clone(), parked));
        let loaded: Vec<Result<Bytes>> = stream::iter(reads).buffered(PARKED_AT_ONCE_MAX).collect().await;
        loaded.into_iter().collect()
    }

    /// Aborts the multipart upload of a stage. A failure is only logged: the collector finds
    /// uploads and objects that are left over.
    async fn abort(&self, staging: &Staging) {
        if let Some(upload_id) = &staging.upload {
            let result = self.client.abort_upload(&object(&staging.name), upload_id).await;
            if let Err(error) = result {
                tracing::warn!("cannot abort the multipart upload of {}: {}", staging.name, Causes(&error));
            }
        }
    }

    async fn remove_objects(&self, names: Vec<String>) {
        let removals = names.into_iter().map(|name| remove_parked(self.client.clone(), name));
        stream::iter(removals).buffer_unordered(PARKED_AT_ONCE_MAX).collect().await
    }
}

#[async_trait]
impl BlobStore for S3BlobStore {
    async fn stage(&self) -> Result<Stage> {
        // The stage has no object yet, but its family already determines how the names of its
        // objects begin.
        Staging { family: self.client.platform().uuid(), ..Staging::default() }.seal()
    }

    async fn append(&self, stage: &Stage, body: Body) -> Result<Stage> {
        let mut staging = Staging::open(stage)?;
        let stale = std::mem::take(&mut staging.stale);
        let (rest, length) = (staging.rest_bytes(), body.length());
        let length = length.map(|length| rest + length);
        let mut gather = Gather::new(body);
        // The first bytes of a stage, if they fit into one request, become an object without a
        // multipart upload.
        let parked_max = match staging.upload.is_none() && staging.parked.is_empty() {
            true => self.cut.single_bytes_max()?,
            false => self.cut.least_part_bytes(),
        };
        gather.fill(parked_max.saturating_sub(rest).max(1)).await?;
        if gather.length() == 0 {
            return Ok(stage.clone());
        }
        if rest + gather.length() < parked_max {
            self.park(&mut staging, gather.take(u64::MAX)).await?;
        } else {
            self.write_parts(&mut staging, gather, length).await?;
        }
        self.remove_objects(stale).await;
        staging.seal()
    }

    fn kept_append_bytes(&self) -> Option<u64> {
        // S3 keeps nothing of a streamed part that breaks off. Parts that are gathered in memory
        // first are kept.
        self.cut.streams(STREAMED_BYTES_MAX).then_some(STREAMED_BYTES_MAX)
    }

    async fn commit(&self, stage: &Stage, digest: &Digest) -> Result<Location> {
        let mut staging = Staging::open(stage)?;
        let mut stale = std::mem::take(&mut staging.stale);
        if staging.upload.is_none() && staging.tail.is_empty() && staging.parked.len() == 1 {
            return Ok(Location(staging.parked.remove(0).object));
        }
        let mut rest = self.load_all_parked(&staging.parked).await?;
        rest.push(std::mem::take(&mut staging.tail).into());
        stale.extend(staging.parked.drain(..).map(|parked| parked.object));
        if staging.upload.is_none() {
            // The object gets a new name, which no other fork of the stage writes to.
            let name = self.new_name(&staging.family);
            self.put(&name, rest).await?;
            return Ok(Location(name));
        }
        if rest.iter().any(|bytes| !bytes.is_empty()) {
            let etag = self.upload_part(&staging, Payload::Bytes(rest)).await?;
            staging.parts.push(etag);
        }
        self.complete(&staging, digest).await?;
        self.remove_objects(stale).await;
        Ok(Location(staging.name))
    }

    /// Aborts the multipart upload, which then can no longer be committed. Objects are left to the
    /// collector, because a commit of the same stage in another process may have made one of them
    /// its location.
    async fn discard(&self, stage: &Stage) -> Result<()> {
        self.abort(&Staging::open(stage)?).await;
        Ok(())
    }

    /// Aborts the multipart upload if the abandoned append has begun the upload.
    async fn abandon(&self, stage: &Stage, before: Option<&Stage>) -> Result<()> {
        let staging = Staging::open(stage)?;
        let before = before.map(Staging::open).transpose()?;
        if before.is_some_and(|before| before.upload != staging.upload) {
            self.abort(&staging).await;
        }
        Ok(())
    }

    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body> {
        if range.is_empty() {
            return Ok(Body::empty());
        }
        let gone = || Error::corrupt(format!("content {} is missing or too short", location.0));
        self.client.read(&object(&location.0), range).await?.ok_or_else(gone)
    }

    async fn redirect(&self, location: &Location) -> Result<Option<String>> {
        self.client.presign(&object(&location.0), self.settings.redirect_lifetime).map(Some)
    }

    fn object(&self, location: &Location) -> Option<Object> {
        Some(self.client.object(&self.settings, &object(&location.0)))
    }

    async fn family(&self, stage: &Stage) -> Result<Family> {
        Ok(Family::named(Staging::open(stage)?.family))
    }

    async fn names_of(&self, location: &Location) -> Result<Vec<String>> {
        Ok(vec![name_of(&object(&location.0))])
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>> {
        let mut stored: Vec<Stored> = Vec::new();
        let mut next = after.map(object_of);
        while stored.len() < limit {
            let everything = object("");
            let objects = self.client.list_objects(&everything, next.clone(), LIST_OBJECTS_MAX);
            let (objects, uploads) = join(objects, self.client.list_uploads(&everything)).await;
            let mut uploads = uploads?;
            uploads.retain(|upload| next.as_ref().is_none_or(|next| upload.key > *next));
            let StoredPage { found, more } = merge(objects?, uploads);
            next = found.last().map(|last| object_of(&last.name));
            stored.extend(found);
            if !more {
                break;
            }
        }
        stored.truncate(limit);
        Ok(stored)
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let object = object_of(name);
        for upload in self.client.list_uploads(&object).await? {
            if upload.key == object {
                self.client.abort_upload(&upload.key, &upload.upload_id).await?;
            }
        }
        self.client.delete_object(&object).await
    }
}

async fn load_parked(client: Arc<Client>, parked: Parked) -> Result<Bytes> {
    let object = object(&parked.object);
    let answer = client.expect(Call::new(Method::Get, &object), &[StatusCode::NOT_FOUND]).await?;
    match answer.status.is_success() {
        true if answer.body.len() as u64 == parked.length => Ok(answer.body),
        true => Err(Error::corrupt(format!("{object} has {} bytes instead of {}", answer.body.len(), parked.length))),
        false => Err(gone(&client, &object, &answer)),
    }
}

async fn remove_parked(client: Arc<Client>, name: String) {
    if let Err(error) = client.delete_object(&object(&name)).await {
        tracing::warn!("cannot remove parked bytes: {}", Causes(&error));
    }
}

/// A page of the list of all objects and uploads.
struct StoredPage {
    found: Vec<Stored>,
    more: bool,
}

/// Merges a page of objects with all uploads into one list ordered by name, up to the end of the
/// page.
fn merge(objects: ObjectPage, uploads: Vec<Upload>) -> StoredPage {
    let mut found: BTreeMap<String, Option<u64>> = BTreeMap::new();
    for (object, size) in &objects.objects {
        found.insert(name_of(object), *size);
    }
    for upload in &uploads {
        found.entry(name_of(&upload.key)).or_insert(None);
    }
    if let Some((end, _)) = objects.objects.last().filter(|_| objects.more) {
        // Names after the end of the page are listed with the next page.
        let end = name_of(end);
        found.retain(|name, _| *name <= end);
    }
    let found = found.into_iter().map(|(name, bytes)| Stored { name, bytes }).collect();
    StoredPage { found, more: objects.more }
}

fn object(name: &str) -> String {
    format!("blobs/{name}")
}

/// The name under which an object is listed: `<family>!<token>`.
fn name_of(object: &str) -> String {
    object.strip_prefix("blobs/").unwrap_or(object).replacen(FAMILY_END, "!", 1)
}

fn object_of(name: &str) -> String {
    object(&name.replacen('!', FAMILY_END, 1))
}

fn upload_id(staging: &Staging) -> &str {
    staging.upload.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(objects: &[&str], more: bool, uploads: &[&str]) -> (Vec<String>, bool) {
        let objects = objects.iter().map(|name| (object(name), Some(1))).collect();
        let uploads = uploads.iter().map(|name| Upload { key: object(name), upload_id: "1".into() }).collect();
        let page = merge(ObjectPage { objects, more }, uploads);
        (page.found.into_iter().map(|stored| stored.name).collect(), page.more)
    }

    #[test]
    fn lists_are_merged_as_far_as_both_are_known() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(page(&["a.1", "a.2", "c.1"], false, &["b.1"]), (names(&["a!1", "a!2", "b!1", "c!1"]), false));
        assert_eq!(page(&["a.1", "b.1"], true, &["d.1"]), (names(&["a!1", "b!1"]), true));
        assert_eq!(page(&[], false, &["a.1"]), (names(&["a!1"]), false));
    }
}
