//! A client's view of a repository: the steps of pushes and pulls that several tests use.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};

use super::client::{Client, RequestBody, whole};
use super::runner::local;
use super::value::sha256;

#[derive(Clone)]
pub struct Repository {
    pub client: Client,
    pub name: &'static str,
}

impl Repository {
    pub async fn send(&self, request: http::request::Builder, body: RequestBody) -> Response<Bytes> {
        let request = request.body(body).expect("a request");
        let sent = format!("{} {}", request.method(), request.uri());
        let reply = self.client.fetch(request).await;
        reply.unwrap_or_else(|why| panic!("{sent}: {why}"))
    }

    pub async fn status_of(&self, method: Method, path: &str) -> u16 {
        let request = Request::builder().method(method).uri(self.path(path));
        self.send(request, whole("")).await.status().as_u16()
    }

    fn path(&self, path: &str) -> String {
        format!("/v2/{}/{path}", self.name)
    }

    /// Starts an upload.
    pub async fn start(&self) -> Session {
        let request = Request::post(self.path("blobs/uploads/"));
        let reply = self.send(request, whole("")).await;
        assert_eq!(reply.status(), 202, "{reply:?}");
        let location = location(&reply).expect("a Location");
        let repository = self.clone();
        Session { repository, location }
    }

    pub async fn push(&self, blob: Bytes) -> String {
        let digest = sha256(&blob);
        let mut session = self.start().await;
        let reply = session.patch(None, whole(blob)).await;
        assert_eq!(reply.status(), 202, "{reply:?}");
        session.finish(&digest).await;
        digest
    }

    pub async fn head_blob(&self, digest: &str) -> u16 {
        self.status_of(Method::HEAD, &format!("blobs/{digest}")).await
    }

    /// Pulls a blob without keeping its bytes; returns the digest and the number of bytes.
    pub async fn pull(&self, digest: &str) -> (String, u64) {
        let request = Request::get(self.path(&format!("blobs/{digest}")));
        let request = request.body(whole("")).expect("a request");
        let reply = self.client.open(request).await.expect("a reply");
        assert_eq!(reply.status(), 200, "{reply:?}");
        let (mut hasher, mut length) = (Sha256::new(), 0);
        let mut body = reply.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.expect("a whole body").into_data() {
                hasher.update(&data);
                length += data.len() as u64;
            }
        }
        (format!("sha256:{}", hex::encode(hasher.finalize())), length)
    }

    /// Pushes an OCI image with one layer under a tag. The config blob `{}` must be in the
    /// repository already.
    pub async fn tag(&self, tag: &str, layer: &str, length: usize) -> Bytes {
        let config = sha256(b"{}");
        let manifest = Bytes::from(format!(
            r#"{{"schemaVersion": 2, "mediaType": "{IMAGE}",
            "config": {{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "{config}", "size": 2}},
            "layers": [{{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "{layer}", "size": {length}}}],
            "annotations": {{"org.example.tag": "{tag}"}}}}"#
        ));
        let request = self.put_manifest(tag).header(CONTENT_TYPE, IMAGE);
        let reply = self.send(request, whole(manifest.clone())).await;
        assert_eq!(reply.status(), 201, "{reply:?}");
        manifest
    }

    pub fn put_manifest(&self, reference: &str) -> http::request::Builder {
        Request::put(self.path(&format!("manifests/{reference}")))
    }

    pub async fn manifest(&self, reference: &str) -> Response<Bytes> {
        let request = Request::get(self.path(&format!("manifests/{reference}")));
        self.send(request, whole("")).await
    }

    pub async fn tags(&self) -> serde_json::Value {
        let reply = self.send(Request::get(self.path("tags/list")), whole("")).await;
        assert_eq!(reply.status(), 200, "{reply:?}");
        serde_json::from_slice(reply.body()).expect("JSON")
    }
}

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

/// An upload session. The client follows the Location of every reply, as the specification demands.
pub struct Session {
    pub repository: Repository,
    pub location: String,
}

impl Session {
    async fn send(&mut self, request: http::request::Builder, body: RequestBody) -> Response<Bytes> {
        let reply = self.repository.send(request, body).await;
        if let Some(location) = location(&reply) {
            self.location = location;
        }
        reply
    }

    pub async fn patch(&mut self, range: Option<(usize, usize)>, body: RequestBody) -> Response<Bytes> {
        let mut request = Request::patch(&self.location);
        if let Some((first, end)) = range {
            request = request.header(CONTENT_RANGE, format!("{first}-{}", end - 1));
        }
        self.send(request, body).await
    }

    pub async fn finish(&mut self, digest: &str) {
        let joint = if self.location.contains('?') { '&' } else { '?' };
        let request = Request::put(format!("{}{joint}digest={digest}", self.location));
        let reply = self.send(request, whole("")).await;
        assert_eq!(reply.status(), 201, "{reply:?}");
    }

    /// Asks the server how many bytes it has.
    pub async fn offset(&mut self) -> usize {
        let request = Request::get(&self.location);
        let reply = self.send(request, whole("")).await;
        assert_eq!(reply.status(), 204, "{reply:?}");
        stored(&reply)
    }

    /// Sends the missing bytes, and repeats when the server reports another offset: the server may
    /// notice the end of a cut connection only after it was asked for the offset.
    pub async fn resume(&mut self, blob: &Bytes) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            let offset = self.offset().await;
            let rest = whole(blob.slice(offset..));
            let reply = self.patch(Some((offset, blob.len())), rest).await;
            match reply.status().as_u16() {
                202 => return assert_eq!(stored(&reply), blob.len()),
                416 => {}
                _ => panic!("{reply:?}"),
            }
        }
        panic!("refused for a minute");
    }
}

/// The number of bytes in `Range: 0-LAST`. `0-0` is read as 0 bytes: no test here has an upload of
/// one byte.
pub fn stored(reply: &Response<Bytes>) -> usize {
    let range = reply.headers().get(RANGE).expect("a Range");
    let last = range.to_str().expect("ASCII").strip_prefix("0-");
    match last.and_then(|last| last.parse().ok()) {
        Some(0) => 0,
        Some(last) => last + 1usize,
        None => panic!("Range: {range:?}"),
    }
}

fn location(reply: &Response<Bytes>) -> Option<String> {
    let location = reply.headers().get(LOCATION)?.to_str().expect("ASCII");
    Some(local(location, "/"))
}
