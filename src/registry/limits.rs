//! All limits of a registry.

/// The configurable limits of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest manifest, in bytes. The specification asks for at least 4 MB.
    pub manifest_bytes_max: u64,
    /// The largest manifest that is stored in the key-value store beside its facts, in bytes.
    /// Larger manifests are stored in the blob store.
    pub manifest_inline_bytes_max: u64,
    /// The largest blob, in bytes.
    pub blob_bytes_max: u64,
    /// How many different descriptors a manifest may name.
    pub manifest_references_max: usize,
    /// The largest number of entries in one page of a list, and the number when the client asks for
    /// none.
    pub page_entries_max: usize,
    /// How long an upload session lives after the session's last change, in milliseconds.
    pub upload_lifetime_ms: u64,
    /// How many manifests are looked at for one page of referrers.
    pub referrers_per_page_max: usize,
    /// The memory that all pages of referrers share until clients have received the pages, in
    /// bytes. A host runs hundreds of instances of a component for a crowd of clients, and the
    /// memory of an instance never shrinks, so the default for a component is small.
    pub pages_memory_bytes: u64,
    /// How many tags one push may name in addition to its reference. The specification asks for at
    /// least 10.
    pub tags_per_push_max: usize,
    /// Whether warnings are looked up, which costs a pull one or two more key reads.
    pub warnings: bool,
    /// How long unused keys and objects stay before they are collected, in milliseconds.
    pub grace_ms: u64,
    /// How old a manifest must be to be collected when no tag, index or subject refers to the
    /// manifest, in milliseconds; `None` keeps such manifests.
    pub untagged_lifetime_ms: Option<u64>,
    /// How many keys and objects one step of the collection looks at before it ends.
    pub collect_step_keys_max: u64,
    /// How many keys or objects the collection lists, decides on and announces at a time.
    pub collect_page_entries_max: usize,
    /// How long one step of the collection takes before it ends, in milliseconds.
    pub collect_step_ms_max: u64,
    /// How many names of each kind the collection holds in memory while marking, of some 100 bytes
    /// each. Beyond this number, names are sorted, written to the key-value store and read back in
    /// order.
    pub marks_max: usize,
    /// Whether a manifest may name blobs and manifests that the repository does not hold.
    pub sparse_manifests: bool,
    /// How long a cached manifest stays after its last pull, in milliseconds; `None` collects
    /// cached manifests by the rules of pushed manifests.
    pub mirror_lifetime_ms: Option<u64>,
    /// The size of the blobs that cached manifests may keep, in bytes. Beyond this size, the
    /// manifests that were not pulled for the longest time go first. A blob counts once in each
    /// mirrored repository. `None` sets no limit.
    pub mirror_bytes_max: Option<u64>,
    /// How long a noted pull of a cached manifest stands for further pulls, in milliseconds: each
    /// manifest costs at most one write in this time.
    pub use_noted_ms: u64,
}

