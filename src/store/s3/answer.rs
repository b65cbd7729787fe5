//! Reads the XML answers of S3 servers.
//!
//! Servers use different XML namespaces, or none, so elements are found by their local names. The
//! parser refuses XML that breaks off: half a list must not be taken for the whole list.

use percent_encoding::percent_decode_str;
use roxmltree::{Document, Node, ParsingOptions};

/// The most nodes of one answer: a list of 1,000 objects has about 20 nodes for each object.
const NODES_MAX: u32 = 100_000;
/// The most characters that are shown of a refusal that is not XML.
const SHOWN_CHARS_MAX: usize = 200;

/// Why an answer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The answer is not UTF-8.
    #[error("the answer is not UTF-8")]
    Encoding(#[from] std::str::Utf8Error),
    /// The answer is not XML, or breaks off.
    #[error("the answer is not complete XML")]
    Xml(#[from] roxmltree::Error),
    /// The answer is XML of another kind.
    #[error("the answer is the element {found:?} instead of {expected:?}")]
    Root {
        /// The name of the root element that was asked for.
        expected: &'static str,
        /// The name of the root element that the server sent.
        found: String,
    },
    /// An element is missing, or has another kind of text.
    #[error("the answer has no usable element {0:?}")]
    Element(&'static str),
}

/// The result of reading an answer.
pub type Result<T> = std::result::Result<T, AnswerError>;

/// The reason why S3 refused a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// S3's error code, such as `NoSuchKey`; empty if the answer has none.
    pub code: String,
    /// The explanation for people; if the answer is not XML, its beginning.
    pub message: String,
}

impl Refusal {
    /// Reads the body of a refusal. A body that is no refusal of S3 becomes the message.
    pub fn parse(body: &[u8]) -> Self {
        let parsed = read(body, "Error", |root| {
            let text = |name| child_text(root, name).unwrap_or_default();
            Ok(Self { code: text("Code"), message: text("Message") })
        });
        parsed.unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(body);
            Self { code: String::new(), message: text.chars().take(SHOWN_CHARS_MAX).collect() }
        })
    }
}

/// A page of the list of a bucket's objects.
#[derive(Debug)]
pub struct Objects {
    /// The objects.
    pub objects: Vec<Listed>,
    /// The full names of the folders, each with `/` at its end, if the list was asked for with a
    /// delimiter.
    pub folders: Vec<String>,
    /// The token with which the list continues; `None` at the end of the list.
    pub next: Option<String>,
}

/// An object of a list.
#[derive(Debug, PartialEq, Eq)]
pub struct Listed {
    /// The full name.
    pub name: String,
    /// The size in bytes.
    pub bytes: Option<u64>,
    /// The ETag without quotes.
    pub etag: Option<String>,
}

impl Objects {
    /// Reads the answer to `ListObjectsV2`.
    ///
    /// # Errors
    /// When the answer is not such a list, or does not say how a truncated list continues.
    pub fn parse(body: &[u8]) -> Result<Self> {
        read(body, "ListBucketResult", |root| {
            let is_encoded = child_text(root, "EncodingType").as_deref() == Some("url");
            let decoded = |name| if is_encoded { url_decoded(name) } else { name };
            let object = |content: Node<'_, '_>| {
                let etag = child_text(content, "ETag").map(|etag| etag.trim_matches('"').to_owned());
                Ok(Listed {
                    name: decoded(required(content, "Key")?),
                    bytes: parsed(content, "Size", |size| size.trim().parse().ok())?,
                    etag,
                })
            };
            let objects = children(root, "Contents").map(object).collect::<Result<_>>()?;
            let folder = |prefix| Ok(decoded(required(prefix, "Prefix")?));
            let folders = children(root, "CommonPrefixes").map(folder).collect::<Result<_>>()?;
            let token = child_text(root, "NextContinuationToken").filter(|token| !token.is_empty());
            // Without a token, a truncated list would end too early. A token of a complete list
            // would start the list again.
            let next = match (is_truncated(root)?, token) {
                (Some(false), _) | (None, None) => None,
                (Some(true), None) => return Err(AnswerError::Element("NextContinuationToken")),
                (_, token) => token,
            };
            Ok(Self { objects, folders, next })
        })
    }
}

/// A page of the list of multipart uploads that are under way.
#[derive(Debug)]
pub struct Uploads {
    /// Whether the list continues behind this page.
    pub is_truncated: bool,
    /// The full name of the object from which the list continues.
    pub next_key: Option<String>,
    /// The upload from which the list continues, among the uploads of `next_key`.
    pub next_upload_id: Option<String>,
    /// The uploads.
    pub uploads: Vec<Upload>,
}

/// A multipart upload that is under way.
#[derive(Debug)]
pub struct Upload {
    /// The full name of the object that the upload makes.
    pub key: String,
    /// The id that the server gave to the upload.
    pub upload_id: String,
}

