//! Manifests and descriptors (image-spec, "Image Manifest", "Image Index", "Content Descriptors"):
//! the parts that a registry must read. The bytes of a manifest are stored and served as received.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::digest::Digest;

/// Media type of an OCI image manifest.
pub const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a Docker schema 2 image manifest.
pub const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of a Docker schema 2 manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Media type of an OCI artifact manifest, of drafts of image-spec 1.1.
pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// Media type of an ORAS artifact manifest.
pub const ORAS_ARTIFACT: &str = "application/vnd.cncf.oras.artifact.manifest.v1+json";

/// The media types of manifests that this registry reads.
const KNOWN: [&str; 6] = [OCI_IMAGE, OCI_INDEX, DOCKER_IMAGE, DOCKER_LIST, OCI_ARTIFACT, ORAS_ARTIFACT];
/// The Content-Type of clients that do not know the type of the manifest that they push.
const ANY_JSON: &str = "application/json";

/// How many annotations a manifest may have. Each annotation takes about 100 bytes of memory
/// besides its text.
const ANNOTATIONS_MAX: usize = 10_000;

/// Whether the registry reads manifests of this media type. Of other manifests the registry knows
/// only which digests occur in their JSON.
pub fn is_readable(media_type: &str) -> bool {
    KNOWN.iter().any(|known| known.eq_ignore_ascii_case(media_type))
}

/// A reference to content: its media type, digest and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the content.
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content in bytes.
    pub size: u64,
    /// Other places that serve the content.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// The artifact type of a referenced manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free annotations.
    #[serde(default, deserialize_with = "annotations", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Whether the content is a manifest of a type that the registry knows, rather than a blob.
    pub fn is_manifest(&self) -> bool {
        is_readable(&self.media_type)
    }

    /// Whether the content is a foreign layer, which a registry need not hold: the descriptor lists
    /// other places or has a media type of foreign layers.
    fn is_elsewhere(&self) -> bool {
        let media_type = self.media_type.to_ascii_lowercase();
        !self.urls.is_empty() || media_type.contains(".nondistributable.") || media_type.contains(".rootfs.foreign.")
    }
}

/// The parts of a manifest that a registry acts on. Unknown members are ignored. Of each descriptor
/// the first URL is kept and the annotations are dropped: the registry does not need the rest, and
/// many short descriptors would otherwise take many times the manifest's size in memory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: Option<u64>,
    /// The manifest's own `mediaType`.
    pub media_type: Option<String>,
    /// The artifact type that the manifest declares.
    pub artifact_type: Option<String>,
    /// An image's configuration.
    #[serde(default, deserialize_with = "named")]
    pub config: Option<Descriptor>,
    /// An image's layers.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Option<Vec<Descriptor>>,
    /// An index's manifests.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub manifests: Option<Vec<Descriptor>>,
    /// The subject: another manifest, to which the manifest refers.
    #[serde(default, deserialize_with = "named")]
    pub subject: Option<Descriptor>,
    /// Free annotations.
    #[serde(default, deserialize_with = "counted_annotations")]
    pub annotations: BTreeMap<String, String>,
    /// The `blobs` of an artifact manifest.
    #[serde(skip)]
    artifact_blobs: Vec<Descriptor>,
    #[serde(skip)]
    digests: BTreeSet<Digest>,
}

/// The member that only artifact manifests have.
#[derive(Deserialize)]
struct Artifact {
    #[serde(default, deserialize_with = "null_is_empty")]
    blobs: Option<Vec<Descriptor>>,
}

/// The reason why bytes are not a manifest. The text is meant for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(String);

