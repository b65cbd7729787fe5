//! Uploads a blob in any split into requests. The result is the same blob, or a refusal that leaves
//! the upload at its offset, or behind the bytes that came before the client broke off.

use arbitrary::{Result, Unstructured};
use eyot::oci::Algorithm;
use eyot::{Body, Handler};
use http::Request;
use std::ops::Range;

use super::registry::{BLOB_BYTES_MAX, FRAMINGS, Framing, body, handler, send};

const STEPS_MAX: usize = 40;

/// The client's model of the upload.
struct Model {
    content: Vec<u8>,
    algorithm: Algorithm,
    /// The algorithm with which the server hashes the content during the upload.
    hashed_with: Algorithm,
    location: String,
    /// The number of bytes that the server has, or `None` when the session is over.
    offset: Option<usize>,
}

struct Chunk {
    range: Range<usize>,
    framing: Framing,
    content_range: Option<String>,
}

pub fn uploads(data: &[u8]) {
    // The input ended. The steps before the end were checked, so the early end is no failure.
    let _ = upload(&mut Unstructured::new(data));
}

fn upload(u: &mut Unstructured<'_>) -> Result<()> {
    let handler = handler();
    // One size in four lies within one byte of the limit.
    let size = match u.int_in_range(0..=3)? {
        0 => BLOB_BYTES_MAX as usize + usize::from(u.int_in_range(0..=2u8)?) - 1,
        _ => u.int_in_range(0..=BLOB_BYTES_MAX as usize)?,
    };
    let seed: u8 = u.arbitrary()?;
    let content = (0..size).map(|at| (at * 7 + at / 256 + usize::from(seed)) as u8).collect();
    let algorithm = if u.ratio(1, 4)? { Algorithm::Sha512 } else { Algorithm::Sha256 };
    let told = if u.arbitrary()? { format!("?digest-algorithm={}", algorithm.as_str()) } else { String::new() };
    let begun = send(&handler, request("POST", &format!("/v2/a/blobs/uploads/{told}"), None, Body::empty()));
    assert_eq!(begun.status, 202);
    let hashed_with = if told.is_empty() { Algorithm::Sha256 } else { algorithm };
    let location = begun.header("location").expect("a Location").to_owned();
    let mut model = Model { content, algorithm, hashed_with, location, offset: Some(0) };
    for _ in 0..STEPS_MAX {
        match u.int_in_range(0..=9)? {
            0..=5 => model.patch(&handler, u)?,
            6 => model.status(&handler),
            7 if u.ratio(1, 4)? => model.cancel(&handler),
            8 => model.finish_wrongly(&handler),
            _ => model.finish(&handler, u)?,
        }
        model.status(&handler);
        if u.is_empty() {
            break;
        }
    }
    Ok(())
}

fn request(method: &str, uri: &str, content_range: Option<&str>, body: Body) -> Request<Body> {
    let request = Request::builder().method(method).uri(uri);
    let request = match content_range {
        Some(range) => request.header("content-range", range),
        None => request,
    };
    request.body(body).expect("a request")
}

impl Model {
    /// A chunk with the next bytes of the content or other bytes. Content-Range is absent, or gives
    /// the chunk's true place or another place.
    fn chunk(&self, u: &mut Unstructured<'_>, to_the_end: bool) -> Result<Chunk> {
        let start = match (self.offset, u.ratio(1, 8)?) {
            (Some(offset), false) => offset,
            _ => u.int_in_range(0..=self.content.len())?,
        };
        let end = if to_the_end { self.content.len() } else { u.int_in_range(start..=self.content.len())? };
        let framing = if u.ratio(2, 3)? { *u.choose(&FRAMINGS[..3])? } else { *u.choose(&FRAMINGS)? };
        // A body with Content-Length 0 is empty, whatever bytes follow, so `OneLess` needs at least
        // 2 bytes.
        let framing = if framing == Framing::OneLess && end - start < 2 { Framing::Streamed } else { framing };
        let content_range = match u.int_in_range(0..=9)? {
            0..=3 if end > start => Some(format!("{start}-{}", end - 1)),
            4 => Some(format!("bytes {start}-{}/*", end.max(start))),
            5 => Some(format!("{}-{}", start + 1, end + 1)),
            6 => Some(String::from_utf8_lossy(u.bytes(u.len().min(5))?).replace(|c: char| !c.is_ascii_graphic(), "-")),
            _ => None,
        };
        Ok(Chunk { range: start..end, framing, content_range })
    }

    /// Whether the server must accept the chunk. The server must refuse every other chunk.
    fn is_good(&self, chunk: &Chunk) -> bool {
        let Some(offset) = self.offset else { return false };
        let length = chunk.range.len();
        let in_place = match chunk.content_range.as_deref().map(eyot::oci::range::parse_chunk_range) {
            // Without Content-Range, the bytes belong at the upload's offset.
            None => true,
            Some(None) => false,
            Some(Some(said)) => said.start == offset as u64 && said.end - said.start == length as u64,
        };
        let sound = match chunk.framing {
            Framing::Length | Framing::Streamed | Framing::Trickled => true,
            Framing::Broken | Framing::OneMore | Framing::OneLess => false,
        };
        in_place && sound && (offset + length) as u64 <= BLOB_BYTES_MAX
    }

