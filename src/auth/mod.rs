//! Who may do what: credentials become a [`Caller`], a caller holds grants, and grants answer every question.
//!
//! [`Authority`] is the port: it says who is calling. [`Policy`] alone is one for registries without users; [`Accounts`] is the
//! one with users, machine tokens and OIDC. A signed token ([`Tokens`]) is a caller in writing, narrowed to
//! what it was asked for. Nothing here knows HTTP.

mod access;
mod accounts;
mod caller;
mod directory;
mod flight;
mod jwk;
mod logins;
mod oidc;
mod outbound;
mod password;
mod pattern;
mod policy;
mod remembered;
mod scope;
mod seal;
mod secret;
mod throttle;
mod token;
mod turn;

use std::net::IpAddr;

use async_trait::async_trait;

pub use access::Access;
pub use accounts::Accounts;
pub use caller::{Action, Caller, Grant, Narrowed};
pub use directory::{Directory, DirectoryError, MachineToken, check_password};
pub use oidc::{DOCUMENT_BYTES_MAX, Document, IssuerRules, Issuers, JwksSource};
pub use outbound::Outbound;
pub use password::{
    PASSWORD_BYTES_MAX, PasswordHash, PasswordHashError, USER_NAME_BYTES_MAX, check_user_name, parse_htpasswd,
};
#[cfg(test)]
pub(crate) use pattern::MATCHES;
pub use pattern::{Pattern, PatternError};
pub use policy::{Policy, PolicyError, RULES_MAX};
pub use scope::{SCOPE_BYTES_MAX, Scope};
pub use seal::Seal;
pub use secret::Secret;
pub use token::{KEY_ENTROPY_BITS_MIN, Token, Tokens};

use crate::store;

/// Credentials as a request brings them.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// None at all.
    Anonymous,
    /// A name and a password, or what stands for one.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token.
    Bearer(Secret),
}

/// Somebody's attempt to be let in.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// What they bring.
    pub credentials: &'a Credentials,
    /// Where they come from, where the host knows it.
    pub address: Option<IpAddr>,
}

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The credentials are wrong, or no longer right. Nobody is told which, or whether there is such a user.
    #[error("the credentials are not right")]
    Unauthorized,
    /// There were too many wrong credentials lately; these were not looked at.
    #[error("too many attempts")]
    TooManyAttempts {
        /// When to try again, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// More logins are under way than can be looked at; this one was not.
    #[error("too many logins at once")]
    Busy {
        /// When to try again, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// A token for all that was asked for would be longer than a header can be.
    #[error("the token would not fit into a header")]
    TokenTooLarge,
    /// The keys of the issuer of a token cannot be had, so nobody can tell whether the token is right. The log says why.
    #[error("the keys of issuer {0} cannot be fetched")]
    Issuer(String),
    /// Whether they are right could not be found out.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Says who is calling and what they may do. A program around eyot that has users of its own brings its own:
///
/// ```
/// use eyot::auth::{Attempt, Authority, Caller, Credentials, Refusal};
///
/// struct Office;
///
/// #[async_trait::async_trait]
/// impl Authority for Office {
///     async fn identify(&self, attempt: Attempt<'_>) -> Result<Caller, Refusal> {
///         match attempt.credentials {
///             Credentials::Bearer(badge) if badge.expose() == "of the boss" => Ok(Caller::unlimited(Some("boss".into()))),
///             Credentials::Anonymous => Ok(Caller::default()),
///             _ => Err(Refusal::Unauthorized),
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Authority: Send + Sync {
    /// Who is calling. Without credentials: what anyone may do, which may be nothing.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] for credentials that are not right; never an anonymous caller instead.
    async fn identify(&self, attempt: Attempt<'_>) -> Result<Caller, Refusal>;
}
