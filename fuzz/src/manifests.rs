//! Manifests: bytes of any kind, pushed as any type.

use eyot::oci::{Algorithm, Descriptor, Manifest};
use http::HeaderValue;

/// The first line of the input is the Content-Type, and an empty line means no Content-Type. The
/// rest is the manifest.
pub fn manifests(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let content_type = parts.next().and_then(|line| std::str::from_utf8(line).ok()).filter(|line| !line.is_empty());
    let bytes = parts.next().unwrap_or_default();
    let Ok((manifest, media_type)) = Manifest::parse(bytes, content_type) else { return };

    assert!(HeaderValue::from_str(&media_type).is_ok() && !media_type.contains([',', ';', ' ']), "{media_type:?}");
    if let Some(pushed) = content_type.and_then(|text| text.split(';').next()).filter(|text| !text.trim().is_empty()) {
        assert_eq!(media_type, pushed.trim());
    }
    let named = manifest.blobs().count() + manifest.children().count();
    // Each descriptor takes more bytes than its digest.
    assert!(named * 64 <= bytes.len(), "{named} descriptors in {} bytes", bytes.len());
    // The descriptor is stored for a subject, and read again for a page of referrers.
    let descriptor = manifest.descriptor(&media_type, &Algorithm::Sha256.digest(bytes), bytes.len() as u64);
    let stored = serde_json::to_vec(&descriptor).expect("a descriptor that can be written");
    assert_eq!(serde_json::from_slice::<Descriptor>(&stored).ok(), Some(descriptor));
}
