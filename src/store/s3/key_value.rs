//! The key-value store in S3: each value is an object, and S3's conditional puts are the conditions
//! of writes.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use rusty_s3::Method;

use super::client::{Answer, Call, Client, Payload};
use super::objects::LIST_OBJECTS_MAX;
use crate::store::{Entry, Error, KeyValue, Result, Version, When};

/// The length of the revision before a value, in bytes, including its line end.
const REVISION_BYTES: usize = 37;
/// The length, in bytes, from which the name of a folder or file is continued in a folder.
const SEGMENT_BYTES: usize = 200;
/// The end of the name of a continuation folder, which distinguishes the folder from an object
/// whose name ends at the same place.
const SEGMENT_END: &str = "~/";

/// A key-value store in a bucket.
///
/// A version is the object's ETag. S3 derives the ETag from the content, so each value is stored
/// after a random revision. The revision gives two writes of the same value different ETags, and
/// distinguishes a write whose answer was lost from the write of another request.
pub struct S3KeyValue {
    client: Arc<Client>,
    conditional_puts: bool,
}

impl S3KeyValue {
    pub(super) fn new(client: Arc<Client>, conditional_puts: bool) -> Self {
        Self { client, conditional_puts }
    }

    /// Reads the object of `key` with its revision; `None` if the key is absent.
    async fn fetch(&self, key: &str) -> Result<Option<Answer>> {
        let object = object(key);
        let answer = self.client.expect(Call::new(Method::Get, &object), &[StatusCode::NOT_FOUND]).await?;
        if answer.status.is_success() {
            return Ok(Some(answer));
        }
        // Only `NoSuchKey` means that the key is absent. A missing bucket or a proxy also answers
        // 404.
        if answer.code() == "NoSuchKey" {
            Ok(None)
        } else {
            Err(self.client.refusal(&format!("GET {object}"), &answer))
        }
    }

    /// Decides what a refused condition means. With one attempt the condition did not hold. With
    /// more attempts the refusal may be caused by the success of an earlier attempt of this write:
    /// the object then begins with this write's `revision`, and the write succeeded.
    async fn resolve(&self, key: &str, revision: &str, attempts: u32) -> Result<Option<Version>> {
        if attempts > 1
            && let Some(found) = self.fetch(key).await?
            && found.body.starts_with(revision.as_bytes())
        {
            return Ok(self.version(&found));
        }
        Err(Error::condition_failed(key))
    }

    /// The version in an answer; `None` if the server does not honour conditions on versions.
    fn version(&self, answer: &Answer) -> Option<Version> {
        let etag = answer.etag().filter(|_| self.conditional_puts)?;
        Some(Version(etag.to_owned()))
    }
}

