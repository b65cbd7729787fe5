//! Answers of S3 servers: bytes of any kind, in XML or not. The parser reads or refuses every input
//! without a panic.

use eyot::store::s3::answer::{Objects, Refusal, Uploads, completed_etag, created_upload_id};

pub fn answers(data: &[u8]) {
    let refusal = Refusal::parse(data);
    assert!(refusal.code.len() + refusal.message.len() <= 3 * data.len(), "{refusal:?}");
    // White space behind the end of the document makes no difference.
    assert_eq!(refusal.code, Refusal::parse(&[data, b"\n"].concat()).code);
    if let Ok(uploads) = Uploads::parse(data) {
        let bytes: usize = uploads.uploads.iter().map(|upload| upload.key.len() + upload.upload_id.len()).sum();
        assert!(bytes <= data.len(), "{uploads:?}");
    }
    if let Ok(page) = Objects::parse(data) {
        let bytes: usize = page.objects.iter().map(|object| object.name.len()).sum();
        assert!(bytes <= data.len(), "{page:?}");
    }
    for text in [created_upload_id(data), completed_etag(data)].into_iter().flatten() {
        assert!(text.len() <= data.len(), "{text:?}");
    }
}
