//! Malicious manifests: deeply nested, ambiguous, or circular. The registry refuses each manifest,
//! or stores it unchanged and stays unharmed.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use eyot::oci::{Algorithm, Digest};
use eyot::platform::{BodyError, SystemPlatform};
use eyot::registry::Limits;
use eyot::store::counting::Counting;
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::store::{BlobStore, KeyValue};
use eyot::{Body, Handler, Registry};
use futures_executor::block_on;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http::{Request, Response};
use serde_json::{Value, json};

use crate::allocation;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// So deep that a recursion would overflow the stack, yet within the size limit of a manifest.
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

/// Runs rounds of the collection without grace until a round removes nothing.
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
    // The depth of an unread member does not matter: the registry stores the bytes unchanged.
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

/// A manifest with a duplicate member is refused, because two readers may use different values.
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
        // Each index also refers to its child as subject, and lists the child twice.
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

/// A manifest cannot name its own digest. But the fallback tag, under which clients without the
/// referrers API keep a list, is only a name and can form a circle.
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
    // The same list serves as the list of the subject, of the referrer in it, and of the list
    // itself.
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

/// Every digest in a manifest is looked up. So the number of digests is limited, and checked before
/// any write.
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

/// Media types and artifact types with characters that a JSON string may contain and a header may
/// not.
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

/// A registry that counts storage calls and read bytes.
struct Counted {
    handler: Handler,
    keys: Arc<Counting<dyn KeyValue>>,
    blobs: Arc<Counting<dyn BlobStore>>,
}

impl Counted {
    fn new(limits: Limits) -> Self {
        let platform = Arc::new(SystemPlatform);
        let keys = Arc::new(Counting::new(Arc::new(MemoryKeyValue::default()) as Arc<dyn KeyValue>));
        let blobs = Arc::new(Counting::new(Arc::new(MemoryBlobStore::new(platform.clone())) as Arc<dyn BlobStore>));
        let registry = Registry::new(keys.clone(), blobs.clone(), platform, limits);
        Self { handler: Handler::new(registry, eyot::auth::Access::open()), keys, blobs }
    }

    /// The number of storage calls and of bytes read since the last call of `cost`.
    fn cost(&self) -> (u64, u64) {
        let calls = self.keys.counts.take().iter().chain(&self.blobs.counts.take()).sum();
        (calls, self.keys.counts.take_read_bytes() + self.blobs.counts.take_read_bytes())
    }
}

fn get(handler: &Handler, uri: &str) -> Response<Body> {
    block_on(handler.handle(Request::get(uri).body(Body::empty()).unwrap()))
}

fn next_page(response: &Response<Body>) -> Option<String> {
    let link = response.headers().get("link")?.to_str().unwrap();
    link.split(['<', '>']).nth(1).map(str::to_owned)
}

fn referrer(subject: &Digest, members: &Value) -> Vec<u8> {
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [],
        "subject": { "mediaType": INDEX, "digest": subject, "size": 1 },
    });
    manifest.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    manifest.to_string().into_bytes()
}

/// A descriptor is repeated in each list of referrers, so its size is limited.
#[test]
fn descriptors_that_are_too_large_for_a_list_are_refused() {
    let counted = Counted::new(Limits::default());
    let subject = digest(b"the subject");
    let many: serde_json::Map<String, Value> = (0..5000).map(|number| (format!("key {number}"), json!(""))).collect();
    let large = [
        json!({ "annotations": { "note": "x".repeat(3_200_000) } }),
        json!({ "annotations": { "note": "x".repeat(64 << 10) } }),
        json!({ "annotations": { "x".repeat(64 << 10): "" } }),
        json!({ "annotations": { "note": "\u{1}".repeat(11_000) } }),
        json!({ "annotations": many }),
        json!({ "artifactType": "x".repeat(64 << 10) }),
    ];
    for (number, members) in large.iter().enumerate() {
        let (status, text) = push(&counted.handler, "v1", &referrer(&subject, members));
        assert!(status == 400 && text.contains("MANIFEST_INVALID") && text.contains("65536"), "{number}: {text}");
    }
    assert_eq!(block_on(counted.keys.list("", None, 10)).unwrap(), [] as [&str; 0]);
    // The limit applies only to listed descriptors: a manifest without subject may have more
    // annotations.
    let alone = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": { "note": "x".repeat(1 << 20) } });
    assert_eq!(push(&counted.handler, "alone", alone.to_string().as_bytes()).0, 201);
    let fits = referrer(&subject, &json!({ "annotations": { "note": "x".repeat(65_000) } }));
    assert_eq!(push(&counted.handler, "fits", &fits).0, 201);
}

