//! Public keys, as issuers publish them (RFC 7517): RSA for RS256, P-256 for ES256.

use std::collections::HashMap;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use p256::ecdsa;
use rsa::signature::Verifier as _;
use rsa::{BoxedUint, RsaPublicKey, pkcs1v15};
use serde::Deserialize;
use sha2::Sha256;

/// The most keys of an issuer that are kept.
const KEYS_MAX: usize = 100;
/// The accepted sizes of an RSA key, in bits: smaller keys are not safe, larger keys take too long.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A public key, bound to the one algorithm that the key is for.
#[derive(Clone, Debug)]
pub(super) enum PublicKey {
    Rs256(Box<pkcs1v15::VerifyingKey<Sha256>>),
    Es256(Box<ecdsa::VerifyingKey>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl PublicKey {
    /// Whether `signature` is a signature of `signed` by this key, and `algorithm` is the key's
    /// algorithm.
    pub(super) fn verifies(&self, algorithm: &str, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rs256(key) if algorithm == "RS256" => {
                pkcs1v15::Signature::try_from(signature).is_ok_and(|signature| key.verify(signed, &signature).is_ok())
            }
            Self::Es256(key) if algorithm == "ES256" => {
                ecdsa::Signature::from_slice(signature).is_ok_and(|signature| key.verify(signed, &signature).is_ok())
            }
            _ => false,
        }
    }

    fn of(jwk: &Jwk) -> Option<Self> {
        let bytes = |field: &Option<String>| Base64UrlUnpadded::decode_vec(field.as_deref()?).ok();
        match (jwk.kty.as_str(), jwk.alg.as_deref().unwrap_or_default()) {
            ("RSA", "RS256" | "") => {
                let uint = |bytes: Vec<u8>| BoxedUint::from_be_slice_vartime(&bytes);
                let (n, e) = (bytes(&jwk.n)?, bytes(&jwk.e)?);
                if n.len() * 8 > *RSA_BITS.end() || e.len() > 8 {
                    return None;
                }
                let key = RsaPublicKey::new_with_size_limits(uint(n), uint(e), RSA_BITS).ok()?;
                Some(Self::Rs256(Box::new(pkcs1v15::VerifyingKey::new(key))))
            }
            ("EC", "ES256" | "") if jwk.crv.as_deref() == Some("P-256") => {
                let point = [vec![4], bytes(&jwk.x)?, bytes(&jwk.y)?].concat();
                Some(Self::Es256(Box::new(ecdsa::VerifyingKey::from_sec1_bytes(&point).ok()?)))
            }
            _ => None,
        }
    }
}

/// The keys of a key set, by their ids. Keys of other kinds are left out. `None` if the bytes are
/// not a key set.
pub(super) fn parse_keys(bytes: &[u8]) -> Option<HashMap<String, PublicKey>> {
    let set: Set = serde_json::from_slice(bytes).ok()?;
    let jwks = set.keys.into_iter().take(KEYS_MAX).filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let signs = jwks.filter(|jwk| jwk.usage.as_deref().is_none_or(|usage| usage == "sig"));
    Some(signs.filter_map(|jwk| Some((jwk.kid.clone(), PublicKey::of(&jwk)?))).collect())
}
