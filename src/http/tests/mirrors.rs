//! Pulls through upstreams.

use std::sync::Arc;

use bytes::Bytes;
use futures_executor::block_on;
use http::{Request, Response, StatusCode};

use crate::auth::{Access, Policy, Seal};
use crate::http::Handler;
use crate::mirror::{Mirroring, Mirrors};
use crate::oci::{Algorithm, Digest};
use crate::platform::{Body, Platform, SendError};
use crate::registry::{Limits, Registry};
use crate::store::KeyValue;
use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};
use crate::upstream::scripted::Scripted;

const BLOB: &[u8] = b"0123456789";
/// A blob that the upstream has elsewhere.
const MOVED: &[u8] = b"moved";

struct Setup {
    handler: Handler,
    registry: Registry,
    upstream: Arc<Scripted>,
}

fn blob_digest() -> Digest {
    Algorithm::Sha256.digest(BLOB)
}

fn manifest() -> String {
    let layer = format!(r#"{{"mediaType":"x/y","digest":"{}","size":10}}"#, blob_digest());
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{layer},"layers":[]}}"#)
}

/// An upstream with the repository `library/app`, the tag `v1` and one blob. The tag `limited` is
/// limited, `down` fails, and `slow` does not answer.
fn answer(request: &Request<Body>) -> Result<Response<Body>, SendError> {
    let respond = |status: u16| Response::builder().status(status);
    let nothing = || respond(404).body(Body::empty()).unwrap();
    let path = request.uri().path();
    let Some(rest) = path.strip_prefix("/v2/library/app/") else { return Ok(nothing()) };
    let is_head = request.method() == "HEAD";
    Ok(match rest.split_once('/').unwrap() {
        ("manifests", "v1") => {
            respond(200).body(if is_head { Body::empty() } else { manifest().into_bytes().into() }).unwrap()
        }
        ("manifests", "limited") => respond(429).header("retry-after", "17").body(Body::empty()).unwrap(),
        ("manifests", "down") => respond(503).body(Body::empty()).unwrap(),
        ("manifests", "slow") => return Err(SendError::TimedOut("no answer within 5 s".into())),
        ("manifests", "login") => {
            respond(401).header("www-authenticate", "Basic realm=\"x\"").body(Body::empty()).unwrap()
        }
        ("tags", "list") => respond(200).body(r#"{"tags":["v1","v2"]}"#.into()).unwrap(),
        ("referrers", _) => {
            let digest = Algorithm::Sha256.digest(b"signature");
            let listed =
                format!(r#"{{"manifests":[{{"mediaType":"x/y","digest":"{digest}","size":9,"artifactType":"sig"}}]}}"#);
            respond(200).body(listed.into_bytes().into()).unwrap()
        }
        ("blobs", digest) if digest == Algorithm::Sha256.digest(MOVED).as_str() => {
            respond(307).header("location", "https://cdn.example/moved?sig=1").body(Body::empty()).unwrap()
        }
        ("blobs", digest) if digest == blob_digest().as_str() => match request.headers().get("range") {
            Some(range) if range == "bytes=2-4" => {
                respond(206).header("content-range", "bytes 2-4/10").body("234".into()).unwrap()
            }
            Some(_) => respond(416).body(Body::empty()).unwrap(),
            None if is_head => respond(200).header("content-length", 10).body(Body::empty()).unwrap(),
            None => respond(200).body(Bytes::from_static(BLOB).into()).unwrap(),
        },
        _ => nothing(),
    })
}

impl Setup {
    fn new(policy: &str) -> Self {
        Self::with(policy, "docker.io https://docker.io default")
    }

    fn with(policy: &str, settings: &str) -> Self {
        let upstream = Arc::new(Scripted::new(answer));
        let platform: Arc<dyn Platform> = upstream.clone();
        let keys: Arc<dyn KeyValue> = Arc::new(MemoryKeyValue::default());
        let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
        let registry = Registry::new(keys, blobs, platform, Limits::default());
        let settings: Mirroring = settings.parse().unwrap();
        let registry = registry.with_mirrored_prefixes(settings.prefixes());
        let mirrors = Mirrors::new(settings, &registry, &Seal::new([1; 32]));
        let access = Access::without_login(policy.parse::<Policy>().unwrap());
        let handler = Handler::new(registry.clone(), access).with_mirrors(mirrors);
        Self { handler, registry, upstream }
    }

    fn send(&self, request: http::request::Builder) -> Response<Body> {
        block_on(self.handler.handle(request.body(Body::empty()).unwrap()))
    }

    fn get(&self, path: &str) -> (StatusCode, Response<Body>) {
        let response = self.send(Request::get(format!("/v2/{path}")));
        (response.status(), response)
    }

    fn status(&self, method: &str, path: &str) -> u16 {
        self.send(Request::builder().method(method).uri(format!("/v2/{path}"))).status().as_u16()
    }

    fn asked(&self) -> bool {
        !self.upstream.take_requests().is_empty()
    }
}

fn text(response: Response<Body>) -> String {
    let bytes = block_on(response.into_body().collect_up_to(100_000)).unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn three_ways_lead_to_one_mirrored_repository() {
    let setup = Setup::new("anonymous ** all");
    for (path, namespace) in [
        ("docker.io/library/app/manifests/v1", None),
        ("docker.io/app/manifests/v1", None),
        ("library/app/manifests/v1?ns=docker.io", Some("docker.io")),
        ("app/manifests/v1?ns=index.docker.io", Some("index.docker.io")),
        ("app/manifests/v1", None),
    ] {
        let (status, response) = setup.get(path);
        assert_eq!(status, StatusCode::OK, "{path}");
        let told = response.headers().get("oci-namespace").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(told.as_deref(), namespace, "{path}");
        assert_eq!(text(response), manifest(), "{path}");
    }
    assert_eq!(setup.upstream.take_requests().len(), 1, "all ways share the cached tag");
    assert_eq!(text(setup.get("_catalog").1), r#"{"repositories":["docker.io/library/app"]}"#);
    for path in ["app/manifests/v1?ns=evil.example", "app/tags/list?ns=evil.example"] {
        let (status, response) = setup.get(path);
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(text(response).contains("no upstream here has the namespace \\\"evil.example\\\""));
    }
    assert!(!setup.asked());
}

#[test]
fn own_repositories_come_first() {
    let setup = Setup::new("anonymous ** all");
    let name = "library/app".parse().unwrap();
    let own = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    block_on(setup.registry.push_manifest(&name, &"own".parse().unwrap(), &[], None, own.into())).unwrap();
    assert_eq!(text(setup.get("library/app/manifests/own").1), own);
    // The repository exists here, so the default upstream is not asked for another tag.
    assert_eq!(setup.status("GET", "library/app/manifests/v1"), 404);
    assert_eq!(text(setup.get("library/app/tags/list").1), r#"{"name":"library/app","tags":["own"]}"#);
    assert!(!setup.asked());
    assert_eq!(setup.status("GET", "library/app/manifests/v1?ns=docker.io"), 200);
}

#[test]
fn policies_are_asked_before_anything_is_sent() {
    let denied = Setup::new("anonymous own/** all");
    let blob = blob_digest();
    for path in [
        "docker.io/library/app/manifests/v1".to_owned(),
        "library/app/manifests/v1?ns=docker.io".to_owned(),
        "library/app/manifests/v1".to_owned(),
        format!("docker.io/library/app/blobs/{blob}"),
        "docker.io/library/app/tags/list".to_owned(),
        format!("docker.io/library/app/referrers/{blob}"),
    ] {
        assert_eq!(denied.status("GET", &path), 403, "{path}");
    }
    assert!(!denied.asked());
    // The right to pull the mirrored repository is enough for a name that is mirrored by default.
    let mirrored = Setup::new("anonymous docker.io/** pull");
    assert_eq!(mirrored.status("GET", "library/app/manifests/v1"), 200);
    // A caller who may not pull the own repository does not learn whether the repository exists.
    let name = "library/app".parse().unwrap();
    let own = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    block_on(mirrored.registry.push_manifest(&name, &"v1".parse().unwrap(), &[], None, own.into())).unwrap();
    assert_eq!(text(mirrored.get("library/app/manifests/v1").1), manifest());
}

#[test]
fn nothing_is_pushed_into_a_mirrored_repository() {
    let setup = Setup::new("anonymous ** all");
    let blob = blob_digest();
    for (method, path) in [
        ("PUT", "docker.io/library/app/manifests/v1".to_owned()),
        ("POST", "docker.io/library/app/blobs/uploads/".to_owned()),
        ("POST", format!("docker.io/library/app/blobs/uploads/?digest={blob}")),
        ("POST", format!("docker.io/library/app/blobs/uploads/?mount={blob}&from=own")),
    ] {
        let response = setup.send(Request::builder().method(method).uri(format!("/v2/{path}")));
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{method} {path}");
        let text = text(response);
        assert!(text.contains("DENIED") && text.contains("mirrors the upstream docker.io"), "{text}");
    }
    assert_eq!(setup.status("POST", "own/app/blobs/uploads/"), 202);
    assert!(!setup.asked());
}

#[test]
fn a_blob_comes_through_and_stays() {
    let setup = Setup::new("anonymous ** all");
    let path = format!("docker.io/app/blobs/{}", blob_digest());
    let head = setup.send(Request::head(format!("/v2/{path}")));
    assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &"10".parse().unwrap()));
    let part = setup.send(Request::get(format!("/v2/{path}")).header("range", "bytes=2-4"));
    assert_eq!((part.status().as_u16(), &part.headers()["content-range"]), (206, &"bytes 2-4/10".parse().unwrap()));
    assert_eq!(text(part), "234");
    let beyond = setup.send(Request::get(format!("/v2/{path}")).header("range", "bytes=20-"));
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(setup.upstream.take_requests().len(), 3);
    let whole = setup.get(&path).1;
    assert_eq!((&whole.headers()["content-length"], text(setup.get(&path).1).len()), (&"10".parse().unwrap(), 10));
    assert_eq!(text(whole).as_bytes(), BLOB);
    setup.upstream.take_requests();
    assert_eq!(text(setup.get(&path).1).as_bytes(), BLOB);
    assert!(!setup.asked(), "the blob is here now");
    let absent = format!("docker.io/app/blobs/{}", Algorithm::Sha256.digest(b"other"));
    let (status, response) = setup.get(&absent);
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text(response).contains("BLOB_UNKNOWN"));
}

#[test]
fn a_client_is_sent_where_the_upstream_redirects() {
    let setup = Setup::with("anonymous ** all", "docker.io https://docker.io redirect");
    let (digest, absent) = (Algorithm::Sha256.digest(MOVED), Algorithm::Sha256.digest(b"other"));
    let path = format!("/v2/docker.io/app/blobs/{digest}");
    for request in [Request::get(&path), Request::get(&path).header("range", "bytes=2-4")] {
        let response = setup.send(request);
        assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("location"), "https://cdn.example/moved?sig=1");
        assert_eq!((header("cache-control"), header("docker-content-digest")), ("no-store".into(), digest.to_string()));
        assert_eq!(response.headers()["content-length"], "0");
    }
    assert!(block_on(setup.registry.blob(&"docker.io/library/app".parse().unwrap(), &digest)).is_err());
    // Only those who may pull get the URL.
    let denied = Setup::with("anonymous own/** all", "docker.io https://docker.io redirect");
    assert_eq!(denied.send(Request::get(&path)).status(), StatusCode::FORBIDDEN);
    assert_eq!(setup.status("GET", &format!("docker.io/app/blobs/{absent}")), 404);
    assert_eq!(text(setup.get(&format!("docker.io/app/blobs/{}", blob_digest())).1).as_bytes(), BLOB);
}

#[test]
fn an_administrator_checks_the_upstreams() {
    let setup = Setup::with("anonymous ** all", "docker.io https://docker.io; q https://q.example");
    let response = setup.send(Request::post("/v2/_eyot/check"));
    assert_eq!(response.status(), StatusCode::OK);
    let found: serde_json::Value = serde_json::from_str(&text(response)).unwrap();
    let upstreams = &found["upstreams"];
    assert_eq!((&upstreams[0]["upstream"], &upstreams[0]["verdict"]), (&"docker.io".into(), &"broken".into()));
    assert!(upstreams[0]["means"].as_str().unwrap().contains("https://registry-1.docker.io/v2/ is no registry"));
    assert_eq!(upstreams[1]["upstream"], "q");
}

#[test]
fn a_push_does_not_take_a_blob_of_the_default_upstream_for_its_own() {
    let setup = Setup::new("anonymous ** all");
    let path = format!("library/app/blobs/{}", blob_digest());
    assert_eq!(setup.status("HEAD", &path), 404);
    assert!(!setup.asked());
    assert_eq!(setup.status("GET", &path), 200);
}

#[test]
fn trouble_of_an_upstream_keeps_its_class_and_names_the_upstream() {
    let setup = Setup::new("anonymous ** all");
    for (tag, status, code) in [
        ("limited", 429, "TOOMANYREQUESTS"),
        ("down", 502, "UNKNOWN"),
        ("slow", 504, "UNKNOWN"),
        ("absent", 404, "MANIFEST_UNKNOWN"),
        ("login", 404, "MANIFEST_UNKNOWN"),
    ] {
        let (answered, response) = setup.get(&format!("docker.io/app/manifests/{tag}"));
        assert_eq!(answered.as_u16(), status, "{tag}");
        let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(retry_after.as_deref(), (tag == "limited").then_some("17"));
        assert!(!response.headers().contains_key("www-authenticate"));
        let text = text(response);
        assert!(text.contains(code) && (status == 404 || text.contains("docker.io")), "{text}");
    }
}

#[test]
fn lists_are_the_upstreams() {
    let setup = Setup::new("anonymous ** all");
    let (_, tags) = setup.get("docker.io/app/tags/list");
    assert_eq!(text(tags), r#"{"name":"docker.io/library/app","tags":["v1","v2"]}"#);
    let (_, first) = setup.get("docker.io/app/tags/list?n=1");
    assert_eq!(first.headers()["link"], "</v2/docker.io/library/app/tags/list?n=1&last=v1>; rel=\"next\"");
    assert_eq!(setup.status("GET", "docker.io/other/tags/list"), 404);
    let signature = Algorithm::Sha256.digest(b"signature").to_string();
    for (filter, expected) in [("", true), ("?artifactType=sig", true), ("?artifactType=other", false)] {
        let (status, response) = setup.get(&format!("docker.io/app/referrers/{}{filter}", blob_digest()));
        assert_eq!((status, text(response).contains(&signature)), (StatusCode::OK, expected), "{filter}");
    }
}

#[test]
fn cached_content_is_deleted_as_everywhere_and_comes_again_with_the_next_pull() {
    let setup = Setup::new("anonymous ** all");
    let manifest_digest = Algorithm::Sha256.digest(manifest().as_bytes());
    let by_tag = "docker.io/library/app/manifests/v1".to_owned();
    let by_digest = format!("docker.io/library/app/manifests/{manifest_digest}");
    let blob = format!("docker.io/library/app/blobs/{}", blob_digest());
    for path in [&by_tag, &blob] {
        assert!(!text(setup.get(path).1).is_empty(), "{path}");
    }
    setup.asked();
    for path in [&by_tag, &by_digest, &blob] {
        assert_eq!(setup.status("DELETE", path), 202, "{path}");
        assert_eq!(setup.status("DELETE", path), 404, "{path} is deleted already");
        // This upstream gives manifests by tag only.
        let pulled = if path == &by_digest { &by_tag } else { path };
        assert!(!text(setup.get(pulled).1).is_empty(), "{pulled}");
        assert!(setup.asked(), "{pulled} comes from the upstream again");
    }
    // The whole repository goes with its manifests, and a collection removes the rest.
    assert_eq!(setup.status("DELETE", &by_digest), 202);
    let collected = loop {
        let step = crate::registry::CollectRequest { grace_ms: 0, ..setup.registry.collect_request() };
        let report = block_on(setup.registry.collect_step(&step)).unwrap();
        if report.done {
            break report;
        }
    };
    assert_eq!(collected.blobs.removed, 1, "{collected:?}");
    assert_eq!(text(setup.get("_catalog").1), r#"{"repositories":[]}"#);
    assert!(!setup.asked());
    assert_eq!(setup.status("GET", &by_tag), 200);
}