impl Uploads {
    /// Reads the answer to `ListMultipartUploads`.
    ///
    /// # Errors
    /// When the answer is not such a list.
    pub fn parse(body: &[u8]) -> Result<Self> {
        read(body, "ListMultipartUploadsResult", |root| {
            let upload = |upload: Node<'_, '_>| {
                Ok(Upload { key: required(upload, "Key")?, upload_id: required(upload, "UploadId")? })
            };
            Ok(Self {
                is_truncated: is_truncated(root)?.unwrap_or(false),
                next_key: child_text(root, "NextKeyMarker"),
                next_upload_id: child_text(root, "NextUploadIdMarker"),
                uploads: children(root, "Upload").map(upload).collect::<Result<_>>()?,
            })
        })
    }
}

/// Reads the id of a new upload from the answer to `CreateMultipartUpload`.
///
/// # Errors
/// When the answer has no id.
pub fn created_upload_id(body: &[u8]) -> Result<String> {
    read(body, "InitiateMultipartUploadResult", |root| required(root, "UploadId"))
}

/// Reads the ETag of the new object from the answer to `CompleteMultipartUpload`.
///
/// # Errors
/// When the answer is a refusal, which S3 may send with status 200, or has no ETag.
pub fn completed_etag(body: &[u8]) -> Result<String> {
    read(body, "CompleteMultipartUploadResult", |root| required(root, "ETag"))
}

/// Reads the ETag of the new object or part from the answer to `CopyObject` or `UploadPartCopy`.
///
/// # Errors
/// When the answer is a refusal, which S3 may send with status 200, or has no ETag.
pub fn copied_etag(body: &[u8]) -> Result<String> {
    fn etag(root: Node<'_, '_>) -> Result<String> {
        Ok(required(root, "ETag")?.trim_matches('"').to_owned())
    }
    read(body, "CopyObjectResult", etag).or_else(|_| read(body, "CopyPartResult", etag))
}

/// Parses an answer whose root element must be `root`, and reads the root element.
fn read<T>(body: &[u8], root: &'static str, read: impl FnOnce(Node<'_, '_>) -> Result<T>) -> Result<T> {
    // A busy server may send white space first, but XML allows none before the declaration.
    let text = std::str::from_utf8(body)?.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    let options = ParsingOptions { nodes_limit: NODES_MAX, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options)?;
    let element = document.root_element();
    match element.tag_name().name() {
        name if name == root => read(element),
        name => Err(AnswerError::Root { expected: root, found: name.to_owned() }),
    }
}

fn children<'a, 'input>(parent: Node<'a, 'input>, name: &'static str) -> impl Iterator<Item = Node<'a, 'input>> {
    parent.children().filter(move |node| node.is_element() && node.tag_name().name() == name)
}

/// The text of the first child element of this name; `None` if there is no such element.
fn child_text(parent: Node<'_, '_>, name: &'static str) -> Option<String> {
    // A comment splits a text into several nodes.
    let texts = |child: Node<'_, '_>| child.children().filter(Node::is_text).filter_map(|text| text.text()).collect();
    children(parent, name).next().map(texts)
}

fn required(parent: Node<'_, '_>, name: &'static str) -> Result<String> {
    child_text(parent, name).ok_or(AnswerError::Element(name))
}

/// The value of an optional child element, which `parse` must understand.
fn parsed<T>(parent: Node<'_, '_>, name: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
    let Some(text) = child_text(parent, name) else { return Ok(None) };
    parse(&text).map(Some).ok_or(AnswerError::Element(name))
}

fn is_truncated(root: Node<'_, '_>) -> Result<Option<bool>> {
    parsed(root, "IsTruncated", |text| text.trim().parse().ok())
}

