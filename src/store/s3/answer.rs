//! What S3 servers answer in XML, beside what rusty-s3 reads.

use instant_xml::FromXml;

use crate::store::{Error, Result};

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
/// How much of a refusal that is no XML is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// Why S3 did not do something.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// S3's code, such as `NoSuchKey`; empty where the answer has none.
    pub(super) code: String,
    /// For people.
    pub(super) message: String,
}

#[derive(FromXml)]
#[xml(rename = "Error")]
struct ErrorXml {
    #[xml(rename = "Code")]
    code: Option<String>,
    #[xml(rename = "Message")]
    message: Option<String>,
}

impl Refusal {
    pub(super) fn parse(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        match instant_xml::from_str::<ErrorXml>(&text) {
            Ok(error) => Self { code: error.code.unwrap_or_default(), message: error.message.unwrap_or_default() },
            Err(_) => Self { code: String::new(), message: text.chars().take(SHOWN_CHARS_MAX).collect() },
        }
    }
}

/// A page of the multipart uploads under way.
#[derive(Debug, FromXml)]
#[xml(rename = "ListMultipartUploadsResult", ns(NAMESPACE))]
pub(super) struct Uploads {
    #[xml(rename = "IsTruncated")]
    pub(super) is_truncated: Option<bool>,
    #[xml(rename = "NextKeyMarker")]
    pub(super) next_key: Option<String>,
    #[xml(rename = "NextUploadIdMarker")]
    pub(super) next_upload_id: Option<String>,
    pub(super) uploads: Vec<Upload>,
}

/// A multipart upload under way.
#[derive(Debug, FromXml)]
#[xml(rename = "Upload", ns(NAMESPACE))]
pub(super) struct Upload {
    #[xml(rename = "Key")]
    pub(super) key: String,
    #[xml(rename = "UploadId")]
    pub(super) upload_id: String,
}

impl Uploads {
    pub(super) fn parse(text: &str) -> Result<Self> {
        instant_xml::from_str(text).map_err(|e| Error::Unavailable(format!("S3: a list of uploads: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read() {
        let xml = br#"<?xml version="1.0" encoding="UTF-8"?>
            <Error><Code>NoSuchKey</Code><Message>It is gone.</Message><Resource>/x</Resource><RequestId>1</RequestId></Error>"#;
        assert_eq!(Refusal::parse(xml), Refusal { code: "NoSuchKey".into(), message: "It is gone.".into() });
        assert_eq!(Refusal::parse(b"<html>").message, "<html>");
        assert_eq!(Refusal::parse(b""), Refusal::default());
    }

    #[test]
    fn uploads_are_read() {
        let xml = format!(
            "<ListMultipartUploadsResult xmlns=\"{NAMESPACE}\"><Bucket>b</Bucket><IsTruncated>false</IsTruncated>\
             <Upload><Key>blobs/x</Key><UploadId>1</UploadId><Initiated>2026-01-01T00:00:00Z</Initiated></Upload>\
             <Upload><Key>blobs/y</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>"
        );
        let uploads = Uploads::parse(&xml).unwrap();
        assert_eq!(
            uploads.uploads.iter().map(|upload| upload.key.as_str()).collect::<Vec<_>>(),
            ["blobs/x", "blobs/y"]
        );
        assert_eq!(uploads.uploads[1].upload_id, "2");
    }
}
