//! Answers of S3 servers: bytes of any kind, in XML or not. The parser reads or refuses every input
//! without a panic.

use eyot::store::s3::answer::{NAMESPACE, Refusal, Uploads, in_namespace, is_whole};

pub fn answers(data: &[u8]) {
    let refusal = Refusal::parse(data);
    assert!(refusal.code.len() + refusal.message.len() <= 3 * data.len(), "{refusal:?}");
    let Ok(text) = std::str::from_utf8(data) else { return };
    let named = in_namespace(text, NAMESPACE);
    assert_eq!(in_namespace(&named, NAMESPACE), named, "{text:?}: a namespace is declared once");
    assert!(named.len() <= text.len() + NAMESPACE.len() + " xmlns=\"\"".len());
    // White space behind the end of the document makes no difference.
    assert_eq!(is_whole(text), is_whole(&format!("{text}\n")), "{text:?}");
    if let Ok(uploads) = Uploads::parse(&named) {
        let bytes: usize = uploads.uploads.iter().map(|upload| upload.key.len() + upload.upload_id.len()).sum();
        assert!(bytes <= named.len(), "{uploads:?}");
    }
}
