//! The keys of the key-value store. Only this file makes or parses keys of the registry.
//!
//! | fact | key |
//! | --- | --- |
//! | a repository exists | `repository/<repo>!` |
//! | a tag | `tag/<repo>!<tag>` |
//! | reverse index: the tags of a digest, each with its push | `tagged/<repo>!<digest>!<tag>` |
//! | a manifest is in a repository | `manifest/<repo>!<digest>` |
//! | a blob is in a repository | `blob/<repo>!<digest>` |
//! | a blob is stored, for all repositories | `content/<digest>` |
//! | a manifest refers to a subject | `referrer/<repo>!<subject>!<digest>` |
//! | a warning about a repository | `warning/<repo>!` |
//! | a warning about a tag | `warning/<repo>!<tag>` |
//! | where the bytes of a large manifest are | `large/<repo>!<digest>` |
//! | an upload | `upload/<repo>!<session>` |
//! | the bytes that a broken request left of an upload | `upload/<repo>!<session>!arrived` |
//! | the state of the collection | `collection/…` |
//! | a collection found a key unused | `condemned/key/<key>` |
//! | a collection found an object of the blob store unused | `condemned/object/<name>` |
//! | a push protects a key from a collection | `protected/<key>!<push>` |
//!
//! A key begins with its kind. The character `!`, which no name contains, ends a name. So no name
//! of a repository or a tag can make one fact look like another, and `a` and `a/b` never mix. Keys
//! that begin with `pack/` belong to the packed blob store, and keys that begin with `auth/`,
//! `upstream/` and `mirror/` to the layers of these names.

use std::borrow::Borrow;
use std::fmt::{self, Display};
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::oci::{Digest, RepositoryName, Tag};

/// Ends a name in a key.
const END: char = '!';

/// A key of the key-value store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Key(String);

/// The common beginning of keys that are listed together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix(String);

/// A kind of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Repository,
    Tag,
    /// The reverse index: from a digest to the tags that point to the digest.
    Tagged,
    Manifest,
    Blob,
    Content,
    Referrer,
    Warning,
    Large,
    Upload,
}

/// A candidate for removal by the collector: a key, or an object of the blob store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Collectable {
    Key(Key),
    /// The name of an object of the blob store.
    Object(String),
}

impl Key {
    /// A key that the store has listed.
    pub(super) fn listed(key: String) -> Self {
        Self(key)
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }

    /// The digest at the end of a key of the kinds `Manifest`, `Blob`, `Content`, `Referrer` and
    /// `Large`.
    pub(super) fn digest(&self) -> &str {
        self.0.rsplit([END, '/']).next().unwrap_or_default()
    }

    /// The longest common beginning of two keys.
    pub(super) fn common_prefix(&self, other: &Self) -> Prefix {
        let common = self.0.chars().zip(other.0.chars()).take_while(|(a, b)| a == b);
        Prefix(common.map(|(a, _)| a).collect())
    }
}

impl Prefix {
    /// The key that continues this prefix with `rest`.
    pub(super) fn key(&self, rest: impl Display) -> Key {
        Key(format!("{}{rest}", self.0))
    }

    /// The part of `key` that follows this prefix; empty for a key that has another prefix.
    pub(super) fn rest<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(&*self.0).unwrap_or_default()
    }

    /// Sorts after all keys with this prefix.
    pub(super) fn end(&self) -> Key {
        self.key(char::MAX)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Tag => "tag",
            Self::Tagged => "tagged",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Content => "content",
            Self::Referrer => "referrer",
            Self::Warning => "warning",
            Self::Large => "large",
            Self::Upload => "upload",
        }
    }

    /// The keys of this kind in all repositories.
    pub(super) fn everywhere(self) -> Prefix {
        Prefix(format!("{}/", self.name()))
    }

    /// The keys of this kind in one repository. The collector takes the name from a key that was
    /// listed, so the name need not be a parsed `RepositoryName`.
    pub(super) fn within(self, repository: impl Display) -> Prefix {
        Prefix(format!("{}/{repository}{END}", self.name()))
    }

    /// The name of the repository in a key of this kind.
    pub(super) fn repository_in(self, key: &str) -> Option<&str> {
        Some(key.strip_prefix(self.name())?.strip_prefix('/')?.split_once(END)?.0)
    }
}

