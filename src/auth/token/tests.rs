use futures_executor::block_on;

use super::*;
use crate::auth::Scope;
use crate::store::counting::Counting;
use crate::store::memory::MemoryKeyValue;
use std::sync::atomic::{AtomicU64, Ordering};

/// A platform whose clock the test sets.
struct Clock(AtomicU64);

impl Platform for Clock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn random(&self) -> [u8; 16] {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed)).to_le_bytes()
    }
}

const NOW_MS: u64 = 1_700_000_000_000;

fn clock() -> Arc<Clock> {
    Arc::new(Clock(AtomicU64::new(NOW_MS)))
}

fn tokens(service: &str) -> (Tokens, Arc<Clock>) {
    let clock = clock();
    (Tokens::with_key(service, &Secret::new("a key of the tests"), clock.clone()), clock)
}

fn alice() -> Caller {
    Caller::unlimited(Some("alice".into())).narrowed(&[Scope::parse("repository:team/app:pull,push").unwrap()])
}

fn verify(tokens: &Tokens, text: impl Into<String>) -> Option<Caller> {
    block_on(tokens.verify(&Secret::new(text))).unwrap()
}

/// A correctly signed token with any header and claims.
fn forge(tokens: &Tokens, header: &serde_json::Value, claims: &serde_json::Value) -> String {
    let part = |json: &serde_json::Value| Base64UrlUnpadded::encode_string(json.to_string().as_bytes());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = tokens.held_key().unwrap().mac(&signed).finalize().into_bytes();
    format!("{signed}.{}", Base64UrlUnpadded::encode_string(&signature))
}

fn parts(tokens: &Tokens) -> (serde_json::Value, serde_json::Value) {
    let header = serde_json::json!({ "alg": "HS256", "typ": "JWT", "kid": tokens.held_key().unwrap().id });
    let seconds = NOW_MS / 1000;
    let claims = serde_json::json!({
        "iss": "eyot", "aud": "here", "sub": "alice", "iat": seconds, "nbf": seconds, "exp": seconds + 60,
        "access": [{ "type": "repository", "name": "team/app", "actions": ["pull"] }],
    });
    (header, claims)
}

#[test]
fn a_token_is_the_caller_in_writing() {
    let (tokens, _) = tokens("here");
    let token = block_on(tokens.sign(&alice())).unwrap();
    let caller = verify(&tokens, token.text.expose()).unwrap();
    assert_eq!(caller, alice());
    assert!(caller.may(Action::Push, &"team/app".parse().unwrap()));
    assert!(!caller.may(Action::Delete, &"team/app".parse().unwrap()));
    assert!(!caller.may(Action::Pull, &"team/other".parse().unwrap()));
    assert!(!caller.may_somewhere(Action::List));
    assert!(!format!("{token:?}").contains("eyJ"), "{token:?}");
}

#[test]
fn expired_and_early_tokens_are_refused() {
    let (tokens, clock) = tokens("here");
    let text = block_on(tokens.sign(&alice())).unwrap().text.expose().to_owned();
    for (ms, expected) in [(0, true), (LIFETIME_MS - 1000, true), (LIFETIME_MS, false), (LIFETIME_MS * 100, false)] {
        clock.0.store(NOW_MS + ms, Ordering::Relaxed);
        assert_eq!(verify(&tokens, &text).is_some(), expected, "{ms} ms later");
    }
    clock.0.store(NOW_MS - SKEW_MS - 1000, Ordering::Relaxed);
    assert_eq!(verify(&tokens, &text), None, "from the future");
}

