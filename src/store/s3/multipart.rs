//! Requests for multipart uploads, and what their answers mean.

use std::ops::Range;
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_LENGTH;
use md5::{Digest as _, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rusty_s3::Method;

use super::answer::{self, Refusal, Upload, Uploads};
use super::client::{Answer, Call, Client, Payload, call_name};
use super::settings::S3Settings;
use crate::platform::Causes;
use crate::store::{Error, Object, Result};

/// The timeout for completing an upload, in which S3 assembles the object.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(120);
/// The most bytes that one request copies inside the server. S3's own limit is 5 GiB; less lets each
/// request end within its timeout.
pub(super) const COPY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The timeout for a copy of at most [`COPY_BYTES_MAX`].
const COPY_TIMEOUT: Duration = Duration::from_secs(300);
/// The characters of a copy's source that are sent as they are: those of a path (RFC 3986).
const SOURCE_ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The result of completing an upload.
pub(super) enum Completed {
    /// The object consists of exactly these parts.
    Surely,
    /// The object consists of these parts or of the parts of another request.
    Perhaps,
}

impl Client {
    /// Begins a multipart upload and returns its id. No other request may know the name of `object`
    /// yet, because other uploads to `object` may be aborted.
    pub(super) async fn create_upload(&self, object: &str) -> Result<String> {
        self.create_upload_with(object, &[]).await
    }

    /// Begins a multipart upload of an object with these headers, as
    /// [`create_upload`](Self::create_upload) does.
    pub(super) async fn create_upload_with(&self, object: &str, headers: &[(&str, String)]) -> Result<String> {
        let mut call = Call::new(Method::Post, object).query("uploads", "");
        for (name, value) in headers {
            call = call.header(name, value.as_str());
        }
        let answer = self.expect(call, &[]).await?;
        let upload_id = answer.parse(&format!("POST {object} (multipart)"), answer::created_upload_id)?;
        // An earlier attempt whose answer was lost may have begun another upload.
        if answer.attempts > 1
            && let Err(error) = self.abort_others(object, &upload_id).await
        {
            tracing::warn!("cannot abort other multipart uploads of {object}: {}", Causes(&error));
        }
        Ok(upload_id)
    }

    async fn abort_others(&self, object: &str, upload_id: &str) -> Result<()> {
        for other in self.list_uploads(object).await? {
            if other.key == object && other.upload_id != upload_id {
                self.abort_upload(object, &other.upload_id).await?;
            }
        }
        Ok(())
    }

    /// Sends a part and returns its ETag, without quotes.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the upload is gone.
    pub(super) async fn upload_part(
        &self,
        object: &str,
        upload_id: &str,
        number: usize,
        payload: Payload,
    ) -> Result<String> {
        let call = Call::new(Method::Put, object).query("partNumber", number.to_string()).query("uploadId", upload_id);
        let answer = self.expect(call.payload(payload), &[StatusCode::NOT_FOUND]).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(gone(self, object, &answer));
        }
        let etag = answer.etag().map(|etag| etag.trim_matches('"').to_owned());
        etag.ok_or_else(|| unreadable(object, &"the answer to a part has no ETag"))
    }

    /// The name of an object as the source of a copy.
    pub(super) fn object(&self, settings: &S3Settings, object: &str) -> Object {
        let S3Settings { endpoint, bucket, .. } = settings;
        Object { server: endpoint.clone(), bucket: bucket.clone(), name: self.full_name(object) }
    }

    /// Makes an object with these headers by a copy inside the server. Returns the refusal if S3
    /// refuses the copy.
    pub(super) async fn copy_object(
        &self,
        object: &str,
        from: &Object,
        headers: &[(&str, String)],
    ) -> Result<Option<String>> {
        let mut call = Call::new(Method::Put, object).header("x-amz-copy-source", source(from));
        call = call.header("x-amz-metadata-directive", "REPLACE").timeout(COPY_TIMEOUT);
        for (name, value) in headers {
            call = call.header(name, value.as_str());
        }
        Ok(self.copied(object, self.send(call).await?).err())
    }

    /// Makes a part of an upload by a copy inside the server. Returns the ETag of the part, or the
    /// refusal if S3 refuses the copy.
    pub(super) async fn copy_part(
        &self,
        object: &str,
        upload_id: &str,
        number: usize,
        from: &Object,
        range: Range<u64>,
    ) -> Result<Result<String, String>> {
        let call = Call::new(Method::Put, object).query("partNumber", number.to_string()).query("uploadId", upload_id);
        let call = call.header("x-amz-copy-source", source(from)).timeout(COPY_TIMEOUT);
        let call = call.header("x-amz-copy-source-range", format!("bytes={}-{}", range.start, range.end - 1));
        Ok(self.copied(object, self.send(call).await?))
    }

    /// Reads the answer to a copy: the ETag, or the refusal.
    fn copied(&self, object: &str, answer: Answer) -> Result<String, String> {
        match answer::copied_etag(&answer.body).ok().filter(|_| answer.status.is_success()) {
            Some(etag) => Ok(etag),
            None => Err(self.refusal(&format!("the copy to {object}"), &answer).to_string()),
        }
    }

    /// Completes an upload: makes an object of the parts with these ETags.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the upload has other parts by now, or was completed or aborted by
    /// another request.
    pub(super) async fn complete_upload(&self, object: &str, upload_id: &str, parts: &[String]) -> Result<Completed> {
        let call = Call::new(Method::Post, object).query("uploadId", upload_id).timeout(COMPLETE_TIMEOUT);
        let answer = self.send(call.payload(Payload::Bytes(vec![list_of_parts(parts).into()]))).await?;
        if answer.status.is_success()
            && let Ok(etag) = answer::completed_etag(&answer.body)
        {
            // If another fork of the stage was completed before, some servers answer with that
            // fork's object, whose ETag is of other parts. ETags of another kind do not show the
            // difference.
            let is_same = is_of_parts(&etag, parts);
            let may_be_others = is_same == Some(false) && !has_own_etags(&answer);
            return Ok(if may_be_others { Completed::Perhaps } else { Completed::Surely });
        }
        let Refusal { code, message } = Refusal::parse(&answer.body);
        match code.as_str() {
            // Another append has sent the part again, so the part's ETag has changed.
            "InvalidPart" => {
                tracing::warn!("S3: completing {object}: {code}: {message} (see also the setting s3_equal_parts)");
                Err(Error::conflict(format!("another append replaced a part of {object} ({code})")))
            }
            // The upload may have been completed by an earlier attempt whose answer was lost.
            "NoSuchUpload" => {
                self.find_completed(object, parts, Error::conflict(format!("the upload of {object} is gone ({code})")))
                    .await
            }
            "" if answer.status.is_success() => {
                self.find_completed(
                    object,
                    parts,
                    unreadable(object, &"the upload is completed, and the object is missing"),
                )
                .await
            }
            _ => Err(self.refusal(&format!("completing {object}"), &answer)),
        }
    }

    /// Checks whether `object` exists, that is, whether its upload was completed; returns the error
    /// `otherwise` if not.
    async fn find_completed(&self, object: &str, parts: &[String], otherwise: Error) -> Result<Completed> {
        let answer = self.expect(Call::new(Method::Head, object), &[StatusCode::NOT_FOUND]).await?;
        if !answer.status.is_success() {
            return Err(otherwise);
        }
        let is_same = answer.etag().and_then(|etag| is_of_parts(etag, parts));
        Ok(if is_same == Some(true) { Completed::Surely } else { Completed::Perhaps })
    }

    /// The size of an object in bytes; `None` if the object does not exist.
    pub(super) async fn length(&self, object: &str) -> Result<Option<u64>> {
        let answer = self.expect(Call::new(Method::Head, object), &[StatusCode::NOT_FOUND]).await?;
        if !answer.status.is_success() {
            return Ok(None);
        }
        let length = answer.header(CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());
        length.map(Some).ok_or_else(|| unreadable(object, &"the answer to HEAD has no Content-Length"))
    }

    /// Aborts an upload. A missing upload is no error.
    pub(super) async fn abort_upload(&self, object: &str, upload_id: &str) -> Result<()> {
        let call = Call::new(Method::Delete, object).query("uploadId", upload_id);
        let answer = self.expect(call, &[StatusCode::NOT_FOUND]).await?;
        match answer.status.is_success() || answer.code() == "NoSuchUpload" {
            true => Ok(()),
            false => Err(self.refusal(object, &answer)),
        }
    }

    /// Lists all multipart uploads to objects whose names begin with `prefix`: one per blob that is
    /// being pushed, and uploads left over since the last garbage collection.
    pub(super) async fn list_uploads(&self, prefix: &str) -> Result<Vec<Upload>> {
        let mut uploads = Vec::new();
        let mut after: Option<(String, String)> = None;
        loop {
            let call = Call::new(Method::Get, "").query("uploads", "").query("prefix", self.full_name(prefix));
            let call = match &after {
                Some((key, upload_id)) => call.query("key-marker", key).query("upload-id-marker", upload_id),
                None => call,
            };
            let name = call_name(&call);
            let page = self.expect(call, &[]).await?.parse(&name, Uploads::parse)?;
            for Upload { key, upload_id } in page.uploads {
                // Some servers ignore `prefix`, so the uploads are filtered here.
                if let Some(key) = self.own_name(&key).filter(|key| key.starts_with(prefix)) {
                    uploads.push(Upload { key: key.to_owned(), upload_id });
                }
            }
            if !page.is_truncated {
                return Ok(uploads);
            }
            let next = page.next_key.map(|key| (key, page.next_upload_id.unwrap_or_default()));
            // The order of upload ids of one object is not defined, so only the key must not go
            // back.
            let goes_on = match (&after, &next) {
                (Some(before), Some(next)) => next.0 >= before.0 && next != before,
                (None, next) => next.is_some(),
                _ => false,
            };
            if !goes_on {
                return Err(unreadable(prefix, &"the list of uploads does not continue"));
            }
            after = next;
        }
    }
}

