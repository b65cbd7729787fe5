//! Writes a line to the log for each change and for each refused login: user, address and action.
//!
//! The lines have the target [`TARGET`] and the level of warnings, so that they appear by default.
//! Texts of clients are quoted, with control characters and changes of direction escaped.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::error::Error;
use super::operation::Operation;
use super::reply::Reply;
use crate::auth::{Caller, Credentials, Refusal};
use crate::oci::{Reference, RepositoryName};

/// The target of the audit lines, by which a logger can tell them from other lines.
pub const TARGET: &str = "eyot::audit";
/// How many characters of a user's name are logged: no user has a longer name.
const USER_CHARACTERS_MAX: usize = crate::auth::USER_NAME_BYTES_MAX;

/// A change in progress. A change that is dropped without an outcome is logged all the same
/// (`outcome=unknown`): the client may have gone away after the change and before the answer.
pub(super) struct Change {
    who: String,
    action: &'static str,
    what: String,
    told: bool,
}

impl Change {
    /// The change that an operation makes; `None` for an operation without a change. Parts of an
    /// upload are not logged: the content comes into being when the upload is completed.
    pub(super) fn of(operation: &Operation, caller: &Caller, address: Option<IpAddr>) -> Option<Self> {
        let of = |repository: &RepositoryName| format!(" repository={repository}");
        let (action, what) = match operation {
            Operation::PutManifest(repository, reference, tags) => {
                let mut what = of(repository);
                let named = match reference {
                    Reference::Tag(tag) => Some(tag),
                    Reference::Digest(_) => None,
                };
                for tag in named.into_iter().chain(tags) {
                    let _ = write!(what, " tag={tag}");
                }
                ("push-manifest", what)
            }
            Operation::DeleteManifest(repository, Reference::Tag(tag)) => {
                ("delete-tag", format!("{} tag={tag}", of(repository)))
            }
            Operation::DeleteManifest(repository, Reference::Digest(digest)) => {
                ("delete-manifest", format!("{} digest={digest}", of(repository)))
            }
            Operation::DeleteBlob(repository, digest) => ("delete-blob", format!("{} digest={digest}", of(repository))),
            Operation::PushBlob(repository, _) | Operation::CompleteUpload(repository, ..) => {
                ("push-blob", of(repository))
            }
            Operation::MountBlob { repository, from: Some(from), .. } => {
                ("mount-blob", format!("{} from={from}", of(repository)))
            }
            Operation::MountBlob { repository, from: None, .. } => ("mount-blob", of(repository)),
            Operation::SetWarning(repository, _) => ("set-warning", of(repository)),
            Operation::DeleteWarning(repository, _) => ("delete-warning", of(repository)),
            Operation::Collect { dry_run: false } => ("collect", String::new()),
            Operation::PutUser(name) => ("put-user", format!(" name={}", quoted(name))),
            Operation::DeleteUser(name) => ("delete-user", format!(" name={}", quoted(name))),
            Operation::PutToken(name) => ("put-token", format!(" name={}", quoted(name))),
            Operation::DeleteToken(name) => ("delete-token", format!(" name={}", quoted(name))),
            Operation::Version
            | Operation::Catalog(_)
            | Operation::Tags(..)
            | Operation::GetManifest(..)
            | Operation::GetBlob(..)
            | Operation::Referrers(..)
            | Operation::GetWarnings(..)
            | Operation::Collect { dry_run: true }
            | Operation::Check
            | Operation::Token(_)
            | Operation::PostToken
            | Operation::ListUsers(_)
            | Operation::ListTokens(_)
            | Operation::BeginUpload(..)
            | Operation::UploadStatus(..)
            | Operation::AppendUpload(..)
            | Operation::CancelUpload(..) => return None,
        };
        Some(Self { who: who(caller.user.as_deref(), address), action, what, told: false })
    }

    /// Logs the change with its outcome. A refused operation has changed nothing, and neither has a
    /// mount that began an upload: both are not logged. A failure may have changed something and is
    /// logged.
    pub(super) fn tell(mut self, outcome: &Result<Reply, Error>) {
        self.told = true;
        match outcome {
            Ok(reply) if self.action == "mount-blob" && reply.status() == http::StatusCode::ACCEPTED => {}
            Ok(reply) => {
                let digest = reply.digest().map(|digest| format!(" digest={digest}")).unwrap_or_default();
                tell(format_args!("{} {}{}{digest}", self.action, self.who, self.what));
            }
            Err(why) if why.may_have_changed() => {
                tell(format_args!("{} {}{} outcome=failed", self.action, self.who, self.what));
            }
            Err(_) => {}
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if !self.told {
            tell(format_args!("{} {}{} outcome=unknown", self.action, self.who, self.what));
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
    tell(format_args!("login-refused {} with={kind} why={why}", who(user, address)));
}

/// Logs an action that the program takes by itself or at the command line.
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub(crate) fn tell_own(action: &str, name: &str) {
    tell(format_args!("{action} user=- address=- name={}", quoted(name)));
}

fn tell(line: std::fmt::Arguments<'_>) {
    tracing::warn!(target: TARGET, "{line}");
}

fn who(user: Option<&str>, address: Option<IpAddr>) -> String {
    let user = user.map_or("-".into(), quoted);
    let address = address.map_or("-".into(), |address| address.to_string());
    format!("user={user} address={address}")
}

/// A text in Rust's quoted form, which escapes control characters and changes of direction.
fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(USER_CHARACTERS_MAX).collect::<String>())
}
