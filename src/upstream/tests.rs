use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use futures_executor::block_on;
use http::{HeaderValue, Request, Response};

use super::scripted::Scripted;
use super::*;
use crate::auth::{Seal, Secret};
use crate::oci::{Algorithm, Digest, Reference, RepositoryName};
use crate::platform::{Body, SendError};
use crate::store::KeyValue;
use crate::store::memory::MemoryKeyValue;

const MANIFEST: &str = r#"{"schemaVersion":2}"#;
const CHALLENGE: &str = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\"";

type Answer = Result<Response<Body>, SendError>;

fn answer(status: u16, headers: &[(&str, &str)], body: &'static str) -> Answer {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Ok(response.body(body.into()).unwrap())
}

fn repository() -> RepositoryName {
    "library/alpine".parse().unwrap()
}

fn tag() -> Reference {
    "latest".parse().unwrap()
}

fn seal(byte: u8) -> Seal {
    Seal::new([byte; 32])
}

struct Setup {
    platform: Arc<Scripted>,
    keys: Arc<MemoryKeyValue>,
}

impl Setup {
    fn new(script: impl Fn(&Request<Body>) -> Answer + Send + Sync + 'static) -> Self {
        Self { platform: Arc::new(Scripted::new(script)), keys: Arc::default() }
    }

    fn client(&self) -> Client {
        self.client_of(Upstream::new("docker.io", "https://docker.io", false).unwrap(), seal(1))
    }

    fn client_of(&self, upstream: Upstream, seal: Seal) -> Client {
        Client::new(upstream, self.keys.clone(), self.platform.clone(), seal)
    }

    fn with_login(&self) -> Client {
        let upstream = Upstream::new("docker.io", "https://docker.io", false).unwrap();
        let login = Login::Password { user: "me".into(), password: Secret::new("hunter2") };
        self.client_of(upstream.with_login(login), seal(1))
    }
}

