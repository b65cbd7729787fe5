//! Reads the XML of S3 servers, where rusty-s3 has no parser for it.

use std::ops::Range;

use instant_xml::FromXml;

use crate::store::{Error, Result};

pub const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
/// The characters that may follow the name of a tag, beside `>`.
const NAME_END: [char; 5] = [' ', '\n', '\r', '\t', '/'];
/// The most characters that are shown of a refusal that is not XML.
const SHOWN_CHARS_MAX: usize = 200;

/// The reason why S3 refused a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// S3's error code, such as `NoSuchKey`; empty if the answer has none.
    pub code: String,
    /// The explanation for people; if the answer is not XML, its beginning.
    pub message: String,
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
    pub fn parse(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        match instant_xml::from_str::<ErrorXml>(&in_namespace(&text, "")) {
            Ok(error) => Self { code: error.code.unwrap_or_default(), message: error.message.unwrap_or_default() },
            Err(_) => Self { code: String::new(), message: text.chars().take(SHOWN_CHARS_MAX).collect() },
        }
    }
}

/// A page of the list of multipart uploads that are under way.
#[derive(Debug, FromXml)]
#[xml(rename = "ListMultipartUploadsResult", ns(NAMESPACE))]
pub struct Uploads {
    #[xml(rename = "IsTruncated")]
    pub is_truncated: Option<bool>,
    #[xml(rename = "NextKeyMarker")]
    pub next_key: Option<String>,
    #[xml(rename = "NextUploadIdMarker")]
    pub next_upload_id: Option<String>,
    pub uploads: Vec<Upload>,
}

/// A multipart upload that is under way.
#[derive(Debug, FromXml)]
#[xml(rename = "Upload", ns(NAMESPACE))]
pub struct Upload {
    #[xml(rename = "Key")]
    pub key: String,
    #[xml(rename = "UploadId")]
    pub upload_id: String,
}

impl Uploads {
    pub fn parse(text: &str) -> Result<Self> {
        instant_xml::from_str(text)
            .map_err(|error| Error::unavailable("cannot read the list of uploads from S3").because(error))
    }
}

/// The byte range of the first tag of an element, without its `>`.
fn root(text: &str) -> Range<usize> {
    let is_name = |&(at, _): &(usize, &str)| text[at + 1..].starts_with(|c: char| c.is_alphabetic());
    let start = text.match_indices('<').find(is_name).map_or(text.len(), |(at, _)| at);
    start..text[start..].find('>').map_or(text.len(), |length| start + length)
}

/// Whether an XML text is complete. The parser does not check the end, and half a list must not be
/// taken for the whole list.
pub fn is_whole(text: &str) -> bool {
    let Range { start, end } = root(text);
    let tag = &text[start..end];
    let name = tag.trim_start_matches('<').split(NAME_END).next().unwrap_or_default();
    tag.ends_with('/') && text[end..].starts_with('>') || text.trim_end().ends_with(&format!("</{name}>"))
}

/// Returns the text with `namespace` as its default namespace. Servers use different namespaces,
/// and the parsers accept only one.
pub fn in_namespace(text: &str, namespace: &str) -> String {
    // A busy server may send white space first, but XML allows none before the declaration.
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    let Range { start: root, end } = root(text);
    let tag = &text[root..end];
    let declared = tag.find(" xmlns=").and_then(|at| {
        let quote = tag[at + 7..].chars().next().filter(|quote| ['"', '\''].contains(quote))?;
        Some((at, at + 8 + tag[at + 8..].find(quote)? + 1))
    });
    let name = root + tag.find(NAME_END).unwrap_or(tag.len());
    let (before, behind) = declared.map_or((name, name), |(from, to)| (root + from, root + to));
    match root < end {
        true => format!("{} xmlns=\"{namespace}\"{}", &text[..before], &text[behind..]),
        false => text.to_owned(),
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
        let xml = format!(
            "\u{feff} \n<?xml version='1.0'?><Error xmlns='{NAMESPACE}'><Code><![CDATA[SlowDown]]></Code></Error>"
        );
        assert_eq!(Refusal::parse(xml.as_bytes()).code, "SlowDown");
        assert_eq!(Refusal::parse(b"<html>").message, "<html>");
        assert_eq!(Refusal::parse(b""), Refusal::default());
    }

    #[test]
    fn half_an_answer_is_none() {
        for (text, expected) in [
            ("<?xml version=\"1.0\"?>\n<List a='b'><Key>x</Key></List>\n", true),
            ("<s3:List/>", true),
            ("<List>", false),
            ("<List xmlns=\"http://s3.amazonaws.com/", false),
            ("<List><Key>x</Key>", false),
            ("<List><Key>x</Ke", false),
            ("", false),
        ] {
            assert_eq!(is_whole(text), expected, "{text}");
        }
        assert!(in_namespace("<List\txsi='http://x'><Key/></List>", "n").starts_with("<List xmlns=\"n\"\txsi="));
        // No input makes the functions panic.
        for text in ["<é xmlns=é>", "<a xmlns=", "<a xmlns='>", "<", "<a", "é<é", "<a xmlns='é'é"] {
            for end in 0..text.len() {
                let text = String::from_utf8_lossy(&text.as_bytes()[..end]);
                in_namespace(&text, NAMESPACE);
                is_whole(&text);
            }
        }
    }

    #[test]
    fn uploads_are_read() {
        let xml = format!(
            "<ListMultipartUploadsResult xmlns=\"{NAMESPACE}\"><Bucket>b</Bucket><IsTruncated>false</IsTruncated>\
             <Upload><Key>blobs/x</Key><UploadId>1</UploadId><Initiated>2026-01-01T00:00:00Z</Initiated></Upload>\
             <Upload><Key>blobs/y</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>"
        );
        for other in ["", " xmlns='http://doc.s3.amazonaws.com/2006-03-01'"] {
            let other = xml.replace(&format!(" xmlns=\"{NAMESPACE}\""), other);
            assert_eq!(Uploads::parse(&in_namespace(&other, NAMESPACE)).unwrap().uploads.len(), 2, "{other}");
        }
        let uploads = Uploads::parse(&in_namespace(&xml, NAMESPACE)).unwrap();
        assert_eq!(
            uploads.uploads.iter().map(|upload| upload.key.as_str()).collect::<Vec<_>>(),
            ["blobs/x", "blobs/y"]
        );
        assert_eq!(uploads.uploads[1].upload_id, "2");
    }
}
