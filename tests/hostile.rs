//! Manifests made to do harm: nested deep, ambiguous, referring in circles. Each is refused, or kept as it is and does none.
#![cfg(not(target_family = "wasm"))]

use std::collections::BTreeSet;
use std::sync::Arc;

use eyot::oci::{Algorithm, Digest};
use eyot::registry::Limits;
use eyot::store::SystemPlatform;
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::{Handler, Registry};
use futures_executor::block_on;
use http::Request;
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// As deep as a recursion over it would end the process, and as the size of a manifest allows.
const DEEP: usize = 1_000_000;

fn handler(limits: Limits) -> Handler {
    let platform = Arc::new(SystemPlatform);
    let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
    Handler::new(
        Registry::new(Arc::new(MemoryKeyValue::default()), blobs, platform, limits),
        eyot::auth::Access::open(),
    )
}

fn send(handler: &Handler, method: &str, uri: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let request = Request::builder().method(method).uri(uri).body(body.to_vec().into()).unwrap();
    let response = block_on(handler.handle(request));
    let status = response.status().as_u16();
    (status, block_on(response.into_body().collect_up_to(8 << 20)).unwrap().to_vec())
}

fn push(handler: &Handler, reference: &str, manifest: &[u8]) -> (u16, String) {
    let (status, body) = send(handler, "PUT", &format!("/v2/a/manifests/{reference}"), manifest);
    (status, String::from_utf8(body).unwrap())
}

fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

fn descriptor(bytes: &[u8]) -> Value {
    json!({ "mediaType": INDEX, "digest": digest(bytes), "size": bytes.len() })
}

/// Rounds of the collection with nothing spared, until one removes nothing.
fn collect(handler: &Handler) {
    loop {
        let (status, body) = send(handler, "POST", "/v2/_eyot/collect", b"");
        let report: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, 200, "{report}");
        let removed = ["manifests", "blobs", "content"].map(|kind| report[kind]["removed"].as_u64().unwrap());
        if report["done"] == true && removed == [0; 3] {
            return;
        }
    }
}

#[test]
fn json_that_nests_deep_overflows_no_stack() {
    let handler = Handler::in_memory();
    let around = |member: &str, open: &str, close: &str| {
        let (open, close) = (open.repeat(DEEP), close.repeat(DEEP));
        format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],"{member}":{open}{close}}}"#).into_bytes()
    };
    // In a member that nobody reads it does not matter how deep it is: the bytes are kept as they are.
    let unknown = around("x", "[", "]");
    assert_eq!(push(&handler, "unknown", &unknown).0, 201);
    assert_eq!(send(&handler, "GET", "/v2/a/manifests/unknown", b""), (200, unknown));
    for member in ["manifests", "layers", "config", "subject", "annotations", "artifactType", "schemaVersion"] {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "")] {
            let deep = around(member, open, close);
            let (status, text) = push(&handler, "known", &deep[..deep.len().min(4 << 20)]);
            assert_eq!(status, 400, "{member} {open}: {text}");
        }
    }
    let endless = vec![b'['; 4 << 20];
    assert_eq!(push(&handler, "endless", &endless).0, 400);
}