/// Decodes a name as servers encode it for `encoding-type=url`: as in an HTML form, so `+` is a
/// space. A name that does not decode to UTF-8 stays encoded.
fn url_decoded(name: String) -> String {
    let with_spaces = name.replace('+', " ");
    percent_decode_str(&with_spaces).decode_utf8().map_or(name, |decoded| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

    #[test]
    fn a_refusal_is_read() {
        let xml = br#"<?xml version="1.0" encoding="UTF-8"?>
            <Error><Code>NoSuchKey</Code><Message>It is gone.</Message><Resource>/x</Resource><RequestId>1</RequestId></Error>"#;
        assert_eq!(Refusal::parse(xml), Refusal { code: "NoSuchKey".into(), message: "It is gone.".into() });
        let xml = format!(
            "\u{feff} \n<?xml version='1.0'?><Error xmlns='{NAMESPACE}'><Code><![CDATA[Slow]]>D<!-- -->own</Code></Error>"
        );
        assert_eq!(Refusal::parse(xml.as_bytes()).code, "SlowDown");
        assert_eq!(Refusal::parse(b"<html>").message, "<html>");
        assert_eq!(Refusal::parse(b""), Refusal::default());
    }

    #[test]
    fn half_an_answer_is_refused() {
        let xml = format!(
            "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"{NAMESPACE}\"><IsTruncated>false</IsTruncated>\
             <Contents><Key>x</Key><Size>1</Size></Contents><Contents><Key>y</Key></Contents></ListBucketResult>\n"
        );
        let whole = Objects::parse(xml.as_bytes()).unwrap();
        let listed = |name: &str, bytes| Listed { name: name.to_owned(), bytes, etag: None };
        assert_eq!(whole.objects, [listed("x", Some(1)), listed("y", None)]);
        for end in 0..xml.trim_end().len() {
            assert!(Objects::parse(&xml.as_bytes()[..end]).is_err(), "{}", &xml[..end]);
        }
        let of_another_kind = Uploads::parse(xml.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            of_another_kind,
            "the answer is the element \"ListBucketResult\" instead of \"ListMultipartUploadsResult\""
        );
    }

    #[test]
    fn a_list_says_how_it_continues() {
        let next = |more: &str| {
            let xml = format!("<ListBucketResult>{more}<Contents><Key>x</Key></Contents></ListBucketResult>");
            Objects::parse(xml.as_bytes()).map(|page| page.next).ok()
        };
        let token = "<NextContinuationToken>t</NextContinuationToken>";
        assert_eq!(next(""), Some(None));
        assert_eq!(next(token), Some(Some("t".into())));
        assert_eq!(next(&format!("<IsTruncated>true</IsTruncated>{token}")), Some(Some("t".into())));
        assert_eq!(next(&format!("<IsTruncated>false</IsTruncated>{token}")), Some(None));
        assert_eq!(next("<IsTruncated>true</IsTruncated>"), None);
        assert_eq!(next("<IsTruncated>perhaps</IsTruncated>"), None);
    }

    #[test]
    fn encoded_names_are_decoded() {
        let name = |encoding: &str| {
            let contents = "<Contents><Key>a+b%2Bc&amp;%C3%A9</Key></Contents>";
            let xml = format!("<ListBucketResult>{encoding}{contents}</ListBucketResult>");
            Objects::parse(xml.as_bytes()).unwrap().objects.remove(0).name
        };
        assert_eq!(name("<EncodingType>url</EncodingType>"), "a b+c&é");
        assert_eq!(name(""), "a+b%2Bc&%C3%A9");
    }

    #[test]
    fn folders_and_etags_are_listed() {
        let xml = "<ListBucketResult><EncodingType>url</EncodingType><CommonPrefixes><Prefix>a%2Bb/</Prefix>\
                   </CommonPrefixes><Contents><Key>c</Key><ETag>&quot;d41d&quot;</ETag></Contents></ListBucketResult>";
        let page = Objects::parse(xml.as_bytes()).unwrap();
        assert_eq!(page.folders, ["a+b/"]);
        assert_eq!(page.objects[0].etag.as_deref(), Some("d41d"));
    }

    #[test]
    fn copies_have_etags_and_refusals_have_none() {
        for root in ["CopyObjectResult", "CopyPartResult"] {
            let xml = format!("<{root}><ETag>\"d41d\"</ETag></{root}>");
            assert_eq!(copied_etag(xml.as_bytes()).unwrap(), "d41d");
        }
        assert!(copied_etag(b"<Error><Code>InternalError</Code></Error>").is_err());
    }

    #[test]
    fn uploads_are_read_in_every_namespace() {
        for (namespace, prefix) in [
            (format!(" xmlns=\"{NAMESPACE}\""), ""),
            (String::new(), ""),
            (" xmlns='http://doc.s3.amazonaws.com/2006-03-01'".into(), ""),
            (format!(" xmlns:s3='{NAMESPACE}'"), "s3:"),
        ] {
            let xml = format!(
                "<_ListMultipartUploadsResult{namespace}><_Bucket>b</_Bucket><_IsTruncated>false</_IsTruncated>\
                 <_Upload><_Key>blobs/x</_Key><_UploadId>1</_UploadId><_Initiated>2026</_Initiated></_Upload>\
                 <_Upload><_Key>blobs/y</_Key><_UploadId>2</_UploadId></_Upload></_ListMultipartUploadsResult>"
            );
            let xml = xml.replace("</_", &format!("</{prefix}")).replace("<_", &format!("<{prefix}"));
            let uploads = Uploads::parse(xml.as_bytes()).unwrap();
            let found: Vec<_> = uploads.uploads.iter().map(|upload| (&*upload.key, &*upload.upload_id)).collect();
            assert_eq!(found, [("blobs/x", "1"), ("blobs/y", "2")], "{xml}");
            assert!(!uploads.is_truncated);
        }
    }

    #[test]
    fn too_many_nodes_and_entities_are_refused() {
        let many = format!("<Error>{}</Error>", "<a/>".repeat(NODES_MAX as usize));
        assert_eq!(Refusal::parse(many.as_bytes()).code, "");
        let entities = "<!DOCTYPE Error [<!ENTITY a \"x\">]><Error><Code>&a;</Code></Error>";
        assert_eq!(Refusal::parse(entities.as_bytes()).code, "");
    }
}
