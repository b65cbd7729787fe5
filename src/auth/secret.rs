//! Secret texts: kept out of logs, errors and debug output.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A password, a key or a token. A secret has no `Display`, its `Debug` shows nothing of the text,
/// and secrets are compared in constant time.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret text. To be called only where the text itself is needed.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether both texts are the same. The time of the comparison reveals neither where the texts
    /// differ nor how long the other text is.
    pub fn matches(&self, other: &Secret) -> bool {
        Sha256::digest(&self.0).ct_eq(&Sha256::digest(&other.0)).into()
    }

    /// The entropy of the text in bits, at most, judged by the text's length and number of
    /// different characters. A text below a bound is certainly weak; a text above the bound may be
    /// weak as well.
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
