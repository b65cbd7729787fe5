//! How many storage calls a request costs. The number is the same on every machine.

use std::sync::Arc;

use bytes::Bytes;
use eyot::auth::Access;
use eyot::oci::{Algorithm, Digest};
use eyot::platform::{BodyError, Platform, SystemPlatform};
use eyot::registry::Limits;
use eyot::store::counting::Counting;
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::store::{BlobStore, KeyValue};
use eyot::{Body, Handler, Registry};
use http::{Method, Request, Response, StatusCode};

const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Counted {
    handler: Handler,
    keys: Arc<Counting<dyn KeyValue>>,
    blobs: Arc<Counting<dyn BlobStore>>,
}

impl Counted {
    fn new() -> Self {
        let platform: Arc<dyn Platform> = Arc::new(SystemPlatform);
        let keys = Arc::new(Counting::new(Arc::new(MemoryKeyValue::default()) as Arc<dyn KeyValue>));
        let blobs = Arc::new(Counting::new(Arc::new(MemoryBlobStore::new(platform.clone())) as Arc<dyn BlobStore>));
        let registry = Registry::new(keys.clone(), blobs.clone(), platform, Limits::default());
        Self { handler: Handler::new(registry, Access::open()), keys, blobs }
    }

    fn send(&self, method: Method, uri: &str, content_type: &str, body: Body) -> Response<Body> {
        let request = Request::builder().method(method).uri(uri).header("content-type", content_type);
        futures_executor::block_on(self.handler.handle(request.body(body).unwrap()))
    }

    /// Another instance over the same stores, which counts into the same counters.
    fn another_instance(&self) -> Self {
        let platform: Arc<dyn Platform> = Arc::new(SystemPlatform);
        let registry = Registry::new(self.keys.clone(), self.blobs.clone(), platform, Limits::default());
        let handler = Handler::new(registry, Access::open());
        Self { handler, keys: self.keys.clone(), blobs: self.blobs.clone() }
    }

    /// Sends a request and returns its cost: key operations, and blob reads and writes.
    fn cost(&self, method: Method, uri: &str, body: impl Into<Body>, expected: StatusCode) -> Cost {
        self.keys.counts.take();
        self.blobs.counts.take();
        let response = self.send(method.clone(), uri, OCI_IMAGE, body.into());
        assert_eq!(response.status(), expected, "{method} {uri}");
        let (keys, blobs) = (self.keys.counts.take(), self.blobs.counts.take());
        let name = uri.split('?').next().unwrap();
        println!("{method:6} {name:.60}: keys {keys:?}, blobs {blobs:?} (reads, writes, deletes, lists)");
        Cost { keys, blobs, location: location(&response) }
    }
}

fn location(response: &Response<Body>) -> String {
    let value = response.headers().get("location");
    value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

struct Cost {
    keys: [u64; 4],
    blobs: [u64; 4],
    location: String,
}

impl Cost {
    fn key_operations(&self) -> u64 {
        self.keys.iter().sum()
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

/// Pushes as docker does: POST, a streamed PATCH, PUT. Returns the key operations and the blob
/// store's calls.
fn push_layer(counted: &Counted, bytes: &Bytes) -> (u64, [u64; 4]) {
    let post = counted.cost(Method::POST, "/v2/a/blobs/uploads/", Body::empty(), StatusCode::ACCEPTED);
    let stream = Body::from_stream(futures_util::stream::iter([Ok::<_, BodyError>(bytes.clone())]));
    let patch = counted.cost(Method::PATCH, &post.location, stream, StatusCode::ACCEPTED);
    let end = format!("{}?digest={}", patch.location, digest(bytes));
    let put = counted.cost(Method::PUT, &end, Body::empty(), StatusCode::CREATED);
    let all = [&post, &patch, &put];
    let blobs = [0, 1, 2, 3].map(|kind| all.iter().map(|cost| cost.blobs[kind]).sum());
    (all.iter().map(|cost| cost.key_operations()).sum(), blobs)
}

fn image(layer: &Bytes) -> Bytes {
    let descriptor = serde_json::json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": layer.len(),
    });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": descriptor, "layers": [descriptor],
    });
    manifest.to_string().into()
}

#[test]
fn a_docker_style_push_of_a_layer_costs_six_key_operations() {
    let counted = Counted::new();
    let (keys, blobs) = push_layer(&counted, &Bytes::from(vec![1; 100_000]));
    assert_eq!(keys, 6);
    // One append and one commit: the bytes are written once and never read.
    assert_eq!(blobs, [0, 2, 0, 0]);
}

