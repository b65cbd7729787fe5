//! The objects of a bucket as a tree of files, for exports and imports: named, read, written and
//! copied one by one. The stores of a registry do not use the tree.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use rusty_s3::Method;

use super::answer::Objects;
use super::client::{Call, Client, Payload};
use super::gather::Gather;
use super::multipart::COPY_BYTES_MAX;
use super::objects::LIST_OBJECTS_MAX;
use super::settings::S3Settings;
use super::staging::Cut;
use crate::oci::{Digest, Hasher};
use crate::platform::{Body, BodyError, Causes};
use crate::store::{Error, Object, Result};

/// The most pages without a name that a list may have in a row.
const PAGES_EMPTY_MAX: usize = 1000;

/// The objects of a bucket whose names begin with the prefix of the settings. Paths are relative to
/// the prefix, with `/` between their parts.
#[derive(Clone)]
pub struct S3Tree {
    client: Arc<Client>,
    settings: Arc<S3Settings>,
    cut: Cut,
    copy_bytes_max: u64,
}

/// What S3 keeps beside the bytes of an object, and sends as headers to readers.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The media type.
    pub content_type: &'a str,
    /// The digest of the content, for the metadata `docker-content-digest`. S3 sends the metadata
    /// as the header `x-amz-meta-docker-content-digest`.
    pub digest: Option<&'a Digest>,
    /// Whether caches may keep the content for good.
    pub is_immutable: bool,
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// An object.
    Object {
        /// The size in bytes, where the server tells the size.
        bytes: Option<u64>,
        /// The ETag without quotes: the MD5 hash of the content in hexadecimal digits, unless the
        /// object has parts or is encrypted with a key of a key service.
        etag: Option<String>,
    },
    /// A folder: the beginning of the names of further objects.
    Folder,
}

/// An object that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The size in bytes.
    pub bytes: u64,
    /// The media type, where the object has one.
    pub content_type: Option<String>,
    /// The ETag without quotes, as in [`Listed::Object`].
    pub etag: Option<String>,
}

/// The reason why content did not become an object.
#[derive(Debug)]
pub enum FillError {
    /// The content could not be read.
    Source(BodyError),
    /// S3 did not take the content.
    Target(Error),
}

impl std::fmt::Debug for S3Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3Tree({})", self.address())
    }
}

impl<'a> Head<'a> {
    /// The head of an object with this media type, which may change.
    pub fn of(content_type: &'a str) -> Self {
        Self { content_type, digest: None, is_immutable: false }
    }

    /// The headers of a request that makes an object.
    fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![("content-type", self.content_type.to_owned())];
        if let Some(digest) = self.digest {
            headers.push(("x-amz-meta-docker-content-digest", digest.to_string()));
        }
        if self.is_immutable {
            headers.push(("cache-control", "public, max-age=31536000, immutable".to_owned()));
        }
        headers
    }
}

impl S3Tree {
    pub(super) fn new(client: Arc<Client>, settings: Arc<S3Settings>) -> Self {
        let cut = Cut::new(&settings);
        Self { client, settings, cut, copy_bytes_max: COPY_BYTES_MAX }
    }

    /// The same tree with another limit for copies in one request, in bytes: larger objects are
    /// copied in parts of this size. For tests.
    #[must_use]
    pub fn with_copy_bytes_max(self, copy_bytes_max: u64) -> Self {
        Self { copy_bytes_max, ..self }
    }

    /// The address of the tree for messages: `s3://BUCKET/PREFIX`.
    pub fn address(&self) -> String {
        format!("s3://{}/{}", self.settings.bucket, self.settings.prefix)
    }

