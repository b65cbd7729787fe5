//! Content digests (image-spec, "Digests") and the hashers that compute them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::digest::Update;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256, Sha512};

/// A content digest: `algorithm:hex`, with a registered algorithm, in canonical (lower case) form.
///
/// ```
/// use eyot::oci::{Algorithm, Digest};
/// let digest: Digest = Algorithm::Sha256.digest(b"hello");
/// assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
/// assert!("sha256:abc".parse::<Digest>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    // The whole text, as compared, stored and sent.
    text: String,
    algorithm: Algorithm,
}

/// The registered digest algorithms (image-spec, "Registered algorithms").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256, the default of every client.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

/// The reason why a text is not accepted as a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// The text does not follow the grammar `algorithm:encoded`, or the encoded part has the wrong
    /// length or alphabet.
    #[error("not a digest: want algorithm:hex in lower case, as in sha256:<64 hex digits>")]
    Malformed,
    /// The text follows the grammar, but the algorithm is neither SHA-256 nor SHA-512.
    #[error("unsupported digest algorithm: want sha256 or sha512")]
    UnsupportedAlgorithm,
}

impl Algorithm {
    /// The name before the colon of a digest: `sha256` or `sha512`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    const fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(self);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(DigestError::UnsupportedAlgorithm),
        }
    }
}

impl Digest {
    /// The algorithm before the colon.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hex digits after the colon.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }

    /// The whole text, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Every digest that occurs in `text`, including inside a longer text such as
    /// `repository@sha256:<hex>`.
    pub fn all_in(text: &[u8]) -> impl Iterator<Item = Self> {
        let colons = text.iter().enumerate().filter(|(_, byte)| **byte == b':');
        colons.filter_map(|(colon, _)| {
            let algorithm = [Algorithm::Sha256, Algorithm::Sha512]
                .into_iter()
                .find(|algorithm| text[..colon].ends_with(algorithm.as_str().as_bytes()))?;
            let start = colon - algorithm.as_str().len();
            let end = colon + 1 + algorithm.hex_length();
            std::str::from_utf8(text.get(start..end)?).ok()?.parse().ok()
        })
    }

    /// True when `bytes` hash to this digest.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.algorithm.digest(bytes) == *self
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, encoded) = text.split_once(':').ok_or(DigestError::Malformed)?;
        let grammatical = |part: &str, extra: &[u8]| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
        };
        if !grammatical(algorithm, b"+._-") || !grammatical(encoded, b"=_-") {
            return Err(DigestError::Malformed);
        }
        let algorithm: Algorithm = algorithm.parse()?;
        let canonical = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if encoded.len() != algorithm.hex_length() || !encoded.bytes().all(canonical) {
            return Err(DigestError::Malformed);
        }
        Ok(Self { text: text.to_owned(), algorithm })
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A hash computation in progress. Its state can be stored with an upload and resumed by another
/// process, so that a blob that arrives in many requests is hashed only once.
#[derive(Clone)]
pub enum Hasher {
    /// See [`Algorithm::Sha256`].
    Sha256(Sha256),
    /// See [`Algorithm::Sha512`].
    Sha512(Sha512),
}

/// A [`Hasher`]'s state in a form that can be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HasherState {
    algorithm: Algorithm,
    #[serde(with = "hex::serde")]
    state: Vec<u8>,
}

impl Hasher {
    /// A hasher without any input so far.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// The algorithm that the hasher computes.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => Update::update(hasher, bytes),
            Self::Sha512(hasher) => Update::update(hasher, bytes),
        }
    }

    /// Returns the digest of all bytes that were added.
    pub fn finish(self) -> Digest {
        let (algorithm, encoded) = match self {
            Self::Sha256(hasher) => (Algorithm::Sha256, hex::encode(hasher.finalize())),
            Self::Sha512(hasher) => (Algorithm::Sha512, hex::encode(hasher.finalize())),
        };
        Digest { text: format!("{}:{encoded}", algorithm.as_str()), algorithm }
    }

    /// The state to store; [`Hasher::resume`] continues from the state.
    pub fn state(&self) -> HasherState {
        match self {
            Self::Sha256(hasher) => HasherState { algorithm: Algorithm::Sha256, state: hasher.serialize().to_vec() },
            Self::Sha512(hasher) => HasherState { algorithm: Algorithm::Sha512, state: hasher.serialize().to_vec() },
        }
    }

    /// Continues from a stored state. Returns `None` for a state that [`Hasher::state`] did not
    /// produce.
    pub fn resume(state: &HasherState) -> Option<Self> {
        fn load<H: SerializableState>(bytes: &[u8]) -> Option<H> {
            H::deserialize(&SerializedState::<H>::try_from(bytes).ok()?).ok()
        }
        match state.algorithm {
            Algorithm::Sha256 => load(&state.state).map(Self::Sha256),
            Algorithm::Sha512 => load(&state.state).map(Self::Sha512),
        }
    }
}

impl HasherState {
    /// The algorithm being computed.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_digests() {
        assert_eq!(Algorithm::Sha256.digest(b"").as_str(), EMPTY);
        assert!(Algorithm::Sha512.digest(b"abc").hex().starts_with("ddaf35a193617aba"));
    }

    #[test]
    fn refuses_what_is_not_canonical() {
        let upper = EMPTY.to_uppercase();
        let short = &EMPTY[..EMPTY.len() - 1];
        let long = format!("{EMPTY}0");
        for bad in ["", "sha256", "sha256:", ":abc", short, &long, &EMPTY.replace("e3", "E3"), "sha256:../../etc"] {
            assert_eq!(bad.parse::<Digest>(), Err(DigestError::Malformed), "{bad}");
        }
        for unsupported in [upper.as_str(), "md5:d41d8cd98f00b204e9800998ecf8427e", "sha384:aa"] {
            assert_eq!(unsupported.parse::<Digest>(), Err(DigestError::UnsupportedAlgorithm), "{unsupported}");
        }
    }

    #[test]
    fn a_hasher_goes_on_from_its_stored_state_at_any_split() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for split in [0, 1, 63, 64, 65, 127, 128, 129, 999, 1000] {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&bytes[..split]);
                let stored = serde_json::to_string(&hasher.state()).unwrap();
                let mut hasher = Hasher::resume(&serde_json::from_str(&stored).unwrap()).unwrap();
                hasher.update(&bytes[split..]);
                assert_eq!(hasher.finish(), algorithm.digest(&bytes), "split at {split}");
            }
        }
    }

    #[test]
    fn a_foreign_state_is_refused() {
        let state = HasherState { algorithm: Algorithm::Sha256, state: vec![1, 2, 3] };
        assert!(Hasher::resume(&state).is_none());
    }
}
