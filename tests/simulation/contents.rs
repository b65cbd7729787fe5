//! What is pushed: a handful of blobs and manifests, the same for every seed.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use bytes::Bytes;
use eyot::oci::manifest::{OCI_IMAGE, OCI_INDEX};
use eyot::oci::{Algorithm, Digest};
use serde_json::{Value, json};

/// Larger ones go to the blob store.
pub const INLINE_BYTES_MAX: u64 = 1200;

pub struct Blob {
    pub digest: Digest,
    pub bytes: Bytes,
}

pub struct Manifest {
    pub digest: Digest,
    pub bytes: Bytes,
    pub media_type: &'static str,
    /// By their numbers.
    pub blobs: BTreeSet<usize>,
    pub children: Vec<usize>,
    pub subject: Option<usize>,
}

pub struct Contents {
    pub blobs: Vec<Blob>,
    pub manifests: Vec<Manifest>,
}

pub fn contents() -> &'static Contents {
    static CONTENTS: OnceLock<Contents> = OnceLock::new();
    CONTENTS.get_or_init(Contents::new)
}

impl Contents {
    fn new() -> Self {
        let mut all = Self { blobs: Vec::new(), manifests: Vec::new() };
        for text in ["", "one", "two, a little longer", "three", "four"] {
            all.blob(text.to_owned());
        }
        // More than travels in the stage of packed content.
        all.blob("five ".repeat(4000));
        all.image(&[1, 2], None, false);
        all.image(&[1, 3], None, false);
        all.image(&[0, 5], None, true);
        all.image(&[4], None, false);
        all.index(&[0, 1], None, false);
        all.index(&[1, 2, 3], None, true);
        all.image(&[2, 4], Some(0), false);
        all.index(&[], Some(4), true);
        all.index(&[4], None, false);
        all.image(&[3], Some(6), false);
        all
    }

    fn blob(&mut self, text: String) {
        self.blobs.push(Blob { digest: Algorithm::Sha256.digest(text.as_bytes()), bytes: text.into() });
    }

    fn image(&mut self, blobs: &[usize], subject: Option<usize>, is_large: bool) {
        let layers: Vec<Value> = blobs
            .iter()
            .map(|blob| &self.blobs[*blob])
            .map(|blob| json!({ "mediaType": "a/layer", "digest": blob.digest, "size": blob.bytes.len() }))
            .collect();
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": layers[0], "layers": layers[1..] });
        self.manifest(manifest, OCI_IMAGE, blobs, &[], subject, is_large);
    }

    fn index(&mut self, children: &[usize], subject: Option<usize>, is_large: bool) {
        let listed: Vec<Value> = children.iter().map(|child| self.descriptor(*child)).collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed });
        self.manifest(manifest, OCI_INDEX, &[], children, subject, is_large);
    }

    fn descriptor(&self, manifest: usize) -> Value {
        let manifest = &self.manifests[manifest];
        json!({ "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.bytes.len() })
    }

    fn manifest(
        &mut self,
        mut manifest: Value,
        media_type: &'static str,
        blobs: &[usize],
        children: &[usize],
        subject: Option<usize>,
        is_large: bool,
    ) {
        if let Some(subject) = subject {
            manifest["subject"] = self.descriptor(subject);
        }
        if is_large {
            manifest["annotations"] = json!({ "padding": "x".repeat(INLINE_BYTES_MAX as usize) });
        }
        let bytes = Bytes::from(manifest.to_string());
        let digest = Algorithm::Sha256.digest(&bytes);
        let (blobs, children) = (blobs.iter().copied().collect(), children.to_vec());
        self.manifests.push(Manifest { digest, bytes, media_type, blobs, children, subject });
    }

    pub fn manifest_of(&self, digest: &Digest) -> Option<usize> {
        self.manifests.iter().position(|manifest| manifest.digest == *digest)
    }
}