    /// How many bytes of an interrupted chunk the server must keep.
    fn counted(&self, chunk: &Chunk) -> usize {
        let Some(offset) = self.offset else { return 0 };
        let length = chunk.range.len();
        let body_length = match chunk.framing {
            Framing::Broken => None,
            Framing::OneMore => Some(length as u64 + 1),
            _ => return 0,
        };
        let said = match chunk.content_range.as_deref().map(eyot::oci::range::parse_chunk_range) {
            None => body_length,
            Some(None) => return 0,
            Some(Some(said)) => {
                let said_length = said.end - said.start;
                let fits = body_length.map_or(said_length >= length as u64, |length| said_length == length);
                if said.start != offset as u64 || !fits {
                    return 0;
                }
                Some(said_length)
            }
        };
        let end = offset as u64 + said.unwrap_or(length as u64);
        if end <= BLOB_BYTES_MAX { length } else { 0 }
    }

    /// Records that the server has these bytes now, at the server's offset, whatever place in the
    /// content the client meant.
    fn advance(&mut self, bytes: &[u8]) {
        let Some(offset) = self.offset else { return };
        let end = offset + bytes.len();
        self.content.splice(offset..end.min(self.content.len()), bytes.to_vec());
        self.offset = Some(end);
    }

    fn patch(&mut self, handler: &Handler, u: &mut Unstructured<'_>) -> Result<()> {
        let chunk = self.chunk(u, false)?;
        let bytes = self.content[chunk.range.clone()].to_vec();
        let sent = request("PATCH", &self.location, chunk.content_range.as_deref(), body(&bytes, chunk.framing));
        let reply = send(handler, sent);
        assert_eq!(reply.status == 202, self.is_good(&chunk), "{:?} at {:?}: {reply:?}", chunk.range, self.offset);
        match reply.status.as_u16() {
            202 => self.advance(&bytes),
            _ => self.advance(&bytes[..self.counted(&chunk)]),
        }
        match reply.status.as_u16() {
            202 => assert_eq!(reply.header("range"), self.range().as_deref()),
            416 => {
                let range = self.range().filter(|_| self.offset > Some(0));
                assert_eq!(reply.header("range"), range.as_deref());
            }
            400 | 413 => {}
            404 => assert_eq!(self.offset, None),
            _ => panic!("{reply:?}"),
        }
        Ok(())
    }

    fn range(&self) -> Option<String> {
        self.offset.map(|offset| format!("0-{}", offset.saturating_sub(1)))
    }

    fn status(&self, handler: &Handler) {
        let reply = send(handler, request("GET", &self.location, None, Body::empty()));
        assert_eq!(reply.status.as_u16(), if self.offset.is_some() { 204 } else { 404 });
        assert_eq!(reply.header("range"), self.range().as_deref());
    }

    fn cancel(&mut self, handler: &Handler) {
        let reply = send(handler, request("DELETE", &self.location, None, Body::empty()));
        // The session may have been cancelled by an earlier attempt of the same request, so the
        // answer is 204 without a session, too.
        assert_eq!(reply.status, 204);
        self.offset = None;
    }

    /// Finishes the upload with a digest that differs from the digest of the content.
    fn finish_wrongly(&mut self, handler: &Handler) {
        let wrong = self.algorithm.digest(b"something else");
        let reply = send(handler, request("PUT", &format!("{}?digest={wrong}", self.location), None, Body::empty()));
        assert_eq!(reply.status.as_u16(), if self.offset.is_some() { 400 } else { 404 });
        // For a digest of another algorithm, the server must commit the content in order to read
        // the content, so the session is over.
        if self.offset.is_some_and(|offset| offset > 0) && self.hashed_with != self.algorithm {
            self.offset = None;
        }
    }

    fn finish(&mut self, handler: &Handler, u: &mut Unstructured<'_>) -> Result<()> {
        let chunk = self.chunk(u, true)?;
        let bytes = self.content[chunk.range.clone()].to_vec();
        let before = self.offset.unwrap_or_default();
        let whole = [&self.content[..before], &bytes].concat();
        let digest = self.algorithm.digest(&whole);
        let blob = format!("/v2/a/blobs/{digest}");
        let held = send(handler, request("HEAD", &blob, None, Body::empty())).status == 200;
        let uri = format!("{}?digest={digest}", self.location);
        let reply = send(handler, request("PUT", &uri, chunk.content_range.as_deref(), body(&bytes, chunk.framing)));
        let good = self.is_good(&chunk);
        // The session is over and the content is stored, so the answer to an earlier PUT may have
        // been lost. The server answers 201 again.
        let range = chunk.content_range.as_deref().map(eyot::oci::range::parse_chunk_range);
        let again = self.offset.is_none() && held && range != Some(None);
        assert_eq!(reply.status == 201, good || again, "{:?} of {:?}: {reply:?}", chunk.range, self.offset);
        let uri = blob;
        let pulled = send(handler, request("GET", &uri, None, Body::empty()));
        if good {
            self.offset = None;
            assert_eq!((pulled.status.as_u16(), &pulled.body[..]), (200, &whole[..]));
        } else {
            // The content may be stored by an earlier finish.
            assert!(pulled.status == 404 || pulled.body == whole);
            let counted = self.counted(&chunk);
            if counted > 0 && self.offset == Some(0) {
                self.hashed_with = self.algorithm;
            }
            self.advance(&bytes[..counted]);
        }
        Ok(())
    }
}
