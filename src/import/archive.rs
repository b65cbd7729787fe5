//! The files in a tar archive, which may be compressed with gzip.
//!
//! The list of all files is made before the import begins, so nothing is imported from an archive
//! that is cut off or damaged. A compressed archive is unpacked to a temporary file without a name
//! first, because its files must be read in any order.
//!
//! The headers are walked here, and read by the crate `tar`. Its own walk puts extended headers into
//! memory whatever their size.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use flate2::read::MultiGzDecoder;
use tar::{EntryType, Header, PaxExtensions};

use super::error::{Error, Result};
use super::files::{Files, Name, Section, join, normal};
use super::limits::{
    ARCHIVE_EXTENSION_BYTES_MAX, ARCHIVE_FILES_MAX, ARCHIVE_LINKS_MAX, ARCHIVE_PATH_BYTES_MAX, UNPACKED_BYTES_MIN,
    UNPACKED_RATIO_MAX,
};

/// The unit of a tar archive, in bytes.
const BLOCK_BYTES: u64 = 512;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The name of an archive in the text of an error about a path.
const ARCHIVE: &str = "the archive";

/// The files in an archive.
pub(super) struct Archive {
    file: Arc<File>,
    nodes: BTreeMap<String, Node>,
}

/// A path in an archive.
enum Node {
    File {
        start: u64,
        length: u64,
    },
    /// The path that a link leads to.
    Link(String),
}

/// The headers of an archive, read one after the other.
struct Walk<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

/// What extended headers say about the next file.
#[derive(Default)]
struct Extension {
    path: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

impl Archive {
    /// Opens an archive and lists its files.
    ///
    /// # Errors
    /// [`Error::Refused`] when the file is no archive, is cut off, has a path or a link out of the
    /// archive, or unpacks to too many bytes or files.
    pub(super) async fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        blocking::unblock(move || {
            let file = File::open(&path).map_err(|error| Error::Unreadable(format!("{}: {error}", path.display())))?;
            Self::read(file)
        })
        .await
    }

    fn read(file: File) -> Result<Self> {
        let mut magic = [0; 4];
        let length = file.read_at(&mut magic, 0).map_err(unreadable)?;
        let file = match magic {
            ZSTD_MAGIC => {
                return Err(Error::refused("the archive is compressed with zstd: unpack it with unzstd first"));
            }
            [a, b, _, _] if [a, b] == GZIP_MAGIC && length >= 2 => unpack(&file)?,
            _ => file,
        };
        let end = file.metadata().map_err(unreadable)?.len();
        let nodes = Walk { file: &file, at: 0, end }.nodes()?;
        Ok(Self { file: Arc::new(file), nodes })
    }

    /// The section of a path, through links.
    fn section(&self, path: &str) -> Result<Option<Section>> {
        let mut path = normal(path, ARCHIVE)?;
        for _ in 0..=ARCHIVE_LINKS_MAX {
            match self.nodes.get(&path) {
                None => return Ok(None),
                Some(Node::Link(target)) => path.clone_from(target),
                Some(Node::File { start, length }) => {
                    return Ok(Some(Section::of_file(self.file.clone(), *start, *length)));
                }
            }
        }
        Err(Error::refused(format!("{path} is at the end of more than {ARCHIVE_LINKS_MAX} links")))
    }

    fn names(&self, folder: &str) -> Result<Vec<Name>> {
        let folder = normal(folder, ARCHIVE)?;
        let prefix = if folder.is_empty() { folder } else { format!("{folder}/") };
        let below = self.nodes.range(prefix.clone()..).map_while(|(path, _)| path.strip_prefix(&prefix));
        let mut names: Vec<Name> = below
            .map(|rest| match rest.split_once('/') {
                Some((folder, _)) => Name { text: folder.to_owned(), is_folder: true },
                None => Name { text: rest.to_owned(), is_folder: false },
            })
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }
}

#[async_trait]
impl Files for Archive {
    async fn list(&self, folder: &str) -> Result<Vec<Name>> {
        self.names(folder)
    }

    async fn find(&self, path: &str) -> Result<Option<Section>> {
        self.section(path)
    }
}

