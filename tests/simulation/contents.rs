//! The content that is pushed: a handful of blobs and manifests, equal for every seed.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use bytes::Bytes;
use eyot::oci::manifest::{OCI_ARTIFACT, OCI_IMAGE, OCI_INDEX};
use eyot::oci::{Algorithm, Digest};
use serde_json::{Value, json};

/// Larger blobs go to the blob store.
pub const INLINE_BYTES_MAX: u64 = 1200;

pub struct Blob {
    pub digest: Digest,
    pub bytes: Bytes,
}

pub struct Manifest {
    pub digest: Digest,
    pub bytes: Bytes,
    pub media_type: &'static str,
    /// The blobs that must exist when the manifest is pushed, by number; `children` likewise.
    pub blobs: BTreeSet<usize>,
    pub children: Vec<usize>,
    pub subject: Option<usize>,
    /// Every digest that occurs in the bytes.
    pub occurring: BTreeSet<Digest>,
    /// The blobs and manifests of this test among `occurring`, by number. The push does not require
    /// content only because its digest occurs.
    pub occurring_blobs: BTreeSet<usize>,
    pub occurring_manifests: BTreeSet<usize>,
}

/// Every digest that occurs in these bytes. Shares no code with the registry's parser, so that the
/// test is independent.
fn occurring(bytes: &[u8]) -> BTreeSet<Digest> {
    const LENGTH: usize = "sha256:".len() + 64;
    let texts = bytes.windows(LENGTH).filter(|text| text.starts_with(b"sha256:"));
    texts.filter_map(|text| std::str::from_utf8(text).ok()?.parse().ok()).collect()
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
        // Larger than the bytes that the stage of packed content can carry itself.
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
        all.unusual();
        all
    }

    /// Adds manifests that name content in other ways than an image or an index.
    fn unusual(&mut self) {
        let image = json!({
            "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": self.layer(1, json!({})), "layers": [
                self.layer(4, json!({ "urls": ["https://example.com/layer"] })),
                self.layer(2, json!({ "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar" })),
            ],
        });
        self.manifest(image, OCI_IMAGE, &[1], &[], None, false);
        let artifact =
            json!({ "mediaType": OCI_ARTIFACT, "blobs": [self.layer(2, json!({})), self.layer(3, json!({}))] });
        self.manifest(artifact, OCI_ARTIFACT, &[2, 3], &[], None, false);
        let layers: Vec<Value> = [1, 5].map(|blob: usize| json!({ "blobSum": self.blobs[blob].digest })).to_vec();
        let schema1 = json!({ "schemaVersion": 1, "name": "a", "tag": "v1", "fsLayers": layers });
        self.manifest(schema1, "application/vnd.docker.distribution.manifest.v1+prettyjws", &[], &[], None, false);
        let (blob, manifest) = (self.blobs[3].digest.to_string(), format!("a@{}", self.manifests[0].digest));
        let thing = json!({ "parts": [[{ blob: { "size": 3 } }]], "note": manifest });
        self.manifest(thing, "application/vnd.example.thing+json", &[], &[], None, false);
        // A BuildKit cache, an index that lists the cache, and an index that lists this index.
        let config = json!({ "mediaType": "application/vnd.buildkit.cacheconfig.v0" });
        let cache = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [self.layer(1, json!({})), self.layer(2, config)],
        });
        self.manifest(cache, OCI_INDEX, &[1, 2], &[], None, false);
        let annotations = json!({ "blob": self.blobs[4].digest });
        let around = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "annotations": annotations, "manifests": [self.descriptor(14)],
        });
        self.manifest(around, OCI_INDEX, &[], &[14], None, false);
        self.index(&[15, 0], None, true);
        let annotated = json!({
            "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": self.layer(2, json!({})), "layers": [],
            "annotations": { "made of": format!("a/b:v1@{}", self.manifests[15].digest) },
        });
        self.manifest(annotated, OCI_IMAGE, &[2], &[], Some(12), false);
        let mut elsewhere = self.descriptor(3);
        elsewhere["urls"] = json!(["https://example.com/image"]);
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [elsewhere] });
        self.manifest(index, OCI_INDEX, &[], &[], None, false);
    }

    /// A blob's descriptor with the members of `with` replaced or added.
    fn layer(&self, blob: usize, with: Value) -> Value {
        let blob = &self.blobs[blob];
        let mut layer = json!({ "mediaType": "a/layer", "digest": blob.digest, "size": blob.bytes.len() });
        let members = with.as_object().into_iter().flatten();
        members.for_each(|(member, value)| layer[member] = value.clone());
        layer
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
        let occurring = occurring(&bytes);
        let named = |digest: &Digest| occurring.contains(digest);
        let occurring_blobs = (0..self.blobs.len()).filter(|blob| named(&self.blobs[*blob].digest)).collect();
        let manifests = (0..self.manifests.len()).filter(|manifest| named(&self.manifests[*manifest].digest));
        let occurring_manifests = manifests.collect();
        self.manifests.push(Manifest {
            digest,
            bytes,
            media_type,
            blobs,
            children,
            subject,
            occurring,
            occurring_blobs,
            occurring_manifests,
        });
    }

    pub fn manifest_of(&self, digest: &Digest) -> Option<usize> {
        self.manifests.iter().position(|manifest| manifest.digest == *digest)
    }
}
