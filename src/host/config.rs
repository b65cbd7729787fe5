//! The settings, which are the same on every host: environment variables in upper case, or Spin
//! variables in lower case.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tracing::level_filters::LevelFilter;

use super::access::AccessConfig;
use crate::http::{Handler, Redirects};
use crate::platform::Platform;
use crate::registry::{Limits, Registry};
use crate::store::file::{FileBlobStore, FileKeyValue};
use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};
use crate::store::packed::{CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MIN, PackedBlobStore};
use crate::store::s3::{PART_BYTES_DEFAULT, PART_BYTES_MAX, PART_BYTES_MIN, REDIRECT_SECONDS_MAX, S3, S3Settings};
use crate::store::{BlobStore, KeyValue};

/// Every setting: its name in lower case, its values, and its purpose. `--help` and docs/settings.md show
/// this table.
pub const SETTINGS: &[(&str, &str, &str)] = &[
    ("keys", "files | s3 | memory | spin-key-value | spin-sqlite", "where tags, manifests and upload state are kept"),
    ("blobs", "files | s3 | memory | packed", "where layers are kept; packed: cut into values of the key-value store"),
    ("data_dir", "a folder", "the folder of files"),
    ("chunk_bytes", "65536 to 134217728", "how large the values of packed blobs are"),
    ("manifest_bytes_max", "1 to 134217728", "the largest manifest that is taken"),
    ("manifest_inline_bytes_max", "0 to 134217728", "the largest manifest that is kept in the key-value store"),
    ("blob_bytes_max", "1 and more", "the largest blob that is taken"),
    ("page_entries_max", "1 to 10000", "how many entries a page of tags or repositories has at most"),
    ("upload_lifetime_seconds", "1 and more", "how long an upload session lives after its last change"),
    ("grace_seconds", "0 and more", "how long what is not in use stays before it is collected"),
    (
        "untagged_lifetime_seconds",
        "0 and more | never",
        "how old a manifest is collected that no tag, index or subject holds; unless set: as grace_seconds",
    ),
    (
        "prune_schedule",
        "a cron expression, UTC",
        "when the native binary collects, as in \"0 3 * * *\"; unless set: never",
    ),
    ("collect_step_keys_max", "1 and more", "how many keys and objects one step of the collection looks at"),
    ("collect_step_seconds_max", "1 to 20", "how long one step of the collection takes"),
    ("tag_max_age_seconds", "0 to 4294967295", "how long caches may answer for a tag without asking; 0: not at all"),
    ("s3_endpoint", "a URL", "the S3 server, such as https://s3.eu-central-1.amazonaws.com"),
    ("s3_public_endpoint", "a URL", "the S3 server as clients reach it, where that is another URL"),
    ("s3_region", "a name", "the region of the bucket (us-east-1); auto for R2"),
    ("s3_bucket", "a name", "the bucket, which must exist"),
    ("s3_prefix", "a text", "what the names of all objects begin with, such as registry/"),
    ("s3_path_style", "true | false", "whether URLs name the bucket in their path or in the host name"),
    ("s3_access_key_id", "a text", "the access key"),
    ("s3_secret_access_key", "a text", "its secret"),
    ("s3_session_token", "a text", "the token of temporary credentials"),
    ("s3_part_bytes", "5242880 to 5368709120", "how large the parts of an upload are"),
    (
        "s3_equal_parts",
        "true | false",
        "whether parts must have one size, as for R2 (whose endpoint sets it by itself)",
    ),
    ("s3_conditional_puts", "true | false", "whether the server honours If-None-Match and If-Match on PUT"),
    ("redirects", "true | false", "whether pulls of layers are sent to the bucket (307), where layers are in S3"),
    ("redirect_seconds", "1 to 604800", "how long the URL of such a redirect is valid"),
    ("redirect_except", "beginnings of User-Agent, with commas", "clients to which layers are streamed all the same"),
    ("warnings", "true | false", "whether pulls show the warnings that /v2/_eyot/warnings/ sets"),
    ("sparse_manifests", "true | false", "whether a manifest may name blobs and manifests that are not here"),
    ("connections_max", "1 to 4096", "how many connections are served at once (native)"),
    ("connections_per_address_max", "1 to 4096", "how many of them one address may have, but for proxies (native)"),
    ("head_timeout_seconds", "1 to 86400", "how long a client may take for the head of a request (native)"),
    ("body_idle_timeout_seconds", "1 to 86400", "how long a client may stall within a body, sent or taken (native)"),
    ("body_bytes_per_second_min", "0 and more", "how fast a body must come on the whole; 0: at any rate (native)"),
    (
        "unwanted_body_timeout_seconds",
        "1 to 86400",
        "how long a body is waited for that nobody was let in to send (native)",
    ),
    ("stop_timeout_seconds", "0 to 86400", "how long requests may go on when the process is told to stop (native)"),
    (
        "auth_mode",
        "none | write_only | read_write | local",
        "who must log in: nobody; who pushes; everybody; local: nobody, under names of this machine. Without any user: read-only",
    ),
    ("auth_user", "a name", "a user who may do everything, with auth_password"),
    ("auth_password", "a password", "the password of auth_user"),
    ("htpasswd", "lines user:hash", "users with bcrypt (htpasswd -B) or argon2id hashes"),
    ("htpasswd_file", "a file", "the same in a file"),
    (
        "listen_address",
        "an address",
        "where a component's host listens (eyot serve: --address); on a loopback address a short auth_password is allowed",
    ),
    ("auth_policy", "lines WHO REPOSITORIES ACTIONS", "who may do what, in place of auth_mode"),
    ("auth_token_key", "32 random bytes, as text", "signs tokens; by default one that is kept in the key-value store"),
    ("oidc_issuers", "lines NAME ISSUER AUDIENCE CLAIM=PATTERN…", "users oidc:NAME, by the tokens of others"),
    ("oidc_key_hosts", "hosts, with commas", "hosts beside an issuer's own from which its keys may come"),
    ("public_url", "https://HOST", "how clients reach the registry; by default the host that they name"),
    ("trusted_proxies", "addresses, networks, *", "whose X-Forwarded-… and Forwarded headers are believed"),
    ("tls_certificate", "a PEM file", "natively: speak TLS with this chain of certificates"),
    ("tls_key", "a PEM file", "natively: the key of tls_certificate; both are read again when they change"),
    ("log", "off | error | warn | info | debug | trace", "what is written to the log; info: every request"),
];

