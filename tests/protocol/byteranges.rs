//! Several ranges of a blob in one answer: the content of the body, and the number of reads.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use eyot::auth::Access;
use eyot::oci::Algorithm;
use eyot::oci::range::RANGES_MAX;
use eyot::platform::SystemPlatform;
use eyot::registry::Limits;
use eyot::store::counting::Counting;
use eyot::store::memory::MemoryKeyValue;
use eyot::store::packed::{CHUNK_BYTES_MIN, PackedBlobStore};
use eyot::{Body, Handler, Registry};
use futures_executor::block_on;
use http::{Request, StatusCode};

struct World {
    handler: Handler,
    /// Counts the calls to the store of the content's values.
    chunks: Arc<Counting<MemoryKeyValue>>,
    blob: Bytes,
    uri: String,
}

impl World {
    fn new(size: usize) -> Self {
        let chunks = Arc::new(Counting::new(Arc::new(MemoryKeyValue::default())));
        let platform = Arc::new(SystemPlatform);
        let blobs = Arc::new(PackedBlobStore::new(chunks.clone(), platform.clone(), CHUNK_BYTES_MIN));
        let keys = Arc::new(MemoryKeyValue::default());
        let handler = Handler::new(Registry::new(keys, blobs, platform, Limits::default()), Access::open());
        let blob: Bytes = (0..size).map(|n| (n * 31 % 251) as u8).collect();
        let digest = Algorithm::Sha256.digest(&blob);
        let push = Request::post(format!("/v2/a/blobs/uploads/?digest={digest}")).body(blob.clone().into()).unwrap();
        assert_eq!(block_on(handler.handle(push)).status(), StatusCode::CREATED);
        Self { handler, chunks, blob, uri: format!("/v2/a/blobs/{digest}") }
    }

    /// The parts of the answer to a request for these ranges, and the number of reads from the
    /// store.
    fn parts(&self, ranges: &[Range<usize>]) -> (Vec<(Range<usize>, Bytes)>, u64) {
        let texts: Vec<String> = ranges.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
        let request = Request::get(&self.uri).header("range", format!("bytes={}", texts.join(",")));
        self.chunks.counts.take();
        let response = block_on(self.handler.handle(request.body(Body::empty()).unwrap()));
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let (media_type, length) = (header("content-type"), header("content-length"));
        let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").unwrap().to_owned();
        let body = block_on(response.into_body().collect_up_to(1 << 30)).unwrap();
        assert_eq!(body.len().to_string(), length);
        (self.split(&body, &boundary), self.chunks.counts.take()[0])
    }

    fn split(&self, mut body: &[u8], boundary: &str) -> Vec<(Range<usize>, Bytes)> {
        let mut parts = Vec::new();
        let delimiter = format!("\r\n--{boundary}");
        loop {
            body = body.strip_prefix(delimiter.as_bytes()).unwrap();
            if body == b"--\r\n" {
                return parts;
            }
            let end = body.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
            let head = std::str::from_utf8(&body[..end]).unwrap();
            body = &body[end + 4..];
            let middle = "\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes ";
            let (range, size) = head.strip_prefix(middle).unwrap().split_once('/').unwrap();
            assert_eq!(size, self.blob.len().to_string());
            let (first, last) = range.split_once('-').unwrap();
            let range = first.parse().unwrap()..last.parse::<usize>().unwrap() + 1;
            let (part, rest) = body.split_at(range.len());
            body = rest;
            parts.push((range, Bytes::copy_from_slice(part)));
        }
    }
}

#[test]
fn each_part_of_a_multipart_answer_has_its_bytes() {
    let world = World::new(3_000_000);
    for ranges in [
        vec![0..2, 4..6],
        vec![2_999_999..3_000_000, 0..1],
        // Ranges across the boundaries of the stored values, some close to each other and some far
        // apart.
        vec![65_000..66_000, 131_071..131_073, 900_000..1_900_000, 2_500_000..2_500_001, 10..20],
    ] {
        let (parts, _) = world.parts(&ranges);
        let found: Vec<_> = parts.iter().map(|(range, _)| range.clone()).collect();
        assert_eq!(found, ranges);
        assert!(parts.iter().all(|(range, bytes)| *bytes == world.blob[range.clone()]));
    }
}

/// Requests the maximum number of parts, close to each other as in a layer of which little is
/// missing.
#[test]
fn many_small_parts_cost_few_reads() {
    let world = World::new(3_000_000);
    let ranges: Vec<_> = (0..RANGES_MAX).map(|n| n * 2900..n * 2900 + 1000).collect();
    let (parts, reads) = world.parts(&ranges);
    assert_eq!(parts.len(), RANGES_MAX);
    assert!(parts.iter().all(|(range, bytes)| *bytes == world.blob[range.clone()]));
    // Each value is read at most once.
    let values = world.blob.len().div_ceil(CHUNK_BYTES_MIN as usize) as u64;
    assert!(reads <= values, "{reads} reads of {values} values");
}