/// An instance that began an upload need not read the session for the first chunk. Any other
/// instance reads the session: the layer costs seven key operations there.
#[test]
fn the_memory_of_recent_sessions_saves_one_key_operation_of_seven() {
    let (here, bytes) = (Counted::new(), Bytes::from(vec![1; 100_000]));
    let there = here.another_instance();
    for (instance, reads) in [(&here, 0), (&there, 1)] {
        let post = here.cost(Method::POST, "/v2/a/blobs/uploads/", Body::empty(), StatusCode::ACCEPTED);
        let stream = Body::from_stream(futures_util::stream::iter([Ok::<_, BodyError>(bytes.clone())]));
        let patch = instance.cost(Method::PATCH, &post.location, stream, StatusCode::ACCEPTED);
        assert_eq!(patch.keys, [reads, 1, 0, 0]);
    }
}

#[test]
fn a_pull_costs_as_little_as_it_can() {
    let counted = Counted::new();
    let layer = Bytes::from(vec![1; 100_000]);
    push_layer(&counted, &layer);
    let manifest = image(&layer);
    let push = counted.cost(Method::PUT, "/v2/a/manifests/v1", manifest.clone(), StatusCode::CREATED);
    // Two of the key operations protect the blobs of the manifest against a running collection.
    assert!(push.key_operations() <= 10, "{:?}", push.keys);
    assert_eq!(push.blobs, [0; 4]);

    for (uri, keys, blobs) in [
        ("/v2/a/manifests/v1".to_owned(), 2, 0),
        (format!("/v2/a/manifests/{}", digest(&manifest)), 1, 0),
        (format!("/v2/a/blobs/{}", digest(&layer)), 1, 1),
    ] {
        let get = counted.cost(Method::GET, &uri, Body::empty(), StatusCode::OK);
        assert_eq!((get.keys, get.blobs), ([keys, 0, 0, 0], [blobs, 0, 0, 0]), "GET {uri}");
        let head = counted.cost(Method::HEAD, &uri, Body::empty(), StatusCode::OK);
        assert_eq!((head.keys, head.blobs), ([keys, 0, 0, 0], [0; 4]), "HEAD {uri}");
    }
    let tags = counted.cost(Method::GET, "/v2/a/tags/list", Body::empty(), StatusCode::OK);
    assert_eq!(tags.keys, [0, 0, 0, 1]);
}

#[test]
fn a_chunk_costs_the_same_however_many_came_before() {
    let counted = Counted::new();
    let post = counted.cost(Method::POST, "/v2/a/blobs/uploads/", Body::empty(), StatusCode::ACCEPTED);
    let chunk = Bytes::from(vec![1; 1024]);
    let costs: Vec<_> = (0..1000)
        .map(|_| {
            let cost = counted.cost(Method::PATCH, &post.location, chunk.clone(), StatusCode::ACCEPTED);
            (cost.keys, cost.blobs)
        })
        .collect();
    assert!(costs.iter().all(|cost| *cost == ([1, 1, 0, 0], [0, 1, 0, 0])), "{:?}", costs.iter().max());
}

#[test]
fn a_refused_push_writes_nothing() {
    let counted = Counted::new();
    let missing = image(&Bytes::from_static(b"never pushed"));
    for (uri, body) in [("/v2/a/manifests/v1", missing), ("/v2/a/manifests/v1", Bytes::from_static(b"{}"))] {
        let cost = counted.cost(Method::PUT, uri, body.clone(), StatusCode::BAD_REQUEST);
        assert_eq!((cost.keys[1], cost.blobs), (0, [0; 4]));
    }
    let wrong = format!("/v2/a/blobs/uploads/?digest={}", digest(b"other"));
    counted.cost(Method::POST, &wrong, Bytes::from_static(b"content"), StatusCode::BAD_REQUEST);
    let left = futures_executor::block_on(counted.keys.list("", None, 10)).unwrap();
    assert_eq!(left, Vec::<String>::new());
}

/// Pushes the same layer again, as for another repository. The registry discards the new copy and
/// uses the stored copy.
#[test]
fn content_that_is_known_is_not_kept_twice() {
    let counted = Counted::new();
    let layer = Bytes::from(vec![1; 100_000]);
    push_layer(&counted, &layer);
    // Two reads check that the stored copy is readable. An append and a commit store the new copy,
    // and a removal discards it.
    let (_, blobs) = push_layer(&counted, &layer);
    assert_eq!(blobs, [2, 2, 1, 0]);
    let single = format!("/v2/b/blobs/uploads/?digest={}", digest(&layer));
    let cost = counted.cost(Method::POST, &single, layer.clone(), StatusCode::CREATED);
    assert_eq!(cost.blobs, [1, 2, 1, 0]);
}

