//! The settings of a bucket.

use std::time::Duration;

/// The smallest part that S3 accepts, except as the last part, in bytes.
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
/// The largest part that S3 accepts, in bytes.
pub const PART_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// The default part size in bytes. An upload of unknown length holds two parts in memory.
pub const PART_BYTES_DEFAULT: u64 = 16 * 1024 * 1024;
/// The default validity of the URL of a redirect, in seconds.
pub const REDIRECT_SECONDS_DEFAULT: u64 = 20 * 60;
/// The longest validity of a signature, in seconds: a week.
pub const REDIRECT_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;

/// The longest prefix, in bytes: S3 limits names to 1024 bytes, and the longest key takes about
/// 800.
pub const PREFIX_BYTES_MAX: usize = 200;

/// The address of the bucket, the credentials, and how to use the bucket.
#[derive(Clone)]
pub struct S3Settings {
    /// The server's URL.
    pub endpoint: String,
    /// The server's URL as clients know it, for redirects; `None` if clients use `endpoint`.
    pub public_endpoint: Option<String>,
    /// The region, which is part of every signature.
    pub region: String,
    /// The bucket, which must exist.
    pub bucket: String,
    /// The beginning of the names of all objects: at most [`PREFIX_BYTES_MAX`] bytes.
    pub prefix: String,
    /// Whether URLs name the bucket in the path (true) or in the host name (false).
    pub path_style: bool,
    /// The access key.
    pub access_key_id: String,
    /// The secret of the access key.
    pub secret_access_key: String,
    /// The token of temporary credentials.
    pub session_token: Option<String>,
    /// The part size in bytes, from [`PART_BYTES_MIN`] to [`PART_BYTES_MAX`]. In uploads with many
    /// parts the later parts are larger, unless `equal_parts` is set.
    pub part_bytes: u64,
    /// Whether all parts except the last must have the same size (as for R2): then `part_bytes`.
    pub equal_parts: bool,
    /// Whether the server honours `If-None-Match` and `If-Match` on PUT. Some servers ignore both
    /// silently.
    pub conditional_puts: bool,
    /// How long the URLs of redirects are valid: from one second to [`REDIRECT_SECONDS_MAX`].
    pub redirect_lifetime: Duration,
}

/// A setting of the bucket that cannot be used. The text names the setting as the program `eyot` calls
/// the setting, gives the reason, and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("setting {setting}: {reason}")]
pub struct S3SettingsError {
    setting: &'static str,
    reason: String,
}

impl S3SettingsError {
    pub(super) fn new(setting: &'static str, reason: impl Into<String>) -> Self {
        Self { setting, reason: reason.into() }
    }

    /// The name of the setting, such as `s3_bucket`.
    pub fn setting(&self) -> &'static str {
        self.setting
    }
}

/// A server on this machine, without a bucket and credentials, and otherwise the defaults of the
/// program `eyot`: programs name the bucket and the credentials, and take the rest by
/// `..S3Settings::default()`.
impl Default for S3Settings {
    fn default() -> Self {
        Self {
            endpoint: "http://127.0.0.1:9000".into(),
            public_endpoint: None,
            region: "us-east-1".into(),
            bucket: String::new(),
            prefix: String::new(),
            path_style: true,
            access_key_id: String::new(),
            secret_access_key: String::new(),
            session_token: None,
            part_bytes: PART_BYTES_DEFAULT,
            equal_parts: false,
            conditional_puts: true,
            redirect_lifetime: Duration::from_secs(REDIRECT_SECONDS_DEFAULT),
        }
    }
}