#[async_trait]
impl KeyValue for S3KeyValue {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let Some(answer) = self.fetch(key).await? else { return Ok(None) };
        if answer.body.get(REVISION_BYTES - 1) != Some(&b'\n') {
            return Err(Error::corrupt(format!("the object of key {key} does not begin with a revision")));
        }
        let version = match answer.etag() {
            None if self.conditional_puts => {
                return Err(Error::unavailable(format!("S3 answered GET {key} without an ETag")));
            }
            etag => Version(etag.unwrap_or_default().to_owned()),
        };
        Ok(Some(Entry { value: answer.body.slice(REVISION_BYTES..), version }))
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> Result<Option<Version>> {
        if when != When::Always && !self.conditional_puts {
            return Err(Error::unsupported("this S3 server makes no conditional puts (setting s3_conditional_puts)"));
        }
        let object = object(key);
        let revision = format!("{}\n", self.client.platform().uuid());
        let call = match &when {
            When::Always => Call::new(Method::Put, &object),
            When::Absent => Call::new(Method::Put, &object).header("if-none-match", "*"),
            When::Unchanged(Version(version)) => Call::new(Method::Put, &object).header("if-match", version.as_str()),
        };
        let call = call.payload(Payload::Bytes(vec![revision.clone().into(), value]));
        // If-Match gives "not found" for a missing key, and racing conditional writes may give
        // "conflict".
        let refused: &[StatusCode] = match when {
            When::Always => &[],
            _ => &[StatusCode::PRECONDITION_FAILED, StatusCode::NOT_FOUND, StatusCode::CONFLICT],
        };
        let answer = self.client.expect(call, refused).await?;
        match answer.status {
            status if status.is_success() => Ok(self.version(&answer)),
            StatusCode::NOT_FOUND if answer.code() != "NoSuchKey" => {
                Err(self.client.refusal(&format!("PUT {object}"), &answer))
            }
            _ => self.resolve(key, &revision, answer.attempts).await,
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.client.delete_object(&object(key)).await
    }

    // AWS honours `If-Match` on DELETE since 2025. Most other servers ignore the header and delete the
    // object in any case, and the answer does not show which kind the server is.
    async fn delete_unchanged(&self, _key: &str, _version: &Version) -> Result<()> {
        Err(Error::unsupported("S3 servers do not agree on conditional deletes"))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let mut last = after.filter(|after| *after >= prefix).map(str::to_owned);
        if last.as_ref().is_some_and(|last| !last.starts_with(prefix)) {
            // `after` sorts after all keys with this prefix. Some servers reject a request with
            // these two values.
            return Ok(Vec::new());
        }
        let mut keys = Vec::new();
        while keys.len() < limit {
            let wanted = (limit - keys.len()).min(LIST_OBJECTS_MAX);
            let page = self.client.list_objects(&object(prefix), last.as_deref().map(object), wanted).await?;
            keys.extend(page.objects.iter().filter_map(|(object, _)| key(object)));
            last = keys.last().cloned();
            if !page.more {
                break;
            }
        }
        keys.truncate(limit);
        Ok(keys)
    }
}

/// The name of a key's object. Servers that keep objects in a tree of files list `a/b` before
/// `a!b`, cannot store `a` beside `a/b`, and accept no long file names. So `/` becomes `.1`, `.`
/// becomes `.0`, and long names continue in a folder. Encoded keys sort in the byte order of the
/// keys, and an encoded prefix is a prefix of the encoded key.
fn object(key: &str) -> String {
    let mut object = String::from("keys/");
    let mut segment_bytes = 0;
    for character in key.chars() {
        if segment_bytes >= SEGMENT_BYTES {
            object.push_str(SEGMENT_END);
            segment_bytes = 0;
        }
        let before = object.len();
        match character {
            '.' => object.push_str(".0"),
            '/' => object.push_str(".1"),
            other => object.push(other),
        }
        segment_bytes += object.len() - before;
    }
    object
}

fn key(object: &str) -> Option<String> {
    Some(object.strip_prefix("keys/")?.replace(SEGMENT_END, "").replace(".1", "/").replace(".0", "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_sort_as_their_keys() {
        let long = "n".repeat(199);
        let longs = ["", "n", "nn", "nm", "nn/", "nn!é", &"t.".repeat(300)].map(|more| format!("{long}{more}"));
        let mut keys = vec![
            "a", "a!", "a!x", "a-b!x", "a.", "a.0", "a.1!x", "a.b!x", "a/", "a/!x", "a/b", "a0", "a_", "A", "é/.1",
        ];

        keys.extend(longs.iter().map(String::as_str));
        keys.sort_unstable();
        let objects: Vec<String> = keys.iter().map(|key| object(key)).collect();
        assert!(objects.is_sorted(), "{objects:?}");
        for (object, original) in objects.iter().zip(keys) {
            assert_eq!(key(object).as_deref(), Some(original));
            assert!(object.split('/').all(|segment| segment.len() < 255));
        }
        for length in 0..long.len() + 3 {
            assert!(object(&longs[3]).starts_with(&object(&longs[3][..length.min(201)])));
        }
    }
}