/// The bound also holds if no referrer passes the filter, and if descriptors are read from the
/// manifests.
#[test]
fn a_page_of_referrers_reads_a_bounded_number_of_bytes() {
    for manifest_inline_bytes_max in [Limits::default().manifest_inline_bytes_max, 1000] {
        let counted = Counted::new(Limits { manifest_inline_bytes_max, ..Limits::default() });
        let subject = digest(b"the subject");
        for number in 0..150 {
            let note = json!({ "note": format!("{number}{}", "x".repeat(60_000)) });
            let manifest = referrer(&subject, &json!({ "artifactType": "a/b", "annotations": note }));
            assert_eq!(push(&counted.handler, digest(&manifest).as_str(), &manifest).0, 201);
        }
        for (filter, expected) in [("", 150), ("?artifactType=a/b", 150), ("?artifactType=a/none", 0)] {
            let (mut uri, mut found, mut pages) = (format!("/v2/a/referrers/{subject}{filter}"), 0, 0);
            loop {
                counted.cost();
                let response = get(&counted.handler, &uri);
                let (calls, bytes) = counted.cost();
                // The limit of a page, plus the bytes that were read ahead.
                assert!(bytes <= (4 << 20) + 16 * (64 << 10), "{filter}: {bytes} bytes");
                assert!(calls <= 4 * 150, "{filter}: {calls} calls");
                let next = next_page(&response);
                let page = block_on(response.into_body().collect_up_to(4 << 20)).unwrap();
                let page: Value = serde_json::from_slice(&page).unwrap();
                found += page["manifests"].as_array().unwrap().len();
                pages += 1;
                let Some(next) = next else { break };
                uri = next;
            }
            assert_eq!((found, pages), (expected, 3), "{filter}");
        }
    }
}

/// In a component, where each instance has a memory of its own for pages, pages are small from the
/// start.
#[test]
fn a_small_memory_for_pages_makes_small_pages() {
    let counted = Counted::new(Limits { pages_memory_bytes: 512 << 10, ..Limits::default() });
    let subject = digest(b"the subject");
    for number in 0..30 {
        let note = json!({ "note": format!("{number}{}", "x".repeat(60_000)) });
        let manifest = referrer(&subject, &json!({ "annotations": note }));
        assert_eq!(push(&counted.handler, digest(&manifest).as_str(), &manifest).0, 201);
    }
    let (mut uri, mut found) = (format!("/v2/a/referrers/{subject}"), 0);
    loop {
        counted.cost();
        let response = get(&counted.handler, &uri);
        let (_, bytes) = counted.cost();
        assert!(bytes <= 512 << 10, "{bytes} bytes read");
        let next = next_page(&response);
        let page = block_on(response.into_body().collect_up_to(256 << 10)).unwrap();
        let page: Value = serde_json::from_slice(&page).unwrap();
        found += page["manifests"].as_array().unwrap().len();
        let Some(next) = next else { break };
        uri = next;
    }
    assert_eq!(found, 30);
}

