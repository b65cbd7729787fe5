//! Access control: credentials become a [`Caller`], a caller holds grants, and grants decide every
//! request.
//!
//! [`Authority`] is the port that identifies callers. [`Policy`] alone is an authority for
//! registries without users; `Accounts` (feature `accounts`) is the authority with users, machine
//! tokens and OIDC. A signed token ([`Tokens`]) is a caller in writing, narrowed to the scopes that were asked for.
//! The layer is independent of the HTTP layer.

mod access;
#[cfg(feature = "accounts")]
mod accounts;
mod action;
mod caller;
#[cfg(feature = "accounts")]
mod directory;
#[cfg(feature = "accounts")]
mod flight;
mod invalid;
#[cfg(feature = "accounts")]
mod jwk;
#[cfg(feature = "accounts")]
mod lease;
#[cfg(feature = "accounts")]
mod logins;
#[cfg(feature = "accounts")]
mod oidc;
#[cfg(feature = "accounts")]
mod outbound;
#[cfg(feature = "accounts")]
mod password;
mod pattern;
mod policy;
#[cfg(feature = "accounts")]
mod remembered;
mod scope;
mod seal;
mod secret;
#[cfg(feature = "accounts")]
mod throttle;
mod token;

use std::net::IpAddr;

use async_trait::async_trait;

pub use access::Access;
pub use action::Action;
pub use caller::{Caller, Grant, Narrowed};
pub use invalid::InvalidAccess;
#[cfg(test)]
pub(crate) use pattern::MATCHES;
pub use pattern::{Pattern, PatternError, TagPattern, TagPatternError};
pub use policy::{Policy, PolicyError, RULES_MAX};
pub use scope::{SCOPE_BYTES_MAX, Scope};
pub use seal::Seal;
pub use secret::Secret;
pub use token::{KEY_ENTROPY_BITS_MIN, Token, Tokens};
#[cfg(feature = "accounts")]
pub use {
    accounts::Accounts,
    directory::{Directory, DirectoryError, MachineToken, check_password},
    oidc::{DOCUMENT_BYTES_MAX, Document, IssuerRules, Issuers, JwksSource},
    outbound::Outbound,
    password::{PASSWORD_BYTES_MAX, PasswordHash, PasswordHashError, check_user_name, parse_htpasswd},
};

use crate::store;

/// The keys of this layer that a collection may remove when they have expired.
#[cfg(feature = "accounts")]
pub const EXPIRING: [store::Expiring; 1] = [throttle::FAILURES];

/// The most bytes that the name of a user may have.
pub const USER_NAME_BYTES_MAX: usize = 64;

/// The credentials of a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Credentials {
    /// No credentials.
    Anonymous,
    /// A name and a password, or a token in place of the password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A bearer token.
    Bearer(Secret),
}

/// The credentials of a request, and the address from which they come.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The credentials.
    pub credentials: &'a Credentials,
    /// The client's address, if the host knows it.
    pub address: Option<IpAddr>,
}

/// The reason why an attempt is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The credentials are wrong or have expired. The answer says neither which, nor whether the
    /// user exists.
    #[error("the credentials are not right")]
    Unauthorized,
    /// Too many wrong credentials came lately. The credentials of this attempt were not checked.
    #[error("too many attempts")]
    TooManyAttempts {
        /// When to try again, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// Too many logins are in progress. This login was not checked.
    #[error("too many logins at once")]
    Busy {
        /// When to try again, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// A token for all requested scopes would be longer than a header can be.
    #[error("the token would not fit into a header")]
    TokenTooLarge,
    /// The keys of the token's issuer cannot be fetched, so the token cannot be checked. The log
    /// has the cause.
    #[error("the keys of issuer {0} cannot be fetched")]
    Issuer(String),
    /// The store failed, so the credentials could not be checked.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Identifies callers and says what each caller may do. A program around eyot that has users of its
/// own implements this trait:
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
    /// Identifies the caller. Without credentials: the anonymous caller, with the grants that every
    /// caller has, which may be empty.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] for wrong credentials; wrong credentials never make an anonymous
    /// caller. The other refusals if the credentials could not be checked.
    async fn identify(&self, attempt: Attempt<'_>) -> Result<Caller, Refusal>;
}