#[test]
fn tokens_of_other_signers_and_for_other_registries_are_refused() {
    let (tokens, _) = tokens("here");
    let (header, claims) = parts(&tokens);
    assert!(verify(&tokens, forge(&tokens, &header, &claims)).is_some(), "the forger works");
    for (what, header_change, claims_change) in [
        ("no algorithm", Some(("alg", "none".into())), None),
        ("NONE", Some(("alg", "NoNe".into())), None),
        ("another algorithm", Some(("alg", "RS256".into())), None),
        ("HS512", Some(("alg", "HS512".into())), None),
        ("a key in the header", Some(("jwk", serde_json::json!({ "kty": "oct", "k": "AA" }))), None),
        ("critical extensions", Some(("crit", serde_json::json!(["exp"]))), None),
        ("another key", Some(("kid", "0000000000000000".into())), None),
        ("another type", Some(("typ", "at+jwt".into())), None),
        ("another issuer", None, Some(("iss", "else".into()))),
        ("another service", None, Some(("aud", "there".into()))),
        ("several services", None, Some(("aud", serde_json::json!(["here", "there"])))),
        ("expired", None, Some(("exp", (NOW_MS / 1000).into()))),
        ("never expires", None, Some(("exp", serde_json::Value::Null))),
        ("not yet", None, Some(("nbf", (NOW_MS / 1000 + 60).into()))),
        (
            "an action that there is not",
            None,
            Some(("access", serde_json::json!([{ "type": "repository", "name": "a", "actions": ["fly"] }]))),
        ),
        (
            "another kind",
            None,
            Some(("access", serde_json::json!([{ "type": "planet", "name": "a", "actions": ["pull"] }]))),
        ),
    ] {
        let (mut header, mut claims) = (header.clone(), claims.clone());
        if let Some((name, value)) = header_change {
            header[name] = value;
        }
        if let Some((name, value)) = claims_change {
            claims[name] = value;
        }
        assert_eq!(verify(&tokens, forge(&tokens, &header, &claims)), None, "{what}");
    }
    let text = forge(&tokens, &header, &claims);
    let (signed, signature) = text.rsplit_once('.').unwrap();
    let none = Base64UrlUnpadded::encode_string(br#"{"alg":"none"}"#);
    let claims_part = signed.split_once('.').unwrap().1;
    for wrong in [
        format!("{signed}."),
        format!("{signed}.{}", "A".repeat(43)),
        format!("{signed}.{}", &signature[..40]),
        format!("{signed}.{signature}A"),
        format!("{signed}.{signature}="),
        format!("{none}.{claims_part}."),
        format!("{none}.{claims_part}.{signature}"),
        format!("x.{signed}.{signature}"),
        signed.to_owned(),
        "..".to_owned(),
        String::new(),
        "é.é.é".to_owned(),
    ] {
        assert_eq!(verify(&tokens, &wrong), None, "{wrong}");
    }
}

#[test]
fn a_token_of_another_service_or_key_is_refused() {
    let (here, _) = tokens("here");
    let (there, _) = tokens("there");
    let other_key = Tokens::with_key("here", &Secret::new("another key"), clock());
    let text = block_on(here.sign(&alice())).unwrap().text;
    for other in [&there, &other_key] {
        assert_eq!(verify(other, text.expose()), None);
    }
}

#[test]
fn every_byte_counts() {
    let (tokens, _) = tokens("here");
    let text = block_on(tokens.sign(&alice())).unwrap().text.expose().to_owned();
    for at in 0..text.len() {
        for replacement in [b'A', b'b', b'.', b'-', b'0'] {
            let mut changed = text.clone().into_bytes();
            if changed[at] == replacement {
                continue;
            }
            changed[at] = replacement;
            assert_eq!(verify(&tokens, String::from_utf8(changed).unwrap()), None, "byte {at}");
        }
    }
}

#[test]
fn instances_share_the_key_in_the_store() {
    let keys = Arc::new(Counting::new(Arc::new(MemoryKeyValue::default())));
    let clock = clock();
    let instance = || Tokens::stored("here", keys.clone(), clock.clone());
    let (one, two) = (instance(), instance());
    let text = block_on(one.sign(&alice())).unwrap().text;
    assert_eq!(verify(&two, text.expose()), Some(alice()));
    keys.counts.take();
    for tokens in [&one, &two] {
        assert_eq!(verify(tokens, text.expose()), Some(alice()));
        block_on(tokens.sign(&alice())).unwrap();
    }
    assert_eq!(keys.counts.take(), [0; 4], "the key is held");

    // Tokens signed with an unknown key cost at most one storage call together.
    let foreign = Tokens::with_key("here", &Secret::new("another key"), clock);
    let text = block_on(foreign.sign(&alice())).unwrap().text;
    for _ in 0..100 {
        assert_eq!(verify(&one, text.expose()), None);
    }
    assert!(keys.counts.take().iter().sum::<u64>() <= 1);
}