/// Clients that request large pages without reading them get smaller pages. The pages share a
/// limited amount of memory.
#[test]
fn pages_that_nobody_reads_share_their_memory() {
    let handler = Handler::in_memory();
    let subject = digest(b"the subject");
    for number in 0..80 {
        let note = json!({ "note": format!("{number}{}", "x".repeat(60_000)) });
        let manifest = referrer(&subject, &json!({ "annotations": note }));
        assert_eq!(push(&handler, digest(&manifest).as_str(), &manifest).0, 201);
    }
    let uri = format!("/v2/a/referrers/{subject}");
    let held: Vec<_> = (0..100).map(|_| get(&handler, &uri)).collect();
    let lengths: Vec<u64> = held.iter().map(|response| response.body().length().unwrap()).collect();
    assert!(lengths[0] > 3 << 20, "{lengths:?}");
    assert!(lengths.iter().all(|length| *length > 60_000) && held.iter().all(|one| next_page(one).is_some()));
    let bytes: u64 = lengths.iter().sum();
    assert!(bytes <= (64 << 20) + 100 * (256 << 10), "{bytes} bytes: {lengths:?}");
    drop(held);
    assert_eq!(get(&handler, &uri).body().length(), Some(lengths[0]));
}

/// Incomplete large manifests use memory only for the received bytes, within a shared limit. Small
/// manifests are still accepted.
#[test]
fn manifests_that_stop_in_the_middle_share_their_memory() {
    let handler = Handler::in_memory();
    let begin = |bytes: usize| {
        let begun = stream::iter([Ok::<_, BodyError>(Bytes::from(vec![b' '; bytes]))]).chain(stream::pending());
        let body = Body::from_stream(begun).with_length(4 << 20);
        let request = Request::put("/v2/a/manifests/large").body(body).unwrap();
        let mut answer = Box::pin(handler.handle(request));
        assert!(answer.as_mut().now_or_never().is_none());
        answer
    };
    let small = br#"{"schemaVersion":2,"manifests":[]}"#;
    let mut large = small.to_vec();
    large.resize(4 << 20, b' ');
    let push_large = || push(&handler, "large", &large);
    let silent: Vec<_> = (0..4000).map(|_| begin(1)).collect();
    assert_eq!(push_large().0, 201);
    drop(silent);
    let mut held: Vec<_> = (0..28).map(|_| begin(4_000_000)).collect();
    assert_eq!(push_large().0, 201);
    held.extend((0..12).map(|_| begin(4_000_000)));
    let (status, text) = push_large();
    assert!(status == 503 && text.contains("try again"), "{status} {text}");
    assert_eq!(push(&handler, "small", small).0, 201);
    drop(held);
    assert_eq!(push_large().0, 201);
}

