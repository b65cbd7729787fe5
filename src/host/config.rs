//! The settings of an instance, read and checked, and the stores that they choose.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tracing::level_filters::LevelFilter;

use super::access::AccessConfig;
use super::settings::{
    AccessSettings, BlobStoreName, Connections, KeyValueName, MirrorSettings, ServerSettings, StoreSettings, Values,
    read_body_bytes_max, read_limits, read_redirects, read_s3, read_tag_max_age_seconds,
};
use crate::http::{Handler, Redirects};
use crate::mirror::{self, Mirrors};
use crate::platform::Platform;
use crate::registry::{Limits, Registry};
use crate::store::file::{FileBlobStore, FileKeyValue};
use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};
use crate::store::packed::PackedBlobStore;
use crate::store::s3::{S3, S3Settings};
use crate::store::{BlobStore, Expiring, KeyValue};
use crate::{auth, import, upstream};

/// The expiring keys of all layers.
static EXPIRING: [Expiring; 7] = {
    let [tags, lists, fills, troubles] = mirror::EXPIRING;
    [auth::EXPIRING[0], upstream::EXPIRING[0], tags, lists, fills, troubles, import::EXPIRING[0]]
};

/// The settings, read and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The stores.
    pub stores: StoreSettings,
    /// The registry's limits.
    pub limits: Limits,
    /// The longest body that a request may have, in bytes, where there is a limit.
    pub body_bytes_max: Option<u64>,
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
    /// The upstreams whose repositories this registry mirrors.
    pub mirrors: MirrorSettings,
    /// The files of the certificate and its key, for hosts that speak TLS themselves.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The level from which lines are logged.
    pub log: LevelFilter,
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// When a setting has an invalid value, a setting is missing, or two settings do not fit
    /// together. The text names the setting and the valid values.
    pub fn read(values: Values<'_>) -> Result<Self> {
        let (stores, server) = (StoreSettings::read(values)?, ServerSettings::read(values)?);
        let access = AccessSettings::read(values)?;
        Ok(Self {
            limits: read_limits(values)?,
            body_bytes_max: read_body_bytes_max(values)?,
            tag_max_age_seconds: read_tag_max_age_seconds(values)?,
            connections: Connections::read(values)?,
            s3: stores.need_s3().then(|| read_s3(values)).transpose()?,
            redirects: read_redirects(values)?,
            mirrors: MirrorSettings::read(values, access.token_key.as_ref())?,
            access: AccessConfig::new(access, &stores, &server)?,
            stores,
            prune_schedule: server.prune_schedule,
            tls: server.tls,
            log: server.log,
        })
    }

    /// Opens the stores on the host's platform. `spin` is the key-value store of Spin that the
    /// settings choose, if they choose one.
    ///
    /// # Errors
    /// When a folder cannot be created or written, or a setting of S3 or of access is unusable. No
    /// request is sent to a bucket yet.
    pub fn open(&self, platform: Arc<dyn Platform>, spin: Option<Arc<dyn KeyValue>>) -> Result<Stores> {
        let s3 = match &self.s3 {
            Some(settings) => Some(S3::new(settings.clone(), platform.clone())?),
            None => None,
        };
        let bucket = || s3.as_ref().context("setting s3_bucket is missing: S3 needs it");
        let folder = &self.stores.data_dir;
        let context = || format!("setting data_dir: cannot use {}", folder.display());
        let keys: Arc<dyn KeyValue> = match self.stores.keys {
            KeyValueName::Files => Arc::new(FileKeyValue::open(folder, platform.clone()).with_context(context)?),
            KeyValueName::S3 => Arc::new(bucket()?.key_value()),
            KeyValueName::Memory => Arc::new(MemoryKeyValue::default()),
            KeyValueName::SpinSqlite | KeyValueName::SpinKeyValue => {
                spin.context("setting keys: only Spin has this store")?
            }
        };
        let blobs: Arc<dyn BlobStore> = match self.stores.blobs {
            BlobStoreName::Files => Arc::new(FileBlobStore::open(folder, platform.clone()).with_context(context)?),
            BlobStoreName::S3 => Arc::new(bucket()?.blob_store()),
            BlobStoreName::Memory => Arc::new(MemoryBlobStore::new(platform.clone())),
            BlobStoreName::Packed => {
                Arc::new(PackedBlobStore::new(keys.clone(), platform.clone(), self.stores.chunk_bytes))
            }
        };
        let registry = Registry::new(keys.clone(), blobs.clone(), platform.clone(), self.limits.clone());
        let mirroring = self.mirrors.mirroring.clone();
        let registry = registry.with_expiring(&EXPIRING).with_mirrored_prefixes(mirroring.prefixes());
        let handler = Handler::new(registry.clone(), self.access.access(&keys, &platform)?);
        let handler = self.access.apply(handler)?.with_tag_max_age_seconds(self.tag_max_age_seconds);
        let mut handler = handler.with_redirects(self.redirects.clone());
        handler = handler.with_body_bytes_max(self.body_bytes_max);
        if !mirroring.is_empty() {
            handler = handler.with_mirrors(Mirrors::new(mirroring, &registry, &self.mirrors.seal()));
        }
        Ok(Stores { keys, blobs, s3, registry, handler })
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

/// Whether an error is about a setting. The operator can fix a setting, and the text of the error
/// has no secret in it.
pub fn names_a_setting(error: &anyhow::Error) -> bool {
    error.to_string().starts_with("setting")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::settings::Host;
    use crate::platform::SystemPlatform;

    fn read_on(host: Host, settings: &[(&str, &str)]) -> Result<Config> {
        let find = |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Config::read(Values::new(host, &find))
    }

    fn read(settings: &[(&str, &str)]) -> Result<Config> {
        read_on(Host::Native, settings)
    }

    #[test]
    fn defaults_are_those_of_the_host_and_of_the_registry() {
        use {BlobStoreName as Blobs, KeyValueName as Keys};
        for (host, keys, blobs, data_dir) in [
            (Host::Native, Keys::Files, Blobs::Files, "data"),
            (Host::Wasi, Keys::Files, Blobs::Files, "/data"),
            (Host::Spin, Keys::SpinSqlite, Blobs::Packed, "/data"),
        ] {
            let config = read_on(host, &[("keys", "")]).unwrap();
            let expected = StoreSettings { keys, blobs, data_dir: data_dir.into(), chunk_bytes: 983_040 };
            assert_eq!(
                (config.stores, config.limits, config.connections),
                (expected, Limits::default(), Connections::default())
            );
        }
    }

    #[test]
    fn values_that_are_set_are_used() {
        let config =
            read(&[("blobs", "packed"), ("sparse_manifests", "true"), ("upload_lifetime_seconds", "5")]).unwrap();
        assert_eq!(config.stores.blobs, BlobStoreName::Packed);
        assert!(config.limits.sparse_manifests);
        assert_eq!(config.limits.upload_lifetime_ms, 5000);
        for (value, expected) in [("7", Some(7000)), ("never", None), ("", Some(9000))] {
            let config = read(&[("grace_seconds", "9"), ("untagged_lifetime_seconds", value)]).unwrap();
            assert_eq!(config.limits.untagged_lifetime_ms, expected, "{value}");
        }
    }

    #[test]
    fn a_host_has_only_its_own_stores_and_settings() {
        for (host, name, value) in
            [(Host::Native, "keys", "spin-sqlite"), (Host::Wasi, "keys", "memory"), (Host::Spin, "blobs", "memory")]
        {
            let error = read_on(host, &[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("setting {name}: \"{value}\" is not one of ")), "{error}");
        }
        let component = read_on(Host::Wasi, &[("connections_max", "5"), ("tls_key", "key.pem")]).unwrap();
        assert_eq!(component.connections, Connections::default());
        // Even a host that reads the setting of another host cannot end up with the memory.
        let spin = read_on(Host::Spin, &[]).unwrap();
        let error = spin.open(Arc::new(SystemPlatform), None).err().unwrap().to_string();
        assert_eq!(error, "setting keys: only Spin has this store");
    }

    #[test]
    fn a_wrong_setting_names_itself_and_what_it_takes() {
        for (name, value, expected) in [
            ("keys", "redis", "setting keys: \"redis\" is not one of files, s3, memory"),
            ("chunk_bytes", "1", "setting chunk_bytes: \"1\" is not a whole number from 65536 to 134217728"),
            ("blob_bytes_max", "-1", "setting blob_bytes_max: \"-1\" is not a whole number of at least 1"),
            ("connections_max", "0", "setting connections_max: \"0\" is not a whole number from 1 to 4096"),
            (
                "body_idle_timeout_seconds",
                "1m",
                "setting body_idle_timeout_seconds: \"1m\" is not a whole number from 1 to 86400",
            ),
            (
                "untagged_lifetime_seconds",
                "forever",
                "setting untagged_lifetime_seconds: \"forever\" is not a whole number of at least 0 or the word never",
            ),
            ("sparse_manifests", "yes", "setting sparse_manifests: \"yes\" is not one of false, true"),
        ] {
            assert_eq!(read(&[(name, value)]).unwrap_err().to_string(), expected);
        }
    }

    fn read_s3_settings(changes: &[(&str, &str)]) -> Result<S3Settings> {
        let defaults = [
            ("keys", "s3"),
            ("s3_endpoint", "https://s3.example"),
            ("s3_bucket", "b"),
            ("s3_access_key_id", "k"),
            ("s3_secret_access_key", "s"),
        ];
        let find = |name: &str| {
            let mut all = changes.iter().chain(&defaults);
            all.find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Ok(Config::read(Values::new(Host::Native, &find))?.s3.unwrap())
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