fn manifest(client: &Client) -> Result<FetchedManifest> {
    block_on(client.manifest(&repository(), &tag(), 1000))
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> Kind {
    let error = result.unwrap_err();
    assert!(error.to_string().contains("docker.io") && !error.to_string().contains("hunter2"), "{error}");
    error.kind
}

/// Docker Hub: tokens from another host, and 401 without a token. The token server counts up.
fn hub(expires: &'static str) -> Setup {
    let tokens = AtomicU64::new(0);
    Setup::new(move |request| match request.uri().host().unwrap() {
        "auth.docker.io" => {
            let token = tokens.fetch_add(1, Relaxed) + 1;
            Ok(Response::new(format!("{{\"token\":\"t{token}\"{expires}}}").into_bytes().into()))
        }
        _ if request.headers().get("authorization").is_none_or(|value| value == "Bearer t1")
            && expires.contains("refused") =>
        {
            answer(401, &[("www-authenticate", CHALLENGE)], "")
        }
        _ if request.headers().contains_key("authorization") => {
            answer(200, &[("content-type", "x/y; q=1"), ("etag", "\"e\"")], MANIFEST)
        }
        _ => answer(401, &[("www-authenticate", CHALLENGE)], ""),
    })
}

const URL: &str = "https://registry-1.docker.io/v2/library/alpine/manifests/latest";
const TOKEN_URL: &str =
    "https://auth.docker.io/token?service=registry.docker.io&scope=repository%3Alibrary%2Falpine%3Apull";

#[test]
fn a_token_for_one_repository_is_kept_until_shortly_before_its_end() {
    let setup = hub(",\"expires_in\":300");
    let client = setup.client();
    let fetched = manifest(&client).unwrap();
    assert_eq!(fetched.digest, Algorithm::Sha256.digest(MANIFEST.as_bytes()));
    assert_eq!((fetched.media_type.as_deref(), fetched.entity_tag.as_deref()), (Some("x/y"), Some("\"e\"")));
    assert_eq!(
        setup.platform.take_requests(),
        [format!("GET {URL}"), format!("GET {TOKEN_URL}"), format!("GET {URL} Bearer t1")]
    );
    setup.platform.pass_ms(269_000);
    manifest(&client).unwrap();
    // Another instance reads the token from the store.
    manifest(&setup.client()).unwrap();
    assert_eq!(setup.platform.take_requests(), [format!("GET {URL} Bearer t1"), format!("GET {URL} Bearer t1")]);
    setup.platform.pass_ms(1_001);
    manifest(&client).unwrap();
    assert_eq!(
        setup.platform.take_requests(),
        [format!("GET {URL}"), format!("GET {TOKEN_URL}"), format!("GET {URL} Bearer t2")]
    );
}

#[test]
fn a_token_is_encrypted_in_the_store_and_expires_there() {
    let setup = hub("");
    manifest(&setup.client()).unwrap();
    setup.platform.take_requests();
    let keys = block_on(setup.keys.list("", None, 10)).unwrap();
    assert_eq!(keys, ["upstream/token/docker.io!library/alpine"]);
    let value = block_on(setup.keys.get(&keys[0])).unwrap().unwrap().value;
    assert!(!String::from_utf8_lossy(&value).contains("t1"));
    let now_ms = setup.platform.now_ms.load(Relaxed);
    // Without a stated end a token lives for 60 seconds.
    for (later_ms, expired) in [(0, false), (53_999, false), (54_000, true)] {
        assert_eq!((EXPIRING[0].is_expired)(&value, now_ms + later_ms), expired, "{later_ms}");
    }
    assert!((EXPIRING[0].is_expired)(b"garbage", now_ms));
    // An instance with another key logs in itself.
    let upstream = Upstream::new("docker.io", "https://docker.io", false).unwrap();
    manifest(&setup.client_of(upstream, seal(2))).unwrap();
    assert_eq!(setup.platform.take_requests().len(), 3);
}

#[test]
fn a_token_that_ends_early_is_replaced_once() {
    let setup = hub(",\"refused\":1");
    let client = setup.client();
    // The first token is refused at once: the upstream does not show the repository.
    assert_eq!(kind(manifest(&client)), Kind::Denied);
    assert_eq!(setup.platform.take_requests().len(), 3);
    // The kept token is refused, and the next one works.
    manifest(&client).unwrap();
    assert_eq!(
        setup.platform.take_requests(),
        [format!("GET {URL} Bearer t1"), format!("GET {TOKEN_URL}"), format!("GET {URL} Bearer t2")]
    );
}

#[test]
fn basic_logins_go_to_the_upstream_and_to_its_token_server_only() {
    let basic = Setup::new(|request| match request.headers().get("authorization") {
        Some(value) if value == "Basic bWU6aHVudGVyMg==" => answer(200, &[], MANIFEST),
        _ => answer(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
    });
    let client = basic.with_login();
    manifest(&client).unwrap();
    manifest(&client).unwrap();
    let with_login = format!("GET {URL} Basic bWU6aHVudGVyMg==");
    assert_eq!(basic.platform.take_requests(), [format!("GET {URL}"), with_login.clone(), with_login]);
    assert_eq!(kind(manifest(&basic.client())), Kind::Denied, "without a login");

    let refused = Setup::new(|_| answer(401, &[("www-authenticate", "Basic realm=\"x\"")], ""));
    assert!(matches!(kind(manifest(&refused.with_login())), Kind::Login(_)));

    let hub = hub("");
    manifest(&hub.with_login()).unwrap();
    let lines = hub.platform.take_requests();
    assert_eq!(
        lines,
        [format!("GET {URL}"), format!("GET {TOKEN_URL} Basic bWU6aHVudGVyMg=="), format!("GET {URL} Bearer t1")]
    );

    let upstream = Upstream::new("docker.io", "https://docker.io", false).unwrap();
    let token = Setup::new(|request| match request.headers().get("authorization") {
        Some(value) if value == "Bearer static" => answer(200, &[], MANIFEST),
        _ => answer(401, &[("www-authenticate", CHALLENGE)], ""),
    });
    manifest(&token.client_of(upstream.with_login(Login::Token(Secret::new("static"))), seal(1))).unwrap();
    assert_eq!(token.platform.take_requests(), [format!("GET {URL}"), format!("GET {URL} Bearer static")]);
}

#[test]
fn nothing_is_sent_to_a_realm_that_is_not_trusted() {
    for realm in ["https://evil.example/token", "http://auth.docker.io/token", "no URL", "file:///etc/passwd"] {
        let challenge = format!("Bearer realm=\"{realm}\"");
        let setup = Setup::new(move |_| answer(401, &[("www-authenticate", &challenge)], ""));
        assert!(matches!(kind(manifest(&setup.with_login())), Kind::Invalid(_)), "{realm}");
        assert_eq!(setup.platform.take_requests(), [format!("GET {URL}")], "{realm}");
    }
}

#[test]
fn a_token_server_in_trouble_keeps_its_class() {
    let limited = Kind::Limited { retry_after: Some("7".into()) };
    for (status, body, with_login, expected) in [
        (429, "", true, limited.clone()),
        (503, "", true, Kind::Down("answer 503 Service Unavailable".into())),
        (401, "", true, Kind::Login("the token server answers 401 Unauthorized".into())),
        (403, "", false, Kind::Denied),
        (404, "", true, Kind::Invalid("the token server answers 404 Not Found".into())),
        (302, "", true, Kind::Invalid("the token server answers 302 Found".into())),
        (200, "garbage", true, Kind::Invalid("the token server's answer has no token".into())),
        (200, "{\"token\":\"\"}", true, Kind::Invalid("the token server's answer has no token".into())),
        (200, "{\"token\":\"a\\nb\"}", true, Kind::Invalid("the token cannot be sent in a header".into())),
    ] {
        let setup = Setup::new(move |request| match request.uri().host().unwrap() {
            "auth.docker.io" => answer(status, &[("retry-after", "7")], body),
            _ => answer(401, &[("www-authenticate", CHALLENGE)], ""),
        });
        let client = if with_login { setup.with_login() } else { setup.client() };
        assert_eq!(kind(manifest(&client)), expected, "{status} {body}");
    }
}

#[test]
fn a_redirect_is_followed_without_credentials() {
    let setup = Setup::new(|request| match (request.uri().host().unwrap(), request.headers().get("authorization")) {
        ("registry-1.docker.io", Some(_)) => answer(307, &[("location", "https://cdn.example/blob?sig=1")], ""),
        ("cdn.example", None) => answer(200, &[("content-length", "5")], "hello"),
        ("cdn.example", Some(_)) => answer(400, &[], ""),
        ("auth.docker.io", _) => answer(200, &[], "{\"access_token\":\"t\",\"expires_in\":300}"),
        _ => answer(401, &[("www-authenticate", CHALLENGE)], ""),
    });
    let digest = Algorithm::Sha256.digest(b"hello");
    let part = block_on(setup.client().blob(&repository(), &digest, 0)).unwrap();
    assert_eq!((part.start, part.size), (0, 5));
    assert_eq!(block_on(part.body.collect_up_to(10)).unwrap(), "hello");
    assert_eq!(setup.platform.take_requests().last().unwrap(), "GET https://cdn.example/blob?sig=1");

    for location in ["http://cdn.example/", "file:///etc/passwd", "/v2/loop"] {
        let setup = Setup::new(move |_| answer(302, &[("location", location)], ""));
        assert!(matches!(kind(manifest(&setup.client())), Kind::Invalid(_)), "{location}");
        assert!(setup.platform.take_requests().len() <= 6, "{location}");
    }
}

#[test]
fn the_end_of_a_blob() {
    let digest: Digest = Algorithm::Sha256.digest(b"hello");
    for (status, range, length, start, expected) in [
        (206, "bytes 2-4/5", "3", 2, Some((2, 5))),
        (206, "bytes 2-3/5", "2", 2, None),
        (206, "bytes 1-4/5", "4", 2, None),
        (206, "", "3", 2, None),
        (200, "", "5", 2, Some((0, 5))),
    ] {
        let setup = Setup::new(move |request| {
            assert_eq!(request.headers()["range"], format!("bytes={start}-").as_str());
            answer(status, &[("content-range", range), ("content-length", length)], "llo")
        });
        let part = block_on(setup.client().blob(&repository(), &digest, start));
        assert_eq!(part.map(|part| (part.start, part.size)).ok(), expected, "{status} {range}");
    }
}

#[test]
fn the_size_of_a_blob_whose_storage_takes_no_head() {
    let digest: Digest = Algorithm::Sha256.digest(b"hello");
    let setup = Setup::new(|request| match (request.uri().host().unwrap(), request.method().as_str()) {
        ("registry-1.docker.io", _) => answer(307, &[("location", "https://cdn.example/blob")], ""),
        (_, "HEAD") => answer(403, &[], ""),
        _ => answer(206, &[("content-range", "bytes 0-0/5")], "h"),
    });
    assert_eq!(block_on(setup.client().blob_size(&repository(), &digest)), Ok(5));
    let plain = Setup::new(|_| answer(200, &[("content-length", "5")], ""));
    assert_eq!(block_on(plain.client().blob_size(&repository(), &digest)), Ok(5));
    let absent = Setup::new(|_| answer(404, &[], ""));
    assert_eq!(kind(block_on(absent.client().blob_size(&repository(), &digest))), Kind::Unknown);
}

#[test]
fn trouble_keeps_its_class() {
    let failed = |text: &str| SendError::Failed(text.into());
    let setup = Setup::new(move |_| Err(failed("connection refused")));
    assert!(matches!(kind(manifest(&setup.client())), Kind::Down(why) if why.contains("connection refused")));
    let setup = Setup::new(|_| Err(SendError::TimedOut("no answer within 20 s".into())));
    assert!(matches!(kind(manifest(&setup.client())), Kind::Slow(why) if why.contains("no answer within 20 s")));
    let setup = Setup::new(|_| answer(401, &[("www-authenticate", "Negotiate")], ""));
    assert!(matches!(kind(manifest(&setup.client())), Kind::Invalid(_)));
    let setup = Setup::new(|_| answer(404, &[], ""));
    assert_eq!(kind(manifest(&setup.client())), Kind::Unknown);
}

#[test]
fn a_manifest_has_its_digest_and_fits_its_limit() {
    let other = Algorithm::Sha256.digest(b"other");
    let text = other.to_string();
    let setup = Setup::new(move |_| answer(200, &[("docker-content-digest", &text)], MANIFEST));
    assert!(matches!(kind(manifest(&setup.client())), Kind::Invalid(_)));
    let by_digest = block_on(setup.client().manifest(&repository(), &Reference::Digest(other), 1000));
    assert!(matches!(kind(by_digest), Kind::Invalid(_)));
    let limited = block_on(setup.client().manifest(&repository(), &tag(), 10));
    assert!(matches!(kind(limited), Kind::Invalid(why) if why.contains("10 bytes")));
}

#[test]
fn one_question_tells_which_manifest_a_tag_leads_to() {
    let digest = Algorithm::Sha256.digest(MANIFEST.as_bytes());
    let text = digest.to_string();
    let setup = Setup::new(move |request| {
        assert!(request.headers()["accept"].to_str().unwrap().contains("oci.image.index"));
        match request.headers().get("if-none-match") {
            Some(tag) if tag == "\"known\"" => answer(304, &[], ""),
            _ => answer(200, &[("docker-content-digest", &text), ("etag", "\"new\"")], ""),
        }
    });
    let head = |known| block_on(setup.client().head_manifest(&repository(), &tag(), known));
    assert_eq!(head(Some("\"known\"")), Ok(ManifestHead::NotModified));
    let current = ManifestHead::Current { digest: Some(digest), entity_tag: Some("\"new\"".into()) };
    assert_eq!(head(None), Ok(current));
    let silent = Setup::new(|_| answer(200, &[], ""));
    let current = ManifestHead::Current { digest: None, entity_tag: None };
    assert_eq!(block_on(silent.client().head_manifest(&repository(), &tag(), None)), Ok(current));
}

#[test]
fn lists_of_tags_and_referrers() {
    let digest = Algorithm::Sha256.digest(b"subject");
    let setup = Setup::new(|request| match request.uri().path_and_query().unwrap().as_str() {
        "/v2/library/alpine/tags/list?n=2&last=a" => answer(
            200,
            &[("link", "</v2/library/alpine/tags/list?n=2&last=c>; rel=\"next\"")],
            r#"{"tags":["b","c","not a tag"]}"#,
        ),
        "/v2/library/alpine/tags/list?n=5" => answer(200, &[], r#"{"tags":null}"#),
        path if path.contains("/referrers/") => answer(404, &[], ""),
        path if path.contains("/manifests/sha256-") => answer(200, &[], r#"{"manifests":[]}"#),
        _ => answer(200, &[], "garbage"),
    });
    let client = setup.client();
    let page = |count, last| block_on(client.tags(&repository(), count, last));
    let tags = ["b", "c"].map(|tag| tag.parse().unwrap()).to_vec();
    assert_eq!(page(2, Some("a")), Ok(TagPage { tags, continues: true }));
    assert_eq!(page(5, None), Ok(TagPage { tags: Vec::new(), continues: false }));
    assert!(matches!(kind(page(6, None)), Kind::Invalid(_)));
    let empty = WholeList { entries: Vec::new(), is_complete: true };
    assert_eq!(block_on(client.referrers(&repository(), &digest)), Ok(empty.clone()));
    let none = Setup::new(|_| answer(404, &[], ""));
    assert_eq!(block_on(none.client().referrers(&repository(), &digest)), Ok(empty));
}

#[test]
fn the_pages_of_a_list_follow_the_links_of_the_upstream() {
    let setup = Setup::new(|request| match request.uri().path_and_query().unwrap().as_str() {
        "/v2/library/alpine/tags/list?n=1000" => answer(
            200,
            &[("link", "</v2/other?x=1>; rel=\"prev\", <list?token=t,1>; title=a; rel=next")],
            r#"{"tags":["b"]}"#,
        ),
        "/v2/library/alpine/tags/list?token=t,1" => answer(200, &[], r#"{"tags":["a"]}"#),
        _ => answer(404, &[], ""),
    });
    let listed = |setup: &Setup, bytes_max| block_on(setup.client().all_tags(&repository(), bytes_max));
    let tags = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>();
    assert_eq!(listed(&setup, 1000), Ok(WholeList { entries: tags(&["b", "a"]), is_complete: true }));
    assert_eq!(listed(&setup, 5), Ok(WholeList { entries: tags(&["b"]), is_complete: false }));
    // A list whose pages never end is read as far as the limit.
    let endless = Setup::new(|_| answer(200, &[("link", "<list>; rel=\"next\"")], r#"{"tags":["a"]}"#));
    assert!(!listed(&endless, u64::MAX).unwrap().is_complete);
    assert_eq!(endless.platform.take_requests().len(), 50);
    // The next page is asked at the upstream's own host only.
    let elsewhere =
        Setup::new(|_| answer(200, &[("link", "<https://evil.example/>; rel=\"next\"")], r#"{"tags":["a"]}"#));
    assert!(matches!(kind(listed(&elsewhere, 1000)), Kind::Invalid(why) if why.contains("another host")));
}

#[test]
fn a_redirect_to_another_host_can_be_the_answer() {
    let digest = Algorithm::Sha256.digest(b"hello");
    let place = |setup: &Setup, url: &str| {
        let upstream = Upstream::new("docker.io", url, true).unwrap();
        block_on(setup.client_of(upstream, seal(1)).blob_place(&repository(), &digest))
    };
    // The upstream's own redirects are followed with the login, and the next host gets none.
    let setup = Setup::new(|request| match (request.uri().path(), request.headers().get("authorization")) {
        ("/token", _) => answer(200, &[], "{\"token\":\"t\"}"),
        (_, None) => answer(401, &[("www-authenticate", CHALLENGE)], ""),
        ("/moved", Some(_)) => answer(307, &[("location", "https://cdn.example/blob?sig=1")], ""),
        _ => answer(301, &[("location", "/moved")], ""),
    });
    let found = place(&setup, "https://docker.io").unwrap();
    assert!(matches!(found, BlobPlace::Elsewhere(url) if url.as_str() == "https://cdn.example/blob?sig=1"));
    assert!(!setup.platform.take_requests().iter().any(|line| line.contains("cdn.example")));
    // A client is sent to http only where the upstream itself is reached by http.
    let plain = Setup::new(|_| answer(307, &[("location", "http://cdn.example/blob")], ""));
    assert!(matches!(kind(place(&plain, "https://docker.io")), Kind::Invalid(_)));
    assert!(matches!(place(&plain, "http://quay.example"), Ok(BlobPlace::Elsewhere(_))));
    let file = Setup::new(|_| answer(307, &[("location", "file:///etc/passwd")], ""));
    assert!(matches!(kind(place(&file, "http://docker.io")), Kind::Invalid(_)));
    // The upstream sends the blob itself.
    let direct = Setup::new(|_| answer(200, &[("content-length", "5")], "hello"));
    let BlobPlace::Here(part) = place(&direct, "https://docker.io").unwrap() else { panic!("a redirect") };
    assert_eq!((part.start, part.size), (0, 5));
    let absent = Setup::new(|_| answer(404, &[], ""));
    assert_eq!(kind(place(&absent, "https://docker.io")), Kind::Unknown);
}

#[test]
fn a_check_says_what_is_wrong_with_an_upstream() {
    let failed = |error: Option<SendError>| {
        Setup::new(move |_| match &error {
            Some(error) => Err(error.clone()),
            None => answer(200, &[], "{}"),
        })
    };
    let fixed = |status: u16, headers: &'static [(&str, &str)]| Setup::new(move |_| answer(status, headers, ""));
    let basic: &[(&str, &str)] = &[("www-authenticate", "Basic realm=\"x\"")];
    let bearer = |token_status: u16, status: u16| {
        Setup::new(move |request| match request.uri().path() {
            "/token" => answer(token_status, &[], "{\"token\":\"t\"}"),
            _ if request.headers().contains_key("authorization") => answer(status, &[], "{}"),
            _ => answer(401, &[("www-authenticate", CHALLENGE)], ""),
        })
    };
    for (case, setup, has_login, expected) in [
        ("open", failed(None), false, None),
        ("open, with a login", failed(None), true, None),
        ("refused", failed(Some(SendError::Failed("connection refused".into()))), false, Some("fails: registry-1")),
        ("slow", failed(Some(SendError::TimedOut("no answer within 5 s".into()))), false, Some("too slow")),
        ("no registry", fixed(404, &[]), false, Some("/v2/ is no registry: answer 404")),
        ("web page", fixed(200, &[("content-type", "text/html; charset=utf-8")]), false, Some("is a web page")),
        ("forbidden", fixed(403, &[]), false, Some("is no registry: answer 403")),
        ("server error", fixed(500, &[]), false, Some("the upstream fails: answer 500")),
        ("wants a login", fixed(401, basic), false, Some("wants a login, and none is set")),
        ("wrong password", fixed(401, basic), true, Some("refuses the login of this registry: answer 401")),
        ("tokens", bearer(200, 200), true, None),
        ("wrong password at the token server", bearer(401, 200), true, Some("the token server answers 401")),
        ("the token is refused", bearer(200, 401), true, Some("refuses the login")),
        ("tokens for single repositories only", bearer(403, 401), false, None),
        ("no token without a repository", bearer(200, 401), false, None),
        ("token server down", bearer(503, 401), false, Some("answer 503")),
    ] {
        let client = if has_login { setup.with_login() } else { setup.client() };
        let found = block_on(client.check()).map_err(|error| error.kind.to_string());
        match expected {
            None => assert_eq!(found, Ok(()), "{case}"),
            Some(text) => assert!(found.as_ref().is_err_and(|why| why.contains(text)), "{case}: {found:?}"),
        }
        assert!(setup.platform.take_requests()[0].starts_with("GET https://registry-1.docker.io/v2/"), "{case}");
    }
    // A token of the check is for no repository.
    let setup = bearer(200, 200);
    block_on(setup.with_login().check()).unwrap();
    let requests = setup.platform.take_requests();
    assert_eq!(requests[1], "GET https://auth.docker.io/token?service=registry.docker.io Basic bWU6aHVudGVyMg==");
    assert_eq!(block_on(setup.keys.list("", None, 10)).unwrap(), [""; 0]);
}

#[test]
fn a_range_goes_through_with_the_headers_of_the_answer() {
    let digest = Algorithm::Sha256.digest(b"hello");
    let setup = Setup::new(|request| match request.headers()["range"].to_str().unwrap() {
        "bytes=9-" => answer(416, &[], ""),
        _ => answer(206, &[("content-range", "bytes 1-2/5")], "el"),
    });
    let ask = |range| block_on(setup.client().blob_range(&repository(), &digest, &HeaderValue::from_static(range)));
    assert_eq!(ask("bytes=1-2").unwrap().headers()["content-range"], "bytes 1-2/5");
    assert_eq!(kind(ask("bytes=9-")), Kind::Range);
}
