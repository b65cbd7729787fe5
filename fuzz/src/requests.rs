//! Sequences of requests of any kind. Each answer has the properties that `registry::send` checks,
//! no request panics, and at the end all listed content can be pulled completely.

use std::collections::BTreeSet;
use std::sync::Mutex;

use arbitrary::{Result, Unstructured};
use eyot::oci::{Algorithm, Digest};
use eyot::{Body, Handler};
use http::Request;
use serde_json::{Value, json};

use super::registry::{FRAMINGS, Reply, body, handler, send};

const STEPS_MAX: usize = 60;

/// The outcomes so far, as `METHOD kind status`. A test checks by this set that the inputs still
/// reach the intended outcomes.
pub static REACHED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

const METHODS: [&str; 9] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "EYOT"];
const NAMES: [&str; 6] = ["a", "a", "a/b", "c", "A", "a//b"];
const TAGS: [&str; 6] = ["v1", "v1", "v2", "latest", "-", "v%2e1"];
const TYPES: [&str; 6] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/json; charset=utf-8",
    "no type",
    "",
];
const HEADERS: [&str; 9] = [
    "range",
    "if-none-match",
    "if-range",
    "content-range",
    "content-type",
    "transfer-encoding",
    "expect",
    "x-request-id",
    "accept",
];

pub fn requests(data: &[u8]) {
    let mut client = Client { handler: handler(), digests: Vec::new(), sessions: Vec::new(), lost_content: false };
    let mut u = Unstructured::new(data);
    for _ in 0..STEPS_MAX {
        // The input ended. The steps before the end were checked, so the early end is no failure.
        if u.is_empty() || client.step(&mut u).is_err() {
            break;
        }
    }
    client.check();
}

struct Client {
    handler: Handler,
    /// Digests of pushed content, and of content that was never pushed.
    digests: Vec<Digest>,
    sessions: Vec<String>,
    /// Whether a client deleted content that manifests may name.
    lost_content: bool,
}

/// The parts of a request before the request is built. Building fails for texts that are invalid in
/// HTTP.
struct Draft {
    kind: &'static str,
    method: &'static str,
    uri: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    content: Vec<u8>,
}