impl Walk<'_> {
    fn nodes(mut self) -> Result<BTreeMap<String, Node>> {
        let mut nodes = BTreeMap::new();
        let mut extension = Extension::default();
        while let Some(header) = self.header()? {
            let kind = header.entry_type();
            let own_size = header.entry_size().map_err(|error| self.damaged(&error))?;
            match kind {
                EntryType::GNULongName => extension.path = Some(self.text(own_size)?),
                EntryType::GNULongLink => extension.link = Some(self.text(own_size)?),
                EntryType::XHeader => self.read_extension(own_size, &mut extension)?,
                _ => {
                    let Extension { path, link, size } = std::mem::take(&mut extension);
                    let path = path.unwrap_or_else(|| lossy(&header.path_bytes()));
                    let length = size.unwrap_or(own_size);
                    let start = self.at;
                    self.skip(length, &path)?;
                    let path = normal(&path, ARCHIVE)?;
                    let link = link.or_else(|| header.link_name_bytes().map(|link| lossy(&link)));
                    if let Some(node) = node(kind, &path, start, length, link.unwrap_or_default())? {
                        nodes.insert(path, node);
                    }
                }
            }
            if nodes.len() > ARCHIVE_FILES_MAX {
                return Err(Error::refused(format!("the archive has more than {ARCHIVE_FILES_MAX} files")));
            }
        }
        Ok(nodes)
    }

    /// The next header; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>> {
        // An archive ends with empty blocks, which some programs leave out.
        if self.at == self.end {
            return match self.at {
                0 => Err(Error::refused("the file is empty")),
                _ => Ok(None),
            };
        }
        if self.end - self.at < BLOCK_BYTES {
            return Err(self.cut("in the middle of a header"));
        }
        let mut header = Header::new_old();
        self.file.read_exact_at(header.as_mut_bytes(), self.at).map_err(unreadable)?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The sum counts the bytes of its own field as spaces.
        let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        match header.cksum() {
            Ok(stated) if stated == sum => {}
            _ if self.at == 0 => return Err(Error::refused("the file is neither a tar archive nor a gzip of one")),
            _ => return Err(self.damaged(&"a header has a wrong checksum")),
        }
        self.at += BLOCK_BYTES;
        Ok(Some(header))
    }

    /// Goes past the content of a file.
    fn skip(&mut self, length: u64, path: &str) -> Result<()> {
        let left = self.end - self.at;
        if length > left {
            return Err(self.cut(&format!("in {path}, which has {left} of its {length} bytes")));
        }
        // The last file may lack the bytes that fill its last block.
        self.at = (self.at + length.div_ceil(BLOCK_BYTES) * BLOCK_BYTES).min(self.end);
        Ok(())
    }

    /// The content of an extended header.
    fn content(&mut self, size: u64, most: u64) -> Result<Vec<u8>> {
        if size > most {
            return Err(Error::refused(format!(
                "the archive has a header of {size} bytes, and at most {most} are read"
            )));
        }
        let at = self.at;
        self.skip(size, "a header")?;
        let mut content = vec![0; size as usize];
        self.file.read_exact_at(&mut content, at).map_err(unreadable)?;
        Ok(content)
    }

    fn text(&mut self, size: u64) -> Result<String> {
        let content = self.content(size, ARCHIVE_PATH_BYTES_MAX)?;
        Ok(lossy(content.strip_suffix(&[0]).unwrap_or(&content)))
    }

    fn read_extension(&mut self, size: u64, extension: &mut Extension) -> Result<()> {
        let content = self.content(size, ARCHIVE_EXTENSION_BYTES_MAX)?;
        for record in PaxExtensions::new(&content) {
            let record = record.map_err(|error| self.damaged(&error))?;
            let value = lossy(record.value_bytes());
            match record.key_bytes() {
                b"path" => extension.path = Some(value),
                b"linkpath" => extension.link = Some(value),
                b"size" => extension.size = Some(value.parse().map_err(|error| self.damaged(&error))?),
                _ => {}
            }
        }
        Ok(())
    }

    fn damaged(&self, why: &dyn std::fmt::Display) -> Error {
        Error::refused(format!("the archive is damaged at byte {}: {why}", self.at))
    }

    fn cut(&self, place: &str) -> Error {
        Error::refused(format!("the archive is cut off {place}"))
    }
}

