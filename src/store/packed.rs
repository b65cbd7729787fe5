//! Content cut into values of a key-value store, for hosts without another store for content.
//!
//! Every append writes its chunks under a token of its own, so forks never share a key:
//! `pack/<family>!<token>!<number>-<length>`. A stage lists the chunks of each append as an
//! *extent*. When a stage has too many extents, the extents move to a *page*, so that a stage stays
//! small and an append costs the same however many came before. The few bytes after the last full
//! chunk are kept in the stage itself, so that small appends do not make small chunks.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{BlobStore, Error, Family, KeyValue, Location, Result, Stage, Stored, When};
use crate::oci::Digest;
use crate::platform::{Body, Causes, Platform};

/// The default chunk size: 960 KiB. Such chunks fit every common store except the narrowest;
/// Akamai's store takes 1 MB.
pub const CHUNK_BYTES_DEFAULT: u32 = 960 * 1024;
/// The smallest chunk size that can be set.
pub const CHUNK_BYTES_MIN: u32 = 64 * 1024;
/// The most bytes after the last full chunk that are kept in the stage.
const TAIL_BYTES_MAX: usize = 16 * 1024;
/// The prefix of all keys of packed content.
const PREFIX: &str = "pack/";
/// How many keys are listed at a time.
const KEYS_LISTED_MAX: usize = 1000;
/// The most extents that a stage, a page or a location lists.
const EXTENTS_MAX: usize = 256;

/// Content packed into the values of a [`KeyValue`].
pub struct PackedBlobStore {
    chunks: Chunks,
    platform: Arc<dyn Platform>,
    chunk_bytes: u32,
}

/// The chunks that one append wrote: all chunks but the last are full.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Extent {
    token: String,
    length: u64,
}

/// The content of a [`Stage`] or of a [`Location`]. The tail of a location is empty.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pack {
    family: String,
    // A stage keeps the chunk size that it began with even when the setting changes.
    chunk_bytes: u32,
    /// The token of the extents before those listed here: of the last page in a stage, and of the
    /// page list in a location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    extents: Vec<Extent>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "hex::serde")]
    tail: Vec<u8>,
    /// Whether the keys of the chunks end in the lengths of the chunks. Earlier versions wrote keys
    /// without lengths.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    sized: bool,
}

/// Extents moved out of a stage.
#[derive(Serialize, Deserialize)]
struct ExtentPage {
    before: Option<String>,
    extents: Vec<Extent>,
}

/// All pages of committed content in order. Each page is listed as one extent with the sum of the
/// page's lengths.
#[derive(Serialize, Deserialize)]
struct ExtentPageList {
    pages: Vec<Extent>,
}

/// The key-value store that holds chunks and pages.
#[derive(Clone)]
struct Chunks {
    keys: Arc<dyn KeyValue>,
}

impl PackedBlobStore {
    /// Stores content in `keys`, under keys that begin with `pack/`; other keys may lie beside
    /// them. `chunk_bytes` is the largest size of a value, in bytes. Sizes below
    /// [`CHUNK_BYTES_MIN`] are raised to [`CHUNK_BYTES_MIN`].
    pub fn new(keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>, chunk_bytes: u32) -> Self {
        Self { chunks: Chunks { keys }, platform, chunk_bytes: chunk_bytes.max(CHUNK_BYTES_MIN) }
    }

    /// Writes the pack's tail and the body as chunks under `token`. Returns the bytes left for the
    /// new tail, and adds the number of bytes written to `written`.
    async fn write(&self, pack: &Pack, token: &str, mut body: Body, written: &mut u64) -> Result<Vec<u8>> {
        let chunk_bytes = pack.chunk_bytes as usize;
        let mut gathered = pack.tail.clone();
        while let Some(data) = body.next().await {
            let mut data = data?;
            while !data.is_empty() {
                let part = data.split_to(data.len().min(chunk_bytes - gathered.len()));
                gathered.extend_from_slice(&part);
                if gathered.len() == chunk_bytes {
                    let chunk = std::mem::replace(&mut gathered, Vec::with_capacity(chunk_bytes));
                    self.write_chunk(pack, token, chunk, written).await?;
                }
            }
        }
        if gathered.len() > TAIL_BYTES_MAX {
            let chunk = std::mem::take(&mut gathered);
            self.write_chunk(pack, token, chunk, written).await?;
        }
        Ok(gathered)
    }

