//! Names, tags and digests, compared with a second implementation of their grammars.

use eyot::oci::digest::HasherState;
use eyot::oci::{Algorithm, Digest, Hasher, Reference, RepositoryName, Tag};

pub fn words(data: &[u8]) {
    hashers(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (name, tag, digest) = (text.parse::<RepositoryName>(), text.parse::<Tag>(), text.parse::<Digest>());
    assert_eq!(name.is_ok(), is_name(text), "the name {text:?}");
    assert_eq!(tag.is_ok(), is_tag(text), "the tag {text:?}");
    assert_eq!(digest.is_ok(), is_digest(text), "the digest {text:?}");
    // A valid name is kept unchanged, so that one text means one repository.
    assert!(name.is_ok_and(|name| name.to_string() == text) || !is_name(text));
    match text.parse::<Reference>() {
        Ok(reference) => {
            assert_eq!(reference.to_string(), text);
            assert_eq!(matches!(reference, Reference::Digest(_)), is_digest(text));
            assert_eq!(matches!(reference, Reference::Tag(_)), is_tag(text));
        }
        Err(_) => assert!(!is_tag(text) && !is_digest(text), "the reference {text:?}"),
    }
    if let Ok(digest) = digest {
        assert_eq!(format!("{}:{}", digest.algorithm().as_str(), digest.hex()), text);
        assert_eq!(serde_json::from_value::<Digest>(serde_json::json!(text)).ok(), Some(digest));
    }
}

/// A state machine that reads one byte at a time: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, joined by
/// `/`.
fn is_name(text: &str) -> bool {
    let end = text.bytes().try_fold('/', |before, byte| match (before, byte) {
        (_, b'a'..=b'z' | b'0'..=b'9') => Some('a'),
        ('a', b'.') => Some('.'),
        ('a', b'_') => Some('_'),
        ('_', b'_') => Some('2'),
        ('a' | '-', b'-') => Some('-'),
        ('a', b'/') => Some('/'),
        _ => None,
    });
    end == Some('a') && text.len() <= 255
}

fn is_tag(text: &str) -> bool {
    let allowed = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '-');
    allowed && !text.starts_with(['.', '-']) && (1..=128).contains(&text.len())
}

fn is_digest(text: &str) -> bool {
    let of = |name: &str, length: usize| {
        let hex = text.strip_prefix(name)?;
        Some(hex.len() == length && hex.chars().all(|c| "0123456789abcdef".contains(c)))
    };
    of("sha256:", 64).or(of("sha512:", 128)).unwrap_or(false)
}

/// Any split of the content gives the same digest. A stored state from elsewhere causes no panic.
fn hashers(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let cut = usize::from(*first) % (rest.len() + 1);
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(&rest[..cut]);
        let stored = serde_json::to_string(&hasher.state()).expect("a state that can be written");
        let state: HasherState = serde_json::from_str(&stored).expect("a state that can be read");
        let mut hasher = Hasher::resume(&state).expect("a state of ours");
        hasher.update(&rest[cut..]);
        assert_eq!(hasher.finish(), algorithm.digest(rest));

        // Makes a state of the right length, which bytes of any kind hardly ever have.
        let mut foreign: serde_json::Value = serde_json::from_str(&stored).expect("JSON");
        let state = foreign["state"].as_str().expect("hex digits");
        let fitting: String = rest.iter().cycle().map(|byte| format!("{byte:02x}")).take(state.len() / 2).collect();
        if fitting.len() == state.len() {
            // The number of blocks follows the words of the state. sha2 accepts any number, and the
            // counter then exceeds a u64, which panics where overflows are checked. No content has
            // that many blocks.
            let (from, to) = if algorithm == Algorithm::Sha256 { (64, 80) } else { (128, 160) };
            foreign["state"] = format!("{}{}{}", &fitting[..from], "0".repeat(to - from), &fitting[to..]).into();
        }
        let foreign: HasherState = serde_json::from_value(foreign).expect("hex digits");
        if let Some(mut hasher) = Hasher::resume(&foreign) {
            hasher.update(rest);
            hasher.finish();
        }
    }
}
