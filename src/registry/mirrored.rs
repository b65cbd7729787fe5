//! The repositories that mirror repositories of other registries.

use std::sync::Arc;

/// The prefixes of mirrored repositories. A manifest of a mirrored repository may name content that
/// is not here, because content comes when a client asks for the content.
#[derive(Clone, Debug, Default)]
pub(super) struct MirroredPrefixes(Arc<[String]>);

impl MirroredPrefixes {
    pub(super) fn new(prefixes: Vec<String>) -> Self {
        Self(prefixes.into())
    }

    /// Whether a repository lies below one of the prefixes.
    pub(super) fn contain(&self, repository: &str) -> bool {
        let is_below =
            |prefix: &String| repository.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'));
        self.0.iter().any(is_below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_component() {
        let prefixes = MirroredPrefixes::new(vec!["docker.io".into(), "mirror/quay".into()]);
        for (name, expected) in [
            ("docker.io/app", true),
            ("mirror/quay/a/b", true),
            ("docker.io", false),
            ("docker.iox/app", false),
            ("mirror/app", false),
        ] {
            assert_eq!(prefixes.contain(name), expected, "{name}");
        }
    }
}
