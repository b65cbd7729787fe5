//! The failures of a store.

use std::borrow::Cow;
use std::sync::Arc;

use crate::platform::{BodyError, SendError, SourceError};

/// Why a store operation failed. Callers handle each case differently.
///
/// The text names the operation and the key, object or path, and is for the log: a client must not
/// see it. [`source`](std::error::Error::source) is the cause, and
/// [`Causes`](crate::platform::Causes) shows both.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A condition did not hold, or another request took the stage. The store changed nothing.
    #[error(transparent)]
    Conflict(Failure),
    /// The back end cannot honour the condition. The store changed nothing; the caller continues
    /// without the condition or gives up.
    #[error(transparent)]
    Unsupported(Failure),
    /// The store could not be reached or failed. The change may or may not have happened; never
    /// read this error as absence.
    #[error(transparent)]
    Unavailable(Failure),
    /// No space is left. The write was not acknowledged; reads and deletes still work.
    #[error(transparent)]
    Full(Failure),
    /// The store can only be read.
    #[error(transparent)]
    ReadOnly(Failure),
    /// The stored data is missing, or cannot be the data that was written.
    #[error(transparent)]
    Corrupt(Failure),
}

/// The text and the cause of an [`Error`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    text: Cow<'static, str>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// Two failures are equal if their texts are. Causes cannot be compared.
impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Failure {}

impl Failure {
    /// A failure without a cause. `text` has a verb, and names the key, object or path.
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: text.into(), source: None }
    }

    /// The same failure with its cause.
    pub fn because(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Arc::new(source)), ..self }
    }
}

/// One function for each kind. `text` has a verb, and names the key, object or path.
impl Error {
    /// An [`Error::Conflict`].
    pub fn conflict(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Conflict(Failure::new(text))
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Unsupported(Failure::new(text))
    }

    /// An [`Error::Unavailable`].
    pub fn unavailable(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Unavailable(Failure::new(text))
    }

    /// An [`Error::Corrupt`].
    pub fn corrupt(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Corrupt(Failure::new(text))
    }

    /// An [`Error::Conflict`]: the condition of a write or delete does not hold.
    pub(crate) fn condition_failed(key: &str) -> Self {
        Self::conflict(format!("key {key} does not meet the condition of the request"))
    }

    /// The same error with its cause.
    pub fn because(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.map(|failure| failure.because(source))
    }

    /// An error of the same kind with the failure that `change` makes.
    fn map(self, change: impl FnOnce(Failure) -> Failure) -> Self {
        match self {
            Self::Conflict(failure) => Self::Conflict(change(failure)),
            Self::Unsupported(failure) => Self::Unsupported(change(failure)),
            Self::Unavailable(failure) => Self::Unavailable(change(failure)),
            Self::Full(failure) => Self::Full(change(failure)),
            Self::ReadOnly(failure) => Self::ReadOnly(change(failure)),
            Self::Corrupt(failure) => Self::Corrupt(change(failure)),
        }
    }
}

/// A body that is read from a store carries the error of the store.
impl From<Error> for BodyError {
    fn from(error: Error) -> Self {
        Self::Source(SourceError::new(error))
    }
}

/// Appending a body that fails is a failure of the store: an error of the source store stays the
/// same, and every other reason becomes the cause of an [`Error::Unavailable`].
impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        let of_store = match &error {
            BodyError::Source(source) => source.downcast_ref::<Self>().cloned(),
            _ => None,
        };
        of_store.unwrap_or_else(|| Self::unavailable("cannot read the body").because(error))
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Unsupported => Self::unsupported("cannot send a request to another server").because(error),
            SendError::TimedOut(_) | SendError::Failed(_) => {
                Self::unavailable("the server gave no answer").because(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io;

    use super::*;
    use crate::platform::Causes;

    #[test]
    fn an_error_keeps_its_cause_through_a_body() {
        let disk = io::Error::other("EIO");
        let error = Error::unavailable("cannot read /data/x").because(disk);
        let back = Error::from(BodyError::from(error.clone()));
        assert_eq!(back, error);
        assert_eq!(back.source().unwrap().to_string(), "EIO");
        assert_eq!(Causes(&back).to_string(), "cannot read /data/x: EIO");
    }

    #[test]
    fn a_broken_body_is_the_cause_of_a_failed_append() {
        let error = Error::from(BodyError::Interrupted("connection reset".into()));
        assert_eq!(Causes(&error).to_string(), "cannot read the body: the body broke off: connection reset");
    }
}