impl S3Settings {
    /// Refuses settings that cannot be part of a URL or a signature, or that lead to another place.
    pub(super) fn check(&self) -> Result<(), S3SettingsError> {
        let endpoints = [("s3_endpoint", Some(&self.endpoint)), ("s3_public_endpoint", self.public_endpoint.as_ref())];
        for (name, endpoint) in endpoints {
            let Some(endpoint) = endpoint else { continue };
            let url = endpoint.parse::<url::Url>().ok().filter(|url| ["http", "https"].contains(&url.scheme()));
            let is_plain = |url: &url::Url| {
                url.username().is_empty()
                    && url.password().is_none()
                    && url.query().is_none()
                    && url.fragment().is_none()
            };
            match url {
                None => {
                    let reason = format!("{endpoint:?} is not a URL like https://HOST or http://HOST:PORT");
                    return Err(S3SettingsError::new(name, reason));
                }
                // The URL is not shown, because it may contain a password.
                Some(url) if !is_plain(&url) => {
                    let reason = "the URL must have no user name, password, query or fragment";
                    return Err(S3SettingsError::new(name, reason));
                }
                Some(_) => {}
            }
        }
        let is_name = |text: &str, more: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if !is_name(&self.bucket, "-._") || self.bucket.chars().all(|c| c == '.') {
            let reason = format!("{:?} is not a name of letters, digits, -, . and _", self.bucket);
            return Err(S3SettingsError::new("s3_bucket", reason));
        }
        if !is_name(&self.region, "-_.") {
            let reason = format!("{:?} is not a name of letters, digits, -, . and _", self.region);
            return Err(S3SettingsError::new("s3_region", reason));
        }
        for (name, secret) in [
            ("s3_access_key_id", Some(&self.access_key_id)),
            ("s3_secret_access_key", Some(&self.secret_access_key)),
            ("s3_session_token", self.session_token.as_ref()),
        ] {
            if secret.is_some_and(|text| text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic())) {
                let reason = "the value is empty, or has white space or characters beyond ASCII";
                return Err(S3SettingsError::new(name, reason));
            }
        }
        self.check_prefix()
    }

    /// Refuses prefixes that servers or URLs would change: `a//b`, `/a/b` and `a/./b` become `a/b`,
    /// and `..` leads out of the bucket.
    fn check_prefix(&self) -> Result<(), S3SettingsError> {
        let prefix = &self.prefix;
        let folders = prefix.strip_suffix('/').unwrap_or(prefix);
        let is_plain = |folder: &str| !["", ".", ".."].contains(&folder) && !folder.chars().any(char::is_control);
        if !prefix.is_empty() && !folders.split('/').all(is_plain) || prefix.len() > PREFIX_BYTES_MAX {
            let reason = format!(
                "{prefix:?} is not a text like registry/, of at most {PREFIX_BYTES_MAX} bytes, that neither begins \
                 with / nor has //, ., .. as a folder or control characters"
            );
            return Err(S3SettingsError::new("s3_prefix", reason));
        }
        Ok(())
    }
}

/// Shows the settings without the secrets.
impl std::fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, bucket, prefix, .. } = self;
        write!(f, "S3Settings({endpoint}, {bucket}, {prefix:?})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_settings_are_refused_by_name() {
        let change = |name: &str, value: &str| {
            let mut settings = S3Settings {
                endpoint: "https://s3.example/path/".into(),
                region: "eu-1".into(),
                bucket: "my.bucket_1-x".into(),
                prefix: "my registry+é/a".into(),
                access_key_id: "key".into(),
                secret_access_key: "secret/+=".into(),
                ..S3Settings::default()
            };
            let value = value.to_owned();
            match name {
                "s3_endpoint" => settings.endpoint = value,
                "s3_public_endpoint" => settings.public_endpoint = Some(value),
                "s3_region" => settings.region = value,
                "s3_bucket" => settings.bucket = value,
                "s3_prefix" => settings.prefix = value,
                "s3_access_key_id" => settings.access_key_id = value,
                "s3_secret_access_key" => settings.secret_access_key = value,
                "s3_session_token" => settings.session_token = Some(value),
                _ => {}
            }
            settings.check()
        };
        assert_eq!(change("", ""), Ok(()));
        assert_eq!(change("s3_prefix", ""), Ok(()));
        for (name, values) in [
            (
                "s3_endpoint",
                ["s3.example", "localhost:9000", "ftp://s3.example", "https://me:hidden@s3.example", "http://"],
            ),
            ("s3_public_endpoint", ["//s3.example", "s3", "https://s3.example/?hidden", "https://s3.example/#x", ""]),
            ("s3_region", ["", "eu 1", "eu/1", "é", "\n"]),
            ("s3_bucket", ["", "a/b", "..", "my bucket", "bücket"]),
            ("s3_prefix", ["/registry/", "a//b", "../other/", "a/./b", "a\nb/"]),
            ("s3_access_key_id", ["", " ", "k\n", "ké", "a b"]),
            ("s3_secret_access_key", ["", " ", "hidden\n", "hiddené", "hidden b"]),
            ("s3_session_token", ["", " ", "hidden\n", "hiddené", "hidden b"]),
        ] {
            for value in values {
                let error = change(name, value).unwrap_err();
                let why = error.to_string();
                assert_eq!(error.setting(), name);
                assert!(why.starts_with(&format!("setting {name}: ")) && !why.contains("hidden"), "{value:?}: {why}");
            }
        }
        assert!(
            change("s3_prefix", &"p".repeat(PREFIX_BYTES_MAX + 1))
                .unwrap_err()
                .to_string()
                .contains("at most 200 bytes")
        );
    }
}