/// The content of one page of referrers, and the page's cost.
struct ReferrersPage {
    keys: [u64; 4],
    bytes: usize,
    digests: Vec<String>,
}

impl Counted {
    fn push_referrer(&self, subject: &Digest, kind: &str, number: usize, note: &str) {
        let manifest = serde_json::json!({
            "schemaVersion": 2, "manifests": [], "artifactType": kind,
            "annotations": { "number": number.to_string(), "note": note },
            "subject": { "mediaType": OCI_IMAGE, "digest": subject, "size": 11 },
        });
        let manifest = Bytes::from(manifest.to_string());
        let uri = format!("/v2/a/manifests/{}", digest(&manifest));
        let reply = self.send(Method::PUT, &uri, OCI_INDEX, manifest.clone().into());
        assert_eq!(reply.status(), StatusCode::CREATED);
        assert_eq!(reply.headers()["oci-subject"], subject.as_str());
    }

    /// Reads all pages by following their links.
    fn referrers(&self, subject: &Digest, filter: Option<&str>) -> Vec<ReferrersPage> {
        let query = filter.map(|filter| format!("?artifactType={}", filter.replace('+', "%2B")));
        let mut uri = format!("/v2/a/referrers/{subject}{}", query.unwrap_or_default());
        let mut pages = Vec::new();
        loop {
            self.keys.counts.take();
            let response = self.send(Method::GET, &uri, OCI_IMAGE, Body::empty());
            let (keys, headers) = (self.keys.counts.take(), response.headers().clone());
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(headers["content-type"], OCI_INDEX);
            assert_eq!(headers.get("oci-filters-applied").is_some(), filter.is_some());
            let body = futures_executor::block_on(response.into_body().collect_up_to(4 << 20)).unwrap();
            let index: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((index["schemaVersion"].as_u64(), index["mediaType"].as_str()), (Some(2), Some(OCI_INDEX)));
            let descriptors = index["manifests"].as_array().unwrap();
            assert!(descriptors.iter().all(|found| filter.is_none_or(|filter| found["artifactType"] == filter)));
            let digests = descriptors.iter().map(|found| found["digest"].as_str().unwrap().to_owned()).collect();
            let page = ReferrersPage { keys, bytes: body.len(), digests };
            println!("{filter:?}, page {}: {} of {} bytes, keys {keys:?}", pages.len(), page.digests.len(), page.bytes);
            pages.push(page);
            let Some(link) = headers.get("link") else { return pages };
            uri = link.to_str().unwrap().split(['<', '>']).nth(1).unwrap().to_owned();
        }
    }
}

/// The digests of all pages, which must be in order and without repetition.
fn all_digests(pages: &[ReferrersPage]) -> Vec<&String> {
    let all: Vec<_> = pages.iter().flat_map(|page| &page.digests).collect();
    assert!(all.is_sorted_by(|one, next| one < next), "out of order, or twice");
    all
}

#[test]
fn a_page_of_referrers_costs_what_its_limit_allows() {
    let counted = Counted::new();
    let subject = digest(b"the subject");
    // An unescaped plus sign in a query means a space, so the filter escapes the sign as %2B.
    let kinds = ["application/vnd.example.a+json", "application/vnd.example.b"];
    for number in 0..1000 {
        counted.push_referrer(&subject, kinds[number % 2], number, "");
    }
    for (filter, expected) in [(None, 1000), (Some(kinds[0]), 500), (Some(kinds[1]), 500), (Some("a/none"), 0)] {
        let pages = counted.referrers(&subject, filter);
        assert_eq!((all_digests(&pages).len(), pages.len()), (expected, 2), "{filter:?}");
        for page in &pages {
            // One listing, and one read for each manifest that is looked at. The first page needs
            // one more read for a fallback tag.
            assert!(page.keys[0] <= 501 && page.keys[1..] == [0, 0, 1], "{:?}", page.keys);
        }
    }
}

/// Large annotations fill a page by bytes before the page reaches its number of manifests.
#[test]
fn a_page_of_referrers_stays_under_four_mebibytes() {
    let counted = Counted::new();
    let subject = digest(b"the subject");
    let note = "x".repeat(30_000);
    for number in 0..300 {
        counted.push_referrer(&subject, "application/vnd.example.large", number, &note);
    }
    let pages = counted.referrers(&subject, None);
    assert_eq!((all_digests(&pages).len(), pages.len()), (300, 3));
    for page in &pages {
        assert!(page.bytes <= 4 << 20, "{} bytes", page.bytes);
        // Up to 16 manifests are read at once, so up to 16 reads may be for manifests that do not
        // fit on the page.
        assert!(page.keys[0] <= page.digests.len() as u64 + 1 + 16, "{:?} for {}", page.keys, page.digests.len());
    }
}
