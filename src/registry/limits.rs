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
    /// How long what is not in use stays before it is collected, in milliseconds.
    pub grace_ms: u64,
    /// How old a manifest must be to be collected when no tag, index or subject holds it, in milliseconds; `None`: such are kept.
    pub untagged_lifetime_ms: Option<u64>,
    /// How many keys and objects one step of the collection looks at before it ends.
    pub collect_step_keys_max: u64,
    /// How many keys or objects the collection looks at, judges and announces at a time.
    pub collect_page_entries_max: usize,
    /// How long one step of the collection takes before it ends, in milliseconds.
    pub collect_step_ms_max: u64,
    /// How many names the collection holds in memory of each kind of thing that it marks, of some 100 bytes each. More names
    /// are sorted, written to the key-value store and read back in order.
    pub marks_max: usize,
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
            grace_ms: 24 * 60 * 60 * 1000,
            untagged_lifetime_ms: Some(24 * 60 * 60 * 1000),
            collect_step_keys_max: 10_000,
            collect_page_entries_max: 250,
            collect_step_ms_max: 10_000,
            marks_max: 1 << 14,
            sparse_manifests: false,
        }
    }
}

/// How many bytes are read and listed for a page of referrers, so that the whole page is a manifest that every client takes.
pub(super) const REFERRERS_PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024 - 1024;

/// The smallest such limit, for a page that is made while other pages use all of the memory for pages.
pub(super) const REFERRERS_PAGE_BYTES_MIN: u64 = 128 * 1024;

/// The memory that all pages of referrers share until clients have taken them, in bytes.
pub(super) const PAGES_MEMORY_BYTES: u64 = 64 * 1024 * 1024;

/// The memory that the bytes of all manifests on their way in share. Past it a push is refused, and can be sent again.
pub(super) const RECEIVING_MEMORY_BYTES: u64 = 128 * 1024 * 1024;

/// The memory that all manifests share which have arrived and are parsed, checked and stored, in bytes.
pub(super) const PUSHES_MEMORY_BYTES: u64 = 64 * 1024 * 1024;

/// How much of that the push of a manifest needs at most, as a multiple of the manifest's size.
pub(super) const PUSH_MEMORY_FACTOR: u64 = 7;

/// The largest manifest, in bytes, that gets its memory in any case: larger ones cannot hold up ordinary images.
pub(super) const PUSH_UNQUEUED_BYTES_MAX: u64 = 64 * 1024;

/// How large the descriptor of a manifest with a subject may be, in bytes of JSON. Annotations and the artifact type are all
/// that can make it large, and each page of referrers repeats them.
pub(super) const REFERRER_BYTES_MAX: u64 = 64 * 1024;

/// What an annotation costs in memory beside its bytes.
pub(super) const ANNOTATION_BYTES: u64 = 128;

/// How many of the manifests in a list under a fallback tag are looked at when the tag is pushed.
pub(super) const FALLBACK_LISTED_MAX: usize = 1000;

/// How long a warning may be: with two in an answer, quoted, all stay below the 4096 bytes of the specification.
pub(super) const WARNING_BYTES_MAX: usize = 1000;

/// How many leases of the collection are looked at; all but the last are left behind by steps that were cut off.
pub(super) const LEASES_LISTED_MAX: usize = 250;

/// How long the announcement that keys are being removed is believed, in milliseconds.
pub(super) const SWEEPING_MS_MAX: u64 = 60_000;

/// How long rounds of the collection remove nothing at once after a push was refused for content that is not there, in milliseconds:
/// the time in which the client may push it again.
pub(super) const RIGHT_OF_WAY_MS: u64 = 10_000;

/// How long the two writes of a blob's admission may take until the registry makes sure that its content is still there, in
/// milliseconds.
pub(super) const ADMITTED_UNSEEN_MS: u64 = 1000;

/// How long a push may take from the moment at which it notes the ways back to its tags; it points no tag in the second half of it.
pub(super) const PUSH_MS_MAX: u64 = 30_000;

/// How long a step has the collection to itself, in milliseconds; it changes nothing in the second half of it.
pub(super) const LEASE_MS: u64 = 60_000;

/// How many things a report of the collection names; it counts them all.
pub(super) const NAMED_IN_REPORT_MAX: usize = 100;

/// How long a chain of manifests that name each other is followed in a repository whose graph does not fit into memory. Where a
/// chain is longer, the collector keeps all that the repository has.
pub(super) const GRAPH_DEPTH_MAX: usize = 100;

/// How many indexes below its own a push reads beside a collection, one after the other. Clients nest one or two.
pub(super) const NESTED_INDEXES_MAX: usize = 256;

/// How many manifests below its own a push reads at once: fewer than other calls, as each may be as large as a manifest can be.
pub(super) const NESTED_READS_AT_ONCE_MAX: usize = 4;

/// How many storage calls one request has under way at once.
pub(super) const CALLS_AT_ONCE_MAX: usize = 16;

/// How often one page of a list looks for names that the caller may see.
pub(super) const LISTS_PER_PAGE_MAX: usize = 10;

/// How many uploads an instance remembers for their first chunk; then all are forgotten, and read again when it comes.
pub(super) const BEGUN_UPLOADS_MAX: usize = 256;

/// How long it remembers them, in milliseconds. Clients send the first chunk at once.
pub(super) const BEGUN_LIFETIME_MS: u64 = 10_000;

/// How often the state of an upload is written down anew because another request has changed it.
pub(super) const SESSION_TRIES_MAX: usize = 4;

/// How many requests add to one upload at once in an instance: one, and others that a client sends while the server has not
/// yet noticed that the first one broke off. Each may keep a copy of what came before.
pub(super) const APPENDS_AT_ONCE_MAX: usize = 3;

/// How often a tag is pointed or deleted anew under a precondition because another push has moved it.
pub(super) const TAG_TRIES_MAX: usize = 8;

/// How many segments a request's body is cut into, for stores that keep nothing of an append that breaks off. S3 takes 10,000 parts.
pub(super) const SEGMENTS_MAX: u64 = 2000;