impl Manifest {
    /// Parses a manifest that was pushed with the Content-Type `content_type`, which may carry
    /// parameters. Returns the manifest and its media type.
    ///
    /// # Errors
    /// When the bytes are not a JSON object with the form of a manifest, when `content_type` and
    /// the manifest's `mediaType` disagree, or when neither of the two nor the members tell the
    /// media type. Also when the media type cannot be that of a manifest, or when the members do
    /// not fit the media type.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<(Self, String), ManifestError> {
        // Serde also accepts an array for a struct, but a manifest must be an object.
        if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
            return Err(ManifestError("a manifest is a JSON object".into()));
        }
        let not_a_manifest = |e: serde_json::Error| ManifestError(format!("not a manifest: {e}"));
        let mut manifest: Self = serde_json::from_slice(bytes).map_err(not_a_manifest)?;
        let media_type = manifest.resolve_media_type(content_type)?;
        if matches!(media_type.as_str(), OCI_ARTIFACT | ORAS_ARTIFACT) {
            let artifact: Artifact = serde_json::from_slice(bytes).map_err(not_a_manifest)?;
            manifest.artifact_blobs = artifact.blobs.unwrap_or_default();
        }
        manifest.check_members(&media_type)?;
        manifest.digests = digests_in(bytes).map_err(not_a_manifest)?;
        Ok((manifest, media_type))
    }

    fn resolve_media_type(&self, content_type: Option<&str>) -> Result<String, ManifestError> {
        let pushed = content_type.map(without_parameters).filter(|text| !text.is_empty());
        let own = self.media_type.as_deref().filter(|text| !text.is_empty());
        let is_any_json = pushed.is_some_and(|pushed| pushed.eq_ignore_ascii_case(ANY_JSON));
        match (pushed, own) {
            (None, None) => {
                let guessed = self.media_type_of_members();
                guessed.ok_or_else(|| ManifestError("neither Content-Type nor mediaType says what this is".into()))
            }
            // Manifests of other kinds are pushed as plain JSON as well, for example Docker schema
            // 1.
            (Some(_), None) if is_any_json => {
                let guessed = self.media_type_of_members().filter(|guessed| self.check_members(guessed).is_ok());
                Ok(guessed.unwrap_or_else(|| ANY_JSON.to_owned()))
            }
            (Some(pushed), Some(own)) if !is_any_json && !pushed.eq_ignore_ascii_case(own) => {
                Err(ManifestError(format!("Content-Type {pushed} and the manifest's mediaType {own} disagree")))
            }
            (_, Some(media_type)) | (Some(media_type), _) => canonical(media_type),
        }
    }

    /// The media type of a manifest that does not declare one, guessed from its members.
    fn media_type_of_members(&self) -> Option<String> {
        let is_image = self.config.is_some() && self.layers.is_some();
        // Clients write `null` for members that are absent.
        let is_index = self.manifests.as_ref().is_some_and(|listed| !listed.is_empty() || !is_image);
        let media_type = if is_index { Some(OCI_INDEX) } else { is_image.then_some(OCI_IMAGE) };
        media_type.map(str::to_owned)
    }

    fn check_members(&self, media_type: &str) -> Result<(), ManifestError> {
        let missing = |member: &str| Err(ManifestError(format!("{media_type} needs the member {member}")));
        match media_type {
            OCI_IMAGE | DOCKER_IMAGE if self.config.is_none() => return missing("config"),
            OCI_IMAGE | DOCKER_IMAGE if self.layers.is_none() => return missing("layers"),
            OCI_IMAGE | DOCKER_IMAGE if self.children().next().is_some() => {
                return Err(ManifestError(format!("{media_type} has no member manifests")));
            }
            OCI_INDEX | DOCKER_LIST if self.manifests.is_none() => return missing("manifests"),
            OCI_INDEX | DOCKER_LIST if self.blobs().next().is_some() => {
                return Err(ManifestError(format!("{media_type} has no members config and layers")));
            }
            OCI_IMAGE | DOCKER_IMAGE | OCI_INDEX | DOCKER_LIST => {}
            // A manifest of an unknown type is accepted as is. Descriptors in the usual form are
            // read.
            _ => return Ok(()),
        }
        match self.schema_version {
            Some(2) => Ok(()),
            _ => Err(ManifestError("schemaVersion must be 2".into())),
        }
    }

    /// The blobs that the registry must hold for the manifest: config, layers and the `blobs` of an
    /// artifact manifest, without foreign layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let layers = self.layers.iter().flatten().chain(&self.artifact_blobs);
        self.config.iter().chain(layers).filter(|descriptor| !descriptor.is_elsewhere())
    }

    /// The descriptor by which referrer lists name the manifest (distribution-spec, "Listing
    /// referrers"), with the manifest's annotations. The artifact type is the manifest's own or,
    /// for an image, its config's media type.
    pub fn descriptor(&self, media_type: &str, digest: &Digest, size: u64) -> Descriptor {
        let own = self.artifact_type.clone().filter(|own| !own.is_empty());
        let of_config = self.config.as_ref().filter(|_| self.manifests.as_ref().is_none_or(Vec::is_empty));
        Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.clone(),
            size,
            urls: Vec::new(),
            artifact_type: own.or_else(|| of_config.map(|config| config.media_type.clone())),
            annotations: self.annotations.clone(),
        }
    }

    /// The content that an index lists and that the registry must hold: manifests, or blobs as in
    /// BuildKit's cache.
    pub fn children(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().flatten().filter(|descriptor| !descriptor.is_elsewhere())
    }

    /// Every digest that occurs in the manifest's JSON, in any member. Content with one of these
    /// digests must stay as long as the manifest does, because the manifest may have a type that
    /// the registry cannot read.
    pub fn digests(&self) -> &BTreeSet<Digest> {
        &self.digests
    }
}

