//! The settings of the upstreams that a registry mirrors.

use anyhow::{Context as _, Result};

use super::setting::{AnySetting, Number, Optional, OrNever, SECONDS_MAX, Setting, Text};
use super::values::Values;
use crate::auth::{Seal, Secret};
use crate::mirror::Mirroring;
use crate::registry::Limits;

static UPSTREAMS: Setting<Optional<Text>> = Setting::new(
    "upstreams",
    Optional { kind: Text::of("lines NAME URL OPTION…"), unset: "no upstream" },
    "the registries whose images clients can pull through this registry",
)
.details("See [pulling through](pull-through.md).");

static UPSTREAM_LOGINS: Setting<Optional<Text>> = Setting::new(
    "upstream_logins",
    Optional { kind: Text::of("lines NAME USER PASSWORD, or NAME TOKEN"), unset: "no login" },
    "the logins at upstreams",
)
.secret();

static MIRROR_LIFETIME_SECONDS: Setting<OrNever<Number>> = Setting::new(
    "mirror_lifetime_seconds",
    OrNever(Number { least: 0, most: SECONDS_MAX, default: 30 * 24 * 60 * 60 }),
    "how long cached manifests and tags stay after their last pull, in seconds",
)
.details("Pulls are noted once a day, so a manifest stays up to a day longer.");

static MIRROR_BYTES_MAX: Setting<Optional<Number>> = Setting::new(
    "mirror_bytes_max",
    Optional { kind: Number { least: 1, most: u64::MAX, default: 0 }, unset: "no limit" },
    "the size of all cached layers beyond which the collection removes those not pulled for the longest time, in bytes",
);

pub(super) static SETTINGS: &[&dyn AnySetting] =
    &[&UPSTREAMS, &UPSTREAM_LOGINS, &MIRROR_LIFETIME_SECONDS, &MIRROR_BYTES_MAX];

/// Adds to `limits` those of cached content.
pub(super) fn read_limits(values: Values<'_>, limits: Limits) -> Result<Limits> {
    let mirror_lifetime_ms = values.read(&MIRROR_LIFETIME_SECONDS)?.map(|seconds| seconds * 1000);
    Ok(Limits { mirror_lifetime_ms, mirror_bytes_max: values.read(&MIRROR_BYTES_MAX)?, ..limits })
}

/// The upstreams, and the secret from which the encryption of their tokens is derived.
#[derive(Clone, Debug)]
pub struct MirrorSettings {
    /// The upstreams with their logins.
    pub mirroring: Mirroring,
    secret: Secret,
}

impl MirrorSettings {
    /// Reads the settings. `token_key` is the setting `auth_token_key`.
    pub(crate) fn read(values: Values<'_>, token_key: Option<&Secret>) -> Result<Self> {
        let mirroring: Mirroring = values.read(&UPSTREAMS)?.unwrap_or_default().parse().context("setting upstreams")?;
        let logins = values.read(&UPSTREAM_LOGINS)?.unwrap_or_default();
        let mirroring = mirroring.with_logins(&logins).context("setting upstream_logins")?;
        let secret = format!("{}\n{logins}", token_key.map_or("", Secret::expose));
        Ok(Self { mirroring, secret: Secret::new(secret) })
    }

    /// The key that encrypts tokens of upstreams in the store. The key follows from the settings
    /// alone: an instance with other secrets cannot read the tokens. Without secrets the tokens are
    /// anonymous ones, which anyone can get.
    pub(crate) fn seal(&self) -> Seal {
        Seal::derived("tokens of upstreams", &self.secret)
    }
}