/// The upper bound of settings for the size of one value, in bytes: the limit of Spin's local
/// stores.
const VALUE_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// The upper bound of all timeouts, in seconds.
const TIMEOUT_SECONDS_MAX: u64 = 24 * 60 * 60;

/// How the native host limits connections. Other hosts have settings of their own for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// How many connections are served at once, if the system allows enough open files. More
    /// connections wait in the kernel's queue.
    pub most: u64,
    /// How many of these connections one IPv4 address, or one IPv6 network of 64 bits, may have.
    /// Loopback addresses and trusted proxies, which carry many clients, may have all.
    pub most_of_address: u64,
    /// How long a client may take to begin and to finish the head of a request.
    pub head_timeout: Duration,
    /// How long a client may pause in the middle of a body: without sending any of a request body,
    /// or without taking any of an answer.
    pub body_idle_timeout: Duration,
    /// How many bytes of a request body must arrive per second of waiting for the body, beyond the
    /// first 30 seconds; 0: no limit.
    pub body_bytes_per_second_min: u64,
    /// How long the server waits in total for the body of a request that was not admitted, or for
    /// the rest of a body once the answer is known.
    pub unwanted_body_timeout: Duration,
    /// How long running requests may go on after the process was told to stop.
    pub stop_timeout: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            most: 4096,
            most_of_address: 1024,
            head_timeout: Duration::from_secs(60),
            body_idle_timeout: Duration::from_secs(60),
            body_bytes_per_second_min: 1024,
            unwanted_body_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(30),
        }
    }
}
/// The default validity of the URL of a redirect, in seconds.
const REDIRECT_SECONDS_DEFAULT: u64 = 20 * 60;
/// The end of the host name of every R2 endpoint.
const R2_DOMAIN: &str = ".r2.cloudflarestorage.com";

