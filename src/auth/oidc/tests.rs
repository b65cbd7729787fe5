use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_executor::block_on;
use p256::ecdsa::signature::Signer as _;
use serde_json::json;

use super::*;

const NOW_MS: u64 = 1_700_000_000_000;
const ISSUER: &str = "https://issuer.example";

/// A platform whose clock the test sets, and that runs background tasks on threads if a test asks
/// for them.
struct Clock(AtomicU64, AtomicBool);

impl Platform for Clock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn random(&self) -> [u8; 16] {
        [0; 16]
    }

    fn runs_tasks(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }

    fn spawn(&self, task: futures_util::future::BoxFuture<'static, ()>) {
        std::thread::spawn(|| block_on(task));
    }
}

/// A gate that blocks callers of `pass` while the gate is closed.
#[derive(Default)]
struct Gate {
    closed: AtomicBool,
    waiting: Mutex<Vec<std::task::Waker>>,
}

impl Gate {
    async fn pass(&self) {
        std::future::poll_fn(|cx| {
            let mut waiting = self.waiting.lock().unwrap();
            if !self.closed.load(Ordering::SeqCst) {
                return std::task::Poll::Ready(());
            }
            waiting.push(cx.waker().clone());
            std::task::Poll::Pending
        })
        .await;
    }

    fn open(&self) {
        let mut waiting = self.waiting.lock().unwrap();
        self.closed.store(false, Ordering::SeqCst);
        waiting.drain(..).for_each(std::task::Waker::wake);
    }
}

/// An issuer with one key of each kind.
struct Issuer {
    es256: p256::ecdsa::SigningKey,
    fetches: AtomicU64,
    answers: AtomicBool,
    gate: Gate,
    /// The address of the keys in the issuer's configuration.
    jwks_uri: Mutex<String>,
}

// An RSA key made for these tests, and a token signed with that key by openssl.
const RSA_N: &str = include_str!("rsa_n.txt");
const RS256_TOKEN: &str = include_str!("rs256_token.txt");

#[async_trait]
impl JwksSource for Issuer {
    async fn fetch(&self, url: &str) -> Result<Document, store::Error> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        self.gate.pass().await;
        if !self.answers.load(Ordering::Relaxed) {
            return Err(store::Error::unavailable("no answer"));
        }
        let document = match url.strip_prefix(ISSUER) {
            Some("/.well-known/openid-configuration") => {
                json!({ "issuer": ISSUER, "jwks_uri": *self.jwks_uri.lock().unwrap() })
            }
            _ if url.ends_with("/keys") => {
                let point = self.es256.verifying_key().to_sec1_point(false);
                let part = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
                json!({ "keys": [
                    { "kty": "oct", "kid": "secret", "k": "AAAA" },
                    { "kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": part(point.x().unwrap()), "y": part(point.y().unwrap()) },
                    { "kty": "RSA", "kid": "rsa", "alg": "RS256", "n": RSA_N.trim(), "e": "AQAB" },
                    { "kty": "RSA", "kid": "small", "alg": "RS256", "n": "AQAB", "e": "AQAB" },
                    { "kty": "EC", "crv": "P-256", "kid": "enc", "use": "enc", "x": "AA", "y": "AA" },
                ]})
            }
            _ => return Err(store::Error::unavailable(url.to_owned())),
        };
        Ok(Document { bytes: document.to_string().into(), max_age_seconds: Some(3600) })
    }
}

struct World {
    issuers: Issuers,
    issuer: Arc<Issuer>,
    clock: Arc<Clock>,
}

impl World {
    fn new() -> Self {
        let es256 = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let issuer = Arc::new(Issuer {
            es256,
            fetches: AtomicU64::new(0),
            answers: true.into(),
            gate: Gate::default(),
            jwks_uri: format!("{ISSUER}/keys").into(),
        });
        let clock = Arc::new(Clock(AtomicU64::new(NOW_MS), AtomicBool::new(false)));
        let rules =
            format!("ci {ISSUER} registry repository=acme/* ref=refs/heads/main; any {ISSUER}/ registry repository=**");
        let issuers = Issuers::new(rules.parse().unwrap(), issuer.clone(), clock.clone());
        Self { issuers, issuer, clock }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| Base64UrlUnpadded::encode_string(json.to_string().as_bytes());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature: p256::ecdsa::Signature = self.issuer.es256.sign(signed.as_bytes());
        format!("{signed}.{}", Base64UrlUnpadded::encode_string(&signature.to_bytes()))
    }

