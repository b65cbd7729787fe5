//! Errors of file operations: the operation, the path, and the error's name.
//!
//! A bare `I/O error (os error 29)` does not help an operator. Every error of the file stores names
//! the operation and the path, and names the cause as the manuals do (`ENOSPC`, `EROFS`, `EMFILE`).

use std::error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::store::{Error, Failure};

/// A failed operation on a path. An [`io::Error`] of the same kind wraps the value.
#[derive(Debug)]
struct FileError {
    operation: &'static str,
    path: PathBuf,
    /// Whether the operation would have changed something.
    writes: bool,
    cause: Cause,
}

/// The reason why a file operation failed, with the name of the error in the manuals.
#[derive(Debug)]
struct Cause {
    error: io::Error,
    /// The probable reason, found by other calls, where the host hides the reason.
    probable: Option<&'static str>,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, path, cause, .. } = self;
        write!(f, "cannot {operation} {}: {cause}", path.display())
    }
}

/// Has no source, because the text already contains the text of the cause.
impl error::Error for FileError {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, probable } = self;
        match (probable, name_of(error)) {
            (Some(probable), _) => write!(f, "{probable} ({error})"),
            (None, Some(name)) => write!(f, "{name}: {error}"),
            (None, None) => write!(f, "{error}"),
        }
    }
}

impl error::Error for Cause {}

/// Adds the operation and the path to the error of an operation that reads.
pub(super) fn reading<T>(operation: &'static str, path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| file_error(operation, path, false, error))
}

/// Adds the operation and the path to the error of an operation that changes something.
pub(super) fn writing<T>(operation: &'static str, path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| file_error(operation, path, true, error))
}

fn file_error(operation: &'static str, path: &Path, writes: bool, error: io::Error) -> io::Error {
    let (kind, probable) = match hidden_cause(path, writes, &error) {
        Some((kind, probable)) => (kind, Some(probable)),
        None => (error.kind(), None),
    };
    io::Error::new(kind, FileError { operation, path: path.to_owned(), writes, cause: Cause { error, probable } })
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        let kind = error.kind();
        let (failure, is_write) = match error.downcast::<FileError>() {
            Ok(FileError { operation, path, writes, cause }) => {
                (Failure::new(format!("cannot {operation} {}", path.display())).because(cause), writes)
            }
            Err(error) => (Failure::new("cannot use the data folder").because(error), false),
        };
        match kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full(failure),
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(failure),
            // A WASI host may give a component read access only, and a user may have read
            // permission only.
            ErrorKind::PermissionDenied if is_write => Self::ReadOnly(failure),
            _ => Self::Unavailable(failure),
        }
    }
}

/// The error's name in the manuals.
fn name_of(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        ErrorKind::NotFound => "ENOENT",
        ErrorKind::PermissionDenied => "EACCES",
        ErrorKind::AlreadyExists => "EEXIST",
        ErrorKind::NotADirectory => "ENOTDIR",
        ErrorKind::IsADirectory => "EISDIR",
        ErrorKind::DirectoryNotEmpty => "ENOTEMPTY",
        ErrorKind::ReadOnlyFilesystem => "EROFS",
        ErrorKind::StorageFull => "ENOSPC",
        ErrorKind::QuotaExceeded => "EDQUOT",
        ErrorKind::FileTooLarge => "EFBIG",
        ErrorKind::ResourceBusy => "EBUSY",
        ErrorKind::CrossesDevices => "EXDEV",
        ErrorKind::TooManyLinks => "EMLINK",
        ErrorKind::StaleNetworkFileHandle => "ESTALE",
        ErrorKind::InvalidInput => "EINVAL",
        _ => match error.raw_os_error()? {
            errno::EIO => "EIO",
            errno::EMFILE => "EMFILE",
            errno::ENFILE => "ENFILE",
            _ => return None,
        },
    })
}

