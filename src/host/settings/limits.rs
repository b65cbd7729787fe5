//! The settings of limits, of the garbage collection, and of pulls and pushes.

use anyhow::Result;

use super::setting::{AnySetting, Flag, Number, Optional, OrNever, SECONDS_MAX, Setting};
use super::stores::VALUE_BYTES_MAX;
use super::values::Values;
use crate::registry::Limits;

const DEFAULT: Limits = Limits::DEFAULT;

/// The least value of `body_bytes_max`: the most that a request about users and tokens has.
const BODY_BYTES_MAX_LEAST: u64 = 64 * 1024;

static MANIFEST_BYTES_MAX: Setting<Number> = Setting::new(
    "manifest_bytes_max",
    Number { least: 1, most: VALUE_BYTES_MAX, default: DEFAULT.manifest_bytes_max },
    "the largest manifest that a push may have, in bytes",
);

static MANIFEST_INLINE_BYTES_MAX: Setting<Number> = Setting::new(
    "manifest_inline_bytes_max",
    Number { least: 0, most: VALUE_BYTES_MAX, default: DEFAULT.manifest_inline_bytes_max },
    "the largest manifest that the key-value store keeps, in bytes",
)
.details("Larger manifests go to the blob store, as layers do.");

static BLOB_BYTES_MAX: Setting<Number> = Setting::new(
    "blob_bytes_max",
    Number { least: 1, most: u64::MAX, default: DEFAULT.blob_bytes_max },
    "the largest blob that a push may have, in bytes",
)
.details("The default is 1 TiB.");

static PAGE_ENTRIES_MAX: Setting<Number> = Setting::new(
    "page_entries_max",
    Number { least: 1, most: 10_000, default: DEFAULT.page_entries_max as u64 },
    "the most entries on one page of tags or repositories",
);

static UPLOAD_LIFETIME_SECONDS: Setting<Number> = Setting::new(
    "upload_lifetime_seconds",
    Number { least: 1, most: SECONDS_MAX, default: DEFAULT.upload_lifetime_ms / 1000 },
    "how long an upload session lives after its last change, in seconds",
);

static BODY_BYTES_MAX: Setting<Optional<Number>> = Setting::new(
    "body_bytes_max",
    Optional {
        kind: Number { least: BODY_BYTES_MAX_LEAST, most: u64::MAX, default: BODY_BYTES_MAX_LEAST },
        unset: "no limit",
    },
    "the longest body that one request may have, in bytes",
)
.details("For hosts and proxies with such a limit. Longer bodies are refused at once with 413, and clients are told by `OCI-Chunk-Max-Length` to push in chunks.");

pub(super) static SETTINGS: &[&dyn AnySetting] = &[
    &MANIFEST_BYTES_MAX,
    &MANIFEST_INLINE_BYTES_MAX,
    &BLOB_BYTES_MAX,
    &BODY_BYTES_MAX,
    &PAGE_ENTRIES_MAX,
    &UPLOAD_LIFETIME_SECONDS,
];

static GRACE_SECONDS: Setting<Number> = Setting::new(
    "grace_seconds",
    Number { least: 0, most: SECONDS_MAX, default: DEFAULT.grace_ms / 1000 },
    "how long unused content stays before the collection removes the content, in seconds",
)
.details("See [garbage collection](garbage-collection.md).");

static UNTAGGED_LIFETIME_SECONDS: Setting<Optional<OrNever<Number>>> = Setting::new(
    "untagged_lifetime_seconds",
    Optional {
        kind: OrNever(Number { least: 0, most: SECONDS_MAX, default: DEFAULT.grace_ms / 1000 }),
        unset: "as grace_seconds",
    },
    "the age at which the collection removes a manifest that no tag, index or subject refers to, in seconds",
);

static COLLECT_STEP_KEYS_MAX: Setting<Number> = Setting::new(
    "collect_step_keys_max",
    Number { least: 1, most: u64::MAX, default: DEFAULT.collect_step_keys_max },
    "how many keys and objects one step of the collection looks at",
);

static COLLECT_STEP_SECONDS_MAX: Setting<Number> = Setting::new(
    "collect_step_seconds_max",
    Number { least: 1, most: 20, default: DEFAULT.collect_step_ms_max / 1000 },
    "how long one step of the collection takes, in seconds",
);

pub(super) static COLLECTION_SETTINGS: &[&dyn AnySetting] = &[
    &GRACE_SECONDS,
    &UNTAGGED_LIFETIME_SECONDS,
    &COLLECT_STEP_KEYS_MAX,
    &COLLECT_STEP_SECONDS_MAX,
    &super::server::PRUNE_SCHEDULE,
];

static TAG_MAX_AGE_SECONDS: Setting<Number> = Setting::new(
    "tag_max_age_seconds",
    Number { least: 0, most: u32::MAX as u64, default: 0 },
    "how long caches may answer for a tag without asking the registry, in seconds (Cache-Control)",
)
.details("Content by digest is immutable.");

static WARNINGS: Setting<Flag> = Setting::new(
    "warnings",
    Flag { default: DEFAULT.warnings },
    "whether pulls show the warnings that are set under /v2/_eyot/warnings/",
)
.details("Each pull then costs one or two more key reads. See [warnings](operating.md#warnings).");

static SPARSE_MANIFESTS: Setting<Flag> = Setting::new(
    "sparse_manifests",
    Flag { default: DEFAULT.sparse_manifests },
    "whether a manifest may name blobs and manifests that the registry does not have",
);

pub(super) static PULL_SETTINGS: &[&dyn AnySetting] = &[&TAG_MAX_AGE_SECONDS, &WARNINGS, &SPARSE_MANIFESTS];

/// The longest body that a request may have, in bytes; `None` where no body is too long.
pub(crate) fn read_body_bytes_max(values: Values<'_>) -> Result<Option<u64>> {
    values.read(&BODY_BYTES_MAX)
}

/// The limits of the registry.
pub(crate) fn read_limits(values: Values<'_>) -> Result<Limits> {
    let milliseconds = |setting: &Setting<Number>| values.read(setting).map(|seconds| seconds * 1000);
    let grace_ms = milliseconds(&GRACE_SECONDS)?;
    let limits = Limits {
        manifest_bytes_max: values.read(&MANIFEST_BYTES_MAX)?,
        manifest_inline_bytes_max: values.read(&MANIFEST_INLINE_BYTES_MAX)?,
        blob_bytes_max: values.read(&BLOB_BYTES_MAX)?,
        page_entries_max: values.read(&PAGE_ENTRIES_MAX)? as usize,
        upload_lifetime_ms: milliseconds(&UPLOAD_LIFETIME_SECONDS)?,
        grace_ms,
        untagged_lifetime_ms: match values.read(&UNTAGGED_LIFETIME_SECONDS)? {
            None => Some(grace_ms),
            Some(lifetime) => lifetime.map(|seconds| seconds * 1000),
        },
        collect_step_keys_max: values.read(&COLLECT_STEP_KEYS_MAX)?,
        collect_step_ms_max: milliseconds(&COLLECT_STEP_SECONDS_MAX)?,
        warnings: values.read(&WARNINGS)?,
        sparse_manifests: values.read(&SPARSE_MANIFESTS)?,
        ..DEFAULT
    };
    super::mirrors::read_limits(values, limits)
}

/// How long caches may answer for a tag, in seconds.
pub(crate) fn read_tag_max_age_seconds(values: Values<'_>) -> Result<u32> {
    Ok(values.read(&TAG_MAX_AGE_SECONDS)? as u32)
}