/// The error for a 404 on an object or upload of a stage.
pub(super) fn gone(client: &Client, object: &str, answer: &Answer) -> Error {
    match answer.code().as_str() {
        "NoSuchUpload" | "NoSuchKey" => Error::conflict(format!("{object} of the stage is gone")),
        _ => client.refusal(object, answer),
    }
}

/// Whether an object with this ETag consists of these parts. S3 hashes the bytes of the parts'
/// ETags; some servers hash the ETags' hexadecimal digits. `None` if an ETag is not an MD5 hash and
/// so shows nothing.
fn is_of_parts(etag: &str, parts: &[String]) -> Option<bool> {
    let (mut of_bytes, mut of_digits) = (Md5::new(), Md5::new());
    for part in parts {
        of_bytes.update(hex::decode(part).ok().filter(|hash| hash.len() == 16)?);
        of_digits.update(part);
    }
    let (hash, count) = etag.trim_matches('"').split_once('-')?;
    let hash = hex::decode(hash).ok().filter(|hash| hash.len() == 16)?;
    let is_same = hash[..] == of_bytes.finalize()[..] || hash[..] == of_digits.finalize()[..];
    Some(is_same && count == parts.len().to_string())
}

/// The source of a copy as S3 wants it in a header.
fn source(from: &Object) -> String {
    utf8_percent_encode(&format!("/{}/{}", from.bucket, from.name), SOURCE_ENCODED).to_string()
}

