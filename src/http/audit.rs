//! Writes a line to the log for each change and for each refused login: user, address and action.
//! Makes the [`Event`] of each change for observers.
//!
//! The lines have the target [`TARGET`] and the level of warnings, so that they appear by default.
//! Texts of clients are quoted, with control characters and changes of direction escaped.

use std::fmt::{Display, Write as _};
use std::net::IpAddr;

use http::StatusCode;

use super::error::Error;
use super::event::Event;
use super::reply::Reply;
use crate::auth::{Caller, Credentials, Refusal};
use crate::oci::{Digest, RepositoryName, Tag};

/// The target of the audit lines, which sets them apart from other lines.
pub const TARGET: &str = "eyot::audit";
/// How many characters of a user's name are logged: no user has a longer name.
const USER_CHARACTERS_MAX: usize = crate::auth::USER_NAME_BYTES_MAX;

/// The description of a change that an operation makes: the action and its object.
pub(super) struct Change {
    event: Event,
    /// The object, as the audit line shows it.
    object: String,
}

/// A change in progress. A change that is dropped without an outcome is logged all the same
/// (`outcome=unknown`): the client may have gone away after the change and before the answer.
pub(super) struct Running {
    change: Change,
    user: String,
    is_logged: bool,
}

impl Change {
    pub(super) fn new(action: &'static str) -> Self {
        Self { event: Event::new(action), object: String::new() }
    }

    /// A change in a repository.
    pub(super) fn of_repository(action: &'static str, repository: &RepositoryName) -> Self {
        let mut change = Self::new(action).with("repository", repository);
        change.event.repository = Some(repository.clone());
        change
    }

    /// Adds a tag that the change points or removes.
    pub(super) fn with_tag(mut self, tag: &Tag) -> Self {
        self.event.tags.push(tag.clone());
        self.with("tag", tag)
    }

    /// Adds the digest of the content that the change removes.
    pub(super) fn with_digest(mut self, digest: &Digest) -> Self {
        self.event.digest = Some(digest.clone());
        self.with("digest", digest)
    }

    /// Adds a value whose grammar excludes control characters.
    pub(super) fn with(mut self, name: &str, value: impl Display) -> Self {
        let _ = write!(self.object, " {name}={value}");
        self
    }

    /// Adds a text that the client chose freely.
    #[cfg(feature = "accounts")]
    pub(super) fn with_quoted(self, name: &str, text: &str) -> Self {
        self.with(name, quoted(text))
    }

    /// Begins the change, made by `caller` from `address`.
    pub(super) fn begin(mut self, caller: &Caller, address: Option<IpAddr>) -> Running {
        (self.event.user, self.event.address) = (caller.user.clone(), address);
        Running { change: self, user: user_and_address(caller.user.as_deref(), address), is_logged: false }
    }
}

impl Running {
    /// Logs the change with its outcome, and returns the event of a change that was made. A refused
    /// operation has changed nothing, and neither has a mount that began an upload: both are not
    /// logged. A failure may have changed something and is logged.
    pub(super) fn finish(mut self, outcome: &Result<Reply, Error>) -> Option<Event> {
        self.is_logged = true;
        match outcome {
            Ok(reply) if self.change.event.action == "mount-blob" && reply.status() == StatusCode::ACCEPTED => None,
            Ok(reply) => {
                self.log(&reply.digest().map(|digest| format!(" digest={digest}")).unwrap_or_default());
                let event = self.change.event.clone();
                let digest = reply.digest().and_then(|digest| digest.parse().ok());
                Some(Event { digest: digest.or(event.digest), ..event })
            }
            Err(why) if why.may_have_changed() => {
                self.log(" outcome=failed");
                None
            }
            Err(_) => None,
        }
    }

    fn log(&self, outcome: &str) {
        let (Change { event, object }, user) = (&self.change, &self.user);
        log_line(format_args!("{} {user}{object}{outcome}", event.action));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_logged {
            self.log(" outcome=unknown");
        }
    }
}

/// Logs a refused login. A request without credentials is not a login, and a failure of a store has
/// log lines of its own.
pub(super) fn refused(credentials: Option<&Credentials>, address: Option<IpAddr>, why: &Refusal) {
    let why = match why {
        Refusal::Unauthorized => "wrong",
        Refusal::TooManyAttempts { .. } => "too-many-attempts",
        Refusal::Busy { .. } => "too-many-logins-at-once",
        Refusal::Issuer(_) => "issuer-unreachable",
        Refusal::TokenTooLarge | Refusal::Store(_) => return,
    };
    let (user, kind) = match credentials {
        Some(Credentials::Basic { user, .. }) => (Some(user.as_str()), "password"),
        Some(Credentials::Bearer(_)) => (None, "token"),
        Some(Credentials::Anonymous) => return,
        None => (None, "unreadable"),
    };
    log_line(format_args!("login-refused {} with={kind} why={why}", user_and_address(user, address)));
}

/// Logs an action that the program takes by itself or at the command line.
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub(crate) fn log_own(action: &str, name: &str) {
    log_line(format_args!("{action} user=- address=- name={}", quoted(name)));
}

fn log_line(line: std::fmt::Arguments<'_>) {
    tracing::warn!(target: TARGET, "{line}");
}

fn user_and_address(user: Option<&str>, address: Option<IpAddr>) -> String {
    let user = user.map_or("-".into(), quoted);
    let address = address.map_or("-".into(), |address| address.to_string());
    format!("user={user} address={address}")
}

/// A text in Rust's quoted form, which escapes control characters and changes of direction.
fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(USER_CHARACTERS_MAX).collect::<String>())
}