pub(super) fn repositories() -> Prefix {
    Kind::Repository.everywhere()
}

pub(super) fn repository(repository: impl Display) -> Key {
    Kind::Repository.within(repository).key("")
}

/// The key of the entry `last` of a list of keys under `prefix`. The list goes on after this key.
/// Keys are listed in byte order, and in the keys of repositories an end follows the name.
pub(super) fn listed_after(prefix: &Prefix, last: &str) -> Key {
    if *prefix == repositories() { repository(last) } else { prefix.key(last) }
}

pub(super) fn repository_name(key: &str) -> Option<&str> {
    Kind::Repository.repository_in(key)
}

pub(super) fn tags(repository: &RepositoryName) -> Prefix {
    Kind::Tag.within(repository)
}

pub(super) fn tag(repository: &RepositoryName, tag: &Tag) -> Key {
    Kind::Tag.within(repository).key(tag)
}

/// The entries of the reverse index for one digest.
pub(super) fn tags_of(repository: &RepositoryName, digest: &Digest) -> Prefix {
    Prefix(format!("{}{digest}{END}", Kind::Tagged.within(repository).0))
}

/// An entry of the reverse index.
pub(super) fn tag_of(repository: &RepositoryName, digest: &Digest, tag: &Tag) -> Key {
    tags_of(repository, digest).key(tag)
}

/// The end of the key of an entry of the reverse index: what follows the repository.
pub(super) fn reverse_entry(digest: &str, tag: &str) -> String {
    format!("{digest}{END}{tag}")
}

/// The digest and the tag at the end of the key of an entry of the reverse index.
pub(super) fn digest_and_tag(reverse_entry: &str) -> (&str, &str) {
    reverse_entry.split_once(END).unwrap_or_default()
}

pub(super) fn manifests(repository: &RepositoryName) -> Prefix {
    Kind::Manifest.within(repository)
}

pub(super) fn manifest(repository: &RepositoryName, digest: &Digest) -> Key {
    manifests(repository).key(digest)
}

pub(super) fn referrers(repository: impl Display, subject: &Digest) -> Prefix {
    Prefix(format!("{}{subject}{END}", Kind::Referrer.within(repository).0))
}

pub(super) fn referrer(repository: impl Display, subject: &Digest, digest: &str) -> Key {
    referrers(repository, subject).key(digest)
}

pub(super) fn warning(repository: &RepositoryName, tag: Option<&Tag>) -> Key {
    Kind::Warning.within(repository).key(tag.map_or("", Tag::as_str))
}

pub(super) fn blob(repository: &RepositoryName, digest: &Digest) -> Key {
    Kind::Blob.within(repository).key(digest)
}

pub(super) fn content(digest: &Digest) -> Key {
    Kind::Content.everywhere().key(digest)
}

pub(super) fn upload(repository: &RepositoryName, session: &str) -> Key {
    Kind::Upload.within(repository).key(session)
}

/// The key of the state that a broken request left of the upload under the key `upload`.
pub(super) fn arrived(upload: &str) -> Key {
    Key(format!("{upload}{END}arrived"))
}

pub(super) fn large(repository: &RepositoryName, digest: &Digest) -> Key {
    Kind::Large.within(repository).key(digest)
}

/// The state of the collection, which every push reads.
pub(super) const COLLECTION_STATE: &str = "collection/state";
/// When a push was last refused because of a collection.
pub(super) const COLLECTION_REFUSED: &str = "collection/refused";

pub(super) fn leases() -> Prefix {
    Prefix(format!("collection/lease{END}"))
}

pub(super) fn lease(number: u64) -> Key {
    leases().key(format_args!("{number:016}"))
}

/// The number of a lease; 0 for a key that no build writes.
pub(super) fn lease_number(lease: &str) -> u64 {
    leases().rest(lease).parse().unwrap_or_default()
}