/// The body of a request that completes an upload.
fn list_of_parts(etags: &[String]) -> String {
    let mut xml = String::from("<CompleteMultipartUpload>");
    for (number, etag) in (1..).zip(etags) {
        let etag = etag.replace('&', "&amp;").replace('<', "&lt;");
        xml += &format!("<Part><ETag>{etag}</ETag><PartNumber>{number}</PartNumber></Part>");
    }
    xml + "</CompleteMultipartUpload>"
}

/// Whether the object is encrypted with an AWS KMS key. AWS makes ETags of another kind then, and
/// refuses late forks by itself.
fn has_own_etags(answer: &Answer) -> bool {
    answer.header("x-amz-server-side-encryption").is_some_and(|how| how.starts_with("aws:kms"))
}

fn unreadable(object: &str, why: &dyn std::fmt::Display) -> Error {
    Error::unavailable(format!("S3 gave an unusable answer about {object}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_listed_in_order() {
        let parts = ["a".to_owned(), "<&".to_owned()];
        assert_eq!(
            list_of_parts(&parts),
            "<CompleteMultipartUpload><Part><ETag>a</ETag><PartNumber>1</PartNumber></Part>\
             <Part><ETag>&lt;&amp;</ETag><PartNumber>2</PartNumber></Part></CompleteMultipartUpload>"
        );
    }

    #[test]
    fn an_etag_tells_of_which_parts_an_object_is() {
        let parts = ["d41d8cd98f00b204e9800998ecf8427e".to_owned()];
        assert_eq!(is_of_parts("\"59adb24ef3cdbe0297f05b395827453f-1\"", &parts), Some(true));
        assert_eq!(is_of_parts("\"59adb24ef3cdbe0297f05b395827453f-2\"", &parts), Some(false));
        assert_eq!(is_of_parts("d41d8cd98f00b204e9800998ecf8427e-1", &parts), Some(false));
        assert_eq!(is_of_parts("opaque", &parts), None);
        assert_eq!(is_of_parts("59adb24ef3cdbe0297f05b395827453f-1", &["opaque".to_owned()]), None);
    }
}
