//! The keys of the key-value store. Only this file makes or parses keys.
//!
//! | fact | key |
//! | --- | --- |
//! | a repository exists | `repository/<repo>!` |
//! | a tag | `tag/<repo>!<tag>` |
//! | reverse index: the tags of a digest, each with its time | `tagged/<repo>!<digest>!<tag>` |
//! | a manifest is in a repository | `manifest/<repo>!<digest>` |
//! | a blob is in a repository | `blob/<repo>!<digest>` |
//! | a blob is stored, for all repositories | `content/<digest>` |
//! | a manifest refers to a subject | `referrer/<repo>!<subject>!<digest>` |
//! | not written any more: a fallback list was imported | `adopted/<repo>!<subject>` |
//! | a warning about a repository | `warning/<repo>!` |
//! | a warning about a tag | `warning/<repo>!<tag>` |
//! | where the bytes of a large manifest are | `large/<repo>!<digest>` |
//! | an upload | `upload/<repo>!<session>` |
//! | the state of the collection | `collection/…` |
//! | a collection found a key or object unused | `condemned/<key>`, `condemned/stored/<name>` |
//! | a push uses a key while a collection runs | `rescued/<key>` |
//!
//! A key begins with its kind. The character `!`, which no name contains, ends a name. So no name
//! of a repository or a tag can make one fact look like another, and `a` and `a/b` never mix. Keys
//! that begin with `pack/` belong to the packed blob store, keys that begin with `auth/` to the
//! layer `auth`.

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

/// The key of the state that a broken request left of the upload under the key `upload`.
pub(super) fn arrived(upload: &str) -> String {
    format!("{upload}!arrived")
}

/// The prefix of the keys of one kind in a repository. The collector takes the name from a key that
/// it found, so the name need not be a parsed `RepositoryName`.
pub(super) fn of_repository(kind: &str, repository: &impl Display) -> String {
    format!("{kind}/{repository}!")
}

/// The name of the repository in a key of this kind.
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

/// The prefix of the keys that hold the collector's marks.
pub(super) fn collection_marks(dry_run: bool) -> String {
    format!("{}!", collection_cursor(dry_run))
}

pub(super) fn condemned(key: &str) -> String {
    format!("{CONDEMNED}{key}")
}

pub(super) const CONDEMNED: &str = "condemned/";

/// The name of an object of the blob store in the keys of condemned objects. Not a key by itself.
pub(super) fn stored(name: &str) -> String {
    format!("stored/{name}")
}

pub(super) const RESCUED: &str = "rescued/";

pub(super) fn rescued(key: &str) -> String {
    format!("{RESCUED}{key}")
}
