//! Tests of the handler, by noun. All but `mirrors` use the registry in [`Fixture`].

mod audit;
mod catalog;
mod logins;
mod machine_tokens;
mod mirrors;
mod mounts;
mod permissions;
mod site;
mod token;

use std::sync::atomic::{AtomicU64, Ordering};

use base64ct::{Base64, Base64Bcrypt, Base64UrlUnpadded, Encoding as _};
use futures_executor::block_on;
use http::StatusCode;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use serde_json::{Value, json};

use super::*;
use crate::auth::{Accounts, Directory, Document, Issuers, JwksSource, PasswordHash, Secret, Tokens};
use crate::platform::Platform;
use crate::registry::Limits;
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

const INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const ISSUER: &str = "https://issuer.example";

fn issuer_key() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap()
}

/// The documents that an issuer publishes.
struct StaticIssuer;

#[async_trait::async_trait]
impl JwksSource for StaticIssuer {
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

/// A registry with users, a policy, an issuer and three repositories.
struct Fixture {
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
struct FixedPlatform(AtomicU64);

impl Platform for FixedPlatform {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn random(&self) -> [u8; 16] {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed)).to_le_bytes()
    }
}

impl Fixture {
    fn new(policy: &str) -> Self {
        let platform: Arc<dyn Platform> = Arc::new(FixedPlatform::default());
        let keys = Arc::new(Counting::new(Arc::new(MemoryKeyValue::default()) as Arc<dyn KeyValue>));
        let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
        let registry = Registry::new(keys.clone(), blobs, platform.clone(), Limits::default());
        let hashes = USERS[1..].iter().map(|user| ((*user).to_owned(), hash_of(&password(user))));
        let accounts = Accounts::new(policy.parse().unwrap(), keys.clone(), platform.clone());
        let rule = format!("ci {ISSUER} registry.example repository=acme/*");
        let issuers = Issuers::new(rule.parse().unwrap(), Arc::new(StaticIssuer), platform.clone());
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