    async fn write_chunk(&self, pack: &Pack, token: &str, chunk: Vec<u8>, written: &mut u64) -> Result<()> {
        let key = pack.chunk_key(token, *written / u64::from(pack.chunk_bytes), chunk.len() as u64);
        *written += chunk.len() as u64;
        self.chunks.keys.put(&key, chunk.into(), When::Always).await.map(drop)
    }

    /// Removes the chunks of a failed append. Best effort: no stage lists the token, so chunks that
    /// stay are garbage.
    async fn remove_chunks(&self, pack: &Pack, token: &str, written: u64) {
        for number in 0..written.div_ceil(u64::from(pack.chunk_bytes)) {
            if let Err(error) = self.chunks.keys.delete(&pack.chunk_key_within(token, number, written)).await {
                tracing::warn!("cannot remove chunks of content {}: {}", pack.family, Causes(&error));
                return;
            }
        }
    }

    /// Moves the extents to a page when the pack has too many.
    async fn put_aside(&self, pack: &mut Pack, token: &str) -> Result<()> {
        if pack.extents.len() > EXTENTS_MAX {
            let page = ExtentPage { before: pack.before.take(), extents: std::mem::take(&mut pack.extents) };
            self.chunks.store(&pack.page_key(token), &page).await?;
            pack.before = Some(token.to_owned());
        }
        Ok(())
    }

    /// The bytes of `range`, out of extents with their starts in the content.
    fn read_extents(&self, pack: Pack, extents: Vec<(u64, Extent)>, range: Range<u64>) -> Result<Body> {
        let chunks = self.chunks.clone();
        let length = range.end.saturating_sub(range.start);
        // The wanted part of each extent, as a range within the extent.
        let parts: Vec<(Extent, Range<u64>)> = overlaps(extents, &range);
        if parts.iter().map(|(_, part)| part.end - part.start).sum::<u64>() != length {
            return Err(Error::corrupt(format!("content {} is shorter than {} bytes", pack.family, range.end)));
        }
        let state = (chunks, pack, parts.into_iter(), None);
        let pieces = stream::try_unfold(state, |(chunks, pack, mut parts, current)| async move {
            let Some((extent, part)) = current.or_else(|| parts.next()) else { return Ok::<_, Error>(None) };
            let (bytes, rest) = chunks.read_part(&pack, &extent, part).await?;
            let current = (!rest.is_empty()).then_some((extent, rest));
            Ok(Some((bytes, (chunks, pack, parts, current))))
        });
        Ok(Body::from_stream(pieces).with_length(length))
    }

    /// Stores the pages as a list in order. In the pack, the pages form a chain with the last page
    /// first.
    async fn list_pages(&self, pack: &Pack, token: &str) -> Result<()> {
        let mut pages = Vec::new();
        let mut next = pack.before.clone();
        while let Some(token) = next {
            let page: ExtentPage = self.chunks.load(&pack.page_key(&token)).await?;
            let length = page.extents.iter().map(|extent| extent.length).sum();
            pages.push(Extent { token, length });
            next = page.before;
        }
        pages.reverse();
        self.chunks.store(&pack.page_key(token), &ExtentPageList { pages }).await
    }
}

#[async_trait]
impl BlobStore for PackedBlobStore {
    async fn stage(&self) -> Result<Stage> {
        let (family, chunk_bytes) = (self.platform.uuid(), self.chunk_bytes);
        let pack = Pack { family, chunk_bytes, before: None, extents: Vec::new(), tail: Vec::new(), sized: true };
        Ok(Stage(seal(&pack)?))
    }

