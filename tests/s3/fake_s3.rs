//! An S3 server in memory that has only the operations that eyot uses. A test chooses its
//! deviations by `Character`. The server accepts every signature.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use eyot::Body;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use md5::{Digest as _, Md5};
use sha2::Sha256;

/// The XML namespace of answers by AWS S3.
pub const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

#[derive(Clone, Copy, Default)]
pub struct Character {
    /// The XML namespace of all answers, errors included. `None`: S3's namespace, and no namespace
    /// in errors.
    pub namespace: Option<&'static str>,
    /// Whether the ETags of completed uploads have S3's form but are computed in another way.
    pub own_etags: bool,
    /// Whether answers claim encryption with a customer's key (`aws:kms`).
    pub kms: bool,
    /// Whether the server ignores `Range` and answers with the whole object.
    pub ignores_ranges: bool,
}

#[derive(Clone)]
pub struct FakeS3 {
    pub address: SocketAddr,
    character: Character,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub struct State {
    /// Content and ETag by name.
    pub objects: BTreeMap<String, (Bytes, String)>,
    /// Name and parts by id.
    pub uploads: BTreeMap<String, (String, BTreeMap<usize, Bytes>)>,
    ids: usize,
}

type Query = BTreeMap<String, String>;

impl FakeS3 {
    /// Starts a server that runs as long as the runtime.
    pub async fn start(character: Character) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = Self { address: listener.local_addr().expect("an address"), character, state: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { server.handle(request).await }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        server
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn handle(self, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let path = percent_encoding::percent_decode_str(head.uri.path()).decode_utf8_lossy().into_owned();
        let object = path[1..].split_once('/').unwrap_or_default().1.to_owned();
        let query: Query =
            form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let is_bucket = object.is_empty();
        Ok(match head.method {
            Method::GET if is_bucket && query.contains_key("uploads") => self.list_uploads(&query),
            Method::GET if is_bucket => self.list(&query),
            Method::GET | Method::HEAD => self.get(&object, &head.headers, head.method == Method::HEAD),
            Method::PUT if query.contains_key("uploadId") => self.put_part(&query, body),
            Method::PUT => self.put(object, &head.headers, body),
            Method::POST if query.contains_key("uploads") => self.create(object),
            Method::POST => self.complete(&query["uploadId"], &String::from_utf8_lossy(&body)),
            Method::DELETE => self.delete(&object, &query),
            _ => self.refuse(405, "MethodNotAllowed"),
        })
    }

    fn xml(&self, root: &str, inner: &str) -> Response<Body> {
        let namespace = self.character.namespace.unwrap_or(if root == "Error" { "" } else { NAMESPACE });
        let namespace = if namespace.is_empty() { String::new() } else { format!(" xmlns=\"{namespace}\"") };
        Response::new(format!("<?xml version=\"1.0\"?>\n<{root}{namespace}>{inner}</{root}>").into_bytes().into())
    }

    fn refuse(&self, status: u16, code: &str) -> Response<Body> {
        let mut response = self.xml("Error", &format!("<Code>{code}</Code><Message>no</Message>"));
        *response.status_mut() = status.try_into().unwrap();
        response
    }

    fn list(&self, query: &Query) -> Response<Body> {
        let prefix = &query["prefix"];
        let after = query.get("continuation-token").or(query.get("start-after")).cloned().unwrap_or_default();
        let most: usize = query["max-keys"].parse().unwrap();
        let state = self.state();
        let all = state.objects.iter().filter(|(name, _)| name.starts_with(prefix) && **name > after);
        let all: Vec<_> = all.collect();
        let page = &all[..most.min(all.len())];
        let size = |(name, (bytes, _)): &(&String, &(Bytes, String))| {
            format!("<Contents><Key>{name}</Key><Size>{}</Size></Contents>", bytes.len())
        };
        let token = page.last().filter(|_| page.len() < all.len());
        let token = token.map(|(name, _)| format!("<NextContinuationToken>{name}</NextContinuationToken>"));
        let more = token.is_some();
        let contents: String = page.iter().map(size).collect();
        let inner = format!("<IsTruncated>{more}</IsTruncated>{contents}{}", token.unwrap_or_default());
        self.xml("ListBucketResult", &inner)
    }

    fn list_uploads(&self, query: &Query) -> Response<Body> {
        let state = self.state();
        let uploads = state.uploads.iter().filter(|(_, (name, _))| name.starts_with(&query["prefix"]));
        let upload = |(id, (name, _)): (&String, &(String, _))| {
            format!("<Upload><Key>{name}</Key><UploadId>{id}</UploadId></Upload>")
        };
        let uploads: String = uploads.map(upload).collect();
        self.xml("ListMultipartUploadsResult", &format!("<IsTruncated>false</IsTruncated>{uploads}"))
    }

    fn get(&self, object: &str, headers: &HeaderMap, is_head: bool) -> Response<Body> {
        let state = self.state();
        let Some((bytes, etag)) = state.objects.get(object) else {
            let refusal = self.refuse(404, "NoSuchKey");
            return if is_head { refusal.map(|_| Body::empty()) } else { refusal };
        };
        let range = headers.get("range").filter(|_| !self.character.ignores_ranges);
        let range = range.and_then(|range| range.to_str().unwrap().strip_prefix("bytes=")?.split_once('-'));
        let response = Response::builder().header("etag", etag);
        let Some((first, last)) = range else {
            return match is_head {
                true => response.header("content-length", bytes.len()).body(Body::empty()).unwrap(),
                false => response.body(bytes.clone().into()).unwrap(),
            };
        };
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse::<usize>().unwrap() + 1);
        if first >= bytes.len() {
            return self.refuse(416, "InvalidRange");
        }
        let part = bytes.slice(first..last.min(bytes.len()));
        let content_range = format!("bytes {first}-{}/{}", first + part.len() - 1, bytes.len());
        response.status(206).header("content-range", content_range).body(part.into()).unwrap()
    }

