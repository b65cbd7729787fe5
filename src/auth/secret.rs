//! Texts that nobody may read: in no log, no error, no debug output.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A password, a key or a token. It has no `Display`, its `Debug` shows nothing of it, and it is compared in constant time.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for whoever really needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether both are the same text. How long it takes tells neither where they differ nor how long the other one is.
    pub fn matches(&self, other: &Secret) -> bool {
        Sha256::digest(&self.0).ct_eq(&Sha256::digest(&other.0)).into()
    }

    /// How many bits of surprise the text has at most, as far as its length and its different characters tell. A text
    /// below a bound is surely weak; one above it may be weak as well.
    pub fn entropy_bits_max(&self) -> u32 {
        let mut different: Vec<char> = self.0.chars().collect();
        let length = different.len() as f64;
        different.sort_unstable();
        different.dedup();
        (length * (different.len().max(1) as f64).log2()) as u32
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_is_shown() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(Secret)");
    }

    #[test]
    fn the_same_text_matches() {
        let secret = Secret::new("correct horse");
        assert!(secret.matches(&Secret::new("correct horse")));
        for other in ["", "correct horsf", "correct hors", "correct horse "] {
            assert!(!secret.matches(&Secret::new(other)), "{other}");
        }
    }

    #[test]
    fn weak_texts_have_few_bits() {
        for (text, least, most) in
            [("", 0, 0), ("aaaaaaaaaaaaaaaa", 0, 0), ("password", 20, 24), ("hmq8Bz-vLw2.eY4k", 60, 70)]
        {
            let bits = Secret::new(text).entropy_bits_max();
            assert!((least..=most).contains(&bits), "{text}: {bits}");
        }
    }
}