/// The stores and the data folder that a host offers. The first value of each list is the default.
pub struct Offer {
    /// The values that the setting `keys` accepts.
    pub keys: &'static [&'static str],
    /// The values that the setting `blobs` accepts.
    pub blobs: &'static [&'static str],
    /// The default of the setting `data_dir`.
    pub data_dir: &'static str,
}

/// The settings, read and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The key-value store: a value of the setting `keys`.
    pub keys: &'static str,
    /// The blob store: a value of the setting `blobs`.
    pub blobs: &'static str,
    /// The folder of the file stores.
    pub data_dir: PathBuf,
    /// The size of the chunks of packed blobs, in bytes.
    pub chunk_bytes: u32,
    /// The registry's limits.
    pub limits: Limits,
    /// When to collect: a cron expression, for hosts that can follow a schedule.
    pub prune_schedule: Option<String>,
    /// How long caches may serve a tag without asking the registry, in seconds.
    pub tag_max_age_seconds: u32,
    /// The limits on connections.
    pub connections: Connections,
    /// The bucket and its settings, if a store is `s3`.
    pub s3: Option<S3Settings>,
    /// Which clients are redirected to the bucket for layers.
    pub redirects: Redirects,
    /// The users and their permissions.
    pub access: AccessConfig,
    /// The files of the certificate and its key, for hosts that speak TLS themselves.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The level from which lines are logged.
    pub log: LevelFilter,
}

