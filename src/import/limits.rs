//! All limits of an import.

/// The largest list of a source that is read into memory, in bytes: `index.json` of a layout,
/// `manifest.json` of an archive.
pub(super) const LIST_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The largest configuration of an image that is read into memory, in bytes. Only archives of
/// `docker save` need their configurations read.
pub(super) const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The largest file that holds one digest (a link of distribution), in bytes.
pub(super) const LINK_BYTES_MAX: u64 = 1024;

/// How many names one folder of a source may have.
pub(super) const FOLDER_NAMES_MAX: usize = 1_000_000;

/// How many folders are looked into in search of repositories.
pub(super) const FOLDERS_MAX: usize = 1_000_000;

/// How many manifests one repository of a source may list.
pub(super) const MANIFESTS_MAX: usize = 1_000_000;

/// How many files an archive may have.
pub(super) const ARCHIVE_FILES_MAX: usize = 200_000;

/// How long the path of a file in an archive may be, in bytes.
pub(super) const ARCHIVE_PATH_BYTES_MAX: u64 = 4096;

/// The largest extended header of an archive, in bytes.
pub(super) const ARCHIVE_EXTENSION_BYTES_MAX: u64 = 64 * 1024;

/// How many links of an archive may lead from one to the next.
pub(super) const ARCHIVE_LINKS_MAX: usize = 8;

/// How many times its own size a compressed archive may unpack to.
pub(super) const UNPACKED_RATIO_MAX: u64 = 100;

/// A compressed archive may unpack to this many bytes, however small the archive is.
pub(super) const UNPACKED_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// How many bytes of a file are read at a time.
pub(super) const PIECE_BYTES: usize = 256 * 1024;

/// How deep indexes may be nested. Clients nest one or two.
pub(super) const NESTING_MAX: usize = 16;

/// How many blobs of one manifest are taken at once.
pub(super) const BLOBS_AT_ONCE_MAX: usize = 4;

/// A larger blob is taken in steps of this many bytes. An import that was cut off continues after
/// the last whole step.
pub(super) const STEP_BYTES: u64 = 64 * 1024 * 1024;

/// How many steps a blob is cut into at most. Larger blobs have larger steps.
pub(super) const STEPS_MAX: u64 = 1000;

/// How often the bytes of one blob are asked for when the source breaks off.
pub(super) const BLOB_TRIES_MAX: usize = 3;

/// How often a request is repeated while the registry is busy with the same content.
pub(super) const BUSY_TRIES_MAX: usize = 5;

/// How many tags are asked for in one request to another registry.
pub(super) const TAGS_PER_REQUEST: usize = 1000;

/// After this many failures of another registry in a row the import ends: a second import goes on
/// from there.
pub(super) const FAILURES_IN_A_ROW_MAX: usize = 5;

/// How many problems a report lists. The report counts the others.
pub(super) const PROBLEMS_LISTED_MAX: usize = 1000;