    async fn append(&self, stage: &Stage, body: Body) -> Result<Stage> {
        let mut pack: Pack = open(&stage.0)?;
        let (token, mut written) = (self.platform.uuid(), 0);
        match self.write(&pack, &token, body, &mut written).await {
            Ok(tail) => pack.tail = tail,
            Err(error) => {
                self.remove_chunks(&pack, &token, written).await;
                return Err(error);
            }
        }
        if written > 0 {
            pack.extents.push(Extent { token: token.clone(), length: written });
            self.put_aside(&mut pack, &token).await?;
        }
        Ok(Stage(seal(&pack)?))
    }

    async fn commit(&self, stage: &Stage, _digest: &Digest) -> Result<Location> {
        let mut pack: Pack = open(&stage.0)?;
        let token = self.platform.uuid();
        let tail = std::mem::take(&mut pack.tail);
        if !tail.is_empty() {
            let mut written = 0;
            self.write_chunk(&pack, &token, tail, &mut written).await?;
            pack.extents.push(Extent { token: token.clone(), length: written });
        }
        if pack.before.is_some() {
            self.list_pages(&pack, &token).await?;
            pack.before = Some(token);
        }
        Ok(Location(seal(&pack)?))
    }

    /// Removes nothing. Without conditions, another process may be committing the same stage, and
    /// the content that the commit acknowledges must stay readable. The chunks of a discarded stage
    /// are garbage without references.
    async fn discard(&self, _stage: &Stage) -> Result<()> {
        Ok(())
    }

    async fn read(&self, location: &Location, range: Range<u64>) -> Result<Body> {
        let pack: Pack = open(&location.0)?;
        let extents = self.chunks.extents_within(&pack, &range).await?;
        self.read_extents(pack, extents, range)
    }

    async fn read_stage(&self, stage: &Stage, range: Range<u64>) -> Result<Option<Body>> {
        let pack: Pack = open(&stage.0)?;
        let tail = Bytes::from(pack.tail.clone());
        let extents = self.chunks.staged_extents(&pack).await?;
        let chunked = extents.last().map_or(0, |(start, last)| start + last.length);
        let end = chunked + tail.len() as u64;
        if range.end > end || range.start > range.end {
            return Err(Error::corrupt(format!("content {} is shorter than {} bytes", pack.family, range.end)));
        }
        let (from, to) = (range.start.max(chunked) - chunked, range.end.max(chunked) - chunked);
        let tail = tail.slice(from as usize..to as usize);
        let of_chunks = range.start.min(chunked)..range.end.min(chunked);
        let body = self.read_extents(pack, extents, of_chunks)?;
        let pieces = stream::unfold(body, |mut body| async move { Some((body.next().await?, body)) });
        let pieces = pieces.chain(stream::iter([Ok(tail)]));
        Ok(Some(Body::from_stream(pieces).with_length(range.end - range.start)))
    }

    async fn family(&self, stage: &Stage) -> Result<Family> {
        let pack: Pack = open(&stage.0)?;
        Ok(Family::named(pack.family))
    }