/// The decoded text of a JSON string.
struct Text<'a>(Cow<'a, [u8]>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Decode;
        impl<'de> Visitor<'de> for Decode {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_bytes<E>(self, text: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_bytes<E>(self, text: &[u8]) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_vec())))
            }
        }
        // Read bytes: strings in ignored members were not checked to be UTF-8.
        from.deserialize_bytes(Decode)
    }
}

/// Every digest in the strings of valid JSON, including the names of members. The search jumps from
/// string to string, so the nesting depth of the JSON does not matter.
fn digests_in(json: &[u8]) -> serde_json::Result<BTreeSet<Digest>> {
    let mut found = BTreeSet::new();
    let mut rest = json;
    while let Some(start) = rest.iter().position(|byte| *byte == b'"') {
        rest = &rest[start..];
        let mut strings = serde_json::Deserializer::from_slice(rest).into_iter::<Text<'_>>();
        if let Some(text) = strings.next() {
            found.extend(Digest::all_in(&text?.0));
        }
        rest = &rest[strings.byte_offset()..];
    }
    Ok(found)
}

/// A descriptor in a manifest, reduced to the members that the registry needs.
struct Named(Descriptor);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", rename = "Descriptor")]
        struct Members {
            media_type: String,
            digest: Digest,
            size: u64,
            #[serde(default, deserialize_with = "null_is_default")]
            urls: Urls,
            artifact_type: Option<String>,
            #[serde(default, deserialize_with = "null_is_default", rename = "annotations")]
            _annotations: Annotations<0>,
        }
        let Members { media_type, digest, size, urls, artifact_type, _annotations } = Members::deserialize(from)?;
        let urls = urls.0.into_iter().collect();
        Ok(Self(Descriptor { media_type, digest, size, urls, artifact_type, annotations: BTreeMap::new() }))
    }
}

/// The first URL of a list.
#[derive(Default)]
struct Urls(Option<String>);

impl<'de> Deserialize<'de> for Urls {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = Urls;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of URLs")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Urls, A::Error> {
                let first = list.next_element()?;
                while list.next_element::<String>()?.is_some() {}
                Ok(Urls(first))
            }
        }
        from.deserialize_seq(First)
    }
}

/// Annotations, at most `KEPT_MAX`. With `KEPT_MAX` 0 the annotations are parsed and dropped.
/// Annotations with the value `null` are left out.
#[derive(Default)]
struct Annotations<const KEPT_MAX: usize>(BTreeMap<String, String>);

impl<'de, const KEPT_MAX: usize> Deserialize<'de> for Annotations<KEPT_MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Kept<const MAX: usize>;
        impl<'de, const MAX: usize> Visitor<'de> for Kept<MAX> {
            type Value = Annotations<MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut kept = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Option<String>>()? {
                    if let Some(value) = value.filter(|_| MAX > 0) {
                        kept.insert(name, value);
                    }
                    if kept.len() > MAX {
                        return Err(A::Error::custom(format!("more than {MAX} annotations")));
                    }
                }
                Ok(Annotations(kept))
            }
        }
        from.deserialize_map(Kept)
    }
}