impl Client {
    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let mut draft = match u.int_in_range(0..=15)? {
            0..=2 => self.push_blob(u)?,
            3 => self.begin(u)?,
            4..=5 => self.go_on(u)?,
            6..=8 => self.push_manifest(u)?,
            9..=12 => self.look(u)?,
            13 => self.delete(u)?,
            14 => self.own(u)?,
            _ => self.wild(u)?,
        };
        if u.ratio(1, 5)? {
            let name = *u.choose(&HEADERS)?;
            draft.headers.push((name, self.header_value(u, name)?));
        }
        if u.ratio(1, 20)? {
            draft.method = u.choose(&METHODS)?;
        }
        let framing = if u.ratio(3, 4)? { FRAMINGS[0] } else { *u.choose(&FRAMINGS)? };
        let mut request = Request::builder().method(draft.method).uri(&draft.uri);
        for (name, value) in draft.headers {
            request = request.header(name, value);
        }
        // A host's HTTP server refuses text that is not a valid request.
        let Ok(request) = request.body(body(&draft.content, framing)) else { return Ok(()) };
        let reply = send(&self.handler, request);
        self.learn(draft.kind, draft.method, &draft.content, &reply);
        Ok(())
    }

    fn learn(&mut self, kind: &'static str, method: &'static str, content: &[u8], reply: &Reply) {
        let status = reply.status.as_u16();
        REACHED.lock().expect("no panic holds it").insert(format!("{method} {kind} {status}"));
        if let Some(session) = reply.header("docker-upload-uuid") {
            self.sessions.push(session.to_owned());
        }
        if let (201, Some(digest)) = (status, reply.header("docker-content-digest")) {
            self.digests.push(digest.parse().expect("a digest of ours"));
        }
        if method == "DELETE" && status == 202 {
            self.lost_content = true;
        }
        if (method, kind, status) == ("GET", "look", 200)
            && let Some(digest) = reply.header("docker-content-digest")
            && reply.header("content-range").is_none()
        {
            assert!(digest.parse::<Digest>().is_ok_and(|digest| digest.matches(&reply.body)), "{reply:?}");
        }
        // Content that was pushed by digest must hash to the digest.
        if let (201, Some(digest), "manifest") = (status, reply.header("docker-content-digest"), kind) {
            assert!(digest.parse::<Digest>().is_ok_and(|digest| digest.matches(content)), "{reply:?}");
        }
    }

    fn digest(&self, u: &mut Unstructured<'_>) -> Result<Digest> {
        match self.digests.len() {
            0 => Ok(Algorithm::Sha256.digest(b"never pushed")),
            _ => Ok(u.choose(&self.digests)?.clone()),
        }
    }

    fn reference(&self, u: &mut Unstructured<'_>) -> Result<String> {
        Ok(match u.int_in_range(0..=5)? {
            0..=2 => (*u.choose(&TAGS)?).to_owned(),
            3..=4 => self.digest(u)?.to_string(),
            // The tag under which clients without the referrers API store their list of referrers.
            _ => self.digest(u)?.to_string().replace(':', "-"),
        })
    }

    fn push_blob(&self, u: &mut Unstructured<'_>) -> Result<Draft> {
        let name = *u.choose(&NAMES)?;
        let content = match u.ratio(1, 10)? {
            true => vec![b'x'; u.int_in_range(2990..=3010)?],
            false => vec![b'x'; u.int_in_range(0..=20)?],
        };
        let algorithm = if u.ratio(1, 8)? { Algorithm::Sha512 } else { Algorithm::Sha256 };
        let digest = algorithm.digest(if u.ratio(1, 10)? { b"wrong" } else { &content });
        let uri = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        Ok(Draft { kind: "blob", method: "POST", uri, headers: Vec::new(), content })
    }

    fn begin(&self, u: &mut Unstructured<'_>) -> Result<Draft> {
        let name = *u.choose(&NAMES)?;
        let query = match u.int_in_range(0..=3)? {
            0 => String::new(),
            1 => "?digest-algorithm=sha512".to_owned(),
            2 => format!("?mount={}&from={}", self.digest(u)?, u.choose(&NAMES)?),
            _ => format!("?mount={}", self.digest(u)?),
        };
        let uri = format!("/v2/{name}/blobs/uploads/{query}");
        Ok(Draft { kind: "begin", method: "POST", uri, headers: Vec::new(), content: Vec::new() })
    }

    fn go_on(&self, u: &mut Unstructured<'_>) -> Result<Draft> {
        let name = *u.choose(&NAMES)?;
        let session = if self.sessions.is_empty() { "none" } else { u.choose(&self.sessions)? };
        let content = vec![b'x'; u.int_in_range(0..=10)?];
        let (method, query) = match u.int_in_range(0..=5)? {
            0..=2 => ("PATCH", String::new()),
            3 => ("PUT", format!("?digest={}", Algorithm::Sha256.digest(&content))),
            4 => ("PUT", format!("?digest={}", self.digest(u)?)),
            _ => ("DELETE", String::new()),
        };
        let mut headers = Vec::new();
        if u.ratio(1, 3)? && !content.is_empty() {
            let first = u.int_in_range(0..=10)?;
            headers.push(("content-range", format!("{first}-{}", first + content.len() - 1).into_bytes()));
        }
        let uri = format!("/v2/{name}/blobs/uploads/{session}{query}");
        Ok(Draft { kind: "upload", method, uri, headers, content })
    }

    fn push_manifest(&self, u: &mut Unstructured<'_>) -> Result<Draft> {
        let name = *u.choose(&NAMES)?;
        let content = self.manifest(u)?;
        let digest = Algorithm::Sha256.digest(&content);
        let reference = if u.ratio(1, 3)? { digest.to_string() } else { self.reference(u)? };
        let tags = match u.int_in_range(0..=4)? {
            0 => "?tag=v1&tag=v3".to_owned(),
            1 if u.ratio(1, 4)? => "?tag=a&tag=b&tag=c&tag=d".to_owned(),
            _ => String::new(),
        };
        let mut headers = Vec::new();
        if u.ratio(1, 4)? {
            headers.push(("content-type", u.choose(&TYPES)?.as_bytes().to_vec()));
        }
        let uri = format!("/v2/{name}/manifests/{reference}{tags}");
        Ok(Draft { kind: "manifest", method: "PUT", uri, headers, content })
    }

    fn manifest(&self, u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let descriptor = |u: &mut Unstructured<'_>| -> Result<Value> {
            Ok(json!({ "mediaType": u.choose(&TYPES)?, "digest": self.digest(u)?, "size": 3 }))
        };
        let mut manifest = json!({ "schemaVersion": 2 });
        if u.ratio(1, 2)? {
            manifest["mediaType"] = TYPES[0].into();
            manifest["config"] = descriptor(u)?;
            manifest["layers"] = json!([descriptor(u)?]);
        } else {
            manifest["mediaType"] = TYPES[1].into();
            let children: Vec<Value> = (0..u.int_in_range(0..=5)?).map(|_| descriptor(u)).collect::<Result<_>>()?;
            manifest["manifests"] = children.into();
        }
        if u.ratio(1, 3)? {
            manifest["subject"] = descriptor(u)?;
            manifest["artifactType"] = u.choose(&TYPES)?.to_owned().into();
        }
        if u.ratio(1, 4)? {
            let most = if u.ratio(1, 8)? { 4500 } else { 500 };
            manifest["annotations"] = json!({ "padding": "x".repeat(u.int_in_range(0..=most)?) });
        }
        let mut bytes = manifest.to_string().into_bytes();
        if u.ratio(1, 10)? {
            let at = u.choose_index(bytes.len())?;
            bytes[at] = u.arbitrary()?;
        }
        Ok(bytes)
    }

    fn look(&self, u: &mut Unstructured<'_>) -> Result<Draft> {
        let name = *u.choose(&NAMES)?;
        let page = match u.int_in_range(0..=4)? {
            0 => "?n=1".to_owned(),
            1 => format!("?n={}", u.arbitrary::<i64>()?),
            2 => format!("?last={}", u.choose(&TAGS)?),
            _ => String::new(),
        };
        let uri = match u.int_in_range(0..=7)? {
            0..=1 => format!("/v2/{name}/manifests/{}", self.reference(u)?),
            2..=3 => format!("/v2/{name}/blobs/{}", self.digest(u)?),
            4 => format!("/v2/{name}/tags/list{page}"),
            5 => format!("/v2/_catalog{page}"),
            6 => format!("/v2/{name}/referrers/{}?artifactType={}", self.digest(u)?, u.choose(&TYPES[..1])?),
            _ => format!("/v2/{name}/referrers/{}", self.digest(u)?),
        };
        let method = if u.ratio(1, 4)? { "HEAD" } else { "GET" };
        let name = *u.choose(&["", "", "", "range", "range", "if-none-match"])?;
        let headers = if name.is_empty() { Vec::new() } else { vec![(name, self.header_value(u, name)?)] };
        Ok(Draft { kind: "look", method, uri, headers, content: Vec::new() })
    }

    fn delete(&self, u: &mut Unstructured<'_>) -> Result<Draft> {
        let name = *u.choose(&NAMES)?;
        let uri = match u.arbitrary()? {
            true => format!("/v2/{name}/manifests/{}", self.reference(u)?),
            false => format!("/v2/{name}/blobs/{}", self.digest(u)?),
        };
        Ok(Draft { kind: "delete", method: "DELETE", uri, headers: Vec::new(), content: Vec::new() })
    }

    /// A request to one of eyot's own endpoints.
    fn own(&self, u: &mut Unstructured<'_>) -> Result<Draft> {
        let (method, uri) = match u.int_in_range(0..=5)? {
            0..=2 => ("POST", "/v2/_eyot/collect".to_owned()),
            3 => ("POST", "/v2/_eyot/collect?dry_run=true".to_owned()),
            4 => ("PUT", format!("/v2/_eyot/warnings/{}:{}", u.choose(&NAMES)?, u.choose(&TAGS)?)),
            _ => (*u.choose(&["GET", "DELETE"])?, format!("/v2/_eyot/warnings/{}", u.choose(&NAMES)?)),
        };
        let content = if u.arbitrary()? { b"a warning".to_vec() } else { u.bytes(u.len().min(8))?.to_vec() };
        Ok(Draft { kind: "own", method, uri, headers: Vec::new(), content })
    }

    /// Bytes of any kind behind a known beginning of a path.
    fn wild(&self, u: &mut Unstructured<'_>) -> Result<Draft> {
        let begin =
            *u.choose(&["", "/", "/v2/", "/v2/a/", "/v2/a/manifests/", "/v2/a/blobs/uploads/", "/v2/a/tags/list?"])?;
        let rest = u.bytes(u.len().min(24))?;
        let escaped = u.arbitrary()?;
        let rest: String = match escaped {
            true => rest.iter().map(|byte| format!("%{byte:02x}")).collect(),
            false => String::from_utf8_lossy(rest).into_owned(),
        };
        let method = u.choose(&METHODS)?;
        Ok(Draft { kind: "wild", method, uri: format!("{begin}{rest}"), headers: Vec::new(), content: Vec::new() })
    }

    /// A value for the header: in one of four cases bytes of any kind, otherwise a plausible value.
    fn header_value(&self, u: &mut Unstructured<'_>, name: &str) -> Result<Vec<u8>> {
        if u.ratio(1, 4)? {
            return Ok(u.bytes(u.len().min(12))?.to_vec());
        }
        let text = match name {
            "range" if u.arbitrary()? => format!("bytes={}-", u.int_in_range(0..=30)?),
            "range" => format!("bytes=-{}", u.int_in_range(0..=30)?),
            "if-none-match" if u.arbitrary()? => "*".to_owned(),
            "if-none-match" | "if-range" => format!("\"{}\"", self.digest(u)?),
            "content-range" => format!("0-{}", u.int_in_range(0..=12)?),
            "content-type" | "accept" => (*u.choose(&TYPES)?).to_owned(),
            "transfer-encoding" => "chunked".to_owned(),
            "expect" => "100-continue".to_owned(),
            _ => "an-id".to_owned(),
        };
        Ok(text.into_bytes())
    }

    /// Checks that every tag leads to a manifest. Unless a client deleted content, all content that
    /// a manifest names must exist.
    fn check(&self) {
        for name in ["a", "a/b", "c"] {
            let mut next = Some(format!("/v2/{name}/tags/list"));
            while let Some(uri) = next {
                let page = self.get(&uri);
                if page.status == 404 {
                    break;
                }
                let list: Value = serde_json::from_slice(&page.body).expect("JSON");
                for tag in list["tags"].as_array().expect("tags") {
                    self.check_manifest(name, tag.as_str().expect("a tag"));
                }
                next = page.header("link").map(|link| link.split(['<', '>']).nth(1).expect("a link").to_owned());
            }
        }
    }

    fn check_manifest(&self, name: &str, reference: &str) {
        let reply = self.get(&format!("/v2/{name}/manifests/{reference}"));
        assert_eq!(reply.status, 200, "{name}:{reference} is listed and leads nowhere");
        if self.lost_content {
            return;
        }
        let manifest: Value = serde_json::from_slice(&reply.body).expect("JSON");
        for child in manifest["manifests"].as_array().into_iter().flatten() {
            let digest = child["digest"].as_str().expect("a digest");
            // An index may list blobs, as BuildKit's cache does.
            if self.get(&format!("/v2/{name}/blobs/{digest}")).status != 200 {
                self.check_manifest(name, digest);
            }
        }
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for blob in layers.chain(manifest.get("config")).filter(|blob| blob["urls"].is_null()) {
            let digest: Digest = blob["digest"].as_str().and_then(|text| text.parse().ok()).expect("a digest");
            let reply = self.get(&format!("/v2/{name}/blobs/{digest}"));
            assert!(reply.status == 200 && digest.matches(&reply.body), "{name}: {digest} is named and not there");
        }
    }

    fn get(&self, uri: &str) -> Reply {
        send(&self.handler, Request::get(uri).body(Body::empty()).expect("a request"))
    }
}
