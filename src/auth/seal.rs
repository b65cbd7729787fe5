//! Sealed texts: a client carries a sealed name to the next page of a list and cannot read the name.
//! Tokens of upstreams are encrypted in the store in the same way.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::Secret;
use crate::oci::name::NAME_BYTES_MAX;

/// The bytes of the code at the beginning of a sealed name. The code authenticates the name, and
/// the mask that hides the name is derived from the code.
const CODE_BYTES: usize = 16;
/// Names are padded to this length, so that a sealed name does not show how long the name is.
const PADDED_BYTES: usize = NAME_BYTES_MAX + 1;

/// A key that seals names. HMAC-SHA-256 makes a code of the name and then, from the code, the bytes
/// that hide the name.
#[derive(Clone)]
pub struct Seal {
    key: [u8; 32],
}

impl Seal {
    /// Takes a secret key.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// A key for one purpose, derived from a secret text.
    pub fn derived(purpose: &str, secret: &Secret) -> Self {
        let mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes keys of any length");
        Self { key: mac.chain_update(purpose).finalize().into_bytes().into() }
    }

    /// Seals a name of at most 255 bytes.
    pub fn close(&self, name: &str) -> String {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(PADDED_BYTES.max(bytes.len()), 0);
        let code = self.code(&bytes);
        self.hide(&code, &mut bytes);
        Base64UrlUnpadded::encode_string(&[&code[..], &bytes].concat())
    }

    /// The name in a text that this key sealed; `None` for any other text.
    pub fn open(&self, text: &str) -> Option<String> {
        let sealed = Base64UrlUnpadded::decode_vec(text).ok()?;
        let (code, hidden) = sealed.split_at_checked(CODE_BYTES).filter(|(_, rest)| rest.len() == PADDED_BYTES)?;
        let mut bytes = hidden.to_vec();
        self.hide(code, &mut bytes);
        bool::from(self.code(&bytes).ct_eq(code))
            .then(|| String::from_utf8(bytes).ok())?
            .map(|name| name.trim_end_matches('\0').to_owned())
    }

    /// Encrypts a text of any length. The result shows the length of the text, and whether two texts
    /// are the same.
    pub fn encrypt(&self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let code = self.code(&bytes);
        self.hide(&code, &mut bytes);
        Base64UrlUnpadded::encode_string(&[&code[..], &bytes].concat())
    }

    /// The text that this key encrypted; `None` for any other input.
    pub fn decrypt(&self, sealed: &str) -> Option<String> {
        let sealed = Base64UrlUnpadded::decode_vec(sealed).ok()?;
        let (code, hidden) = sealed.split_at_checked(CODE_BYTES)?;
        let mut bytes = hidden.to_vec();
        self.hide(code, &mut bytes);
        bool::from(self.code(&bytes).ct_eq(code)).then(|| String::from_utf8(bytes).ok())?
    }

    fn code(&self, bytes: &[u8]) -> [u8; CODE_BYTES] {
        let mac = self.mac(b"code").chain_update(bytes).finalize().into_bytes();
        mac[..CODE_BYTES].try_into().expect("a MAC has 32 bytes")
    }

    fn hide(&self, code: &[u8], bytes: &mut [u8]) {
        for (number, block) in bytes.chunks_mut(32).enumerate() {
            let mask = self
                .mac(b"mask")
                .chain_update(code)
                .chain_update((number as u64).to_be_bytes())
                .finalize()
                .into_bytes();
            block.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        }
    }

    fn mac(&self, purpose: &[u8]) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.key).expect("HMAC takes keys of any length").chain_update(purpose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_opens_a_seal() {
        let (seal, other) = (Seal::new([1; 32]), Seal::new([2; 32]));
        for name in ["a", "team/app", &"x".repeat(NAME_BYTES_MAX)] {
            let sealed = seal.close(name);
            assert_eq!(seal.open(&sealed).as_deref(), Some(name));
            assert_eq!(other.open(&sealed), None);
            assert_eq!(sealed.len(), seal.close("b").len(), "the length tells nothing");
            let mut changed = sealed.clone();
            changed.replace_range(40..41, if &sealed[40..41] == "A" { "B" } else { "A" });
            assert_eq!(seal.open(&changed), None);
        }
        for text in ["", "team/app", "AAAA", &"A".repeat(5000)] {
            assert_eq!(seal.open(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_key_decrypts_a_text() {
        let (seal, other) = (Seal::new([1; 32]), Seal::new([2; 32]));
        for text in ["", "a", &"ab".repeat(20_000)] {
            let sealed = seal.encrypt(text);
            assert_eq!(seal.decrypt(&sealed).as_deref(), Some(text));
            assert_eq!(other.decrypt(&sealed), None);
            assert!(text.is_empty() || !sealed.contains(text));
        }
        // The mask of every block differs: equal blocks of the text are not equal when encrypted.
        let sealed = Base64UrlUnpadded::decode_vec(&seal.encrypt(&"x".repeat(32 * 600))).unwrap();
        let blocks: std::collections::HashSet<&[u8]> = sealed[CODE_BYTES..].chunks(32).collect();
        assert_eq!(blocks.len(), 600);
        for text in ["", "AAAA", "not base64!", &"A".repeat(5000)] {
            assert_eq!(seal.decrypt(text), None, "{text}");
        }
    }
}