    /// The names directly in a folder, in byte order, and at most about `most` of them. The empty
    /// text is the top folder.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when S3 cannot be asked or answers wrongly.
    pub async fn list(&self, folder: &str, most: usize) -> Result<Vec<(String, Listed)>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let full = self.client.full_name(&prefix);
        let unreadable = |why: String| Error::unavailable(format!("S3 answered the list of {prefix:?} wrongly: {why}"));
        let limit = most.clamp(1, LIST_OBJECTS_MAX).to_string();
        let (mut names, mut token, mut empty): (Vec<(String, Listed)>, Option<String>, usize) = Default::default();
        loop {
            let call = Call::new(Method::Get, "").query("list-type", "2").query("encoding-type", "url");
            let call = call.query("prefix", full.as_str()).query("delimiter", "/").query("max-keys", limit.as_str());
            let call = match &token {
                Some(token) => call.query("continuation-token", token.as_str()),
                None => call,
            };
            let page = self.client.expect(call, &[]).await?;
            let page = page.parse(&format!("the list of {prefix:?}"), Objects::parse)?;
            let before = names.len();
            for object in page.objects {
                let name = object.name.strip_prefix(&full);
                let name = name.ok_or_else(|| unreadable(format!("{} does not belong there", object.name)))?;
                // An object may have the name of the folder itself.
                if !name.is_empty() && !name.contains('/') {
                    let listed = Listed::Object { bytes: object.bytes, etag: object.etag };
                    names.push((name.to_owned(), listed));
                }
            }
            for folder in page.folders {
                let name = folder.strip_prefix(&full).and_then(|name| name.strip_suffix('/'));
                let name = name.ok_or_else(|| unreadable(format!("{folder} does not belong there")))?;
                if !name.is_empty() {
                    names.push((name.to_owned(), Listed::Folder));
                }
            }
            empty = if names.len() == before { empty + 1 } else { 0 };
            match page.next {
                None => break,
                Some(_) if names.len() > most => break,
                next if next == token || empty > PAGES_EMPTY_MAX => {
                    return Err(unreadable("the list does not continue".to_owned()));
                }
                next => token = next,
            }
        }
        names.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(names)
    }

    /// Looks for an object; `None` if the object does not exist.
    pub async fn find(&self, path: &str) -> Result<Option<Found>> {
        let answer = self.client.expect(Call::new(Method::Head, path), &[StatusCode::NOT_FOUND]).await?;
        if !answer.status.is_success() {
            return Ok(None);
        }
        let bytes = answer.header(CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());
        let bytes = bytes.ok_or_else(|| Error::unavailable(format!("S3 does not tell the size of {path}")))?;
        let etag = answer.etag().map(|etag| etag.trim_matches('"').to_owned());
        Ok(Some(Found { bytes, content_type: answer.header(CONTENT_TYPE.as_str()).map(str::to_owned), etag }))
    }

    /// The bytes of an object from `start` to `end` as a stream, which continues after broken
    /// connections; `None` if the object does not exist or is shorter.
    pub async fn read(&self, path: &str, start: u64, end: u64) -> Result<Option<Body>> {
        if start >= end {
            return Ok(Some(Body::empty()));
        }
        self.client.read(path, start..end).await
    }

    /// The bytes of an object, at most 256 MiB; `None` if the object does not exist.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let answer = self.client.expect(Call::new(Method::Get, path), &[StatusCode::NOT_FOUND]).await?;
        Ok(answer.status.is_success().then_some(answer.body))
    }

    /// Writes an object from memory, or replaces an object as a whole.
    pub async fn put(&self, path: &str, head: &Head<'_>, bytes: Vec<Bytes>) -> Result<()> {
        let mut call = Call::new(Method::Put, path);
        for (name, value) in head.headers() {
            call = call.header(name, value);
        }
        self.client.expect(call.payload(Payload::Bytes(bytes)), &[]).await.map(drop)
    }

    /// Writes content to an object, and checks the digest on the way. Content of more than one part
    /// goes by a multipart upload, of which two parts are in memory. Returns `false`, and stores
    /// nothing, if the content has another digest.
    ///
    /// No other program may upload to the same object: uploads that an earlier call left are
    /// aborted.
    pub async fn fill(&self, path: &str, head: &Head<'_>, body: Body, digest: &Digest) -> Result<bool, FillError> {
        let (mut gather, first) = (Gather::new(body), self.cut.part_bytes(0)?);
        gather.fill(first + 1).await.map_err(FillError::Source)?;
        if gather.length() > first {
            return self.fill_parts(path, head, gather, digest).await;
        }
        let bytes = gather.take(first);
        let mut hasher = Hasher::new(digest.algorithm());
        bytes.iter().for_each(|bytes| hasher.update(bytes));
        if hasher.finish() != *digest {
            return Ok(false);
        }
        self.put(path, head, bytes).await?;
        Ok(true)
    }

    async fn fill_parts(
        &self,
        path: &str,
        head: &Head<'_>,
        mut gather: Gather,
        digest: &Digest,
    ) -> Result<bool, FillError> {
        let upload_id = self.begin(path, head).await?;
        let sent = self.send_parts(path, &upload_id, &mut gather, digest).await;
        if !matches!(sent, Ok(Some(_))) {
            self.abort(path, &upload_id).await;
        }
        match sent? {
            Some(etags) => {
                self.client.complete_upload(path, &upload_id, &etags).await.map(|_| true).map_err(Into::into)
            }
            None => Ok(false),
        }
    }

    /// Sends content in parts; the next part is gathered while a part is sent. Returns the ETags of
    /// the parts, or `None` if the content has another digest.
    async fn send_parts(
        &self,
        path: &str,
        upload_id: &str,
        gather: &mut Gather,
        digest: &Digest,
    ) -> Result<Option<Vec<String>>, FillError> {
        let (mut etags, mut hasher) = (Vec::new(), Hasher::new(digest.algorithm()));
        loop {
            // The last part may have any size.
            let part = gather.take(self.cut.part_bytes(etags.len())?);
            if part.is_empty() {
                return Ok((hasher.finish() == *digest).then_some(etags));
            }
            part.iter().for_each(|bytes| hasher.update(bytes));
            let next_bytes = self.cut.part_bytes(etags.len() + 1).unwrap_or_default();
            let upload = self.client.upload_part(path, upload_id, etags.len() + 1, Payload::Bytes(part));
            // Wait for both, even after an error: dropping a request that is half sent would break
            // its connection.
            let (etag, filled) = join(upload, gather.fill(next_bytes)).await;
            filled.map_err(FillError::Source)?;
            etags.push(etag?);
        }
    }

    /// Whether an object is on the server of this tree.
    pub fn reaches(&self, from: &Object) -> bool {
        from.server == self.settings.endpoint
    }

    /// Makes an object by a copy inside the server, so that no byte passes through this program.
    /// Returns `false`, and stores nothing, where the source is on another server or S3 refuses the
    /// copy.
    pub async fn copy(&self, path: &str, head: &Head<'_>, from: &Object, bytes: u64) -> Result<bool> {
        if !self.reaches(from) {
            return Ok(false);
        }
        let refusal = match bytes > self.copy_bytes_max {
            false => self.client.copy_object(path, from, &head.headers()).await?,
            true => self.copy_parts(path, head, from, bytes).await?,
        };
        if let Some(why) = &refusal {
            tracing::warn!("S3 refuses to copy {path} inside the server, so the content is sent: {why}");
        }
        Ok(refusal.is_none())
    }

    async fn copy_parts(&self, path: &str, head: &Head<'_>, from: &Object, bytes: u64) -> Result<Option<String>> {
        let upload_id = self.begin(path, head).await?;
        let copied = self.copy_all_parts(path, &upload_id, from, bytes).await;
        match copied {
            Ok(Ok(etags)) => self.client.complete_upload(path, &upload_id, &etags).await.map(|_| None),
            Ok(Err(refusal)) => {
                self.abort(path, &upload_id).await;
                Ok(Some(refusal))
            }
            Err(error) => {
                self.abort(path, &upload_id).await;
                Err(error)
            }
        }
    }

    async fn copy_all_parts(
        &self,
        path: &str,
        upload_id: &str,
        from: &Object,
        bytes: u64,
    ) -> Result<Result<Vec<String>, String>> {
        let (mut etags, mut start) = (Vec::new(), 0);
        while start < bytes {
            let end = bytes.min(start + self.copy_bytes_max);
            match self.client.copy_part(path, upload_id, etags.len() + 1, from, start..end).await? {
                Ok(etag) => etags.push(etag),
                Err(refusal) => return Ok(Err(refusal)),
            }
            start = end;
        }
        Ok(Ok(etags))
    }

    /// Removes an object. A missing object is no error.
    pub async fn remove(&self, path: &str) -> Result<()> {
        self.client.delete_object(path).await
    }

    /// The name of an object of this tree as the source of a copy.
    pub fn object(&self, path: &str) -> Object {
        self.client.object(&self.settings, path)
    }

    /// Begins a multipart upload, after the uploads that an earlier export left were aborted.
    async fn begin(&self, path: &str, head: &Head<'_>) -> Result<String> {
        for left in self.client.list_uploads(path).await? {
            if left.key == path {
                self.client.abort_upload(path, &left.upload_id).await?;
            }
        }
        self.client.create_upload_with(path, &head.headers()).await
    }

    async fn abort(&self, path: &str, upload_id: &str) {
        if let Err(error) = self.client.abort_upload(path, upload_id).await {
            tracing::warn!("cannot abort the multipart upload of {path}: {}", Causes(&error));
        }
    }
}

impl From<Error> for FillError {
    fn from(error: Error) -> Self {
        Self::Target(error)
    }
}