/// Manifests that need many times their size in memory when they are parsed into pieces.
#[test]
fn a_manifest_takes_a_bounded_multiple_of_its_size() {
    const SIZE: usize = 4 << 20;
    let fill = |before: &str, each: &dyn Fn(usize) -> String, after: &str| {
        let mut text = before.to_owned();
        for number in 0.. {
            let next = each(number);
            if text.len() + next.len() + after.len() + 1 > SIZE {
                break;
            }
            text += if number == 0 { "" } else { "," };
            text += &next;
        }
        text + after
    };
    let child = format!(r#""mediaType":"a/b","digest":"{}","size":1"#, digest(b"child"));
    let own = r#"{"schemaVersion":2,"manifests":[],"annotations":{"#;
    let of_child = format!(r#"{{"schemaVersion":2,"manifests":[{{{child},"#);
    let manifests = [
        ("own annotations", fill(own, &|number| format!(r#""{number:x}":"""#), "}}")),
        (
            "annotations",
            fill(&format!(r#"{of_child}"annotations":{{"#), &|number| format!(r#""{number:x}":"""#), "}}]}"),
        ),
        ("urls", fill(&format!(r#"{of_child}"urls":["#), &|_| r#""""#.into(), "]}]}")),
        ("repeated", fill(r#"{"schemaVersion":2,"manifests":["#, &|_| format!("{{{child}}}"), "]}")),
        ("members", fill(r#"{"schemaVersion":2,"manifests":[],"#, &|number| format!(r#""{number:x}":0"#), "}")),
        ("numbers", fill(r#"{"schemaVersion":2,"manifests":[],"x":["#, &|_| "0".into(), "]}")),
        (
            "different",
            fill(r#"{"schemaVersion":2,"manifests":["#, &|number| descriptor(&number.to_le_bytes()).to_string(), "]}"),
        ),
        ("as many as may be", {
            let each: Vec<_> = (0..19_999u32).map(|number| descriptor(&number.to_le_bytes()).to_string()).collect();
            format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, each.join(","))
        }),
        (
            "digests",
            fill(
                r#"{"schemaVersion":2,"manifests":[],"x":["#,
                &|number| format!("\"{}\"", digest(&number.to_le_bytes())),
                "]}",
            ),
        ),
    ];
    let with_round =
        |beside_a_round: bool| manifests.iter().map(move |(kind, manifest)| (beside_a_round, kind, manifest));
    for (beside_a_round, kind, manifest) in with_round(false).chain(with_round(true)) {
        let handler = handler(Limits { sparse_manifests: true, collect_step_keys_max: 1, ..Limits::default() });
        if beside_a_round {
            assert_eq!(push(&handler, "older", br#"{"schemaVersion":2,"manifests":[]}"#).0, 201);
            let (_, report) = send(&handler, "POST", "/v2/_eyot/collect", b"");
            let report: Value = serde_json::from_slice(&report).unwrap();
            assert_eq!(report["done"], false, "the push protects its keys only beside a round: {report}");
        }
        let bytes = Bytes::from(manifest.clone());
        let pieces =
            (0..bytes.len()).step_by(64 << 10).map(move |at| bytes.slice(at..bytes.len().min(at + (64 << 10))));
        let body = Body::from_stream(stream::iter(pieces.map(Ok::<_, BodyError>)));
        let request = Request::put("/v2/a/manifests/v1").body(body.with_length(manifest.len() as u64)).unwrap();
        let (answer, allocated) = allocation::of(|| block_on(handler.handle(request)));
        let of =
            format!("{kind}, round {beside_a_round}: {} for {} bytes: {allocated:?}", answer.status(), manifest.len());
        println!("{of}");
        // Beside a round, the store in memory has one protection for each key that the push needs.
        let stored = if beside_a_round { allocated.left } else { 0 };
        // The bytes of the manifest, plus the allowance for parsing (registry/limits.rs).
        assert!(allocated.peak <= 8 * SIZE as u64 + stored, "{of}");
    }
}

/// A list under a fallback tag costs its push a bounded number of calls, and costs readers nothing.
#[test]
fn long_lists_under_a_fallback_tag() {
    let counted = Counted::new(Limits { sparse_manifests: true, ..Limits::default() });
    let subject = digest(b"the subject");
    let lost = referrer(&subject, &json!({ "annotations": { "note": "x".repeat(30_000) } }));
    assert_eq!(push(&counted.handler, digest(&lost).as_str(), &lost).0, 201);
    let key = format!("referrer/a!{subject}!{}", digest(&lost));
    let fallback = subject.to_string().replace(':', "-");
    let repeated = vec![descriptor(&lost).to_string(); 22_000];
    let distinct: Vec<_> = (0..20_000u32).map(|number| descriptor(&number.to_le_bytes()).to_string()).collect();
    for (listed, calls_max) in [(repeated, 24), (distinct, 1024)] {
        block_on(counted.keys.delete(&key)).unwrap();
        let list = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, listed.join(","));
        counted.cost();
        let (status, text) = push(&counted.handler, &fallback, list.as_bytes());
        let (calls, bytes) = counted.cost();
        assert_eq!(status, 201, "{text}");
        assert!(calls <= calls_max && bytes <= 200_000, "{calls} calls, {bytes} bytes");
        for _ in 0..2 {
            let response = get(&counted.handler, &format!("/v2/a/referrers/{subject}"));
            let (calls, bytes) = counted.cost();
            assert!(response.status() == 200 && calls <= 2 && bytes <= 64 << 10, "{calls} calls, {bytes} bytes");
        }
        let is_there = block_on(counted.keys.get(&key)).unwrap().is_some();
        assert_eq!(is_there, calls_max == 24, "what was lost is listed again where the list names it");
    }
}
