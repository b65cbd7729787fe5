//! Every bound of a registry in one place.

/// How much a registry takes and gives at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest manifest, in bytes. The specification asks for at least 4 MB.
    pub manifest_bytes_max: u64,
    /// The largest manifest that lies in the key-value store beside its facts, in bytes; larger ones go to the blob store.
    pub manifest_inline_bytes_max: u64,
    /// The largest blob, in bytes.
    pub blob_bytes_max: u64,
    /// How many different descriptors a manifest may name.
    pub manifest_references_max: usize,
    /// How many entries one page of a list has at most, and when nothing is asked.
    pub page_entries_max: usize,
    /// How long an upload session lives after its last change, in milliseconds.
    pub upload_lifetime_ms: u64,
    /// How many manifests one page of referrers looks at.
    pub referrers_per_page_max: usize,
    /// How many tags one push may name beside its reference. The specification asks for at least 10.
    pub tags_per_push_max: usize,
    /// Whether warnings are looked up, which costs a pull one or two more key reads.
    pub warnings: bool,
    /// Whether a manifest may name blobs and manifests that the repository does not hold.
    pub sparse_manifests: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes_max: 4 * 1024 * 1024,
            manifest_inline_bytes_max: 256 * 1024,
            blob_bytes_max: 1 << 40,
            manifest_references_max: 20_000,
            page_entries_max: 1000,
            upload_lifetime_ms: 24 * 60 * 60 * 1000,
            referrers_per_page_max: 500,
            tags_per_push_max: 100,
            warnings: false,
            sparse_manifests: false,
        }
    }
}

/// How many bytes of descriptors a page of referrers has, so that the whole page is a manifest that every client takes.
pub(super) const REFERRERS_PAGE_BYTES_MAX: usize = 4 * 1024 * 1024 - 1024;

/// How long a warning may be: with two in an answer, quoted, all stay below the 4096 bytes of the specification.
pub(super) const WARNING_BYTES_MAX: usize = 1000;

/// How many storage calls one request has under way at once.
pub(super) const CALLS_AT_ONCE_MAX: usize = 16;

/// How often one page of a list looks for names that the caller may see.
pub(super) const LISTS_PER_PAGE_MAX: usize = 10;
