//! A registry in memory with small limits, which inputs soon reach, and a client of the registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use eyot::platform::{BodyError, Platform};
use eyot::registry::Limits;
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::{Body, Handler, Registry};
use futures_executor::block_on;
use futures_util::stream;
use http::{HeaderMap, Request, StatusCode};

pub const BLOB_BYTES_MAX: u64 = 3000;

/// A platform whose clock and randomness repeat, so that the same input gives the same run.
#[derive(Default)]
pub struct Repeatable(AtomicU64);

impl Platform for Repeatable {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn random(&self) -> [u8; 16] {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed)).to_le_bytes()
    }
}

pub fn handler() -> Handler {
    Handler::new(registry(Arc::new(Repeatable::default())), eyot::auth::Access::open())
}

pub fn registry(platform: Arc<dyn Platform>) -> Registry {
    let limits = Limits {
        blob_bytes_max: BLOB_BYTES_MAX,
        manifest_bytes_max: 4000,
        manifest_inline_bytes_max: 300,
        manifest_references_max: 4,
        page_entries_max: 3,
        referrers_per_page_max: 2,
        tags_per_push_max: 3,
        grace_ms: 0,
        untagged_lifetime_ms: Some(0),
        collect_step_keys_max: 20,
        // A small limit, which inputs can exceed. With a small limit, a step allocates no mebibyte
        // for the marks.
        marks_max: 64,
        warnings: true,
        ..Limits::default()
    };
    let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
    Registry::new(Arc::new(MemoryKeyValue::default()), blobs, platform, limits)
}

/// The largest number of pieces of a trickled body. Bodies of one byte at a time took most of the
/// time of a run.
const TRICKLES_MAX: usize = 24;

/// How the client sends a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length,
    Streamed,
    /// In up to `TRICKLES_MAX` small pieces.
    Trickled,
    /// The body breaks off behind the bytes.
    Broken,
    /// Content-Length is one byte more than the body, or one byte less.
    OneMore,
    OneLess,
}

pub const FRAMINGS: [Framing; 6] =
    [Framing::Length, Framing::Streamed, Framing::Trickled, Framing::Broken, Framing::OneMore, Framing::OneLess];

pub fn body(bytes: &[u8], framing: Framing) -> Body {
    let bytes = Bytes::copy_from_slice(bytes);
    let length = bytes.len() as u64;
    let whole = |bytes| Body::from_stream(stream::iter([Ok::<_, BodyError>(bytes)]));
    match framing {
        Framing::Length => bytes.into(),
        Framing::Streamed => whole(bytes),
        Framing::Trickled => {
            let each = bytes.len().div_ceil(TRICKLES_MAX).max(1);
            let pieces = (0..bytes.len()).step_by(each);
            let pieces = pieces.map(move |at| Ok::<_, BodyError>(bytes.slice(at..bytes.len().min(at + each))));
            Body::from_stream(stream::iter(pieces))
        }
        Framing::Broken => {
            let broken = Err(BodyError::Interrupted("the client is gone".into()));
            Body::from_stream(stream::iter([Ok(bytes), broken]))
        }
        Framing::OneMore => whole(bytes).with_length(length + 1),
        Framing::OneLess => whole(bytes).with_length(length.saturating_sub(1)),
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("headers of ours are text"))
    }
}

/// Sends a request and checks the properties of every answer.
pub fn send(handler: &Handler, request: Request<Body>) -> Reply {
    let sent = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
    let is_head = request.method() == http::Method::HEAD;
    let (head, body) = block_on(handler.handle(request)).into_parts();
    let body = block_on(body.collect_up_to(1 << 20)).expect("the memory store does not fail");
    let reply = Reply { status: head.status, headers: head.headers, body };
    assert_ne!(reply.status, StatusCode::INTERNAL_SERVER_ERROR, "{sent}: {reply:?}");
    assert_eq!(reply.header("docker-distribution-api-version"), Some("registry/2.0"), "{sent}");
    assert!(reply.header("x-request-id").is_some(), "{sent}");

    let length = reply.header("content-length").map(|text| text.parse::<usize>().expect("a length"));
    match reply.status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => {
            assert_eq!((length, reply.body.len()), (None, 0), "{sent}")
        }
        _ if is_head => assert!(length.is_some() && reply.body.is_empty(), "{sent}: {reply:?}"),
        _ => assert_eq!(length, Some(reply.body.len()), "{sent}"),
    }
    if !is_head && (reply.status.is_client_error() || reply.status.is_server_error()) {
        check_errors(&sent, &reply);
    }
    reply
}

/// Checks that the error has the specification's form, and a code of the specification.
fn check_errors(sent: &str, reply: &Reply) {
    const CODES: &str = "BLOB_UNKNOWN BLOB_UPLOAD_INVALID BLOB_UPLOAD_UNKNOWN DIGEST_INVALID MANIFEST_BLOB_UNKNOWN \
        MANIFEST_INVALID MANIFEST_UNKNOWN NAME_INVALID NAME_UNKNOWN SIZE_INVALID UNAUTHORIZED DENIED UNSUPPORTED \
        TOOMANYREQUESTS UNKNOWN";
    assert_eq!(reply.header("content-type"), Some("application/json"), "{sent}");
    let value: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_else(|why| panic!("{sent}: {why}"));
    let errors = value["errors"].as_array().filter(|errors| !errors.is_empty());
    for error in errors.unwrap_or_else(|| panic!("{sent}: {value}")) {
        let (code, message) = (error["code"].as_str(), error["message"].as_str());
        assert!(code.is_some_and(|code| CODES.split(' ').any(|known| known == code)), "{sent}: {value}");
        assert!(message.is_some_and(|message| !message.is_empty()), "{sent}: {value}");
    }
}
