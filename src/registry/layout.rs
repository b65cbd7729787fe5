//! The keys: the only place that makes or parses them.
//!
//! | fact | key |
//! | --- | --- |
//! | a repository exists | `repository/<repo>!` |
//! | a tag | `tag/<repo>!<tag>` |
//! | a digest's tags | `tagged/<repo>!<digest>!<tag>` |
//! | a manifest is in a repository | `manifest/<repo>!<digest>` |
//! | a blob is in a repository | `blob/<repo>!<digest>` |
//! | a blob is somewhere | `content/<digest>` |
//! | a manifest refers to a subject | `referrer/<repo>!<subject>!<digest>` |
//! | a fallback list was taken in | `adopted/<repo>!<subject>` |
//! | a warning about a repository | `warning/<repo>!` |
//! | a warning about a tag | `warning/<repo>!<tag>` |
//! | an upload | `upload/<repo>!<session>` |
//!
//! The kind comes first and `!`, which no name contains, ends a name: so nothing that a user may call a repository or a tag
//! can make one fact look like another, and `a` and `a/b` never mix. Keys that begin with `pack/` belong to the packed blob store,
//! those that begin with `auth/` to the layer `auth`.

use crate::oci::{Digest, RepositoryName, Tag};

pub(super) const REPOSITORIES: &str = "repository/";

pub(super) fn repository(repository: &RepositoryName) -> String {
    format!("{REPOSITORIES}{repository}!")
}

pub(super) fn repository_name(key: &str) -> Option<&str> {
    key.strip_prefix(REPOSITORIES)?.strip_suffix('!')
}

pub(super) fn tags(repository: &RepositoryName) -> String {
    format!("tag/{repository}!")
}

pub(super) fn tag(repository: &RepositoryName, tag: &Tag) -> String {
    format!("tag/{repository}!{tag}")
}

pub(super) fn tags_of(repository: &RepositoryName, digest: &Digest) -> String {
    format!("tagged/{repository}!{digest}!")
}

pub(super) fn tag_of(repository: &RepositoryName, digest: &Digest, tag: &Tag) -> String {
    format!("tagged/{repository}!{digest}!{tag}")
}

pub(super) fn manifest(repository: &RepositoryName, digest: &Digest) -> String {
    format!("manifest/{repository}!{digest}")
}

pub(super) fn referrers(repository: &RepositoryName, subject: &Digest) -> String {
    format!("referrer/{repository}!{subject}!")
}

pub(super) fn referrer(repository: &RepositoryName, subject: &Digest, digest: &str) -> String {
    format!("referrer/{repository}!{subject}!{digest}")
}

pub(super) fn adopted(repository: &RepositoryName, subject: &Digest) -> String {
    format!("adopted/{repository}!{subject}")
}

pub(super) fn warning(repository: &RepositoryName, tag: Option<&Tag>) -> String {
    format!("warning/{repository}!{}", tag.map_or("", Tag::as_str))
}

pub(super) fn blob(repository: &RepositoryName, digest: &Digest) -> String {
    format!("blob/{repository}!{digest}")
}

pub(super) fn content(digest: &Digest) -> String {
    format!("content/{digest}")
}

pub(super) fn upload(repository: &RepositoryName, session: &str) -> String {
    format!("upload/{repository}!{session}")
}
