//! Every call to the file system that the file stores make.
//!
//! Errors name the operation and the path (`error.rs`). New files are readable and writable only
//! for their owner, because they include password hashes and the key that signs tokens; under WASI
//! the host's umask decides. Tests observe every sync here (`power_cut.rs`).

use std::fs::{self, DirBuilder, DirEntry, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write as _};
#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::disk_calls::{self, Call};
use super::durable;
use super::error::{reading, writing};

/// How often a folder is read from the start again when the reading breaks off because other
/// writers remove entries.
const READ_TRIES_MAX: usize = 100;
#[cfg(unix)]
const FILE_MODE: u32 = 0o600;
#[cfg(unix)]
const FOLDER_MODE: u32 = 0o700;

/// An entry of a folder.
pub(super) struct Item {
    /// The name. Parts that are not Unicode are replaced.
    pub(super) name: String,
    pub(super) is_folder: bool,
    pub(super) is_file: bool,
    /// Whether the name is Unicode.
    pub(super) is_text: bool,
}

/// The bytes of a file; `None` when there is no file of this name.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    disk_calls::made(Call::Open, path);
    match absent_is_none(reading("read", path, fs::read(path))) {
        // A folder in the place of a file is not the store's own.
        Err(_) if path.is_dir() => Ok(None),
        result => result,
    }
}

/// Opens a file for reading; `None` when there is no file of this name.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    disk_calls::made(Call::Open, path);
    let Some(file) = absent_is_none(reading("open", path, File::open(path)))? else { return Ok(None) };
    Ok(reading("open", path, file.metadata())?.is_file().then_some(file))
}

/// Opens a file for writing; `None` when there is no file of this name.
pub(super) fn open_to_write(path: &Path) -> io::Result<Option<File>> {
    disk_calls::made(Call::Open, path);
    absent_is_none(writing("open", path, File::options().write(true).open(path)))
}

/// Makes a file that must not exist yet.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    disk_calls::made(Call::Open, path);
    writing("create", path, new_file().create_new(true).open(path))
}

/// Opens a file for appending. Makes the file and its folder if they are missing.
pub(super) fn open_or_create(path: &Path) -> io::Result<File> {
    with_folder(path, || writing("open", path, new_file().append(true).create(true).open(path)))
}

fn new_file() -> OpenOptions {
    let mut options = File::options();
    options.write(true);
    #[cfg(unix)]
    options.mode(FILE_MODE);
    options
}

/// Makes a file with `make`. Makes the file's folder first if the folder is missing.
fn with_folder(path: &Path, make: impl Fn() -> io::Result<File>) -> io::Result<File> {
    disk_calls::made(Call::Open, path);
    match make() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create_folder(path.parent().unwrap_or(Path::new(".")))?;
            make()
        }
        result => result,
    }
}

/// Writes `parts` to a new file, or over an existing file, without making the bytes durable. Makes
/// the folder if it is missing.
pub(super) fn write(path: &Path, parts: &[&[u8]]) -> io::Result<File> {
    let create = || writing("create", path, new_file().create(true).truncate(true).open(path));
    let mut file = with_folder(path, create)?;
    write_on(&mut file, path, &parts.concat())?;
    Ok(file)
}

/// Writes at the file's current position.
pub(super) fn write_on(file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    writing("write", path, file.write_all(bytes))
}

/// Writes all bytes of `source` at the file's current position.
pub(super) fn copy(source: &mut impl Read, file: &mut File, path: &Path) -> io::Result<()> {
    writing("copy to", path, io::copy(source, file)).map(drop)
}

/// Cuts a file to its first `length` bytes.
pub(super) fn cut(file: &File, path: &Path, length: u64) -> io::Result<()> {
    writing("cut", path, file.set_len(length))
}

/// Makes the content of a file durable.
pub(super) fn sync(file: &File, path: &Path) -> io::Result<()> {
    disk_calls::made(Call::SyncFile, path);
    sync_opened(file, path)
}

fn sync_opened(file: &File, path: &Path) -> io::Result<()> {
    writing("sync", path, file.sync_all())?;
    #[cfg(all(test, not(target_family = "wasm")))]
    super::power_cut::synced(path, file);
    Ok(())
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = reading("open", path, File::open(path))?;
    disk_calls::made(Call::SyncFolder, path);
    sync_opened(&folder, path)
}

