//! Tests of the transcript machinery: malformed transcripts do not parse, unmet expectations fail.

use bytes::Bytes;
use futures_executor::block_on;
use http::{Method, Request, Response};

use crate::support::runner::{Target, contains, glob, local, run};
use crate::support::transcript::parse;
use crate::support::value::{Scope, Value};

/// Answers like a registry with one blob, `hello`.
struct Stub;

impl Target for Stub {
    async fn send(&self, request: Request<Bytes>, streamed: bool) -> Result<Response<Bytes>, String> {
        let reply = Response::builder()
            .header("Docker-Distribution-API-Version", "registry/2.0")
            .header("X-Content-Type-Options", "nosniff")
            .header("Content-Security-Policy", "default-src 'none'; sandbox");
        let body = |text: &'static str| {
            if request.method() == Method::HEAD { Bytes::new() } else { Bytes::from(text) }
        };
        let reply = match request.uri().path() {
            "/blob" => {
                reply.header("Content-Length", "5").header("X-Two", "a").header("X-Two", "b").body(body("hello"))
            }
            "/upload" => {
                reply.status(202).header("Location", "http://registry.example/session?state=1").body(Bytes::new())
            }
            "/session" => {
                let query = request.uri().query().unwrap_or_default();
                let length = request.headers().get("content-length").is_some();
                let told = format!("{query} {length} {streamed}");
                reply.header("X-Told", told).header("Content-Length", request.body().len()).body(request.body().clone())
            }
            "/error" => reply
                .status(404)
                .header("Content-Length", "51")
                .body(body("{\"errors\": [{\"code\": \"BLOB_UNKNOWN\", \"more\": [1]}]}")),
            "/other-error" => {
                reply.status(404).header("Content-Length", "32").body(body("{\"errors\": [{\"code\": \"MY_OWN\"}]}"))
            }
            "/short" => reply.header("Content-Length", "6").body(body("hello")),
            "/unmeasured" => reply.body(body("hello")),
            "/wrong" => reply
                .header("Content-Length", "5")
                .header("Docker-Content-Digest", format!("sha256:{:064}", 0))
                .body(body("hello")),
            "/bare" => Response::builder().body(Bytes::new()),
            other => return Err(format!("no route {other}")),
        };
        reply.map_err(|why| why.to_string())
    }
}

fn failures(text: &str) -> Vec<String> {
    let transcript = parse("stub.txt", text).expect("a transcript");
    block_on(run(&transcript, &Stub, "run"))
}

fn passes(text: &str) {
    assert_eq!(failures(text), Vec::<String>::new());
}

fn fails(text: &str, message: &str) {
    let failures = failures(text);
    assert_eq!(failures.len(), 1, "{text}\n{failures:?}");
    assert!(failures[0].contains(message), "{text}\n{}", failures[0]);
}

#[test]
fn met_expectations_pass() {
    passes("> GET /blob\n< 200\n< body: \"hello\"\n< Content-Length: 5\n< no Link");
    passes("> GET /blob\n< 201 | 200\n< X-Two: a, b\n< X-Two ~ a*?b\n< X-Two != a");
    passes("> HEAD /blob\n< 200\n< no body");
    passes("> GET /error\n< 404\n< error: NAME_UNKNOWN | BLOB_UNKNOWN");
    passes("> GET /error\n< 404\n< json: {\"errors\": [{\"more\": [1]}]}");
    let exactly = "{\"errors\": [{\"more\": [1], \"code\": \"BLOB_UNKNOWN\"}]}";
    passes(&format!("> GET /error\n< 404\n< json exactly:\n  {exactly}"));
}

#[test]
fn broken_expectations_fail() {
    fails("> GET /blob\n< 404", "expected: status 404\n  actual:   200");
    fails("> GET /blob\n< 200\n< body: \"hallo\"", "different from byte 1");
    fails("> GET /blob\n< 200\n< no body", "the body of 0 bytes");
    fails("> GET /blob\n< 200\n< Content-Length: 6", "Content-Length: 6");
    fails("> GET /blob\n< 200\n< X-Two: a", "actual:   a, b");
    fails("> GET /blob\n< 200\n< X-Two ~ b*", "like b*");
    fails("> GET /blob\n< 200\n< X-Two != a, b", "other than a, b");
    fails("> GET /blob\n< 200\n< X-Three", "some X-Three");
    fails("> GET /blob\n< 200\n< X-Three != a", "no such header");
    fails("> GET /blob\n< 200\n< no X-Two", "no X-Two");
    fails("> GET /blob\n< 200\n< X-Three -> x", "some X-Three");
    fails("> GET /blob\n< 200\n< json: {}", "expected: JSON");
    fails("> GET /error\n< 404\n< error: DENIED", "error DENIED");
    fails("> GET /error\n< 404\n< json: {\"errors\": [{\"code\": \"X\"}]}", "JSON with");
    fails("> GET /error\n< 404\n< json exactly: {\"errors\": []}", "expected: JSON");
    fails("> GET /nowhere\n< 200", "no reply: no route /nowhere");
}

#[test]
fn general_rules_are_checked_for_every_answer() {
    fails("> GET /bare\n< 200", "Docker-Distribution-API-Version");
    fails("> HEAD /unmeasured\n< 200", "a HEAD with Content-Length");
    fails("> GET /unmeasured\n< 200", "Content-Length: 5");
    fails("> GET /short\n< 200", "Content-Length: 5");
    fails("> GET /wrong\n< 200", "a body of sha256:000");
    fails("> GET /other-error\n< 404", "a code of the specification");
}

