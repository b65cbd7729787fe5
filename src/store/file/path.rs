//! How keys lie in folders.
//!
//! A key is cut at `/` and `!`. What stands before a separator is a folder, `!` adds a folder of that name below it, and what
//! comes after the last separator is a file whose name ends in `=`, so that it never meets a folder:
//! `tag/team/app!v1` is the file `tag/team/app/!/v1=`.

use std::path::{Path, PathBuf};

const SEPARATORS: [char; 2] = ['/', '!'];
const BANG_FOLDER: &str = "!";

/// The file of a key.
pub(super) fn file_of(root: &Path, key: &str) -> PathBuf {
    let (folder, last) = split(key);
    folder_of(root, folder).join(format!("{}=", encode(last)))
}

/// The folder of all keys that begin with `prefix`, which is empty or ends in a separator.
pub(super) fn folder_of(root: &Path, prefix: &str) -> PathBuf {
    let mut path = root.to_owned();
    for part in prefix.split_inclusive(SEPARATORS) {
        path.push(encode(&part[..part.len() - 1]));
        if part.ends_with('!') {
            path.push(BANG_FOLDER);
        }
    }
    path
}

/// Cuts a key or prefix behind its last separator.
pub(super) fn split(key: &str) -> (&str, &str) {
    key.split_at(key.rfind(SEPARATORS).map_or(0, |at| at + 1))
}

/// What an entry of a folder adds to the keys below it.
pub(super) enum Part {
    /// A key ends here.
    Leaf(String),
    /// Keys go on below this folder with `!` and with `/`.
    Folder(String),
}

/// Reads an entry's name; `None` for what is not ours, and for the `!` folder, which belongs to its parent's name.
pub(super) fn part_of(name: &str, is_folder: bool) -> Option<Part> {
    match (is_folder, name.strip_suffix('=')) {
        (true, None) if name != BANG_FOLDER => decode(name).map(Part::Folder),
        (false, Some(name)) => decode(name).map(Part::Leaf),
        _ => None,
    }
}

/// The folders in which keys go on behind `name`, with the separator that each stands for.
pub(super) fn below(folder: &Path, name: &str) -> [(char, PathBuf); 2] {
    let slash = folder.join(encode(name));
    [('!', slash.join(BANG_FOLDER)), ('/', slash)]
}

/// Every byte that could mean something to a file system is written as `%XX`; an empty name is `%`.
fn encode(text: &str) -> String {
    if text.is_empty() {
        return "%".into();
    }
    let dots_only = text.bytes().all(|b| b == b'.');
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_:-".contains(&byte) || (byte == b'.' && !dots_only) {
            name.push(byte as char);
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

fn decode(name: &str) -> Option<String> {
    let name = if name == "%" { "" } else { name };
    let text = percent_encoding::percent_decode_str(name).decode_utf8().ok()?;
    Some(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(key: &str) -> String {
        file_of(Path::new(""), key).to_str().unwrap().to_owned()
    }

    #[test]
    fn keys_lie_where_the_documentation_says() {
        assert_eq!(path("tag/team/app!v1"), "tag/team/app/!/v1=");
        assert_eq!(path("repository/a!"), "repository/a/!/%=");
        assert_eq!(path("a"), "a=");
    }

    #[test]
    fn nothing_leaves_the_folder() {
        assert_eq!(path("a/../b"), "a/%2E%2E/b=");
        assert_eq!(path("/etc"), "%/etc=");
        assert_eq!(path("a\0\\b=c%"), "a%00%5Cb%3Dc%25=");
    }

    #[test]
    fn names_are_read_back() {
        for text in ["v1", "", ".", "..", "a=b%", "é\0"] {
            assert_eq!(decode(&encode(text)).as_deref(), Some(text));
        }
    }
}