/// Two readers that each take another of two members of one name must not be served one manifest.
#[test]
fn members_that_are_there_twice_are_refused_where_they_are_read() {
    let handler = Handler::in_memory();
    assert_eq!(push(&handler, "child", br#"{"schemaVersion":2,"manifests":[]}"#).0, 201);
    let child = descriptor(br#"{"schemaVersion":2,"manifests":[]}"#);
    for twice in [
        format!(r#""manifests":[],"manifests":[{child}]"#),
        format!(r#""manifests":[{child}],"manifests":[]"#),
        format!(r#""manifests":[],"mediaType":"{INDEX}","mediaType":"{INDEX}""#),
        format!(r#""manifests":[],"subject":{child},"subject":{child}"#),
        r#""manifests":[],"schemaVersion":2"#.to_owned(),
        r#""manifests":[],"mani\u0066ests":[]"#.to_owned(),
        format!(r#""manifests":[{}]"#, child.to_string().replacen('{', r#"{"size":1,"#, 1)),
    ] {
        let (status, text) = push(&handler, "twice", format!(r#"{{"schemaVersion":2,{twice}}}"#).as_bytes());
        assert!(status == 400 && text.contains("duplicate field"), "{twice}: {status} {text}");
    }
}

#[test]
fn indexes_of_indexes_of_indexes() {
    let handler = handler(Limits { grace_ms: 0, untagged_lifetime_ms: Some(0), ..Limits::default() });
    let mut index = br#"{"schemaVersion":2,"manifests":[]}"#.to_vec();
    let mut all = vec![index.clone()];
    for _ in 0..1000 {
        assert_eq!(push(&handler, &digest(&index).to_string(), &index).0, 201);
        let child = descriptor(&index);
        // Each also is its child's referrer, and names it twice.
        let above = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [child, child], "subject": child });
        index = above.to_string().into_bytes();
        all.push(index.clone());
    }
    assert_eq!(push(&handler, "top", &index).0, 201);
    collect(&handler);
    for index in &all {
        assert_eq!(send(&handler, "GET", &format!("/v2/a/manifests/{}", digest(index)), b"").0, 200);
    }
    assert_eq!(send(&handler, "DELETE", "/v2/a/manifests/top", b"").0, 202);
    collect(&handler);
    let left =
        all.iter().filter(|index| send(&handler, "GET", &format!("/v2/a/manifests/{}", digest(index)), b"").0 == 200);
    assert_eq!(left.count(), 0);
}

/// No manifest can name its own digest, but the tag under which clients without the referrers API keep a list is only a name.
#[test]
fn lists_of_referrers_in_circles() {
    let handler = handler(Limits { grace_ms: 0, untagged_lifetime_ms: Some(0), ..Limits::default() });
    let subject = br#"{"schemaVersion":2,"manifests":[]}"#;
    assert_eq!(push(&handler, "subject", subject).0, 201);
    let referrer = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": descriptor(subject), "artifactType": "a/b",
    });
    let referrer = referrer.to_string().into_bytes();
    assert_eq!(push(&handler, &digest(&referrer).to_string(), &referrer).0, 201);
    let list =
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(&referrer), descriptor(subject)] });
    let list = list.to_string().into_bytes();
    let fallback = |digest: &Digest| digest.to_string().replace(':', "-");
    // The list is that of the subject, of the referrer in it, and of itself.
    let lists = [digest(subject), digest(&referrer), digest(&list)];
    for of in &lists {
        assert_eq!(push(&handler, &fallback(of), &list).0, 201);
    }
    for of in &lists {
        let (status, body) = send(&handler, "GET", &format!("/v2/a/referrers/{of}"), b"");
        let page: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, 200, "{page}");
        let found: Vec<_> = page["manifests"].as_array().unwrap().iter().map(|one| one["digest"].to_string()).collect();
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len(), "{of}: {page}");
    }
    collect(&handler);
    for kept in [&subject[..], &referrer, &list] {
        assert_eq!(send(&handler, "GET", &format!("/v2/a/manifests/{}", digest(kept)), b"").0, 200);
    }
}

/// What a manifest names is looked up, so their number is limited, before anything is written.
#[test]
fn manifests_that_name_too_much() {
    let handler = Handler::in_memory();
    let named = |count: u32| {
        let each = (0..count).map(|number| descriptor(&number.to_le_bytes()).to_string());
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, each.collect::<Vec<_>>().join(",")).into_bytes()
    };
    let (status, text) = push(&handler, "many", &named(20_001));
    assert!(status == 400 && text.contains("more than 20000 descriptors"), "{status} {text}");
    let (status, text) = push(&handler, "fewer", &named(1000));
    assert!(status == 400 && text.contains("MANIFEST_BLOB_UNKNOWN"), "{status} {text}");
    assert_eq!(push(&handler, "large", &vec![b' '; (4 << 20) + 1]).0, 413);
    assert_eq!(send(&handler, "GET", "/v2/a/tags/list", b"").0, 404);
}

/// Text that a JSON string may hold and a header may not.
#[test]
fn media_types_and_artifact_types_of_any_text() {
    let handler = Handler::in_memory();
    for text in ["a/b\\r\\nX-Injected: 1", "a/\\u0000", "a/\\u00e9", "a/b, c/d", " a/b", "a/b/c", "../x"] {
        let manifest = format!(r#"{{"schemaVersion":2,"mediaType":"{text}","manifests":[]}}"#);
        assert_eq!(push(&handler, "typed", manifest.as_bytes()).0, 400, "{text}");
    }
    let subject = digest(b"nowhere");
    let manifest = format!(
        r#"{{"schemaVersion":2,"manifests":[],"artifactType":"a\r\nX-Injected: 1","annotations":{{"\u0000":"\ud83d\ude00"}},
        "subject":{{"mediaType":"x","digest":"{subject}","size":1}}}}"#
    );
    assert_eq!(push(&handler, "odd", manifest.as_bytes()).0, 201);
    let query = "artifactType=a%0d%0aX-Injected%3a%201";
    let (status, page) = send(&handler, "GET", &format!("/v2/a/referrers/{subject}?{query}"), b"");
    let page: Value = serde_json::from_slice(&page).unwrap();
    assert_eq!((status, page["manifests"].as_array().unwrap().len()), (200, 1));
}