impl Config {
    /// Reads the settings. `get` returns the value of a setting by its lower-case name.
    ///
    /// # Errors
    /// When a setting has an invalid value, a setting is missing, or two settings do not fit
    /// together. The text names the setting and the accepted values.
    pub fn read(offer: &Offer, get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let number = |name: &str, default: u64, least: u64, most: u64| match get(name) {
            None => Ok(default),
            Some(text) => match text.parse() {
                Ok(value) if (least..=most).contains(&value) => Ok(value),
                _ => bail!("setting {name}: {text:?} is not a whole number {}", bounds(least, most)),
            },
        };
        let seconds = |name: &str, default: Duration, least: u64| {
            number(name, default.as_secs(), least, TIMEOUT_SECONDS_MAX).map(Duration::from_secs)
        };
        let (defaults, connections) = (Limits::default(), Connections::default());
        let grace_ms = number("grace_seconds", defaults.grace_ms / 1000, 0, u64::MAX / 1000)? * 1000;
        let untagged_lifetime_ms = match get("untagged_lifetime_seconds").as_deref() {
            Some("never") => None,
            _ => Some(number("untagged_lifetime_seconds", grace_ms / 1000, 0, u64::MAX / 1000)? * 1000),
        };
        let keys = choice("keys", get("keys"), offer.keys)?;
        let blobs = choice("blobs", get("blobs"), offer.blobs)?;
        let redirect_seconds = number("redirect_seconds", REDIRECT_SECONDS_DEFAULT, 1, REDIRECT_SECONDS_MAX)?;
        let s3 = if [keys, blobs].contains(&"s3") {
            let part_bytes = number("s3_part_bytes", PART_BYTES_DEFAULT, PART_BYTES_MIN, PART_BYTES_MAX)?;
            Some(read_s3(get, part_bytes, Duration::from_secs(redirect_seconds))?)
        } else {
            None
        };
        Ok(Self {
            keys,
            blobs,
            s3,
            redirects: match choice("redirects", get("redirects"), &["true", "false"])? {
                "true" => Redirects::all_but(get("redirect_except").as_deref().unwrap_or_default()),
                _ => Redirects::none(),
            },
            data_dir: get("data_dir").unwrap_or_else(|| offer.data_dir.into()).into(),
            chunk_bytes: number("chunk_bytes", CHUNK_BYTES_DEFAULT.into(), CHUNK_BYTES_MIN.into(), VALUE_BYTES_MAX)?
                as u32,
            prune_schedule: get("prune_schedule"),
            limits: Limits {
                manifest_bytes_max: number("manifest_bytes_max", defaults.manifest_bytes_max, 1, VALUE_BYTES_MAX)?,
                manifest_inline_bytes_max: number(
                    "manifest_inline_bytes_max",
                    defaults.manifest_inline_bytes_max,
                    0,
                    VALUE_BYTES_MAX,
                )?,
                blob_bytes_max: number("blob_bytes_max", defaults.blob_bytes_max, 1, u64::MAX)?,
                page_entries_max: number("page_entries_max", defaults.page_entries_max as u64, 1, 10_000)? as usize,
                upload_lifetime_ms: number(
                    "upload_lifetime_seconds",
                    defaults.upload_lifetime_ms / 1000,
                    1,
                    u64::MAX / 1000,
                )? * 1000,
                grace_ms,
                untagged_lifetime_ms,
                collect_step_keys_max: number("collect_step_keys_max", defaults.collect_step_keys_max, 1, u64::MAX)?,
                collect_step_ms_max: number("collect_step_seconds_max", defaults.collect_step_ms_max / 1000, 1, 20)?
                    * 1000,
                warnings: choice("warnings", get("warnings"), &["false", "true"])? == "true",
                sparse_manifests: choice("sparse_manifests", get("sparse_manifests"), &["false", "true"])? == "true",
                ..defaults
            },
            tag_max_age_seconds: number("tag_max_age_seconds", 0, 0, u32::MAX.into())? as u32,
            connections: Connections {
                most: number("connections_max", connections.most, 1, connections.most)?,
                most_of_address: number(
                    "connections_per_address_max",
                    connections.most_of_address,
                    1,
                    connections.most,
                )?,
                head_timeout: seconds("head_timeout_seconds", connections.head_timeout, 1)?,
                body_idle_timeout: seconds("body_idle_timeout_seconds", connections.body_idle_timeout, 1)?,
                body_bytes_per_second_min: number(
                    "body_bytes_per_second_min",
                    connections.body_bytes_per_second_min,
                    0,
                    u64::MAX,
                )?,
                unwanted_body_timeout: seconds("unwanted_body_timeout_seconds", connections.unwanted_body_timeout, 1)?,
                stop_timeout: seconds("stop_timeout_seconds", connections.stop_timeout, 0)?,
            },
            access: AccessConfig::read(get)?,
            tls: match (get("tls_certificate"), get("tls_key")) {
                (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
                (None, None) => None,
                _ => bail!("settings tls_certificate and tls_key: one is there without the other"),
            },
            log: match choice("log", get("log"), &["warn", "off", "error", "info", "debug", "trace"])? {
                "off" => LevelFilter::OFF,
                "error" => LevelFilter::ERROR,
                "info" => LevelFilter::INFO,
                "debug" => LevelFilter::DEBUG,
                "trace" => LevelFilter::TRACE,
                _ => LevelFilter::WARN,
            },
        })
    }

    /// Opens the stores on the host's platform. `keys` is a key-value store that only the host has,
    /// in place of the one that the settings choose.
    ///
    /// # Errors
    /// When a folder cannot be created or written, or a setting of S3 or of access is unusable. No
    /// request is sent to a bucket yet.
    pub fn open(&self, platform: Arc<dyn Platform>, keys: Option<Arc<dyn KeyValue>>) -> Result<Stores> {
        let s3 = match &self.s3 {
            Some(settings) => Some(S3::new(settings.clone(), platform.clone()).map_err(anyhow::Error::msg)?),
            None => None,
        };
        let folder = &self.data_dir;
        let context = || format!("setting data_dir: {} cannot be used", folder.display());
        let keys: Arc<dyn KeyValue> = match keys {
            Some(keys) => keys,
            None if self.keys == "files" => {
                Arc::new(FileKeyValue::open(folder, platform.clone()).with_context(context)?)
            }
            None => match &s3 {
                Some(s3) if self.keys == "s3" => Arc::new(s3.key_value()),
                _ => Arc::new(MemoryKeyValue::default()),
            },
        };
        let blobs: Arc<dyn BlobStore> = match self.blobs {
            "files" => Arc::new(FileBlobStore::open(folder, platform.clone()).with_context(context)?),
            "packed" => Arc::new(PackedBlobStore::new(keys.clone(), platform.clone(), self.chunk_bytes)),
            _ => match &s3 {
                Some(s3) if self.blobs == "s3" => Arc::new(s3.blob_store()),
                _ => Arc::new(MemoryBlobStore::new(platform.clone())),
            },
        };
        let registry = Registry::new(keys.clone(), blobs.clone(), platform.clone(), self.limits.clone());
        let registry = registry.with_expiring(&crate::auth::EXPIRING);
        let handler = Handler::new(registry.clone(), self.access.access(&keys, &platform)?);
        let handler = self.access.apply(handler)?.with_tag_max_age_seconds(self.tag_max_age_seconds);
        Ok(Stores { keys, blobs, s3, registry, handler: handler.with_redirects(self.redirects.clone()) })
    }
}

/// The stores that the settings choose, with a registry and a handler over them.
pub struct Stores {
    /// The key-value store.
    pub keys: Arc<dyn KeyValue>,
    /// The blob store.
    pub blobs: Arc<dyn BlobStore>,
    /// The bucket, if a store is `s3`.
    pub s3: Option<S3>,
    registry: Registry,
    handler: Handler,
}

impl Stores {
    /// The registry over these stores.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// The HTTP handler of the registry over these stores.
    pub fn handler(&self) -> Handler {
        self.handler.clone()
    }
}

fn read_s3(get: impl Fn(&str) -> Option<String>, part_bytes: u64, redirect_lifetime: Duration) -> Result<S3Settings> {
    // Secrets often come from files that end in a newline. No valid setting of S3 begins or ends in
    // white space.
    let get = |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let needed = |name: &str| get(name).with_context(|| format!("setting {name} is missing: S3 needs it"));
    let flag = |name: &str, default: bool| {
        let choices: &'static [&'static str] = if default { &["true", "false"] } else { &["false", "true"] };
        choice(name, get(name), choices).map(|choice| choice == "true")
    };
    let endpoint = needed("s3_endpoint")?;
    let host = endpoint.parse::<http::Uri>().ok().and_then(|url| url.host().map(str::to_ascii_lowercase));
    let is_r2 = host.is_some_and(|host| host.ends_with(R2_DOMAIN));
    Ok(S3Settings {
        public_endpoint: get("s3_public_endpoint"),
        region: get("s3_region").unwrap_or_else(|| if is_r2 { "auto" } else { "us-east-1" }.into()),
        bucket: needed("s3_bucket")?,
        prefix: get("s3_prefix").unwrap_or_default(),
        path_style: flag("s3_path_style", true)?,
        access_key_id: needed("s3_access_key_id")?,
        secret_access_key: needed("s3_secret_access_key")?,
        session_token: get("s3_session_token"),
        part_bytes,
        equal_parts: flag("s3_equal_parts", is_r2)?,
        conditional_puts: flag("s3_conditional_puts", true)?,
        redirect_lifetime,
        endpoint,
    })
}

