//! How keys are stored in folders.
//!
//! A key is cut at `/`, `!` and `:`. The text before a separator becomes a folder, whose name ends
//! in the separator if the separator is `!` or `:`. The text behind the last separator becomes a
//! file whose name ends in `=`: `tag/team/app!v1` is `tag/team/app!/v1=`.
//!
//! A folder that has enough names takes no more. Further names lie in *buckets* of the folder. The
//! bucket `+v` holds the names that continue with `v`, and may have buckets of its own:
//! `tag/team/app!/+v/1=` is the same key. Names of files and of folders are put into buckets alike.
//! `tree.rs` describes where a key is looked up and created.

use std::path::{Path, PathBuf};

use super::disk::Item;

const SEPARATORS: [char; 3] = ['/', '!', ':'];
/// The longest name that file systems take, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The end of a name in a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The name ends the key: the name is a file.
    Key,
    /// A separator follows: the name is a folder.
    Separator(char),
}

/// Cuts a key or prefix behind its last separator.
pub(super) fn split(key: &str) -> (&str, &str) {
    key.split_at(key.rfind(SEPARATORS).map_or(0, |at| at + 1))
}

/// The names of a prefix that is empty or ends in a separator.
pub(super) fn names(prefix: &str) -> impl Iterator<Item = (&[u8], End)> {
    prefix.split_inclusive(SEPARATORS).map(|part| {
        let (name, separator) = part.split_at(part.len() - 1);
        (name.as_bytes(), End::Separator(separator.chars().next().unwrap_or('/')))
    })
}

/// The path of a name in `folder` without buckets. `None` if the name is too long for one entry.
pub(super) fn path_of(folder: &Path, name: &[u8], end: End) -> Option<PathBuf> {
    let mut entry = encode(name);
    match end {
        End::Key => entry.push('='),
        End::Separator('/') => {}
        End::Separator(separator) => entry.push(separator),
    }
    (entry.len() <= NAME_BYTES_MAX).then(|| folder.join(entry))
}

/// The bucket of names that begin with `byte`.
pub(super) fn bucket(folder: &Path, byte: u8) -> PathBuf {
    folder.join(format!("+{}", encode(&[byte])))
}

/// The part of a key that an entry of a folder stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyPart {
    /// The end of a key.
    Leaf(Vec<u8>),
    /// A folder below which keys continue, behind the separator.
    Folder(Vec<u8>, char),
    /// A bucket of more names, which begin with this byte.
    Bucket(u8),
}

/// The part of a key that an entry stands for; `None` for an entry that is not the store's own.
pub(super) fn part_of(item: &Item) -> Option<KeyPart> {
    let part = part_of_name(&item.name).filter(|_| item.is_text)?;
    let fits = if matches!(part, KeyPart::Leaf(_)) { item.is_file } else { item.is_folder };
    fits.then_some(part)
}

fn part_of_name(entry: &str) -> Option<KeyPart> {
    let own = |encoded: &str| Some(decode(encoded)).filter(|name| encode(name) == encoded);
    if let Some(byte) = entry.strip_prefix('+') {
        own(byte)?.try_into().ok().map(|[byte]: [u8; 1]| KeyPart::Bucket(byte))
    } else if let Some(name) = entry.strip_suffix('=') {
        own(name).map(KeyPart::Leaf)
    } else {
        let separator = entry.chars().next_back().filter(|last| matches!(last, '!' | ':'));
        let name = &entry[..entry.len() - separator.map_or(0, char::len_utf8)];
        own(name).map(|name| KeyPart::Folder(name, separator.unwrap_or('/')))
    }
}

/// Encodes a name for the file system. Every byte that could have a meaning to a file system or to
/// the store is written as `%XX`; an empty name is `%`.
fn encode(name: &[u8]) -> String {
    if name.is_empty() {
        return "%".into();
    }
    let dots_only = name.iter().all(|b| *b == b'.');
    let mut entry = String::with_capacity(name.len());
    for byte in name {
        if byte.is_ascii_alphanumeric() || b"_-".contains(byte) || (*byte == b'.' && !dots_only) {
            entry.push(*byte as char);
        } else {
            entry.push_str(&format!("%{byte:02X}"));
        }
    }
    entry
}

fn decode(entry: &str) -> Vec<u8> {
    if entry == "%" { Vec::new() } else { percent_encoding::percent_decode_str(entry).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The path of a key while there are no buckets.
    fn path(key: &str) -> String {
        let (prefix, last) = split(key);
        let last = [(last.as_bytes(), End::Key)];
        let path = names(prefix)
            .chain(last)
            .fold(PathBuf::new(), |folder, (name, end)| path_of(&folder, name, end).expect("a short name"));
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn keys_lie_where_the_documentation_says() {
        assert_eq!(path("tag/team/app!v1"), "tag/team/app!/v1=");
        assert_eq!(path("content/sha256:ab"), "content/sha256:/ab=");
        assert_eq!(path("repository/a!"), "repository/a!/%=");
        assert_eq!(path("a"), "a=");
        assert_eq!(bucket(Path::new("a/!"), b'v'), Path::new("a/!/+v"));
    }

    #[test]
    fn no_key_leaves_the_folder() {
        assert_eq!(path("a/../b"), "a/%2E%2E/b=");
        assert_eq!(path("/etc"), "%/etc=");
        assert_eq!(path("a\0\\b=c%+"), "a%00%5Cb%3Dc%25%2B=");
        assert_eq!(bucket(Path::new(""), b'.'), Path::new("+%2E"));
    }

    #[test]
    fn names_are_read_back() {
        for text in ["v1", "", ".", "..", "a=b%", "+a", "é\0"] {
            let name = text.as_bytes();
            assert_eq!(part_of_name(&format!("{}=", encode(name))), Some(KeyPart::Leaf(name.to_vec())));
            for separator in SEPARATORS {
                let folder = path_of(Path::new(""), name, End::Separator(separator)).unwrap();
                assert_eq!(part_of_name(folder.to_str().unwrap()), Some(KeyPart::Folder(name.to_vec(), separator)));
            }
        }
        for byte in 0..=255 {
            let bucket = bucket(Path::new(""), byte);
            assert_eq!(part_of_name(bucket.to_str().unwrap()), Some(KeyPart::Bucket(byte)));
        }
        for foreign in ["!", ":", "+", "+ab", "a b", "%zz=", "READ ME.txt", "v1~"] {
            assert_eq!(part_of_name(foreign), None, "{foreign}");
        }
    }
}
