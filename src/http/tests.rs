//! Tests of every endpoint, for every kind of caller.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use base64ct::{Base64, Base64Bcrypt, Base64UrlUnpadded, Encoding as _};
use futures_executor::block_on;
use http::StatusCode;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use p256::ecdsa::signature::Signer as _;
use serde_json::{Value, json};

use super::*;
use crate::auth::{Accounts, Directory, Document, Issuers, JwksSource, PasswordHash, Secret, Tokens};
use crate::platform::Platform;
use crate::store::KeyValue;
use crate::store::counting::Counting;
use crate::store::memory::{MemoryBlobStore, MemoryKeyValue};

const POLICY: &str = "
    anonymous  public/**  pull
    reader     team/**    pull
    writer     team/**    pull,push
    cleaner    team/**    pull,delete
    warden     team/**    pull,admin
    root       **         all
    oidc:ci    acme/**    pull,push
";
const USERS: [&str; 7] = ["anonymous", "stranger", "reader", "writer", "cleaner", "warden", "root"];
const REPOSITORIES: [&str; 3] = ["public/app", "team/app", "other/app"];

/// The expected permissions: whether `user` may do `need` in `repository`.
fn is_allowed(user: &str, repository: &str, need: &str) -> bool {
    match (user, repository, need) {
        (_, _, "nothing") | ("root", _, _) => true,
        ("anonymous", _, "login") => false,
        (_, _, "login") => true,
        // Every caller sees their own part of the catalog, and a caller with only public
        // repositories sees those.
        (_, _, "catalog") => true,
        (_, "public/app", "pull") => true,
        ("reader" | "writer" | "cleaner" | "warden", "team/app", "pull") => true,
        ("writer", "team/app", "push") => true,
        ("cleaner", "team/app", "delete") => true,
        ("warden", "team/app", "admin") => true,
        _ => false,
    }
}

const INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const ABSENT: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const SESSION: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";

/// Each row is: method, target, required permission, and the status for an allowed caller. The
/// registry contains only two empty indexes, `v1` and `old`.
const ROUTES: &[(&str, &str, &str, u16)] = &[
    ("GET", "/v2/", "login", 200),
    ("GET", "/v2", "login", 200),
    ("GET", "/v2/_catalog", "catalog", 200),
    ("GET", "/v2/{repo}/tags/list", "pull", 200),
    ("GET", "/v2/{repo}/manifests/v1", "pull", 200),
    ("GET", "/v2/{repo}/manifests/absent", "pull", 404),
    ("HEAD", "/v2/{repo}/manifests/v1", "pull", 200),
    ("PUT", "/v2/{repo}/manifests/v2", "push", 201),
    ("GET", "/v2/{repo}/blobs/{absent}", "pull", 404),
    ("HEAD", "/v2/{repo}/blobs/{absent}", "pull", 404),
    ("GET", "/v2/{repo}/referrers/{absent}", "pull", 200),
    ("POST", "/v2/{repo}/blobs/uploads/", "push", 202),
    ("POST", "/v2/{repo}/blobs/uploads/?digest={absent}", "push", 400),
    ("POST", "/v2/{repo}/blobs/uploads/?mount={absent}", "push", 202),
    ("POST", "/v2/{repo}/blobs/uploads/?mount={absent}&from=other/app", "push", 202),
    ("GET", "/v2/{repo}/blobs/uploads/{session}", "push", 404),
    ("PATCH", "/v2/{repo}/blobs/uploads/{session}", "push", 404),
    ("PUT", "/v2/{repo}/blobs/uploads/{session}?digest={absent}", "push", 404),
    ("DELETE", "/v2/{repo}/blobs/uploads/{session}", "push", 204),
    ("DELETE", "/v2/{repo}/manifests/absent", "delete", 404),
    ("DELETE", "/v2/{repo}/blobs/{absent}", "delete", 404),
    ("GET", "/v2/_eyot/warnings/{repo}", "pull", 404),
    ("PUT", "/v2/_eyot/warnings/{repo}:v1", "admin", 404),
    ("DELETE", "/v2/_eyot/warnings/{repo}", "admin", 404),
    ("GET", "/v2/_eyot/token", "nothing", 200),
    ("POST", "/v2/_eyot/token", "nothing", 200),
    ("GET", "/v2/_eyot/users", "administration", 200),
    ("PUT", "/v2/_eyot/users/eve", "administration", 400),
    ("DELETE", "/v2/_eyot/users/eve", "administration", 204),
    ("GET", "/v2/_eyot/tokens", "administration", 200),
    ("PUT", "/v2/_eyot/tokens/ci", "administration", 400),
    ("DELETE", "/v2/_eyot/tokens/ci", "administration", 204),
    ("POST", "/v2/_eyot/collect", "administration", 200),
    ("POST", "/v2/_eyot/check", "administration", 200),
];

/// The number of each operation, below `OPERATIONS`. The match has no wildcard, so a new operation
/// needs a number, and `ROUTES` then needs a row for that number.
fn number(operation: &Operation) -> usize {
    match operation {
        Operation::Version => 0,
        Operation::Catalog(_) => 1,
        Operation::Tags(..) => 2,
        Operation::GetManifest(..) => 3,
        Operation::PutManifest(..) => 4,
        Operation::DeleteManifest(..) => 5,
        Operation::GetBlob(..) => 6,
        Operation::DeleteBlob(..) => 7,
        Operation::Referrers(..) => 8,
        Operation::GetWarnings(..) => 9,
        Operation::SetWarning(..) => 10,
        Operation::DeleteWarning(..) => 11,
        Operation::BeginUpload(..) => 12,
        Operation::PushBlob(..) => 13,
        Operation::MountBlob { .. } => 14,
        Operation::UploadStatus(..) => 15,
        Operation::AppendUpload(..) => 16,
        Operation::CompleteUpload(..) => 17,
        Operation::CancelUpload(..) => 18,
        Operation::Token(_) => 19,
        Operation::PostToken => 20,
        Operation::ListUsers(_) => 21,
        Operation::PutUser(_) => 22,
        Operation::DeleteUser(_) => 23,
        Operation::ListTokens(_) => 24,
        Operation::PutToken(_) => 25,
        Operation::DeleteToken(_) => 26,
        Operation::Collect { .. } => 27,
        Operation::Check => 28,
    }
}
const OPERATIONS: usize = 29;

const ISSUER: &str = "https://issuer.example";

fn issuer_key() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap()
}

/// The documents that an issuer publishes.
struct Static;

#[async_trait::async_trait]
impl JwksSource for Static {
    async fn fetch(&self, url: &str) -> Result<Document, crate::store::Error> {
        let point = issuer_key().verifying_key().to_sec1_point(false);
        let part = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
        let (x, y) = (part(point.x().unwrap()), part(point.y().unwrap()));
        let document = match url.ends_with("/keys") {
            true => json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "1", "x": x, "y": y }] }),
            false => json!({ "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/keys") }),
        };
        Ok(Document { bytes: document.to_string().into(), max_age_seconds: None })
    }
}

struct Registered {
    handler: Handler,
    keys: Arc<Counting<dyn KeyValue>>,
    accounts: Arc<Accounts>,
}

fn password(user: &str) -> Secret {
    Secret::new(format!("{user}'s password"))
}

/// A hash with the lowest cost that bcrypt allows.
fn hash_of(password: &Secret) -> PasswordHash {
    let hash = bcrypt::bcrypt(4, [7; 16], format!("{}\0", password.expose()).as_bytes());
    let (salt, hash) = (Base64Bcrypt::encode_string(&[7; 16]), Base64Bcrypt::encode_string(&hash[..23]));
    PasswordHash::parse(&format!("$2y$04${salt}{hash}")).unwrap()
}

/// A platform with a fixed clock and counted randomness.
#[derive(Default)]
struct Still(AtomicU64);

impl Platform for Still {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn random(&self) -> [u8; 16] {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed)).to_le_bytes()
    }
}

impl Registered {
    fn new(policy: &str) -> Self {
        let platform: Arc<dyn Platform> = Arc::new(Still::default());
        let keys = Arc::new(Counting::new(Arc::new(MemoryKeyValue::default()) as Arc<dyn KeyValue>));
        let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
        let registry = Registry::new(keys.clone(), blobs, platform.clone(), registry::Limits::default());
        let hashes = USERS[1..].iter().map(|user| ((*user).to_owned(), hash_of(&password(user))));
        let accounts = Accounts::new(policy.parse().unwrap(), keys.clone(), platform.clone());
        let rule = format!("ci {ISSUER} registry.example repository=acme/*");
        let issuers = Issuers::new(rule.parse().unwrap(), Arc::new(Static), platform.clone());
        let accounts = Arc::new(accounts.with_hashes(hashes.collect()).with_issuers(issuers));
        let tokens = Tokens::stored("eyot", keys.clone(), platform.clone());
        let access = Access::new(accounts.clone(), tokens).with_directory(Directory::new(keys.clone(), platform));
        let this = Self { handler: Handler::new(registry, access), keys, accounts };
        for repository in REPOSITORIES {
            for tag in ["v1", "old"] {
                let pushed = this.send("PUT", &format!("/v2/{repository}/manifests/{tag}"), &basic("root"), INDEX);
                assert_eq!(pushed.status(), StatusCode::CREATED);
            }
        }
        this
    }

    fn send(&self, method: &str, uri: &str, authorization: &str, body: &'static str) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(uri).header("host", "registry.example");
        if !authorization.is_empty() {
            request = request.header(AUTHORIZATION, authorization);
        }
        block_on(self.handler.handle(request.body(body.into()).unwrap()))
    }

    fn json(&self, method: &str, uri: &str, authorization: &str, body: &'static str) -> Value {
        let response = self.send(method, uri, authorization, body);
        assert!(response.status().is_success(), "{method} {uri}: {}", response.status());
        serde_json::from_slice(&block_on(response.into_body().collect_up_to(1 << 20)).unwrap()).unwrap()
    }

    /// Requests a token for the scope of the challenge, as clients do.
    fn token(&self, user: &str, challenge: &str) -> String {
        let scopes = challenge.split("scope=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let query: Vec<_> = scopes.split(' ').map(|scope| format!("scope={scope}")).collect();
        let uri = format!("/v2/_eyot/token?service=eyot&{}", query.join("&"));
        let token = self.json("GET", &uri, &basic(user), "");
        format!("Bearer {}", token["token"].as_str().unwrap())
    }
}

fn basic(user: &str) -> String {
    match user {
        "anonymous" => String::new(),
        user => format!("Basic {}", Base64::encode_string(format!("{user}:{}", password(user).expose()).as_bytes())),
    }
}

fn challenge(response: &Response<Body>) -> Option<&str> {
    response.headers().get(WWW_AUTHENTICATE).map(|value| value.to_str().unwrap())
}

fn filled(target: &str, repository: &str) -> String {
    target.replace("{repo}", repository).replace("{absent}", ABSENT).replace("{session}", SESSION)
}

/// The body of the request, for endpoints that need a body.
fn body(method: &str, target: &str) -> &'static str {
    match (method, target.contains("/manifests/"), target.contains("?digest=")) {
        ("PUT", true, _) => INDEX,
        ("POST", _, true) => "content of another digest",
        _ => "",
    }
}

#[test]
fn every_endpoint_for_every_caller() {
    let registered = Registered::new(POLICY);
    for repository in REPOSITORIES {
        for (method, target, need, success) in ROUTES {
            let (uri, body) = (filled(target, repository), body(method, target));
            for user in USERS {
                let what = format!("{user}: {method} {uri}");
                let allowed = is_allowed(user, repository, need);
                let response = registered.send(method, &uri, &basic(user), body);
                let expected = match (allowed, user) {
                    (true, _) => *success,
                    (false, "anonymous") => 401,
                    (false, _) => 403,
                };
                assert_eq!(response.status(), expected, "{what}");
                assert_eq!(challenge(&response).is_some(), !allowed, "{what}");
                if *need == "nothing" {
                    continue;
                }

                // Repeat the request with a token for its scope, and with a token without a scope.
                let scope = challenge(&registered.send(method, &uri, "Bearer x", body)).unwrap().to_owned();
                let token = registered.token(user, &scope);
                let allowed = allowed || *need == "login";
                let expected = if allowed { *success } else { 401 };
                let response = registered.send(method, &uri, &token, body);
                assert_eq!(response.status(), expected, "{what} with a token");
                assert_eq!(challenge(&response).is_some(), !allowed, "{what} with a token");
                let expected = if *need == "login" { 200 } else { 401 };
                let response = registered.send(method, &uri, &registered.token(user, ""), body);
                assert_eq!(response.status(), expected, "{what} with a token for nothing");
            }
            // Clients without credentials send these headers. The answer is the same as for
            // anonymous callers.
            for empty in ["Basic", "Basic Og==", "Bearer", "Bearer QQ=="] {
                let response = registered.send(method, &uri, empty, body);
                let expected = if is_allowed("anonymous", repository, need) { *success } else { 401 };
                assert_eq!(response.status(), expected, "{method} {uri} with {empty:?}");
            }
            for wrong in ["Digest x", "Bearer x", "Bearer a.b.c", "Basic eA==", "x"] {
                let response = registered.send(method, &uri, wrong, body);
                assert_eq!(response.status(), 401, "{method} {uri} with {wrong:?}");
                assert!(challenge(&response).is_some(), "{method} {uri} with {wrong:?}");
            }
        }
    }
}

#[test]
fn no_route_without_an_entry() {
    let mut found = BTreeSet::new();
    for (method, target, ..) in ROUTES {
        let request = Request::builder().method(*method).uri(filled(target, "team/app")).body(()).unwrap();
        found.insert(number(&Operation::parse(&request.into_parts().0).unwrap()));
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), (0..OPERATIONS).collect::<Vec<_>>());
}

#[test]
fn what_a_request_costs() {
    let registered = Registered::new(POLICY);
    let uri = "/v2/team/app/tags/list";
    let cost = |authorization: &str| {
        registered.keys.counts.take();
        let before = registered.accounts.password_checks();
        assert_eq!(registered.send("GET", uri, authorization, "").status(), StatusCode::OK);
        // The list itself costs one call.
        let calls = registered.keys.counts.take().iter().sum::<u64>() - 1;
        (registered.accounts.password_checks() - before, calls)
    };
    let (first, again) = (cost(&basic("reader")), cost(&basic("reader")));
    let token = registered.token("reader", "scope=\"repository:team/app:pull\"");
    registered.keys.counts.take();
    let with_token = cost(&token);
    println!(
        "password checks and storage calls of a request: first with a password {first:?}, then {again:?}, with a token {with_token:?}"
    );
    // Looking up the user costs one call. Counting the attempt before the password check costs two
    // calls, and undoing the count costs two.
    assert_eq!((first, again, with_token), ((1, 5), (0, 0), (0, 0)));
}

#[test]
fn everybody_sees_their_part_of_the_catalog() {
    let registered = Registered::new(POLICY);
    for (user, expected) in [
        ("anonymous", vec!["public/app"]),
        ("reader", vec!["public/app", "team/app"]),
        ("root", vec!["other/app", "public/app", "team/app"]),
    ] {
        for authorization in [basic(user), registered.token(user, "scope=\"registry:catalog:*\"")] {
            let mut seen = Vec::new();
            let mut uri = "/v2/_catalog?n=1".to_owned();
            loop {
                let response = registered.send("GET", &uri, &authorization, "");
                let next = response.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
                let body = block_on(response.into_body().collect_up_to(1 << 20)).unwrap();
                let page: Value = serde_json::from_slice(&body).unwrap();
                seen.extend(page["repositories"].as_array().unwrap().clone());
                let Some(next) = next else { break };
                for name in REPOSITORIES {
                    let shown = name.replace('/', "%2F");
                    let is_shown = next.contains(name) || next.contains(&shown);
                    assert!(expected.contains(&name) || !is_shown, "{user}: {next} names {name}");
                }
                uri = next[1..next.find('>').unwrap()].to_owned();
            }
            assert_eq!(seen, expected, "{user}");
        }
    }
    for wrong in ["~", "~AAAA", "~other/app"] {
        let uri = format!("/v2/_catalog?last={wrong}");
        assert_eq!(registered.send("GET", &uri, &basic("reader"), "").status(), StatusCode::BAD_REQUEST, "{uri}");
    }
    // A token for one repository does not open the catalog, which would look empty.
    let token = registered.token("reader", "scope=\"repository:team/app:pull\"");
    assert_eq!(registered.send("GET", "/v2/_catalog", &token, "").status(), StatusCode::UNAUTHORIZED);
}

#[test]
fn nothing_is_mounted_from_where_the_caller_may_not_read() {
    let registered = Registered::new(&format!("{POLICY}; reader **/app pull; reader team/** push"));
    let push =
        "/v2/other/app/blobs/uploads/?digest=sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    assert_eq!(registered.send("POST", push, &basic("root"), "foo").status(), StatusCode::CREATED);
    let digest = push.split_once('=').unwrap().1;
    for (user, from, expected) in [
        ("writer", "&from=other/app", 202),
        ("writer", "", 202),
        // The caller may pull from the source.
        ("reader", "&from=other/app", 201),
        // A mount without a source works only for callers who may pull from every repository.
        ("reader", "", 202),
        ("root", "", 201),
    ] {
        let uri = format!("/v2/team/target/blobs/uploads/?mount={digest}{from}");
        assert_eq!(registered.send("POST", &uri, &basic(user), "").status(), expected, "{user} {from}");
        assert_eq!(
            registered
                .send("DELETE", &format!("/v2/team/target/blobs/{digest}"), &basic("root"), "")
                .status()
                .is_success(),
            expected == 201
        );
    }
}

#[test]
fn a_mount_under_a_token_that_lacks_its_source_asks_for_another_token() {
    let registered = Registered::new(&format!("{POLICY}; pusher team/** pull,push; pusher shared/** pull"));
    let hashed = hash_of(&password("pusher"));
    let directory = registered.handler.admission.access.directory().unwrap();
    block_on(directory.add_user_with_hash("pusher", hashed.as_str())).unwrap();
    let digest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    for source in ["shared/app", "other/app"] {
        let push = format!("/v2/{source}/blobs/uploads/?digest={digest}");
        assert_eq!(registered.send("POST", &push, &basic("root"), "foo").status(), StatusCode::CREATED);
    }
    let to_target = "scope=\"repository:team/target:pull,push\"";
    for (user, source, expected) in [
        ("pusher", "shared/app", 201),
        ("root", "shared/app", 201),
        // Without permission to pull from the source, the mount starts an upload, whether or not
        // the content exists.
        ("pusher", "other/app", 202),
        ("pusher", "nowhere/app", 202),
    ] {
        let uri = format!("/v2/team/target/blobs/uploads/?mount={digest}&from={source}");
        let refused = registered.send("POST", &uri, &registered.token(user, to_target), "");
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{user} {source}");
        let challenge = challenge(&refused).unwrap();
        let scope = format!("scope=\"repository:team/target:pull,push repository:{source}:pull\"");
        assert!(challenge.contains(&scope) && challenge.contains("error=\"insufficient_scope\""), "{challenge}");
        let token = registered.token(user, challenge);
        assert_eq!(registered.send("POST", &uri, &token, "").status(), expected, "{user} {source}");
    }
    // A mount without a source needs permission to pull from every repository, which the token
    // states.
    let anywhere = format!("/v2/team/target/blobs/uploads/?mount={digest}");
    registered.send("DELETE", &format!("/v2/team/target/blobs/{digest}"), &basic("root"), "");
    for (user, expected) in [("pusher", 202), ("root", 201)] {
        let token = registered.token(user, to_target);
        assert_eq!(registered.send("POST", &anywhere, &token, "").status(), expected, "{user}");
    }
}

#[test]
fn who_guesses_is_slowed_down() {
    let registered = Registered::new(POLICY);
    let guess = |user: &str| {
        let authorization = format!("Basic {}", Base64::encode_string(format!("{user}:guess").as_bytes()));
        registered.send("GET", "/v2/", &authorization, "")
    };
    let statuses: Vec<_> = (0..12).map(|_| guess("reader").status().as_u16()).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 401, 401, 401, 401, 401, 401, 429]);
    let refused = guess("reader");
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&seconds), "{seconds}");
    // Unknown users are treated in the same way. Other users, and requests with tokens, are not
    // delayed.
    let checks = registered.accounts.password_checks();
    let statuses: Vec<_> = (0..12).map(|_| guess("nobody").status().as_u16()).collect();
    assert_eq!(statuses[10..], [401, 429]);
    assert_eq!(registered.accounts.password_checks() - checks, 11);
    assert_eq!(registered.send("GET", "/v2/", &basic("writer"), "").status(), StatusCode::OK);
}

#[test]
fn no_header_makes_it_panic() {
    let registered = Registered::new(POLICY);
    // A small generator with a fixed seed, so that every run sends the same headers.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let seeds = [
        "Basic ",
        "Bearer ",
        "Bearer eyJ",
        "eyot_ci_",
        ".",
        "=",
        ":",
        "YWxpY2U6",
        "\"",
        ",",
        "\u{e9}",
        "{}",
        "\t",
        "e30.e30.",
    ];
    for round in 0..3000 {
        let mut value = Vec::new();
        for _ in 0..random() % 6 {
            match random() % 3 {
                0 => value.push((random() % 224 + 32) as u8),
                _ => value.extend_from_slice(seeds[random() as usize % seeds.len()].as_bytes()),
            }
        }
        let Ok(value) = http::HeaderValue::from_bytes(&value) else { continue };
        let mut request = Request::builder().method("GET").uri(["/v2/", "/v2/_eyot/token"][round % 2]);
        for name in ["authorization", "host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"] {
            request = request.header(name, value.clone());
        }
        let request = request.extension(Peer::default()).body(Body::empty()).unwrap();
        let handler = registered.handler.clone().with_proxies("*".parse().unwrap());
        let status = block_on(handler.handle(request)).status();
        // The token endpoint issues tokens to anonymous callers.
        let is_known = [401, 429].contains(&status.as_u16()) || (round % 2 == 1 && status == 200);
        assert!(is_known, "{value:?}: {status}");
    }
}

#[test]
fn machine_tokens_and_users_come_and_go() {
    let registered = Registered::new(POLICY);
    let root = basic("root");
    let made = registered.json("PUT", "/v2/_eyot/tokens/ci", &root, r#"{"rules":["team/app pull,push"]}"#);
    let token = made["token"].as_str().unwrap().to_owned();
    for authorization in
        [format!("Bearer {token}"), format!("Basic {}", Base64::encode_string(format!("x:{token}").as_bytes()))]
    {
        for (uri, expected) in [
            ("/v2/", 200),
            ("/v2/team/app/tags/list", 200),
            ("/v2/public/app/tags/list", 200),
            ("/v2/other/app/tags/list", if authorization.starts_with("Bearer") { 401 } else { 403 }),
        ] {
            assert_eq!(registered.send("GET", uri, &authorization, "").status(), expected, "{uri}");
        }
    }
    let wrong = format!("Bearer {}x", &token[..token.len() - 1]);
    assert_eq!(registered.send("GET", "/v2/", &wrong, "").status(), StatusCode::UNAUTHORIZED);
    assert_eq!(registered.json("GET", "/v2/_eyot/tokens", &root, ""), json!({ "tokens": ["ci"] }));
    assert_eq!(registered.send("DELETE", "/v2/_eyot/tokens/ci", &root, "").status(), StatusCode::NO_CONTENT);
    assert_eq!(registered.send("GET", "/v2/", &format!("Bearer {token}"), "").status(), StatusCode::UNAUTHORIZED);

    let add = registered.send("PUT", "/v2/_eyot/users/reader2", &root, r#"{"password":"reader2's password"}"#);
    assert_eq!(add.status(), StatusCode::NO_CONTENT);
    assert_eq!(registered.send("GET", "/v2/", &basic("reader2"), "").status(), StatusCode::OK);
    assert_eq!(registered.json("GET", "/v2/_eyot/users", &root, ""), json!({ "users": ["reader2"] }));
    for weak in [r#"{"password":"aaaaaaaaaaaaa"}"#, r#"{"hash":"secret"}"#, "{}", "secret"] {
        let refused = registered.send("PUT", "/v2/_eyot/users/reader3", &root, weak);
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{weak}");
        let text = block_on(refused.into_body().collect_up_to(1 << 20)).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("secret"), "{weak}");
    }
}

#[test]
fn a_page_of_another_site_changes_nothing_with_a_password_that_the_browser_remembers() {
    let registered = Registered::new(POLICY);
    let send = |method: &str, uri: &str, authorization: &str| {
        let request = Request::builder().method(method).uri(uri).header("host", "registry.example");
        let request = request.header("origin", "https://evil.example").header(AUTHORIZATION, authorization);
        block_on(registered.handler.handle(request.body(Body::empty()).unwrap())).status().as_u16()
    };
    for (method, target, need, success) in ROUTES {
        let uri = filled(target, "team/app");
        let expected = if method == &"GET" || method == &"HEAD" { *success } else { 403 };
        assert_eq!(send(method, &uri, &basic("root")), expected, "{method} {uri} ({need})");
    }
    // Browsers never add a bearer token by themselves, so the token shows that the sender intends
    // the request.
    let token = registered.token("root", "scope=\"repository:team/app:*\"");
    assert_eq!(send("DELETE", "/v2/team/app/manifests/old", &token), 202);
}

/// A writer for the log that keeps the audit lines of each thread.
struct AuditLines;

thread_local! {
    static LINES: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl std::io::Write for AuditLines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        if let Some((_, audit)) = text.trim_end().split_once(&format!(" {AUDIT_TARGET}: ")) {
            LINES.with_borrow_mut(|lines| lines.push(audit.to_owned()));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_log_tells_each_change_and_each_refused_login() {
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false).without_time();
    let _logged = tracing::subscriber::set_default(subscriber.with_writer(|| AuditLines).finish());
    let registered = Registered::new(POLICY);
    let digest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    let index = crate::oci::Algorithm::default().digest(INDEX.as_bytes());
    let pushed = format!("/v2/team/app/blobs/uploads/?digest={digest}");
    let guess = format!("Basic {}", Base64::encode_string("no\u{202e}body\n\u{1b}[2J:guess".as_bytes()));
    for (method, uri, authorization, body, expected) in [
        (
            "PUT",
            "/v2/team/app/manifests/v9?tag=v8",
            basic("writer"),
            INDEX,
            format!("push-manifest user=\"writer\" address=192.0.2.7 repository=team/app tag=v9 tag=v8 digest={index}"),
        ),
        (
            "POST",
            &pushed,
            basic("writer"),
            "foo",
            format!("push-blob user=\"writer\" address=192.0.2.7 repository=team/app digest={digest}"),
        ),
        (
            "POST",
            &format!("/v2/other/app/blobs/uploads/?mount={digest}&from=team/app"),
            basic("root"),
            "",
            format!("mount-blob user=\"root\" address=192.0.2.7 repository=other/app from=team/app digest={digest}"),
        ),
        (
            "DELETE",
            "/v2/team/app/manifests/v9",
            basic("cleaner"),
            "",
            "delete-tag user=\"cleaner\" address=192.0.2.7 repository=team/app tag=v9".into(),
        ),
        (
            "DELETE",
            &format!("/v2/team/app/blobs/{digest}"),
            basic("cleaner"),
            "",
            format!("delete-blob user=\"cleaner\" address=192.0.2.7 repository=team/app digest={digest}"),
        ),
        (
            "DELETE",
            &format!("/v2/team/app/manifests/{index}"),
            basic("cleaner"),
            "",
            format!("delete-manifest user=\"cleaner\" address=192.0.2.7 repository=team/app digest={index}"),
        ),
        (
            "PUT",
            "/v2/_eyot/users/eve",
            basic("root"),
            r#"{"password":"eve's password"}"#,
            "put-user user=\"root\" address=192.0.2.7 name=\"eve\"".into(),
        ),
        (
            "DELETE",
            "/v2/_eyot/users/eve",
            basic("root"),
            "",
            "delete-user user=\"root\" address=192.0.2.7 name=\"eve\"".into(),
        ),
        (
            "PUT",
            "/v2/_eyot/tokens/ci",
            basic("root"),
            r#"{"rules":["a pull"]}"#,
            "put-token user=\"root\" address=192.0.2.7 name=\"ci\"".into(),
        ),
        (
            "DELETE",
            "/v2/_eyot/tokens/ci",
            basic("root"),
            "",
            "delete-token user=\"root\" address=192.0.2.7 name=\"ci\"".into(),
        ),
        ("POST", "/v2/_eyot/collect", basic("root"), "", "collect user=\"root\" address=192.0.2.7".into()),
        (
            "GET",
            "/v2/team/app/tags/list",
            guess.clone(),
            "",
            "login-refused user=\"no\\u{202e}body\\n\\u{1b}[2J\" address=192.0.2.7 with=password why=wrong".into(),
        ),
        (
            "GET",
            "/v2/_eyot/token",
            guess,
            "",
            "login-refused user=\"no\\u{202e}body\\n\\u{1b}[2J\" address=192.0.2.7 with=password why=wrong".into(),
        ),
        ("GET", "/v2/", "Bearer x".into(), "", "login-refused user=- address=192.0.2.7 with=token why=wrong".into()),
        (
            "GET",
            "/v2/",
            "Digest x".into(),
            "",
            "login-refused user=- address=192.0.2.7 with=unreadable why=wrong".into(),
        ),
        (
            "POST",
            "/v2/_eyot/token",
            String::new(),
            "grant_type=password&username=writer&password=guess",
            "login-refused user=\"writer\" address=192.0.2.7 with=password why=wrong".into(),
        ),
        // Reads, the start of an upload, refused requests, and callers without credentials leave no
        // audit line.
        ("GET", "/v2/team/app/tags/list", basic("reader"), "", String::new()),
        ("GET", "/v2/team/app/tags/list", String::new(), "", String::new()),
        ("POST", "/v2/team/app/blobs/uploads/", basic("writer"), "", String::new()),
        ("POST", &pushed, basic("reader"), "foo", String::new()),
        ("POST", "/v2/_eyot/collect?dry_run=true", basic("root"), "", String::new()),
        ("DELETE", "/v2/team/app/manifests/absent", basic("cleaner"), "", String::new()),
    ] {
        LINES.with_borrow_mut(Vec::clear);
        let peer = Peer { address: "192.0.2.7".parse().ok(), ..Peer::default() };
        let request = Request::builder().method(method).uri(uri).header("host", "registry.example").extension(peer);
        let request = request.header(AUTHORIZATION, authorization).body(body.into()).unwrap();
        if request.headers()[AUTHORIZATION].is_empty() {
            let (mut head, body) = request.into_parts();
            head.headers.remove(AUTHORIZATION);
            block_on(registered.handler.handle(Request::from_parts(head, body)));
        } else {
            block_on(registered.handler.handle(request));
        }
        assert_eq!(LINES.with_borrow(|lines| lines.join("|")), expected, "{method} {uri}");
    }
    // A client that disconnects before the answer still leaves an audit line for the change.
    LINES.with_borrow_mut(Vec::clear);
    let body = Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, crate::platform::BodyError>>());
    let request = Request::post(&pushed).header("host", "registry.example").header(AUTHORIZATION, basic("writer"));
    let mut answer = Box::pin(registered.handler.handle(request.body(body).unwrap()));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(answer.as_mut().poll(&mut context).is_pending());
    drop(answer);
    let line = "push-blob user=\"writer\" address=- repository=team/app outcome=unknown";
    assert_eq!(LINES.with_borrow(|lines| lines.join("|")), line);
}

#[test]
fn tokens_end_with_what_they_were_made_from() {
    let registered = Registered::new(POLICY);
    for (seconds, expected) in [("3", 3), ("299", 299), ("100000", 300)] {
        let new = format!(r#"{{"rules":["team/app pull"],"expires_in_seconds":{seconds}}}"#);
        let made = registered.json("PUT", "/v2/_eyot/tokens/ci", &basic("root"), new.leak());
        let machine = format!("Bearer {}", made["token"].as_str().unwrap());
        let token = registered.json("GET", "/v2/_eyot/token?scope=repository:team/app:pull", &machine, "");
        assert_eq!(token["expires_in"], expected, "a machine token of {seconds} s");
        let payload = token["token"].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
        let claims: Value = serde_json::from_slice(&Base64UrlUnpadded::decode_vec(&payload).unwrap()).unwrap();
        assert_eq!(claims["exp"].as_u64().unwrap(), Still::default().now_ms() / 1000 + expected, "{claims}");
    }
}

#[test]
fn a_pipeline_logs_in_with_its_own_token() {
    let registered = Registered::new(POLICY);
    let signed = |repository: &str| {
        let now = Still::default().now_ms() / 1000;
        let claims = json!({
            "iss": ISSUER, "aud": "registry.example", "iat": now, "exp": now + 60, "repository": repository,
        });
        let part = |json: Value| Base64UrlUnpadded::encode_string(json.to_string().as_bytes());
        let signed = format!("{}.{}", part(json!({ "alg": "ES256", "kid": "1" })), part(claims));
        let signature: p256::ecdsa::Signature = issuer_key().sign(signed.as_bytes());
        format!("{signed}.{}", Base64UrlUnpadded::encode_string(&signature.to_bytes()))
    };
    // `docker login` sends the token as a password, with any user name. Other clients send the
    // token as a bearer header.
    let (right, wrong) = (signed("acme/app"), signed("evil/app"));
    let basic = |token: &str| format!("Basic {}", Base64::encode_string(format!("oidc:{token}").as_bytes()));
    let uri = "/v2/_eyot/token?scope=repository:acme/app:pull,push&scope=repository:team/app:pull";
    for authorization in [basic(&right), format!("Bearer {right}")] {
        let token = registered.json("GET", uri, &authorization, "");
        assert_eq!(token["scope"], "repository:acme/app:pull,push");
        assert_eq!(token["expires_in"], 60, "as long as the pipeline's own token");
        let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
        assert_eq!(registered.send("PUT", "/v2/acme/app/manifests/v1", &bearer, INDEX).status(), StatusCode::CREATED);
    }
    for authorization in [basic(&wrong), format!("Bearer {wrong}")] {
        assert_eq!(registered.send("GET", uri, &authorization, "").status(), StatusCode::UNAUTHORIZED);
    }
}

#[test]
fn a_token_by_a_form() {
    let registered = Registered::new(POLICY);
    let form = "grant_type=password&service=eyot&client_id=containerd-client&scope=repository%3Ateam%2Fapp%3Apull%2Cpush\
                &scope=repository%3Aother%2Fapp%3Apull&username=writer&password=writer%27s+password";
    let token = registered.json("POST", "/v2/_eyot/token", "", form);
    assert_eq!(token["scope"], "repository:team/app:pull,push");
    assert_eq!(token["expires_in"], 300);
    let bearer = format!("Bearer {}", token["access_token"].as_str().unwrap());
    assert_eq!(registered.send("PUT", "/v2/team/app/manifests/v3", &bearer, INDEX).status(), StatusCode::CREATED);
    // A token cannot be used to obtain another token.
    assert_eq!(registered.send("GET", "/v2/_eyot/token", &bearer, "").status(), StatusCode::UNAUTHORIZED);
    for wrong in ["grant_type=password&username=writer&password=wrong", "grant_type=refresh_token&refresh_token=x"] {
        assert_eq!(registered.send("POST", "/v2/_eyot/token", "", wrong).status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(registered.send("POST", "/v2/_eyot/token", "", "grant_type=fly").status(), StatusCode::BAD_REQUEST);
    // skopeo deletes with a token for all actions.
    let token = registered.token("cleaner", "scope=\"repository:team/app:*\"");
    assert_eq!(registered.send("DELETE", "/v2/team/app/manifests/old", &token, "").status(), StatusCode::ACCEPTED);
}

#[test]
fn a_token_request_costs_bounded_work_and_yields_a_token_that_fits() {
    let rules: Vec<_> =
        (0..30).map(|n| format!("anonymous a{n}*/x*z pull; anonymous {}/** pull", "n".repeat(n + 1))).collect();
    let registered = Registered::new(&format!("{POLICY}; {}", rules.join("; ")));
    let rules = 2 * rules.len() as u64 + 7;
    let long_name = |n: usize| format!("n/{n:03}{}", "x".repeat(150));
    let many =
        |count: usize| (0..count).map(|n| format!("repository:{}:pull", long_name(n))).collect::<Vec<_>>().join("+");
    for (what, form, expected) in [
        ("every action, often", format!("scope=repository:a0/xz:{}", "*,".repeat(32_000)), 400),
        ("one action, often", format!("scope=repository:n/app:{}", "pull,".repeat(200)), 200),
        ("the same scope, often", format!("scope={}", "repository:n/app:pull,push+".repeat(250)), 200),
        ("the same scope, too often", format!("scope={}", "repository:n/app:pull+".repeat(2_900)), 400),
        ("scopes of nothing", format!("scope={}", "planet:x:y+".repeat(5_900)), 400),
        ("as many scopes as there can be", format!("scope={}", many(64)), 200),
        ("more", format!("scope={}", many(65)), 400),
        ("long scopes, too long for a header", format!("scope={}", many(64).replace("xxx", "xxxxx")), 400),
        ("the catalog, often", format!("scope={}", "registry:catalog:*+".repeat(250)), 200),
    ] {
        crate::auth::MATCHES.set(0);
        let request = Request::post("/v2/_eyot/token")
            .header("host", "registry.example")
            .body(Body::from(form.into_bytes()))
            .unwrap();
        let response = block_on(registered.handler.handle(request));
        assert_eq!(response.status(), expected, "{what}");
        let matches = crate::auth::MATCHES.get();
        assert!(matches <= 64 * rules, "{what}: {matches} matches");
        let reply = block_on(response.into_body().collect_up_to(1 << 20)).unwrap();
        let token = serde_json::from_slice::<Value>(&reply).unwrap()["token"].as_str().map_or(0, str::len);
        assert!(token <= 24 * 1024, "{what}: a token of {token} bytes");
    }
    // A token for the catalog would not fit into a header if the caller has too many rules, so the
    // request fails.
    let rules: Vec<_> = (0..900).map(|n| format!("root {}/** pull", long_name(n))).collect();
    let registered = Registered::new(&format!("{POLICY}; {}", rules.join("; ")));
    let refused = registered.send("GET", "/v2/_eyot/token?scope=registry:catalog:*", &basic("root"), "");
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}

#[test]
fn where_nobody_may_anything_anonymous_callers_get_no_token() {
    let registered = Registered::new("root ** all; authenticated ** pull");
    let refused = registered.send("GET", "/v2/_eyot/token", "", "");
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let realm = "Bearer realm=\"http://registry.example/v2/_eyot/token\",service=\"eyot\"";
    assert!(challenge(&refused).unwrap().starts_with(realm));
}

#[test]
fn where_our_name_is_not_known_clients_send_their_password() {
    let registered = Registered::new(POLICY);
    let request = |authorization: &str| {
        let request = Request::get("/v2/team/app/tags/list").header(AUTHORIZATION, authorization);
        block_on(registered.handler.handle(request.body(Body::empty()).unwrap()))
    };
    assert_eq!(challenge(&request("Basic x")), Some("Basic realm=\"eyot\""));
    assert_eq!(request(&basic("reader")).status(), StatusCode::OK);
    let handler = registered.handler.clone().with_public_url("https://registry.example").unwrap();
    let response = block_on(handler.handle(Request::get("/v2/").body(Body::empty()).unwrap()));
    let realm = "Bearer realm=\"https://registry.example/v2/_eyot/token\",service=\"eyot\"";
    assert_eq!(challenge(&response), Some(realm));
}

#[test]
fn without_login_what_is_refused_is_refused_for_good() {
    let registry = Registry::in_memory(Arc::new(Still::default()));
    let handler = Handler::new(registry, Access::read_only());
    for (method, uri, expected) in [
        ("GET", "/v2/", 200),
        ("POST", "/v2/a/blobs/uploads/", 403),
        ("GET", "/v2/a/tags/list", 404),
        ("GET", "/v2/_eyot/token", 404),
    ] {
        // Without logins the registry ignores credentials, including credentials that cannot be
        // parsed.
        for authorization in ["", "Bearer QQ==", "Bearer x", "Basic Og==", "Basic eDp5", "Digest x", "x"] {
            let request = Request::builder().method(method).uri(uri).header(AUTHORIZATION, authorization);
            let response = block_on(handler.handle(request.body(Body::empty()).unwrap()));
            assert_eq!(response.status(), expected, "{method} {uri} {authorization}");
            assert!(challenge(&response).is_none());
        }
    }
}