fn bounds(least: u64, most: u64) -> String {
    if most < u64::MAX / 1000 { format!("from {least} to {most}") } else { format!("of at least {least}") }
}

fn choice(name: &str, value: Option<String>, offered: &'static [&'static str]) -> Result<&'static str> {
    let Some(value) = value else { return Ok(offered[0]) };
    let found = offered.iter().find(|offer| **offer == value);
    found.copied().with_context(|| format!("setting {name}: {value:?} is not one of {}", offered.join(", ")))
}

/// Whether an error is about a setting. The operator can fix a setting, and the text of the error
/// has no secret in it.
pub fn names_a_setting(error: &anyhow::Error) -> bool {
    error.to_string().starts_with("setting")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer { keys: &["files", "memory"], blobs: &["files", "memory", "packed"], data_dir: "data" };

    fn read(settings: &[(&str, &str)]) -> Result<Config> {
        let find = |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Config::read(&OFFER, find)
    }

    #[test]
    fn defaults_are_the_hosts_and_the_registrys() {
        let config = read(&[("keys", "")]).unwrap();
        assert_eq!((config.keys, config.blobs, config.limits), ("files", "files", Limits::default()));
    }

    #[test]
    fn what_is_set_is_used() {
        let config =
            read(&[("blobs", "packed"), ("sparse_manifests", "true"), ("upload_lifetime_seconds", "5")]).unwrap();
        assert_eq!(config.blobs, "packed");
        assert!(config.limits.sparse_manifests);
        assert_eq!(config.limits.upload_lifetime_ms, 5000);
    }

    #[test]
    fn a_wrong_setting_names_itself_and_what_it_takes() {
        for (name, value, expected) in [
            ("keys", "redis", "setting keys: \"redis\" is not one of files, memory"),
            ("chunk_bytes", "1", "setting chunk_bytes: \"1\" is not a whole number from 65536 to 134217728"),
            ("blob_bytes_max", "-1", "setting blob_bytes_max: \"-1\" is not a whole number of at least 1"),
            ("connections_max", "0", "setting connections_max: \"0\" is not a whole number from 1 to 4096"),
            (
                "body_idle_timeout_seconds",
                "1m",
                "setting body_idle_timeout_seconds: \"1m\" is not a whole number from 1 to 86400",
            ),
            ("sparse_manifests", "yes", "setting sparse_manifests: \"yes\" is not one of false, true"),
        ] {
            assert_eq!(read(&[(name, value)]).unwrap_err().to_string(), expected);
        }
    }

    const S3_OFFER: Offer = Offer { keys: &["s3"], blobs: &["s3"], data_dir: "data" };

    fn read_s3_settings(changes: &[(&str, &str)]) -> Result<S3Settings> {
        let defaults = [
            ("s3_endpoint", "https://s3.example"),
            ("s3_bucket", "b"),
            ("s3_access_key_id", "k"),
            ("s3_secret_access_key", "s"),
        ];
        let find = |name: &str| {
            let mut all = changes.iter().chain(&defaults);
            all.find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Ok(Config::read(&S3_OFFER, find)?.s3.unwrap())
    }

    #[test]
    fn settings_of_s3_are_read_as_people_give_them() {
        let read =
            read_s3_settings(&[("s3_secret_access_key", "secret\n"), ("s3_region", " "), ("s3_prefix", "")]).unwrap();
        assert_eq!((read.secret_access_key.as_str(), read.region.as_str()), ("secret", "us-east-1"));
        // Cloudflare's console shows the endpoint with the bucket as its path.
        for endpoint in ["https://id.r2.cloudflarestorage.com/b", "https://ID.eu.R2.CloudflareStorage.com:443/"] {
            let read = read_s3_settings(&[("s3_endpoint", endpoint)]).unwrap();
            assert_eq!((read.equal_parts, read.region.as_str()), (true, "auto"), "{endpoint}");
        }
        for (name, value, expected) in [
            ("s3_bucket", "\n", "setting s3_bucket is missing: S3 needs it"),
            (
                "s3_part_bytes",
                "5MiB",
                "setting s3_part_bytes: \"5MiB\" is not a whole number from 5242880 to 5368709120",
            ),
            ("s3_path_style", "yes", "setting s3_path_style: \"yes\" is not one of true, false"),
            ("redirect_seconds", "0", "setting redirect_seconds: \"0\" is not a whole number from 1 to 604800"),
        ] {
            assert_eq!(read_s3_settings(&[(name, value)]).unwrap_err().to_string(), expected);
        }
    }
}