/// Reads a list of descriptors. Some clients write `null` for an empty list.
fn null_is_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Descriptor>>, D::Error> {
    let all: Vec<Named> = null_is_default(from)?;
    Ok(Some(all.into_iter().map(|named| named.0).collect()))
}

fn named<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Descriptor>, D::Error> {
    Ok(Option::<Named>::deserialize(from)?.map(|named| named.0))
}

fn counted_annotations<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(null_is_default::<_, Annotations<ANNOTATIONS_MAX>>(from)?.0)
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Annotations without the ones whose value is `null`.
fn annotations<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let all: BTreeMap<String, Option<String>> = null_is_default(from)?;
    Ok(all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

/// The media type in the form in which the registry stores and serves it. A known type gets the
/// spelling of its definition, because letter case does not count (RFC 6838, 4.2).
fn canonical(media_type: &str) -> Result<String, ManifestError> {
    if !is_media_type(media_type) {
        return Err(ManifestError(format!("{media_type} is not a media type")));
    }
    if !is_type_of_manifests(media_type) {
        return Err(ManifestError(format!("{media_type} is not a media type of manifests, which are JSON")));
    }
    let known = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(media_type));
    Ok((*known.unwrap_or(&media_type)).to_owned())
}

fn without_parameters(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// Whether the text is `type/subtype` with RFC 6838's restricted names. The text is later sent as a
/// header.
fn is_media_type(text: &str) -> bool {
    let name = |part: &str| {
        part.len() <= 127
            && part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    text.split_once('/').is_some_and(|(kind, subtype)| name(kind) && name(subtype))
}

/// Whether the media type can be that of a manifest. Every manifest is JSON, including the signed
/// form of Docker schema 1 (`+prettyjws`); a vendor's type (`vnd.`) need not have a suffix. Other
/// types are refused because a browser would run content served as `text/html` or `image/svg+xml`.
fn is_type_of_manifests(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    let Some(subtype) = media_type.strip_prefix("application/") else { return false };
    match subtype.rsplit_once('+') {
        Some((_, suffix)) => matches!(suffix, "json" | "prettyjws"),
        None => subtype == "json" || subtype.starts_with("vnd."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn image(extra: &str) -> String {
        let config =
            format!(r#"{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{DIGEST}","size":0}}"#);
        format!(r#"{{"schemaVersion":2,{extra}"config":{config},"layers":[{config}]}}"#)
    }

    fn index(extra: &str) -> String {
        format!(r#"{{"schemaVersion":2,{extra}"manifests":[]}}"#)
    }

    fn media_type(bytes: &str, content_type: Option<&str>) -> Result<String, ManifestError> {
        Manifest::parse(bytes.as_bytes(), content_type).map(|(_, media_type)| media_type)
    }

    #[test]
    fn the_media_type_comes_from_the_header_the_body_or_the_members() {
        let own = format!(r#""mediaType":"{OCI_IMAGE}","#);
        assert_eq!(media_type(&image(""), Some(DOCKER_IMAGE)).unwrap(), DOCKER_IMAGE);
        assert_eq!(media_type(&image(""), Some(&format!("{OCI_IMAGE}; charset=utf-8"))).unwrap(), OCI_IMAGE);
        assert_eq!(media_type(&image(&own), None).unwrap(), OCI_IMAGE);
        assert_eq!(media_type(&image(""), None).unwrap(), OCI_IMAGE);
        assert_eq!(media_type(&index(""), None).unwrap(), OCI_INDEX);
        assert_eq!(
            media_type(r#"{"x":1}"#, Some("application/vnd.acme.thing+json")).unwrap(),
            "application/vnd.acme.thing+json"
        );
        assert!(media_type(&image(&own), Some(DOCKER_IMAGE)).is_err());
        for good in [
            "application/json",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "Application/X+JSON",
            "application/vnd.acme",
        ] {
            assert!(media_type(r#"{"x":1}"#, Some(good)).is_ok(), "{good}");
        }
        for bad in [
            "text/html",
            "TEXT/HTML; charset=utf-8",
            "image/svg+xml",
            "text/xml",
            "application/xhtml+xml",
            "application/javascript",
            "application/pdf",
            "application/octet-stream",
            "text/json",
            "application/jsonp",
            "application/vnd.wap.xhtml+xml",
        ] {
            assert!(media_type(r#"{"x":1}"#, Some(bad)).is_err(), "{bad}");
            assert!(media_type(&format!(r#"{{"mediaType":"{bad}"}}"#), None).is_err(), "{bad}");
            assert!(media_type(&format!(r#"{{"mediaType":"{bad}"}}"#), Some("application/json")).is_err(), "{bad}");
        }
        assert!(media_type("{}", None).is_err());
        assert!(media_type(&image(""), Some("nonsense")).is_err());
        assert!(media_type(&image(""), Some("a/b\r\nX: y")).is_err());
    }

    #[test]
    fn refuses_what_has_not_the_form() {
        for (bytes, content_type) in [
            ("", OCI_IMAGE),
            ("[]", OCI_IMAGE),
            ("null", OCI_IMAGE),
            ("{", OCI_IMAGE),
            ("{}", OCI_IMAGE),
            (r#"{"schemaVersion":2}"#, OCI_INDEX),
            (r#"{"schemaVersion":1,"manifests":[]}"#, OCI_INDEX),
            (r#"{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"sha256:x","size":1}]}"#, OCI_INDEX),
            (r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#, OCI_INDEX),
        ] {
            assert!(media_type(bytes, Some(content_type)).is_err(), "{bytes}");
        }
        let negative = image("").replace(r#""size":0"#, r#""size":-1"#);
        assert!(media_type(&negative, Some(OCI_IMAGE)).is_err());
    }

    #[test]
    fn letter_case_of_media_types_does_not_count() {
        let own = format!(r#""mediaType":"{}","#, OCI_IMAGE.to_ascii_uppercase());
        assert_eq!(media_type(&image(&own), Some(OCI_IMAGE)).unwrap(), OCI_IMAGE);
        assert_eq!(media_type(&image(&own), None).unwrap(), OCI_IMAGE);
        assert_eq!(media_type(&image(""), Some("Application/VND.oci.image.manifest.v1+JSON")).unwrap(), OCI_IMAGE);
        // In any letter case, the media type of an index requires the members of an index.
        assert!(media_type("{}", Some(&OCI_INDEX.to_ascii_uppercase())).is_err());
        let thing = r#"{"mediaType":"application/vnd.Acme.thing"}"#;
        assert_eq!(media_type(thing, Some("application/vnd.acme.Thing")).unwrap(), "application/vnd.Acme.thing");
        let foreign = image("").replacen("}]}", r#","urls":null}]}"#, 1);
        let foreign = foreign.replace("oci.image.config.v1+json", "Docker.Image.RootFS.Foreign.diff.tar");
        let (manifest, _) = Manifest::parse(foreign.as_bytes(), Some(OCI_IMAGE)).unwrap();
        assert_eq!(manifest.blobs().count(), 0);
    }

    #[test]
    fn plain_json_is_what_its_body_says() {
        for content_type in ["application/json", "Application/JSON; charset=utf-8"] {
            let own = format!(r#""mediaType":"{DOCKER_IMAGE}","#);
            assert_eq!(media_type(&image(&own), Some(content_type)).unwrap(), DOCKER_IMAGE);
            assert_eq!(media_type(&image(""), Some(content_type)).unwrap(), OCI_IMAGE);
            assert_eq!(media_type(&index(""), Some(content_type)).unwrap(), OCI_INDEX);
            let schema1 = r#"{"schemaVersion":1,"fsLayers":[]}"#;
            assert_eq!(media_type(schema1, Some(content_type)).unwrap(), "application/json");
            assert_eq!(media_type("{}", Some(content_type)).unwrap(), "application/json");
            let third = image("").replace(r#""schemaVersion":2"#, r#""schemaVersion":3"#);
            assert_eq!(media_type(&third, Some(content_type)).unwrap(), "application/json");
            let broken = format!(r#"{{"mediaType":"{OCI_INDEX}"}}"#);
            assert!(media_type(&broken, Some(content_type)).is_err());
        }
    }

    /// Go clients write unset members as `null`.
    #[test]
    fn null_members_are_as_absent() {
        let nulls = r#""mediaType":null,"artifactType":null,"subject":null,"annotations":{"a":null,"b":"c"},"#;
        let both = image(&format!(r#"{nulls}"manifests":null,"#));
        assert_eq!(media_type(&both, None).unwrap(), OCI_IMAGE);
        let (manifest, kind) = Manifest::parse(both.as_bytes(), Some("application/json")).unwrap();
        let described = manifest.descriptor(&kind, &Algorithm::Sha256.digest(b""), 1);
        assert_eq!(described.annotations, BTreeMap::from([("b".to_owned(), "c".to_owned())]));
        assert_eq!(described.artifact_type.as_deref(), Some("application/vnd.oci.image.config.v1+json"));
        let child = format!(
            r#"{{"mediaType":"a/b","digest":"{DIGEST}","size":0,"artifactType":null,"annotations":{{"a":null}},"platform":null,"data":null}}"#
        );
        let index = format!(r#"{{"schemaVersion":2,{nulls}"config":null,"layers":null,"manifests":[{child}]}}"#);
        assert_eq!(media_type(&index, None).unwrap(), OCI_INDEX);
        let (manifest, _) = Manifest::parse(index.as_bytes(), Some(OCI_INDEX)).unwrap();
        assert!(manifest.children().all(|child| child.annotations.is_empty()));
    }

    #[test]
    fn null_is_an_empty_list() {
        let config = format!(r#"{{"mediaType":"a/b","digest":"{DIGEST}","size":0,"urls":null,"annotations":null}}"#);
        let image = format!(r#"{{"schemaVersion":2,"config":{config},"layers":null,"annotations":null}}"#);
        assert_eq!(media_type(&image, Some(OCI_IMAGE)).unwrap(), OCI_IMAGE);
        assert_eq!(media_type(r#"{"schemaVersion":2,"manifests":null}"#, None).unwrap(), OCI_INDEX);
    }

    /// Digests are found in names and values, at any depth, escaped or inside a longer text.
    #[test]
    fn every_digest_in_the_json_is_found() {
        let digest = |n: u8| Algorithm::Sha256.digest(&[n]);
        let long = Algorithm::Sha512.digest(b"");
        let escaped = |text: String| text.bytes().map(|byte| format!("\\u{byte:04x}")).collect::<String>();
        let manifest = format!(
            r#"{{"a":"{}","b":[[{{"{}":1}}]],"c":"name@{}","d":"{}","e":"\ud800{}{} ","f":"{}","g":"sha256:12 {}:"}}"#,
            digest(0),
            digest(1),
            digest(2),
            escaped(digest(3).to_string()),
            digest(4),
            digest(5).to_string().replace(':', "\\u003a"),
            long,
            "sha256",
        );
        let (parsed, _) = Manifest::parse(manifest.as_bytes(), Some("application/a+json")).unwrap();
        let all: BTreeSet<Digest> = (0..6).map(digest).chain([long]).collect();
        assert_eq!(*parsed.digests(), all, "{manifest}");
    }

    #[test]
    fn the_blobs_of_artifact_manifests_are_read() {
        let blob = format!(r#"{{"mediaType":"a/b","digest":"{DIGEST}","size":0}}"#);
        for kind in [OCI_ARTIFACT, ORAS_ARTIFACT] {
            let of = |blobs: &str| Manifest::parse(format!(r#"{{"blobs":{blobs}}}"#).as_bytes(), Some(kind));
            assert_eq!(of(&format!("[{blob}]")).unwrap().0.blobs().count(), 1);
            assert_eq!(of("null").unwrap().0.blobs().count(), 0);
            assert!(of("[1]").is_err());
        }
        // In a manifest of an unknown type, the member `blobs` may have any form.
        assert!(Manifest::parse(br#"{"blobs":[1]}"#, Some("application/a+json")).is_ok());
    }

    #[test]
    fn foreign_layers_need_not_be_here() {
        let foreign = image("").replacen("}]}", r#","urls":["https://elsewhere.example/layer"]}]}"#, 1);
        let (manifest, _) = Manifest::parse(foreign.as_bytes(), Some(OCI_IMAGE)).unwrap();
        assert_eq!(manifest.blobs().count(), 1);
        assert_eq!(manifest.digests().len(), 1, "where they are, they must stay");
    }
}
