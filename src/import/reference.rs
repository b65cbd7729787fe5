//! References to images as archives and layouts write them: `docker.io/library/app:v1`, `app:v1`.

use crate::oci::Tag;

/// A reference without the registry's host and without a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// The repository's name, which need not be valid here.
    pub(super) repository: String,
    pub(super) tag: Option<Tag>,
}

/// Reads a reference. The first part is a host if it has a dot or a port, or is `localhost`.
pub(super) fn named(text: &str) -> Named {
    let text = text.split('@').next().unwrap_or_default();
    let (name, tag) = match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag.parse().ok()),
        _ => (text, None),
    };
    let repository = match name.split_once('/') {
        Some((host, rest)) if host == "localhost" || host.contains(['.', ':']) => rest,
        _ => name,
    };
    Named { repository: repository.to_owned(), tag }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_digest_are_left_out() {
        for (text, repository, tag) in [
            ("docker.io/library/app:v1", "library/app", Some("v1")),
            ("localhost:5000/team/app:v1", "team/app", Some("v1")),
            ("localhost/app", "app", None),
            ("team/app:v1@sha256:00", "team/app", Some("v1")),
            ("app:v1", "app", Some("v1")),
            ("app", "app", None),
            ("[::1]:5000/app:v1", "app", Some("v1")),
        ] {
            let expected = Named { repository: repository.into(), tag: tag.map(|tag| tag.parse().unwrap()) };
            assert_eq!(named(text), expected, "{text}");
        }
    }
}