    async fn names_of(&self, location: &Location) -> Result<Vec<String>> {
        let pack: Pack = open(&location.0)?;
        let mut tokens: Vec<String> = pack.extents.iter().map(|extent| extent.token.clone()).collect();
        if let Some(before) = &pack.before {
            let list: ExtentPageList = self.chunks.load(&pack.page_key(before)).await?;
            tokens.push(before.clone());
            for listed in list.pages {
                let page: ExtentPage = self.chunks.load(&pack.page_key(&listed.token)).await?;
                tokens.extend(page.extents.into_iter().map(|extent| extent.token));
                tokens.push(listed.token);
            }
        }
        Ok(tokens.into_iter().map(|token| format!("{}!{token}", pack.family)).collect())
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    /// The chunks of each append are listed under one name, `<family>!<token>`. The sizes come from
    /// the keys of the chunks.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>> {
        let mut found: Vec<Stored> = Vec::new();
        // All keys of the name `after` sort before `passed`.
        let mut passed = after.map(|name| format!("{PREFIX}{name}!{}", char::MAX));
        // A name beyond `limit` proves that all chunks of the last wanted name were counted.
        while found.len() <= limit {
            let keys = self.chunks.keys.list(PREFIX, passed.as_deref(), KEYS_LISTED_MAX).await?;
            for key in &keys {
                let (name, chunk) = key[PREFIX.len()..].rsplit_once('!').unwrap_or((&key[PREFIX.len()..], ""));
                if found.last().is_none_or(|last| last.name != name) {
                    found.push(Stored { name: name.to_owned(), bytes: Some(0) });
                }
                if let Some(last) = found.last_mut() {
                    last.bytes = last.bytes.zip(length_of(chunk)).map(|(sum, length)| sum + length);
                }
            }
            if keys.len() < KEYS_LISTED_MAX {
                break;
            }
            passed = keys.last().cloned();
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let prefix = format!("{PREFIX}{name}!");
        loop {
            let keys = self.chunks.keys.list(&prefix, None, KEYS_LISTED_MAX).await?;
            for key in &keys {
                self.chunks.keys.delete(key).await?;
            }
            if keys.len() < KEYS_LISTED_MAX {
                return Ok(());
            }
        }
    }
}

impl Pack {
    fn chunk_key(&self, token: &str, number: u64, length: u64) -> String {
        let key = format!("{PREFIX}{}!{token}!{number:08}", self.family);
        if self.sized { format!("{key}-{length}") } else { key }
    }

    /// The key of a chunk of an append that wrote `written` bytes: all chunks but the last are
    /// full.
    fn chunk_key_within(&self, token: &str, number: u64, written: u64) -> String {
        let chunk_bytes = u64::from(self.chunk_bytes);
        self.chunk_key(token, number, written.saturating_sub(number * chunk_bytes).min(chunk_bytes))
    }

    fn page_key(&self, token: &str) -> String {
        format!("{PREFIX}{}!{token}!page", self.family)
    }
}

impl Chunks {
    async fn get(&self, key: &str) -> Result<Bytes> {
        let missing = || Error::corrupt(format!("the value of key {key} is missing"));
        Ok(self.keys.get(key).await?.ok_or_else(missing)?.value)
    }

    async fn load<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let value = self.get(key).await?;
        serde_json::from_slice(&value)
            .map_err(|error| Error::corrupt(format!("cannot read the value of key {key}")).because(error))
    }

    async fn store<T: Serialize>(&self, key: &str, value: &T) -> Result<()> {
        let value = serde_json::to_vec(value)
            .map_err(|error| Error::corrupt(format!("cannot encode the value of key {key}")).because(error))?;
        self.keys.put(key, value.into(), When::Always).await.map(drop)
    }

    /// The extents that `range` may touch, each with its start in the content. Pages outside
    /// `range` are not read.
    async fn extents_within(&self, pack: &Pack, range: &Range<u64>) -> Result<Vec<(u64, Extent)>> {
        let mut extents = Vec::new();
        let mut start = 0;
        if let Some(before) = &pack.before {
            let list: ExtentPageList = self.load(&pack.page_key(before)).await?;
            for listed in list.pages {
                let end = start + listed.length;
                if start < range.end && end > range.start {
                    let page: ExtentPage = self.load(&pack.page_key(&listed.token)).await?;
                    with_starts(&mut extents, start, page.extents);
                }
                start = end;
            }
        }
        with_starts(&mut extents, start, pack.extents.clone());
        Ok(extents)
    }

    /// All extents of a stage, each with its start in the content. The pages of a stage form a chain
    /// with the last page first.
    async fn staged_extents(&self, pack: &Pack) -> Result<Vec<(u64, Extent)>> {
        let (mut pages, mut next) = (vec![pack.extents.clone()], pack.before.clone());
        while let Some(token) = next {
            let page: ExtentPage = self.load(&pack.page_key(&token)).await?;
            pages.push(page.extents);
            next = page.before;
        }
        let mut extents = Vec::new();
        with_starts(&mut extents, 0, pages.into_iter().rev().flatten().collect());
        Ok(extents)
    }