/// The saved progress of a round.
pub(super) fn cursor(dry_run: bool) -> &'static str {
    if dry_run { "collection/dry-run" } else { "collection/cursor" }
}

/// All marks of a round.
pub(super) fn marks(dry_run: bool) -> Prefix {
    Prefix(format!("{}{END}", cursor(dry_run)))
}

/// A part of the marks that were in memory when the cursor was saved for the `save`-th time.
pub(super) fn saved_marks(dry_run: bool, save: u64, part: usize) -> Key {
    marks(dry_run).key(format_args!("{save}{END}{part:04}"))
}

/// A part of a sorted run of marks.
pub(super) fn run_of_marks(dry_run: bool, run: &str, part: usize) -> Key {
    marks(dry_run).key(format_args!("run-{run}{END}{part:06}"))
}

impl Collectable {
    const KEYS: &str = "condemned/key/";
    const OBJECTS: &str = "condemned/object/";

    /// The condemnations of all keys.
    pub(super) fn condemned_keys() -> Prefix {
        Prefix(Self::KEYS.to_owned())
    }

    /// The condemnations of all objects of the blob store.
    pub(super) fn condemned_objects() -> Prefix {
        Prefix(Self::OBJECTS.to_owned())
    }

    pub(super) fn as_key(&self) -> Option<&Key> {
        match self {
            Self::Key(key) => Some(key),
            Self::Object(_) => None,
        }
    }

    /// The key that says that the candidate is condemned.
    pub(super) fn condemned(&self) -> Key {
        match self {
            Self::Key(key) => Self::condemned_keys().key(key),
            Self::Object(name) => Self::condemned_objects().key(name),
        }
    }
}

impl Display for Collectable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Object(name) => name.fmt(f),
        }
    }
}

/// Keys of another layer, which the collector removes when they have expired.
pub(super) fn other_layer(prefix: &str) -> Prefix {
    Prefix(prefix.to_owned())
}

/// The keys with which pushes protect keys from the collector.
pub(super) fn protections() -> Prefix {
    Prefix("protected/".to_owned())
}

/// The keys with which pushes protect `key`.
pub(super) fn protections_of(key: &Key) -> Prefix {
    Prefix(format!("{}{key}{END}", protections().0))
}

/// The key with which the push named `push` protects `key`.
pub(super) fn protection(key: &Key, push: &str) -> Key {
    protections_of(key).key(push)
}

impl Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Deref for Prefix {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_give_back_their_parts() {
        let repository: RepositoryName = "a/b".parse().unwrap();
        let digest = crate::oci::Algorithm::Sha256.digest(b"content");
        let tag: Tag = "v1".parse().unwrap();
        for key in [manifest(&repository, &digest), content(&digest), referrer(&repository, &digest, digest.as_str())] {
            assert_eq!(key.digest(), digest.as_str());
        }
        let key = tag_of(&repository, &digest, &tag);
        let entry = Kind::Tagged.within("a/b").rest(&key).to_owned();
        assert_eq!(entry, reverse_entry(digest.as_str(), "v1"));
        assert_eq!(digest_and_tag(&entry), (digest.as_str(), "v1"));
        assert_eq!(Kind::Tagged.repository_in(&key), Some("a/b"));
        assert_eq!(Kind::Tag.repository_in(&key), None);
        assert_eq!(repository_name(&super::repository(&repository)), Some("a/b"));
        assert_eq!(lease_number(&lease(17)), 17);
    }

    #[test]
    fn kinds_never_share_a_prefix() {
        let kinds = [Kind::Tag, Kind::Tagged, Kind::Repository, Kind::Referrer];
        for kind in kinds {
            for other in kinds.into_iter().filter(|other| *other != kind) {
                assert!(!kind.everywhere().starts_with(&*other.everywhere()));
                assert!(!kind.within("a").starts_with(&*other.everywhere()));
            }
        }
        assert!(Kind::Tag.within("a").end() > Kind::Tag.within("a").key("zzzz"));
        assert!(Kind::Tag.within("a").end() < Kind::Tag.within("a0").key(""));
    }
}