    fn put(&self, object: String, headers: &HeaderMap, bytes: Bytes) -> Response<Body> {
        let mut state = self.state();
        let known = state.objects.get(&object).map(|(_, etag)| etag.as_str());
        if headers.contains_key("if-none-match") && known.is_some() {
            return self.refuse(412, "PreconditionFailed");
        }
        if let Some(wanted) = headers.get("if-match") {
            match known {
                None => return self.refuse(404, "NoSuchKey"),
                Some(known) if wanted != known => return self.refuse(412, "PreconditionFailed"),
                Some(_) => {}
            }
        }
        let etag = format!("\"{}\"", hash(&bytes));
        state.objects.insert(object, (bytes, etag.clone()));
        Response::builder().header("etag", etag).body(Body::empty()).unwrap()
    }

    fn create(&self, object: String) -> Response<Body> {
        let mut state = self.state();
        state.ids += 1;
        let id = format!("upload-{}", state.ids);
        state.uploads.insert(id.clone(), (object, BTreeMap::new()));
        self.xml("InitiateMultipartUploadResult", &format!("<UploadId>{id}</UploadId>"))
    }

    fn put_part(&self, query: &Query, bytes: Bytes) -> Response<Body> {
        let mut state = self.state();
        let Some((_, parts)) = state.uploads.get_mut(&query["uploadId"]) else {
            return self.refuse(404, "NoSuchUpload");
        };
        let etag = format!("\"{}\"", hash(&bytes));
        parts.insert(query["partNumber"].parse().unwrap(), bytes);
        Response::builder().header("etag", etag).body(Body::empty()).unwrap()
    }

    fn complete(&self, id: &str, wanted: &str) -> Response<Body> {
        let mut state = self.state();
        let Some((object, parts)) = state.uploads.get(id).cloned() else { return self.refuse(404, "NoSuchUpload") };
        let named: Vec<&str> = wanted.split("<ETag>").skip(1).filter_map(|part| part.split('<').next()).collect();
        let there: Vec<String> =
            (1..=named.len()).filter_map(|number| parts.get(&number)).map(|part| hash(part)).collect();
        if named != there {
            return self.refuse(400, "InvalidPart");
        }
        let hashes: Vec<u8> = there.iter().flat_map(|hash| hex::decode(hash).unwrap()).collect();
        let own = if self.character.own_etags { "salt" } else { "" };
        let etag = format!("\"{}-{}\"", hex::encode(Md5::digest([&hashes, own.as_bytes()].concat())), named.len());
        let bytes: Vec<u8> = parts.into_values().take(named.len()).flatten().collect();
        state.objects.insert(object, (bytes.into(), etag.clone()));
        state.uploads.remove(id);
        let etag = etag.replace('"', "&quot;");
        let mut response = self.xml("CompleteMultipartUploadResult", &format!("<ETag>{etag}</ETag>"));
        if self.character.kms {
            response.headers_mut().insert("x-amz-server-side-encryption", "aws:kms".parse().unwrap());
        }
        response
    }

    fn delete(&self, object: &str, query: &Query) -> Response<Body> {
        match query.get("uploadId") {
            Some(id) if self.state().uploads.remove(id).is_none() => return self.refuse(404, "NoSuchUpload"),
            Some(_) => {}
            None => _ = self.state().objects.remove(object),
        }
        Response::builder().status(204).body(Body::empty()).unwrap()
    }
}

/// A hash with the length of an MD5. SHA-256 is faster than MD5 in a test build.
fn hash(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..16])
}