    /// The bytes of the first chunk of an extent's `part`, and the rest of the part.
    async fn read_part(&self, pack: &Pack, extent: &Extent, part: Range<u64>) -> Result<(Bytes, Range<u64>)> {
        let chunk_bytes = u64::from(pack.chunk_bytes);
        let number = part.start / chunk_bytes;
        let key = pack.chunk_key_within(&extent.token, number, extent.length);
        let chunk = self.get(&key).await?;
        let chunk_start = number * chunk_bytes;
        let end = part.end.min(chunk_start + chunk_bytes);
        let (from, to) = ((part.start - chunk_start) as usize, (end - chunk_start) as usize);
        if chunk.len() < to {
            return Err(Error::corrupt(format!("the value of key {key} is too short")));
        }
        Ok((chunk.slice(from..to), end..part.end))
    }
}

/// How many bytes of content lie under a key that ends in `end_of_key`. `None` for a chunk whose
/// key has no length.
fn length_of(end_of_key: &str) -> Option<u64> {
    match end_of_key {
        "page" => Some(0),
        chunk => chunk.split_once('-')?.1.parse().ok(),
    }
}

fn with_starts(extents: &mut Vec<(u64, Extent)>, mut start: u64, more: Vec<Extent>) {
    for extent in more {
        let length = extent.length;
        extents.push((start, extent));
        start += length;
    }
}

fn overlaps(extents: Vec<(u64, Extent)>, range: &Range<u64>) -> Vec<(Extent, Range<u64>)> {
    let parts = extents.into_iter().map(|(start, extent)| {
        let end = start + extent.length;
        let (from, to) = (range.start.clamp(start, end), range.end.clamp(start, end));
        (extent, from - start..to - start)
    });
    parts.filter(|(_, part)| !part.is_empty()).collect()
}

fn open(text: &str) -> Result<Pack> {
    serde_json::from_str(text)
        .map_err(|error| Error::corrupt(format!("cannot read {text:?} as packed content")).because(error))
}

fn seal(pack: &Pack) -> Result<String> {
    serde_json::to_string(pack).map_err(|error| Error::corrupt("cannot encode packed content").because(error))
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use futures_executor::block_on;

    use super::*;
    use crate::platform::SystemPlatform;
    use crate::store::memory::MemoryKeyValue;

    /// Earlier versions wrote keys without lengths.
    #[test]
    fn content_packed_by_earlier_versions_is_read_and_listed() {
        let keys: Arc<dyn KeyValue> = Arc::new(MemoryKeyValue::default());
        let store = PackedBlobStore::new(keys.clone(), Arc::new(SystemPlatform), CHUNK_BYTES_MIN);
        for (number, chunk) in [vec![b'a'; CHUNK_BYTES_MIN as usize], vec![b'b'; 10]].into_iter().enumerate() {
            block_on(keys.put(&format!("pack/family!token!{number:08}"), chunk.into(), When::Always)).unwrap();
        }
        let extents = format!(r#"[{{"token":"token","length":{}}}]"#, CHUNK_BYTES_MIN + 10);
        let pack = format!(r#"{{"family":"family","chunk_bytes":{CHUNK_BYTES_MIN},"extents":{extents}}}"#);
        let from = u64::from(CHUNK_BYTES_MIN) - 1;
        let body = block_on(store.read(&Location(pack.clone()), from..from + 3)).unwrap();
        assert_eq!(block_on(body.collect_up_to(10)).unwrap(), "abb");
        let listed = vec![Stored { name: "family!token".into(), bytes: None }];
        assert_eq!(block_on(store.list(None, 10)), Ok(listed));
        // An upload that an earlier version began continues with keys without lengths.
        let stage = block_on(store.append(&Stage(pack), vec![b'c'; 100_000].into())).unwrap();
        let location = block_on(store.commit(&stage, &crate::oci::Algorithm::Sha256.digest(b""))).unwrap();
        let body = block_on(store.read(&location, 0..from + 11 + 100_000)).unwrap();
        assert_eq!(block_on(body.collect_up_to(u64::MAX)).unwrap().len() as u64, from + 11 + 100_000);
    }
}