/// Makes a folder and all missing folders above it, durably.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    match writing("create the folder", path, new_folder().create(path)) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                return match create_folder(parent) {
                    Ok(()) => create_folder(path),
                    // No folder above exists either: the path that was asked for says more.
                    Err(above) if above.kind() == ErrorKind::NotFound => Err(error),
                    Err(above) => Err(above),
                };
            }
            _ => return Err(error),
        },
        Err(error) => return Err(error),
    }
    disk_calls::made(Call::MakeFolder, path);
    durable::made_folder(path);
    #[cfg(all(test, not(target_family = "wasm")))]
    super::power_cut::made_folder(path);
    match path.parent() {
        // The parent of a bare name is the working directory of the process.
        Some(parent) if parent.as_os_str().is_empty() => sync_folder(Path::new(".")),
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

#[cfg(unix)]
fn new_folder() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(FOLDER_MODE);
    builder
}

#[cfg(not(unix))]
fn new_folder() -> DirBuilder {
    DirBuilder::new()
}

/// Renames a file or folder.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    disk_calls::made(Call::Name, to);
    writing("rename to", to, fs::rename(from, to))
}

/// Gives a file a second name.
pub(super) fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    disk_calls::made(Call::Name, to);
    writing("link", to, fs::hard_link(from, to))
}

/// Removes a file; `None` when there is no file of this name.
pub(super) fn remove_file(path: &Path) -> io::Result<Option<()>> {
    disk_calls::made(Call::Remove, path);
    absent_is_none(writing("remove", path, fs::remove_file(path)))
}

/// Removes a folder that is empty.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    writing("remove the folder", path, fs::remove_dir(path))
}

/// Removes a folder with everything in it; `None` when there is no folder of this name.
pub(super) fn remove_tree(path: &Path) -> io::Result<Option<()>> {
    absent_is_none(writing("remove the folder", path, fs::remove_dir_all(path)))
}

/// The metadata of a path, without reading its content; `None` when the path does not exist.
pub(super) fn metadata(path: &Path) -> io::Result<Option<Metadata>> {
    disk_calls::made(Call::Look, path);
    absent_is_none(reading("look at", path, fs::metadata(path)))
}

/// The entries of a folder one by one, in no order. A missing folder has no entries. An entry is
/// `None` where the reading broke off; the entries behind it are missing. Under WASI the reading
/// breaks off when an entry is removed meanwhile.
pub(super) fn entries(path: &Path) -> io::Result<impl Iterator<Item = io::Result<Option<Item>>>> {
    let entries = absent_is_none(reading("list", path, fs::read_dir(path)))?.into_iter().flatten();
    let path = path.to_owned();
    Ok(entries.map(move |entry| {
        let entry = absent_is_none(reading("list", &path, entry))?;
        Ok(entry.map(|entry| item(&entry)))
    }))
}

fn item(entry: &DirEntry) -> Item {
    let mut kind = entry.file_type().ok();
    if kind.is_none_or(|kind| kind.is_symlink()) {
        // Operators may place a part of the data elsewhere by a symbolic link.
        kind = fs::metadata(entry.path()).ok().map(|metadata| metadata.file_type());
    }
    let name = entry.file_name();
    Item {
        is_text: name.to_str().is_some(),
        name: name.to_string_lossy().into_owned(),
        is_folder: kind.is_some_and(|kind| kind.is_dir()),
        is_file: kind.is_some_and(|kind| kind.is_file()),
    }
}

/// All entries of a folder in the order of their names. A missing folder has no entries.
pub(super) fn list(path: &Path) -> io::Result<Vec<Item>> {
    for _ in 0..READ_TRIES_MAX {
        let items = entries(path)?.collect::<io::Result<Option<Vec<Item>>>>()?;
        if let Some(mut items) = items {
            items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            return Ok(items);
        }
    }
    Err(io::Error::other(format!("{} changes faster than it can be read", path.display())))
}

/// Turns the error for a missing file into `None`.
pub(super) fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        // A path that leads through a file cannot exist either.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}
