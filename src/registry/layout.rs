//! The keys: the only place that makes or parses them.
//!
//! | fact | key |
//! | --- | --- |
//! | a repository exists | `repository/<repo>!` |
//! | a tag | `tag/<repo>!<tag>` |
//! | a digest's tags, and when they were noted | `tagged/<repo>!<digest>!<tag>` |
//! | a manifest is in a repository | `manifest/<repo>!<digest>` |
//! | a blob is in a repository | `blob/<repo>!<digest>` |
//! | a blob is somewhere | `content/<digest>` |
//! | a manifest refers to a subject | `referrer/<repo>!<subject>!<digest>` |
//! | no longer written: a fallback list was taken in | `adopted/<repo>!<subject>` |
//! | a warning about a repository | `warning/<repo>!` |
//! | a warning about a tag | `warning/<repo>!<tag>` |
//! | where the bytes of a large manifest are | `large/<repo>!<digest>` |
//! | an upload | `upload/<repo>!<session>` |
//! | where the collection stands | `collection/…` |
//! | a key or object was not in use | `condemned/<key>`, `condemned/stored/<name>` |
//! | a key came into use beside a collection | `rescued/<key>` |
//!
//! The kind comes first and `!`, which no name contains, ends a name: so nothing that a user may call a repository or a tag
//! can make one fact look like another, and `a` and `a/b` never mix. Keys that begin with `pack/` belong to the packed blob store,
//! those that begin with `auth/` to the layer `auth`.

use std::fmt::Display;

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

/// What a broken request left of the upload under `upload`.
pub(super) fn arrived(upload: &str) -> String {
    format!("{upload}!arrived")
}

/// The keys of one kind in a repository. The collector, which goes by what it finds, does not know a checked name.
pub(super) fn of_repository(kind: &str, repository: &impl Display) -> String {
    format!("{kind}/{repository}!")
}

/// A repository's name in a key of this kind.
pub(super) fn repository_in<'a>(kind: &str, key: &'a str) -> Option<&'a str> {
    Some(key.strip_prefix(kind)?.strip_prefix('/')?.split_once('!')?.0)
}

pub(super) fn large(repository: &RepositoryName, digest: &Digest) -> String {
    format!("large/{repository}!{digest}")
}

pub(super) const COLLECTION: &str = "collection/state";
pub(super) const COLLECTION_REFUSED: &str = "collection/refused";
pub(super) const COLLECTION_LEASES: &str = "collection/lease!";

pub(super) fn collection_cursor(dry_run: bool) -> &'static str {
    if dry_run { "collection/dry-run" } else { "collection/cursor" }
}

/// What the keys of the collector's marks begin with.
pub(super) fn collection_marks(dry_run: bool) -> String {
    format!("{}!", collection_cursor(dry_run))
}

pub(super) fn condemned(key: &str) -> String {
    format!("{CONDEMNED}{key}")
}

pub(super) const CONDEMNED: &str = "condemned/";

/// Not a key of its own: how an object of the blob store is called among those that are condemned.
pub(super) fn stored(name: &str) -> String {
    format!("stored/{name}")
}

pub(super) const RESCUED: &str = "rescued/";

pub(super) fn rescued(key: &str) -> String {
    format!("{RESCUED}{key}")
}