    fn names(&self, token: &str) -> Vec<String> {
        block_on(self.issuers.identify(&Secret::new(token))).unwrap().map_or_else(Vec::new, |identity| identity.names)
    }

    fn fetches(&self) -> u64 {
        self.issuer.fetches.swap(0, Ordering::Relaxed)
    }
}

fn header() -> Value {
    json!({ "alg": "ES256", "typ": "JWT", "kid": "ec" })
}

fn claims() -> Value {
    let seconds = NOW_MS / 1000;
    json!({
        "iss": ISSUER, "aud": "registry", "sub": "repo:acme/app", "iat": seconds, "nbf": seconds, "exp": seconds + 300,
        "repository": "acme/app", "ref": "refs/heads/main",
    })
}

#[test]
fn claims_say_who_it_is() {
    let world = World::new();
    assert_eq!(world.names(&world.sign(&header(), &claims())), ["oidc:ci", "oidc:any"]);
    assert_eq!(world.fetches(), 2, "the configuration and the keys");
    for (claim, value, expected) in [
        ("ref", json!("refs/heads/other"), vec!["oidc:any"]),
        ("repository", json!("evil/app"), vec!["oidc:any"]),
        ("repository", json!("acme/app/deep"), vec!["oidc:any"]),
        ("repository", json!(null), vec![]),
        ("repository", json!({ "acme": "app" }), vec![]),
        ("repository", json!(["x", "acme/app"]), vec!["oidc:ci", "oidc:any"]),
        ("aud", json!(["other", "registry"]), vec!["oidc:ci", "oidc:any"]),
    ] {
        let mut claims = claims();
        claims[claim] = value.clone();
        assert_eq!(world.names(&world.sign(&header(), &claims)), expected, "{claim} {value}");
    }
    assert_eq!(world.fetches(), 0, "the keys are kept");
}

#[test]
fn a_token_of_an_rsa_key() {
    let world = World::new();
    assert_eq!(world.names(RS256_TOKEN.trim()), ["oidc:any"]);
    let mut changed = RS256_TOKEN.trim().to_owned();
    changed.pop();
    assert!(world.names(&changed).is_empty());
}

#[test]
fn an_invalid_token_has_no_caller() {
    let world = World::new();
    let seconds = NOW_MS / 1000;
    for (what, change_header, name, value) in [
        ("no algorithm", true, "alg", json!("none")),
        ("a public key taken for a secret one", true, "alg", json!("HS256")),
        ("another algorithm", true, "alg", json!("RS256")),
        ("another algorithm of the curve", true, "alg", json!("ES384")),
        ("a key of another kind", true, "kid", json!("rsa")),
        ("a key that signs nothing", true, "kid", json!("secret")),
        ("a key for encryption", true, "kid", json!("enc")),
        ("a key that is too small", true, "kid", json!("small")),
        ("no key", true, "kid", json!("")),
        ("extensions", true, "crit", json!(["b64"])),
        ("another issuer", false, "iss", json!("https://evil.example")),
        ("no issuer", false, "iss", json!(null)),
        ("another service", false, "aud", json!("other")),
        ("expired", false, "exp", json!(seconds)),
        ("never expires", false, "exp", json!(null)),
        ("an end that is no time", false, "exp", json!("tomorrow")),
        ("not yet", false, "nbf", json!(seconds + 120)),
        ("from the future", false, "iat", json!(seconds + 120)),
    ] {
        let (mut header, mut claims) = (header(), claims());
        let changed = if change_header { &mut header } else { &mut claims };
        changed[name] = value;
        assert!(world.names(&world.sign(&header, &claims)).is_empty(), "{what}");
    }
    let token = world.sign(&header(), &claims());
    let (signed, _) = token.rsplit_once('.').unwrap();
    for wrong in
        [format!("{signed}."), format!("{signed}.AAAA"), format!("{signed}.{}", "A".repeat(86)), "a.b.c".into()]
    {
        assert!(world.names(&wrong).is_empty(), "{wrong}");
    }
    // The token uses HS256 with the public key as the secret. A careless library would accept the
    // token.
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let part = |json: &Value| Base64UrlUnpadded::encode_string(json.to_string().as_bytes());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "kid": "ec" })), part(&claims()));
    let point = world.issuer.es256.verifying_key().to_sec1_point(false);
    let mac = Hmac::<sha2::Sha256>::new_from_slice(point.as_bytes()).unwrap().chain_update(&signed);
    let token = format!("{signed}.{}", Base64UrlUnpadded::encode_string(&mac.finalize().into_bytes()));
    assert!(world.names(&token).is_empty());
}

