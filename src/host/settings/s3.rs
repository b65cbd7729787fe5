//! The settings of S3, and of the redirects to a bucket.

use std::time::Duration;

use anyhow::Result;

use super::setting::{AnySetting, Flag, Number, Optional, Setting, Text};
use super::values::Values;
use crate::http::Redirects;
use crate::store::s3::{
    PART_BYTES_DEFAULT, PART_BYTES_MAX, PART_BYTES_MIN, PREFIX_BYTES_MAX, REDIRECT_SECONDS_DEFAULT,
    REDIRECT_SECONDS_MAX, S3Settings,
};

/// The end of the host name of every R2 endpoint.
const R2_DOMAIN: &str = ".r2.cloudflarestorage.com";

static ENDPOINT: Setting<Optional<Text>> = Setting::new(
    "s3_endpoint",
    Optional { kind: Text::of("a URL"), unset: "none; the store s3 needs a value" },
    "the URL of the S3 server, such as https://s3.eu-central-1.amazonaws.com",
);

static PUBLIC_ENDPOINT: Setting<Optional<Text>> = Setting::new(
    "s3_public_endpoint",
    Optional { kind: Text::of("a URL"), unset: "as s3_endpoint" },
    "the URL by which clients reach the S3 server",
);

static REGION: Setting<Optional<Text>> = Setting::new(
    "s3_region",
    Optional { kind: Text::of("a name"), unset: "us-east-1; for R2: auto" },
    "the region of the bucket",
);

static BUCKET: Setting<Optional<Text>> = Setting::new(
    "s3_bucket",
    Optional { kind: Text::of("a name"), unset: "none; the store s3 needs a value" },
    "the bucket, which must exist",
);

static PREFIX: Setting<Optional<Text>> = Setting::new(
    "s3_prefix",
    Optional { kind: Text::of("a text of at most 200 bytes"), unset: "no prefix" },
    "the beginning of the names of all objects, such as registry/",
);

// The text of `PREFIX` names this bound.
const _: () = assert!(PREFIX_BYTES_MAX == 200);

static PATH_STYLE: Setting<Flag> = Setting::new(
    "s3_path_style",
    Flag { default: true },
    "whether URLs name the bucket in their path (true) or in the host name (false)",
);

static ACCESS_KEY_ID: Setting<Optional<Text>> = Setting::new(
    "s3_access_key_id",
    Optional { kind: Text::of("a text"), unset: "none; the store s3 needs a value" },
    "the access key",
);

static SECRET_ACCESS_KEY: Setting<Optional<Text>> = Setting::new(
    "s3_secret_access_key",
    Optional { kind: Text::of("a text"), unset: "none; the store s3 needs a value" },
    "the secret of the access key",
)
.secret();

static SESSION_TOKEN: Setting<Optional<Text>> = Setting::new(
    "s3_session_token",
    Optional { kind: Text::of("a text"), unset: "none" },
    "the session token of temporary credentials",
)
.secret();

static PART_BYTES: Setting<Number> = Setting::new(
    "s3_part_bytes",
    Number { least: PART_BYTES_MIN, most: PART_BYTES_MAX, default: PART_BYTES_DEFAULT },
    "the size of the parts of an upload, in bytes",
);

static EQUAL_PARTS: Setting<Optional<Flag>> = Setting::new(
    "s3_equal_parts",
    Optional { kind: Flag { default: true }, unset: "false; for R2: true" },
    "whether all parts of an upload must have one size",
);

static CONDITIONAL_PUTS: Setting<Flag> = Setting::new(
    "s3_conditional_puts",
    Flag { default: true },
    "whether the server honours If-None-Match and If-Match on PUT",
);

static REDIRECTS: Setting<Flag> = Setting::new(
    "redirects",
    Flag { default: true },
    "whether pulls of layers in S3 are redirected to the bucket (307)",
);

static REDIRECT_SECONDS: Setting<Number> = Setting::new(
    "redirect_seconds",
    Number { least: 1, most: REDIRECT_SECONDS_MAX, default: REDIRECT_SECONDS_DEFAULT },
    "how long the URL of a redirect is valid, in seconds",
);

static REDIRECT_EXCEPT: Setting<Optional<Text>> = Setting::new(
    "redirect_except",
    Optional { kind: Text::of("beginnings of User-Agent headers, separated by commas"), unset: "no client" },
    "clients that get layers streamed through eyot instead of a redirect",
);

pub(super) static SETTINGS: &[&dyn AnySetting] = &[
    &ENDPOINT,
    &BUCKET,
    &ACCESS_KEY_ID,
    &SECRET_ACCESS_KEY,
    &SESSION_TOKEN,
    &REGION,
    &PREFIX,
    &PUBLIC_ENDPOINT,
    &PATH_STYLE,
    &PART_BYTES,
    &EQUAL_PARTS,
    &CONDITIONAL_PUTS,
    &REDIRECTS,
    &REDIRECT_SECONDS,
    &REDIRECT_EXCEPT,
];

/// The settings of the bucket.
pub(crate) fn read_s3(values: Values<'_>) -> Result<S3Settings> {
    const REASON: &str = "S3 needs it";
    // No valid setting of S3 begins or ends in white space.
    let values = values.trimmed();
    let endpoint = values.needed(&ENDPOINT, REASON)?;
    let host = endpoint.parse::<http::Uri>().ok().and_then(|url| url.host().map(str::to_ascii_lowercase));
    let is_r2 = host.is_some_and(|host| host.ends_with(R2_DOMAIN));
    Ok(S3Settings {
        public_endpoint: values.read(&PUBLIC_ENDPOINT)?,
        region: values.read(&REGION)?.unwrap_or_else(|| if is_r2 { "auto" } else { "us-east-1" }.into()),
        bucket: values.needed(&BUCKET, REASON)?,
        prefix: values.read(&PREFIX)?.unwrap_or_default(),
        path_style: values.read(&PATH_STYLE)?,
        access_key_id: values.needed(&ACCESS_KEY_ID, REASON)?,
        secret_access_key: values.needed(&SECRET_ACCESS_KEY, REASON)?,
        session_token: values.read(&SESSION_TOKEN)?,
        part_bytes: values.read(&PART_BYTES)?,
        equal_parts: values.read(&EQUAL_PARTS)?.unwrap_or(is_r2),
        conditional_puts: values.read(&CONDITIONAL_PUTS)?,
        redirect_lifetime: Duration::from_secs(values.read(&REDIRECT_SECONDS)?),
        endpoint,
    })
}

/// The clients that are redirected to the bucket.
pub(crate) fn read_redirects(values: Values<'_>) -> Result<Redirects> {
    // Checked even without a bucket, so that a wrong value never stays unseen.
    values.read(&REDIRECT_SECONDS)?;
    let except = values.read(&REDIRECT_EXCEPT)?.unwrap_or_default();
    Ok(if values.read(&REDIRECTS)? { Redirects::all_but(&except) } else { Redirects::none() })
}
