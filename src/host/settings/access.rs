//! The settings of access control: users, logins, tokens and permissions.

use anyhow::Result;

use super::setting::{AnySetting, Choice, EVERY_HOST, Optional, Setting, Text};
use super::values::Values;
use crate::auth::Secret;

/// Who must log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// Nobody.
    None,
    /// Those who push or delete.
    WriteOnly,
    /// Everybody.
    ReadWrite,
    /// Nobody, for requests that name this machine. Other requests are refused.
    Local,
}

static AUTH_MODE: Setting<Optional<Choice<AuthMode>>> = Setting::new(
    "auth_mode",
    Optional {
        kind: Choice {
            values: &[
                ("none", AuthMode::None, EVERY_HOST),
                ("write_only", AuthMode::WriteOnly, EVERY_HOST),
                ("read_write", AuthMode::ReadWrite, EVERY_HOST),
                ("local", AuthMode::Local, EVERY_HOST),
            ],
            default: |_| AuthMode::ReadWrite,
        },
        unset: "read_write if there are users, else a read-only registry",
    },
    "who must log in: nobody, those who push, or everybody; local: nobody, under names of this machine",
)
.details("See [who may do what](access.md#modes).");

static AUTH_USER: Setting<Optional<Text>> = Setting::new(
    "auth_user",
    Optional { kind: Text::of("a name"), unset: "no such user" },
    "a user who may do everything, with the password auth_password",
);

static AUTH_PASSWORD: Setting<Optional<Text>> = Setting::new(
    "auth_password",
    Optional { kind: Text::of("a password of at least ten characters"), unset: "no such user" },
    "the password of auth_user",
)
.secret();

static HTPASSWD: Setting<Optional<Text>> = Setting::new(
    "htpasswd",
    Optional { kind: Text::of("lines USER:HASH"), unset: "no such users" },
    "users with bcrypt (htpasswd -B) or argon2id hashes",
)
.secret();

static HTPASSWD_FILE: Setting<Optional<Text>> = Setting::new(
    "htpasswd_file",
    Optional { kind: Text::of("a file"), unset: "no such users" },
    "a file with further users, in the form of htpasswd",
);

static AUTH_POLICY: Setting<Optional<Text>> = Setting::new(
    "auth_policy",
    Optional { kind: Text::of("lines WHO REPOSITORIES ACTIONS"), unset: "as auth_mode says" },
    "the permissions of each user, in place of auth_mode",
)
.details("See [policies](access.md#policies).");

static AUTH_TOKEN_KEY: Setting<Optional<Text>> = Setting::new(
    "auth_token_key",
    Optional { kind: Text::of("32 random bytes as text"), unset: "a key in the key-value store" },
    "the key that signs tokens, such as one of openssl rand -hex 32",
)
.secret();

static OIDC_ISSUERS: Setting<Optional<Text>> = Setting::new(
    "oidc_issuers",
    Optional { kind: Text::of("lines NAME ISSUER AUDIENCE CLAIM=PATTERN…"), unset: "no issuer" },
    "users oidc:NAME, who log in with the tokens of other issuers",
)
.details("See [OIDC](access.md#oidc).");

static OIDC_KEY_HOSTS: Setting<Optional<Text>> = Setting::new(
    "oidc_key_hosts",
    Optional { kind: Text::of("HOST or HOST:PORT, separated by commas"), unset: "only the host of the issuer" },
    "further hosts from which the keys of an issuer may come",
);

pub(super) static SETTINGS: &[&dyn AnySetting] = &[
    &AUTH_MODE,
    &AUTH_USER,
    &AUTH_PASSWORD,
    &HTPASSWD,
    &HTPASSWD_FILE,
    &AUTH_POLICY,
    &AUTH_TOKEN_KEY,
    &OIDC_ISSUERS,
    &OIDC_KEY_HOSTS,
];

/// The settings of access control, before their texts are parsed.
pub(crate) struct AccessSettings {
    /// Who must log in.
    pub mode: Option<AuthMode>,
    /// The name of a user.
    pub user: Option<String>,
    /// The password of that user.
    pub password: Option<Secret>,
    /// Users with hashes of passwords.
    pub htpasswd: Option<String>,
    /// The file of further users.
    pub htpasswd_file: Option<String>,
    /// The permissions of users.
    pub policy: Option<String>,
    /// The key that signs tokens.
    pub token_key: Option<Secret>,
    /// The rules for tokens of other issuers.
    pub oidc_issuers: Option<String>,
    /// Further hosts of keys.
    pub oidc_key_hosts: Option<String>,
}

impl AccessSettings {
    pub(crate) fn read(values: Values<'_>) -> Result<Self> {
        Ok(Self {
            mode: values.read(&AUTH_MODE)?,
            user: values.read(&AUTH_USER)?,
            password: values.read(&AUTH_PASSWORD)?.map(Secret::new),
            htpasswd: values.read(&HTPASSWD)?,
            htpasswd_file: values.read(&HTPASSWD_FILE)?,
            policy: values.read(&AUTH_POLICY)?,
            token_key: values.read(&AUTH_TOKEN_KEY)?.map(Secret::new),
            oidc_issuers: values.read(&OIDC_ISSUERS)?,
            oidc_key_hosts: values.read(&OIDC_KEY_HOSTS)?,
        })
    }
}