#[test]
fn issuers_are_not_asked_more_than_need_be() {
    let world = World::new();
    let token = world.sign(&header(), &claims());
    // A token for another audience causes no request to the issuer.
    let mut foreign = claims();
    foreign["aud"] = json!("other");
    world.names(&world.sign(&header(), &foreign));
    assert_eq!(world.fetches(), 0);

    world.names(&token);
    assert_eq!(world.fetches(), 2);
    let unknown = world.sign(&json!({ "alg": "ES256", "kid": "new" }), &claims());
    for _ in 0..100 {
        assert!(world.names(&unknown).is_empty());
    }
    assert_eq!(world.fetches(), 0, "asked a moment ago");
    world.clock.0.store(NOW_MS + FETCH_INTERVAL_MS, Ordering::Relaxed);
    world.names(&unknown);
    assert_eq!(world.fetches(), 2, "there may be a new key");

    // The keys are too old and the issuer does not answer. The login fails with an issuer error:
    // the token is neither accepted nor called wrong.
    let later = NOW_MS + 2 * 3600 * 1000;
    world.clock.0.store(later, Ordering::Relaxed);
    world.issuer.answers.store(false, Ordering::Relaxed);
    let mut claims = claims();
    claims["exp"] = json!(later / 1000 + 60);
    let token = Secret::new(world.sign(&header(), &claims));
    for _ in 0..10 {
        assert!(matches!(block_on(world.issuers.identify(&token)), Err(Refusal::Issuer(_))));
    }
    assert_eq!(world.fetches(), 1);
}

/// Starts a login and drops the future, as when a client disconnects.
fn give_up(world: &World, token: &Secret) {
    let mut login = Box::pin(world.issuers.identify(token));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(login.as_mut().poll(&mut context).is_pending(), "the keys are not there yet");
}

#[test]
fn one_fetch_serves_all_and_outlives_its_requester() {
    let world = World::new();
    world.clock.1.store(true, Ordering::Relaxed);
    world.issuer.gate.closed.store(true, Ordering::SeqCst);
    let token = Secret::new(world.sign(&header(), &claims()));
    let (signed, _) = token.expose().rsplit_once('.').unwrap();
    give_up(&world, &Secret::new(format!("{signed}.AAAA")));
    let logins = futures_util::future::join_all((0..50).map(|_| world.issuers.identify(&token)));
    let found = std::thread::scope(|scope| {
        let logins = scope.spawn(|| block_on(logins));
        world.issuer.gate.open();
        logins.join().unwrap()
    });
    assert!(found.iter().all(|found| found.as_ref().is_ok_and(Option::is_some)), "{found:?}");
    assert_eq!(world.fetches(), 2, "the configuration and the keys, once");
}

#[test]
fn without_shared_work_no_request_spoils_the_login_of_another() {
    let world = World::new();
    let token = Secret::new(world.sign(&header(), &claims()));
    world.issuer.gate.closed.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        give_up(&world, &token);
    }
    world.issuer.gate.open();
    assert_eq!(world.names(token.expose()), ["oidc:ci", "oidc:any"]);
    assert_eq!(world.fetches(), 3 + 2);
}