impl Limits {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        manifest_bytes_max: 4 * 1024 * 1024,
        manifest_inline_bytes_max: 256 * 1024,
        blob_bytes_max: 1 << 40,
        manifest_references_max: 20_000,
        page_entries_max: 1000,
        upload_lifetime_ms: 24 * 60 * 60 * 1000,
        referrers_per_page_max: 500,
        pages_memory_bytes: if cfg!(target_family = "wasm") { 256 * 1024 } else { 64 * 1024 * 1024 },
        tags_per_push_max: 100,
        warnings: false,
        grace_ms: 24 * 60 * 60 * 1000,
        untagged_lifetime_ms: Some(24 * 60 * 60 * 1000),
        collect_step_keys_max: 10_000,
        collect_page_entries_max: 250,
        collect_step_ms_max: 10_000,
        marks_max: 1 << 14,
        sparse_manifests: false,
        mirror_lifetime_ms: Some(30 * 24 * 60 * 60 * 1000),
        mirror_bytes_max: None,
        use_noted_ms: 24 * 60 * 60 * 1000,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How many bytes are read and listed for a page of referrers. The whole page then is an index of
/// at most 4 MiB, which every client accepts as a manifest.
pub(crate) const REFERRERS_PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024 - 1024;

/// The limit that replaces `REFERRERS_PAGE_BYTES_MAX` for a page that is made while other pages use
/// all of the memory for pages, in bytes.
pub(super) const REFERRERS_PAGE_BYTES_MIN: u64 = 128 * 1024;

/// The memory that the bytes of all arriving manifests share, in bytes. A push that exceeds this
/// memory is refused, and can be sent again.
pub(super) const RECEIVING_MEMORY_BYTES: u64 = 128 * 1024 * 1024;

/// The memory that all manifests share which have arrived and are parsed, checked and stored, in
/// bytes.
pub(super) const PUSHES_MEMORY_BYTES: u64 = 64 * 1024 * 1024;

/// How much of `PUSHES_MEMORY_BYTES` the push of a manifest needs at most, as a multiple of the
/// manifest's size.
pub(super) const PUSH_MEMORY_FACTOR: u64 = 7;

/// The largest manifest, in bytes, that gets its memory in any case, so that larger manifests
/// cannot delay ordinary images.
pub(super) const PUSH_UNQUEUED_BYTES_MAX: u64 = 64 * 1024;

/// How large the descriptor of a manifest with a subject may be, in bytes of JSON. Each page of
/// referrers repeats the descriptor. Only annotations and the artifact type can make a descriptor
/// large.
pub(super) const REFERRER_BYTES_MAX: u64 = 64 * 1024;

/// How much memory an annotation needs in addition to its text, in bytes.
pub(super) const ANNOTATION_BYTES: u64 = 128;

/// How many manifests of the list under a fallback tag are looked at when the tag is pushed.
pub(super) const FALLBACK_LISTED_MAX: usize = 1000;

/// How long a warning may be, in bytes. An answer with two warnings of this length, quoted, stays
/// below the 4096 bytes of the specification.
pub(super) const WARNING_BYTES_MAX: usize = 1000;

/// How many leases of the collection are listed. All but the last were left behind by steps that
/// were cut off.
pub(super) const LEASES_LISTED_MAX: usize = 250;

/// How long pushes believe the collector's announcement that keys are being removed, in
/// milliseconds.
pub(super) const SWEEPING_MS_MAX: u64 = 60_000;

/// How long a push's protection of a key lasts at least, in milliseconds, however many rounds of
/// the collection begin and end meanwhile.
pub(super) const PROTECTION_MS: u64 = 60_000;

/// How long rounds of the collection remove nothing at once after a push was refused because of a
/// collection, in milliseconds. During this time the client may push again.
pub(super) const RIGHT_OF_WAY_MS: u64 = 10_000;

/// How long the two writes that add a blob to a repository may take, in milliseconds. After a
/// longer time the registry checks that the blob's content still exists.
pub(super) const ADD_UNCHECKED_MS: u64 = 1000;

/// How long a push may take after writing the reverse index (digest to tag) for its tags, in
/// milliseconds. The push points no tag in the second half of this time.
pub(super) const PUSH_MS_MAX: u64 = 30_000;

/// How long the lease of a step of the collection lasts, in milliseconds. The step changes nothing
/// in the second half of its lease.
pub(super) const LEASE_MS: u64 = 60_000;

/// How many names a report of the collection lists for each count. The counts include the names
/// that are not listed.
pub(super) const NAMED_IN_REPORT_MAX: usize = 100;

/// How long a chain of manifests that name each other may be in a repository whose graph does not
/// fit into memory. If a chain is longer, the collector keeps all content of the repository.
pub(super) const GRAPH_DEPTH_MAX: usize = 100;

/// How many nested indexes a push reads while a collection runs, one after the other. Clients nest
/// one or two.
pub(super) const NESTED_INDEXES_MAX: usize = 256;

/// How many nested manifests a push reads at once. Fewer than `CALLS_AT_ONCE_MAX`, as each may have
/// the size of the largest manifest.
pub(super) const NESTED_READS_AT_ONCE_MAX: usize = 4;

/// How many storage calls one request makes at once.
pub(super) const CALLS_AT_ONCE_MAX: usize = 16;

/// How many storage calls one request prepares at once. A manifest can name 20,000 digests, and a
/// prepared call takes many times the memory of its key.
pub(super) const CALLS_PREPARED_MAX: usize = 256;

/// How many listings of the store one page of a list may make in search of names that the caller
/// may see.
pub(super) const LISTS_PER_PAGE_MAX: usize = 10;

/// How many recent uploads an instance remembers for their first chunk. One more upload clears the
/// memory, and the first chunks of forgotten uploads read their uploads from the store.
pub(super) const RECENT_SESSIONS_MAX: usize = 256;

/// How long an instance remembers a recent upload, in milliseconds. Clients send the first chunk at
/// once.
pub(super) const RECENT_SESSION_LIFETIME_MS: u64 = 10_000;

/// How many times a request tries to write the state of an upload that other requests change at the
/// same time.
pub(super) const SESSION_TRIES_MAX: usize = 4;

/// How many requests of an instance may add to one upload at once: one, and the requests that a
/// client sends before the server notices that the first request broke off. Each request may keep a
/// copy of the earlier bytes.
pub(super) const APPENDS_AT_ONCE_MAX: usize = 3;

/// How many times a request tries to point or delete a tag under a precondition while pushes move
/// the tag.
pub(super) const TAG_TRIES_MAX: usize = 8;

/// How many segments a request's body is cut into at most, for stores that keep nothing of an
/// append that breaks off. S3 takes 10,000 parts.
pub(super) const SEGMENTS_MAX: u64 = 2000;