/// Numbers of errors without a kind of their own.
#[cfg(not(target_family = "wasm"))]
mod errno {
    pub(super) const EIO: i32 = 5;
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
}

#[cfg(target_family = "wasm")]
mod errno {
    pub(super) const EIO: i32 = 29;
    pub(super) const ENFILE: i32 = 41;
    pub(super) const EMFILE: i32 = 33;
}

/// On native hosts every error names its cause.
#[cfg(not(target_family = "wasm"))]
fn hidden_cause(_path: &Path, _writes: bool, _error: &io::Error) -> Option<(ErrorKind, &'static str)> {
    None
}

/// A WASI host reports EROFS, EMFILE and EDQUOT, and the ENOSPC of a write, as EIO. Two harmless
/// calls distinguish these errors: opening the folder, and removing an absent file from the folder.
#[cfg(target_family = "wasm")]
fn hidden_cause(path: &Path, writes: bool, error: &io::Error) -> Option<(ErrorKind, &'static str)> {
    use std::fs::{self, File};
    /// No file of this name is ever made.
    const ABSENT: &str = ".eyot-absent";

    let is_io_error = |error: &io::Error| error.raw_os_error() == Some(errno::EIO);
    if !is_io_error(error) {
        return None;
    }
    for folder in path.ancestors() {
        match File::open(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Ok(file) if file.metadata().is_ok_and(|found| !found.is_dir()) => continue,
            Err(error) if is_io_error(&error) => {
                return Some((ErrorKind::Other, "EMFILE: too many open files, or the disk fails"));
            }
            Err(_) => return None,
            Ok(_) if !writes => return None,
            Ok(_) => {}
        }
        return Some(match fs::remove_file(folder.join(ABSENT)) {
            Err(error) if is_io_error(&error) => (ErrorKind::ReadOnlyFilesystem, "EROFS: the file system is read-only"),
            _ => (ErrorKind::StorageFull, "ENOSPC or EDQUOT: no space or quota is left, or the disk fails"),
        });
    }
    None
}

/// The error for an object that cannot be removed: a folder that another program uses, or a
/// protected file. Other objects can still be removed.
pub(super) fn stays(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::IsADirectory
        | ErrorKind::DirectoryNotEmpty
        | ErrorKind::ResourceBusy
        | ErrorKind::PermissionDenied => Error::corrupt("cannot remove an object").because(error),
        _ => error.into(),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::platform::Causes;

    #[test]
    fn an_error_names_its_cause_the_operation_and_the_path() {
        let fail = |errno: i32, writes: bool| {
            let failed: io::Result<()> = Err(io::Error::from_raw_os_error(errno));
            let result = if writes {
                writing("create", Path::new("/data/x"), failed)
            } else {
                reading("open", Path::new("/data/x"), failed)
            };
            Error::from(result.unwrap_err())
        };
        for (errno, name, is_full, is_read_only) in [
            (2, "ENOENT", false, false),
            (5, "EIO", false, false),
            (13, "EACCES", false, true),
            (23, "ENFILE", false, false),
            (24, "EMFILE", false, false),
            (28, "ENOSPC", true, false),
            (30, "EROFS", false, true),
            (122, "EDQUOT", true, false),
        ] {
            let error = fail(errno, true);
            let text = Causes(&error).to_string();
            assert!(text.contains(&format!("cannot create /data/x: {name}: ")), "{text}");
            assert_eq!(
                (matches!(error, Error::Full(_)), matches!(error, Error::ReadOnly(_))),
                (is_full, is_read_only),
                "{text}"
            );
        }
        // A file without read permission is an outage, even if other operations are permitted.
        let unreadable = fail(13, false);
        assert_eq!(unreadable, Error::unavailable("cannot open /data/x"));
        let text = Causes(&unreadable).to_string();
        assert_eq!(text, "cannot open /data/x: EACCES: Permission denied (os error 13)");
    }
}
