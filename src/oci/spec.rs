//! Conversions from and to the types of the crate `oci-spec` (feature `oci-spec`).
//!
//! The types of `oci-spec` allow more than this registry serves: other digest algorithms, and any
//! text as the name of a repository. Conversions into them always succeed, and conversions out of
//! them check the text.

use oci_spec::distribution;
use oci_spec::image::{self, MediaType};

use super::digest::{Digest, DigestError};
use super::manifest::Descriptor;
use super::name::{NameError, Reference, ReferenceError, RepositoryName};

/// The tag that a reference without tag and digest means, as `oci-spec` and clients read references.
const DEFAULT_TAG: &str = "latest";

impl From<Digest> for image::Digest {
    fn from(digest: Digest) -> Self {
        digest.as_str().parse().expect("the grammar of oci-spec has every digest of SHA-256 and SHA-512")
    }
}

/// The result is [`DigestError::UnsupportedAlgorithm`] for another algorithm than SHA-256 and SHA-512.
impl TryFrom<image::Digest> for Digest {
    type Error = DigestError;

    fn try_from(digest: image::Digest) -> Result<Self, DigestError> {
        digest.as_ref().parse()
    }
}

impl From<Descriptor> for image::Descriptor {
    fn from(descriptor: Descriptor) -> Self {
        let Descriptor { media_type, digest, size, urls, artifact_type, annotations } = descriptor;
        let mut converted = Self::new(MediaType::from(media_type.as_str()), size, digest);
        if !urls.is_empty() {
            converted.set_urls(Some(urls));
        }
        if !annotations.is_empty() {
            converted.set_annotations(Some(annotations.into_iter().collect()));
        }
        converted.set_artifact_type(artifact_type.as_deref().map(MediaType::from));
        converted
    }
}

/// Leaves out `platform` and `data`, which a registry does not read. Fails as the conversion of the
/// digest does.
impl TryFrom<image::Descriptor> for Descriptor {
    type Error = DigestError;

    fn try_from(descriptor: image::Descriptor) -> Result<Self, DigestError> {
        Ok(Self {
            media_type: descriptor.media_type().to_string(),
            digest: descriptor.digest().clone().try_into()?,
            size: descriptor.size(),
            urls: descriptor.urls().clone().unwrap_or_default(),
            artifact_type: descriptor.artifact_type().as_ref().map(ToString::to_string),
            annotations: descriptor.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        })
    }
}

/// The repository in the name of an image, without the registry.
///
/// ```
/// use eyot::oci::{Reference, RepositoryName};
/// use oci_spec::distribution;
///
/// let image: distribution::Reference = "registry.example/team/app:v1".parse().unwrap();
/// assert_eq!(RepositoryName::try_from(&image).unwrap().as_str(), "team/app");
/// assert_eq!(Reference::try_from(&image).unwrap().to_string(), "v1");
/// ```
impl TryFrom<&distribution::Reference> for RepositoryName {
    type Error = NameError;

    fn try_from(image: &distribution::Reference) -> Result<Self, NameError> {
        image.repository().parse()
    }
}

/// The digest in the name of an image, or else the tag, or else `latest`.
impl TryFrom<&distribution::Reference> for Reference {
    type Error = ReferenceError;

    fn try_from(image: &distribution::Reference) -> Result<Self, ReferenceError> {
        image.digest().or(image.tag()).unwrap_or(DEFAULT_TAG).parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn descriptors_survive_the_way_there_and_back() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let descriptor = Descriptor {
                media_type: "application/vnd.oci.image.manifest.v1+json".into(),
                digest: algorithm.digest(b"{}"),
                size: 2,
                urls: vec!["https://elsewhere.example/blob".into()],
                artifact_type: Some("application/vnd.example".into()),
                annotations: [("org.opencontainers.image.title".to_owned(), "app".to_owned())].into(),
            };
            let converted = image::Descriptor::from(descriptor.clone());
            assert_eq!(converted.media_type(), &MediaType::ImageManifest);
            assert_eq!(serde_json::to_value(&converted).unwrap(), serde_json::to_value(&descriptor).unwrap());
            assert_eq!(Descriptor::try_from(converted), Ok(descriptor));
        }
    }

    #[test]
    fn digests_of_other_algorithms_are_refused() {
        for (text, expected) in [
            (format!("sha384:{}", "0".repeat(96)), DigestError::UnsupportedAlgorithm),
            ("sha256+b64:abc".to_owned(), DigestError::UnsupportedAlgorithm),
        ] {
            let digest: image::Digest = text.parse().unwrap();
            assert_eq!(Digest::try_from(digest), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_digest_names_the_manifest_even_beside_a_tag() {
        let digest = Algorithm::Sha256.digest(b"{}");
        for (text, repository, expected) in [
            ("docker.io/library/alpine", "library/alpine", "latest".to_owned()),
            ("registry.example:5000/a/b:v1", "a/b", "v1".to_owned()),
            (&format!("registry.example/a:v1@{digest}"), "a", digest.to_string()),
        ] {
            let image: distribution::Reference = text.parse().unwrap();
            assert_eq!(RepositoryName::try_from(&image).unwrap().as_str(), repository);
            assert_eq!(Reference::try_from(&image).unwrap().to_string(), expected);
        }
        let image = distribution::Reference::with_tag("r".into(), "Team".into(), "not a tag".into());
        assert!(RepositoryName::try_from(&image).is_err() && Reference::try_from(&image).is_err());
    }
}