#[test]
fn a_failure_tells_where() {
    let text = "# two cases\ncase first # rows 1\n> GET /blob\n< 200\n< body: \"no\"\n> GET /nowhere\n< 200\n\
                case second # rows 2\n> GET /blob\n< 201\n";
    let failures = failures(text);
    assert_eq!(failures.len(), 2);
    assert!(failures[0].starts_with("stub.txt:5: case \"first\", rows [1]\n  request:  GET /blob\n"));
    assert!(failures[0].contains("reply:    200 OK"));
    assert!(failures[1].starts_with("stub.txt:10: case \"second\", rows [2]\n"));
}

#[test]
fn variables_and_captures() {
    passes(
        "let layer = \"ab\"\n> POST /upload\n< 202\n< Location: /session?state=1\n< Location -> kept\n\
         > PUT {location?}digest={sha256:layer}\n> body: layer\n< 200\n< body: \"ab\"\n\
         < X-Told: state=1&digest={sha256:layer} true false\n\
         > PUT {kept}\n> streamed body: layer + \"{run}\"\n< 200\n< body: \"abrun\"\n< X-Told: state=1 false true",
    );
    fails("> GET /{unknown}\n< 200", "nothing is named `unknown`");
    // A reply without Location removes the variable, so that no later request uses an old value by
    // mistake.
    fails("> POST /upload\n< 202\n> GET /blob\n< 200\n> GET {location}\n< 200", "nothing is named `location`");
}

#[test]
fn a_malformed_transcript_does_not_parse() {
    for (text, message) in [
        ("> GET /", "t.txt:1: no status is expected"),
        ("\n< 200", "t.txt:2: a reply without a request"),
        ("case no rows", "t.txt:1: expected `case TITLE # rows N N …`"),
        ("case x # rows one", "`one` is no row"),
        ("let x", "expected `let NAME = VALUE`"),
        ("let X = \"a\"", "`X` is no name for a value"),
        ("let x = ", "a value is missing"),
        ("let x = \"a\n", "expected a quoted text"),
        ("let x = \"a\" \"b\"", "expected `+`"),
        ("let x = zero many", "expected a number"),
        ("let x = y[1-2]", "expected `[FROM..TO]`"),
        ("let x = \"a\"\n  b", "either beside or below"),
        ("  indented", "t.txt:1: an indented line must follow a statement"),
        ("# comment\n  indented", "t.txt:2: an indented line"),
        ("> GET\n< 200", "expected `> METHOD TARGET`"),
        ("> GET /\n> a header: x\n< 200", "`a header` is no header name"),
        ("> GET /\n< 2oo", "`2oo` is no status"),
        ("> GET /\n< 200\n< Link = x", "what is expected of `Link`?"),
        ("> GET /\n< 200\n< json:", "JSON is missing"),
        ("GET /", "unknown statement `GET`"),
        ("given tag x", "expected `given blob B in R`"),
    ] {
        let error = parse("t.txt", text).expect_err(text);
        assert!(error.contains(message), "{text:?}: {error}");
    }
}

#[test]
fn values() {
    let mut scope = Scope::default();
    scope.set("name", "abc");
    let value = |text: &str, block| Value::parse(text, block).and_then(|value| value.bytes(&scope));
    let text = |text: &str| value(text, None).map(|bytes| String::from_utf8(bytes.into()).unwrap());
    assert_eq!(text("\"a\\n\" + repeat 1_000 \"{name}\"").unwrap().len(), 3002);
    assert_eq!(text("zero 2").unwrap(), "\0\0");
    assert_eq!(text("name[1..3]").unwrap(), "bc");
    assert_eq!(text("name[1..3] + name").unwrap(), "bcabc");
    assert!(text("name[1..4]").unwrap_err().contains("only 3 bytes"));
    assert!(text("other").unwrap_err().contains("nothing is named"));
    assert_eq!(text("\"{size:name} {} {\\\"name\\\"}\"").unwrap(), "3 {} {\"name\"}");
    assert_eq!(value("", Some("{\"a\": {size:name}}")).unwrap(), "{\"a\": 3}");
    assert_eq!(value("noise 9 \"x\"", None).unwrap().len(), 9);
    assert_ne!(value("noise 9 \"x\"", None), value("noise 9 \"y\"", None));
    assert!(text("\"{md5:name}\"").unwrap_err().contains("unknown function"));
}

#[test]
fn patterns_json_and_locations() {
    assert!(glob("/a/*/c?", "/a/b/b/cd"));
    assert!(!glob("/a/*/c?", "/a/b/c"));
    let json = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert!(contains(&json("[1, 2, 3]"), &json("[1, 3]")));
    assert!(!contains(&json("[1, 2, 3]"), &json("[3, 1]")));
    assert!(!contains(&json("[1]"), &json("[1, 1]")));
    assert!(contains(&json("{\"a\": {\"b\": 1, \"c\": 2}}"), &json("{\"a\": {\"b\": 1}}")));
    assert!(!contains(&json("{\"a\": null}"), &json("{\"b\": null}")));
    assert_eq!(local("http://h:1/v2/x?y", "/v2/"), "/v2/x?y");
    assert_eq!(local("/v2/x", "/a"), "/v2/x");
    assert_eq!(local("x", "/v2/uploads/"), "/v2/uploads/x");
    assert_eq!(local("?n=1", "/v2/list"), "/v2/list?n=1");
    assert_eq!(local("</v2/l?n=1>; rel=\"next\"", "/"), "/v2/l?n=1");
}
