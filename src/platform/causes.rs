//! Errors with their causes, for the log.

use std::error::Error;
use std::fmt;

/// Shows an error and behind it all its causes, separated by colons.
pub struct Causes<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut last = self.0;
        while let Some(cause) = last.source() {
            write!(f, ": {cause}")?;
            last = cause;
        }
        Ok(())
    }
}