#[test]
fn old_keys_serve_while_new_ones_are_on_their_way() {
    let world = World::new();
    world.clock.1.store(true, Ordering::Relaxed);
    let token = |now_ms: u64| {
        let mut claims = claims();
        claims["exp"] = json!(now_ms / 1000 + 60);
        Secret::new(world.sign(&header(), &claims))
    };
    world.names(token(NOW_MS).expose());
    assert_eq!(world.fetches(), 2);
    // The keys are valid for an hour.
    let later = NOW_MS + 61 * 60 * 1000;
    world.clock.0.store(later, Ordering::Relaxed);
    world.issuer.gate.closed.store(true, Ordering::SeqCst);
    for _ in 0..4 {
        assert_eq!(world.names(token(later).expose()), ["oidc:ci", "oidc:any"]);
    }
    world.issuer.gate.open();
    while world.issuers.lock()[ISSUER].until_ms < later {
        std::thread::yield_now();
    }
    assert_eq!(world.fetches(), 2);
    // The issuer does not answer, so the old keys remain in use for half an hour.
    world.issuer.answers.store(false, Ordering::Relaxed);
    for (minutes, expected) in [(60 + 29, true), (60 + 31, false)] {
        let now_ms = later + minutes * 60 * 1000;
        world.clock.0.store(now_ms, Ordering::Relaxed);
        // Repeat until a fetch at this time has failed, because the previous fetch may still be
        // ending.
        while world.issuers.lock()[ISSUER].asked_ms != Some(now_ms) {
            let found = block_on(world.issuers.identify(&token(now_ms)));
            assert_eq!(found.is_ok_and(|found| found.is_some()), expected, "after {minutes} minutes");
            std::thread::yield_now();
        }
    }
}

#[test]
fn keys_come_from_the_issuers_host_or_one_that_is_named() {
    for (jwks_uri, hosts, expected) in [
        ("https://issuer.example/other/keys", "", true),
        ("https://ISSUER.example:443/keys", "", true),
        ("https://evil.example/keys", "", false),
        ("https://issuer.example:8443/keys", "", false),
        ("https://issuer.example@evil.example/keys", "", false),
        ("https://issuer.example.evil.example/keys", "", false),
        ("http://issuer.example/keys", "", false),
        ("http://localhost:x@evil.example/keys", "", false),
        ("https://keys.example/keys", "keys.example", true),
        ("https://keys.example:8443/keys", "keys.example", false),
        ("https://keys.example:8443/keys", "other.example, keys.example:8443", true),
        ("http://keys.example/keys", "keys.example:80", false),
        ("http://127.0.0.1:8080/keys", "127.0.0.1:8080", true),
        ("keys", "", false),
    ] {
        let mut world = World::new();
        let rules: IssuerRules = format!("ci {ISSUER} registry repository=acme/*").parse().unwrap();
        let rules = rules.with_key_hosts(hosts).unwrap();
        world.issuers = Issuers::new(rules, world.issuer.clone(), world.clock.clone());
        *world.issuer.jwks_uri.lock().unwrap() = jwks_uri.to_owned();
        let found = block_on(world.issuers.identify(&Secret::new(world.sign(&header(), &claims()))));
        match expected {
            true => assert!(found.is_ok_and(|found| found.is_some()), "{jwks_uri} {hosts}"),
            false => assert!(matches!(found, Err(Refusal::Issuer(_))), "{jwks_uri} {hosts}"),
        }
        assert_eq!(world.fetches(), 1 + u64::from(expected), "{jwks_uri}: nothing is fetched from another host");
    }
    for wrong in ["https://keys.example", "keys.example/path", "me@keys.example", "a b?c"] {
        assert!(IssuerRules::default().with_key_hosts(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn rules_that_let_everybody_in_are_refused() {
    for (text, expected) in [
        ("ci https://issuer.example", "want NAME ISSUER AUDIENCE"),
        ("ci https://issuer.example registry", "at least one CLAIM"),
        ("ci http://issuer.example registry sub=x", "begins with https"),
        ("ci http://localhost:x@evil/ registry sub=x", "begins with https"),
        ("ci http://127.0.0.1:5000@evil.example registry sub=x", "begins with https"),
        ("ci https://me@issuer.example registry sub=x", "has no user"),
        ("ci https://issuer.example/?x registry sub=x", "no query"),
        ("ci https:// registry sub=x", "begins with https"),
        ("ci https://issuer.example registry sub", "want CLAIM=PATTERN"),
        ("a:b https://issuer.example registry sub=x", "a user's name"),
    ] {
        let error = text.parse::<IssuerRules>().unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