/// The node of a header. `None` for folders, devices and everything else that holds no content.
fn node(kind: EntryType, path: &str, start: u64, length: u64, link: String) -> Result<Option<Node>> {
    Ok(match kind {
        EntryType::Regular | EntryType::Continuous => Some(Node::File { start, length }),
        // A symbolic link begins at the folder of its own path, a hard link at the top.
        EntryType::Symlink if link.starts_with('/') => {
            return Err(Error::refused(format!("{path} is a link out of the archive, to {link}")));
        }
        EntryType::Symlink => {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            Some(Node::Link(normal(&join(parent, &link), ARCHIVE)?))
        }
        EntryType::Link => Some(Node::Link(normal(&link, ARCHIVE)?)),
        _ => None,
    })
}

/// Unpacks a compressed archive to a temporary file without a name.
fn unpack(mut file: &File) -> Result<File> {
    file.rewind().map_err(unreadable)?;
    let packed = file.metadata().map_err(unreadable)?.len();
    let most = packed.saturating_mul(UNPACKED_RATIO_MAX).max(UNPACKED_BYTES_MIN);
    let mut decoder = MultiGzDecoder::new(BufReader::new(file)).take(most + 1);
    let mut unpacked =
        tempfile::tempfile().map_err(|error| Error::Unreadable(format!("no temporary file can be made: {error}")))?;
    let mut buffer = vec![0; super::limits::PIECE_BYTES];
    let mut written = 0;
    loop {
        let length = decoder.read(&mut buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::refused("the archive is cut off: its gzip stream has no end"),
            _ => Error::refused(format!("the archive is no whole gzip stream: {error}")),
        })?;
        if length == 0 {
            return Ok(unpacked);
        }
        written += length as u64;
        if written > most {
            return Err(Error::refused(format!(
                "the archive of {packed} bytes unpacks to more than {most} bytes: if you trust it, unpack it with \
                 gunzip and import the tar archive"
            )));
        }
        unpacked.write_all(&buffer[..length]).map_err(|error| {
            Error::Unreadable(format!("the archive cannot be unpacked into the folder for temporary files: {error}"))
        })?;
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn unreadable(error: io::Error) -> Error {
    Error::Unreadable(format!("the archive: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::files::Origin;

    fn builder() -> tar::Builder<Vec<u8>> {
        tar::Builder::new(Vec::new())
    }

    fn header(kind: EntryType, path: &str, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        // `set_path` refuses the paths that the tests are about.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    fn linked(kind: EntryType, path: &str, target: &str) -> Header {
        let mut header = header(kind, path, 0);
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        header
    }

    fn opened(bytes: &[u8]) -> Result<Archive> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Archive::read(file)
    }

    fn text_of(archive: &Archive, path: &str) -> Result<Option<String>> {
        let Some(section) = archive.section(path)? else { return Ok(None) };
        let mut text = vec![0; section.length as usize];
        let Origin::File { file, start } = &section.origin else { panic!("{path} is in no file") };
        file.read_exact_at(&mut text, *start).unwrap();
        Ok(Some(String::from_utf8(text).unwrap()))
    }

    fn refusal(bytes: &[u8]) -> String {
        opened(bytes).err().expect("a refusal").to_string()
    }

    fn archive() -> Vec<u8> {
        let mut tar = builder();
        tar.append(&header(EntryType::Regular, "./a/one", 3), &b"one"[..]).unwrap();
        let long = format!("b/{}", "x".repeat(200));
        let mut empty = Header::new_gnu();
        empty.set_size(0);
        tar.append_data(&mut empty, &long, &b""[..]).unwrap();
        tar.append(&linked(EntryType::Symlink, "c/link", "../a/one"), &b""[..]).unwrap();
        tar.append(&linked(EntryType::Link, "hard", "a/one"), &b""[..]).unwrap();
        tar.append_pax_extensions([("size", &b"4"[..]), ("path", b"pax")]).unwrap();
        tar.append(&header(EntryType::Regular, "other", 4), &b"four"[..]).unwrap();
        tar.append(&linked(EntryType::Symlink, "top", "hard"), &b""[..]).unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn files_are_found_by_path_and_through_links() {
        let archive = opened(&archive()).unwrap();
        for path in ["a/one", "./a/one", "c/link", "hard", "top"] {
            assert_eq!(text_of(&archive, path), Ok(Some("one".into())), "{path}");
        }
        assert_eq!(text_of(&archive, "pax"), Ok(Some("four".into())));
        assert_eq!(text_of(&archive, &format!("b/{}", "x".repeat(200))), Ok(Some(String::new())));
        assert_eq!(text_of(&archive, "none"), Ok(None));
        let names: Vec<_> = archive.names("").unwrap().into_iter().map(|name| (name.text, name.is_folder)).collect();
        let expected = [("a", true), ("b", true), ("c", true), ("hard", false), ("pax", false), ("top", false)];
        assert_eq!(names, expected.map(|(name, is_folder)| (name.to_owned(), is_folder)));
    }

    #[test]
    fn a_cut_or_damaged_archive_is_refused_at_every_byte() {
        let whole = archive();
        let content = whole.len() - 1024;
        for cut in 1..content {
            // An archive that ends right after a file may be meant so.
            if cut % 512 != 0 {
                match opened(&whole[..cut]) {
                    Ok(archive) => assert!(text_of(&archive, "top").unwrap().is_none(), "{cut}"),
                    Err(error) => assert!(error.to_string().contains("cut off"), "{cut}: {error}"),
                }
            }
        }
        let mut damaged = whole;
        damaged[512 * 2] ^= 1;
        assert_eq!(refusal(&damaged), "the archive is damaged at byte 1024: a header has a wrong checksum");
        assert_eq!(refusal(b""), "the file is empty");
        assert_eq!(refusal(&[b'x'; 600]), "the file is neither a tar archive nor a gzip of one");
    }

    #[test]
    fn paths_and_links_out_of_the_archive_are_refused_by_name() {
        for (header, expected) in [
            (header(EntryType::Regular, "../evil", 0), "../evil leads out of the archive"),
            (header(EntryType::Regular, "/evil", 0), "/evil leads out of the archive"),
            (linked(EntryType::Symlink, "a/b", "/etc/passwd"), "a/b is a link out of the archive, to /etc/passwd"),
            (linked(EntryType::Symlink, "a/b", "../../x"), "a/../../x leads out of the archive"),
            (linked(EntryType::Link, "b", "../x"), "../x leads out of the archive"),
        ] {
            let mut tar = builder();
            tar.append(&header, &b""[..]).unwrap();
            assert_eq!(refusal(&tar.into_inner().unwrap()), expected);
        }
        let mut tar = builder();
        tar.append(&linked(EntryType::Symlink, "a", "b"), &b""[..]).unwrap();
        tar.append(&linked(EntryType::Symlink, "b", "a"), &b""[..]).unwrap();
        let looped = opened(&tar.into_inner().unwrap()).unwrap();
        assert!(looped.section("a").unwrap_err().to_string().contains("more than 8 links"));
    }

    #[test]
    fn headers_are_bounded() {
        for (kind, most) in [(EntryType::GNULongName, 4096), (EntryType::XHeader, 65536)] {
            let mut tar = builder();
            tar.append(&header(kind, "x", 1 << 20), &vec![0; 1 << 20][..]).unwrap();
            let expected = format!("the archive has a header of 1048576 bytes, and at most {most} are read");
            assert_eq!(refusal(&tar.into_inner().unwrap()), expected);
        }
        // A size that would overflow the position.
        let mut tar = builder();
        tar.append_pax_extensions([("size", u64::MAX.to_string().as_bytes())]).unwrap();
        tar.append(&header(EntryType::Regular, "big", 0), &b""[..]).unwrap();
        assert!(refusal(&tar.into_inner().unwrap()).starts_with("the archive is cut off in big, which has "));
    }

    #[test]
    fn compressed_archives_are_unpacked_within_a_limit() {
        let packed = |bytes: &[u8]| {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        };
        let small = packed(&archive());
        assert_eq!(text_of(&opened(&small).unwrap(), "top"), Ok(Some("one".into())));
        assert!(
            refusal(&small[..small.len() - 9]).starts_with("the archive is cut off"),
            "{}",
            refusal(&small[..small.len() - 9])
        );
        let bomb = packed(&vec![0; UNPACKED_BYTES_MIN as usize + 1]);
        assert!(refusal(&bomb).contains(" unpacks to more than 67108864 bytes"), "{}", refusal(&bomb));
        assert!(refusal(&ZSTD_MAGIC).contains("compressed with zstd"));
    }
}
