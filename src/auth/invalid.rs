//! The error of users, passwords and rules that cannot be used.

/// A user, a password or a rule that cannot be used. The text names the value and gives the reason,
/// and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAccess(String);

impl From<String> for InvalidAccess {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for InvalidAccess {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}
