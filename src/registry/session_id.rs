//! The names of upload sessions.

use std::fmt;
use std::str::FromStr;

/// The name of an upload session: a UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionId(String);

/// The text is not the name of an upload session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of an upload session must be a UUID")]
pub struct SessionIdError;

impl SessionId {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = SessionIdError;

    /// # Errors
    /// When `text` is not a UUID.
    fn from_str(text: &str) -> Result<Self, SessionIdError> {
        let id = uuid::Uuid::try_parse(text).map_err(|_| SessionIdError)?;
        Ok(Self(id.to_string()))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
