//! The settings of the server: the log, TLS, the public URL and the schedule of the collection.

use std::path::PathBuf;

use anyhow::{Result, bail};
use tracing::level_filters::LevelFilter;

use super::setting::{AnySetting, Choice, EVERY_HOST, Optional, Setting, Text};
use super::values::Values;

static LOG: Setting<Choice<LevelFilter>> = Setting::new(
    "log",
    Choice {
        values: &[
            ("off", LevelFilter::OFF, EVERY_HOST),
            ("error", LevelFilter::ERROR, EVERY_HOST),
            ("warn", LevelFilter::WARN, EVERY_HOST),
            ("info", LevelFilter::INFO, EVERY_HOST),
            ("debug", LevelFilter::DEBUG, EVERY_HOST),
            ("trace", LevelFilter::TRACE, EVERY_HOST),
        ],
        default: |_| LevelFilter::WARN,
    },
    "the level of the log on standard error; info: every request",
)
.details("Audit lines have the level of warnings. See [the log](operating.md#log-and-audit).");

static PUBLIC_URL: Setting<Optional<Text>> = Setting::new(
    "public_url",
    Optional { kind: Text::of("https://HOST"), unset: "the host that a request names" },
    "the URL by which clients reach the registry",
)
.details("Clients are sent to this host for tokens.");

static TRUSTED_PROXIES: Setting<Optional<Text>> = Setting::new(
    "trusted_proxies",
    Optional { kind: Text::of("addresses and networks separated by commas, or *"), unset: "no proxy" },
    "the proxies whose X-Forwarded and Forwarded headers are trusted",
)
.details(
    "Trusted are `X-Forwarded-For`, `-Proto`, `-Host` and `-Port`, and `Forwarded` for values that these headers lack.",
);

static LISTEN_ADDRESS: Setting<Optional<Text>> = Setting::new(
    "listen_address",
    Optional { kind: Text::of("an address"), unset: "unknown; natively as --address" },
    "the address at which the host of a component listens; scripts/up sets this",
)
.details("On a loopback address `auth_password` may have fewer than ten characters, with a warning.");

static TLS_CERTIFICATE: Setting<Optional<Text>> = Setting::new(
    "tls_certificate",
    Optional { kind: Text::of("a PEM file"), unset: "plain HTTP" },
    "the certificate chain for TLS",
)
.native()
.details("The program reads the files of certificate and key again when they change.");

static TLS_KEY: Setting<Optional<Text>> = Setting::new(
    "tls_key",
    Optional { kind: Text::of("a PEM file"), unset: "plain HTTP" },
    "the private key of tls_certificate",
)
.native();

pub(super) static PRUNE_SCHEDULE: Setting<Optional<Text>> = Setting::new(
    "prune_schedule",
    Optional { kind: Text::of("a cron expression in UTC"), unset: "never" },
    "when the native program collects, such as \"0 3 * * *\" for every day at 3:00",
)
.native();

pub(super) static SETTINGS: &[&dyn AnySetting] =
    &[&PUBLIC_URL, &TRUSTED_PROXIES, &LISTEN_ADDRESS, &TLS_CERTIFICATE, &TLS_KEY, &LOG];

/// The settings of the server.
#[derive(Clone, Debug)]
pub(crate) struct ServerSettings {
    /// The URL by which clients reach the registry.
    pub public_url: Option<String>,
    /// The proxies whose headers are trusted, separated by commas.
    pub trusted_proxies: Option<String>,
    /// The address at which the host listens.
    pub listen_address: Option<String>,
    /// The files of the certificate and its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// When to collect: a cron expression.
    pub prune_schedule: Option<String>,
    /// The level from which lines are logged.
    pub log: LevelFilter,
}

impl ServerSettings {
    pub(crate) fn read(values: Values<'_>) -> Result<Self> {
        Ok(Self {
            public_url: values.read(&PUBLIC_URL)?,
            trusted_proxies: values.read(&TRUSTED_PROXIES)?,
            listen_address: values.read(&LISTEN_ADDRESS)?,
            tls: match (values.read(&TLS_CERTIFICATE)?, values.read(&TLS_KEY)?) {
                (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
                (None, None) => None,
                (Some(_), None) => bail!("setting tls_key is missing: tls_certificate needs its key"),
                (None, Some(_)) => bail!("setting tls_certificate is missing: tls_key needs its certificate"),
            },
            prune_schedule: values.read(&PRUNE_SCHEDULE)?,
            log: values.read(&LOG)?,
        })
    }
}
