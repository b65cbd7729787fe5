//! Runs transcripts against anything that answers HTTP requests.

use std::fmt::Write as _;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, LINK, LOCATION};
use http::{Method, Request, Response, StatusCode};
use serde_json::Value as Json;

use super::transcript::{self, Exchange, Expectation, HeaderCheck, Step, Transcript};
use super::value::{Scope, sha256, sha512};

pub trait Target {
    /// `streamed`: send the body without declaring its length.
    fn send(
        &self,
        request: Request<Bytes>,
        streamed: bool,
    ) -> impl Future<Output = Result<Response<Bytes>, String>> + Send;
}

/// Splits a body into pieces for streaming. Their length, 20,011 bytes, fits no other boundary.
pub fn pieces(mut body: Bytes) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(move || {
        let piece = body.split_to(body.len().min(20_011));
        (!piece.is_empty()).then_some(piece)
    })
}

/// The error codes that the specification lists; a registry sends no others.
const CODES: [&str; 14] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];

/// Parses every transcript of the project, in the order of the file names.
pub fn all() -> Vec<Transcript> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the folder of transcripts")
        .map(|entry| entry.expect("an entry of the folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no transcripts in {}", folder.display());
    files
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).expect("a readable transcript");
            let name = path.file_name().expect("a file").to_string_lossy();
            transcript::parse(&format!("tests/transcripts/{name}"), &text).unwrap_or_else(|error| panic!("{error}"))
        })
        .collect()
}

/// Runs every transcript and panics with all failures. Repository names are new in each run, so
/// that a server can be tested repeatedly.
pub async fn run_all(target: &impl Target) {
    run_all_but(target, &[]).await;
}

/// As [`run_all`], without the cases of these titles: those that the HTTP server of a host answers
/// before the registry sees the request.
pub async fn run_all_but(target: &impl Target, titles: &[&str]) {
    let prefix = format!("t{:x}", RandomState::new().build_hasher().finish());
    let mut failures = Vec::new();
    let mut left_out = 0;
    for mut transcript in all() {
        let cases = transcript.cases.len();
        transcript.cases.retain(|case| !titles.contains(&case.title.as_str()));
        left_out += cases - transcript.cases.len();
        failures.extend(run(&transcript, target, &prefix).await);
    }
    assert_eq!(left_out, titles.len(), "each title names one case: {titles:?}");
    assert!(failures.is_empty(), "{} of the transcripts' cases failed:\n\n{}", failures.len(), failures.join("\n"));
}

/// Runs the cases in order and returns a message for each failed case. Cases of one file share
/// names and repository; a case ends at its first failure.
pub async fn run(transcript: &Transcript, target: &impl Target, run: &str) -> Vec<String> {
    let theme = Path::new(&transcript.file).file_stem().expect("a file name").to_string_lossy();
    let mut scope = Scope::default();
    scope.set("run", run.to_owned());
    scope.set("repo", format!("{run}/{theme}"));
    let mut failures = Vec::new();
    for case in &transcript.cases {
        for step in &case.steps {
            let outcome = match step {
                Step::Let { line, name, value } => {
                    value.bytes(&scope).map(|bytes| scope.set(name, bytes)).map_err(|why| (*line, why))
                }
                Step::Exchange(exchange) => exchange_with(target, exchange, &mut scope).await,
            };
            if let Err((line, why)) = outcome {
                let (file, title, rows) = (&transcript.file, &case.title, &case.rows);
                failures.push(format!("{file}:{line}: case \"{title}\", rows {rows:?}\n{why}"));
                break;
            }
        }
    }
    failures
}

async fn exchange_with(target: &impl Target, exchange: &Exchange, scope: &mut Scope) -> Result<(), (usize, String)> {
    let request = request(exchange, scope).map_err(|why| (exchange.line, why))?;
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut sent = format!("{method} {}", request.uri());
    if sent.len() > 300 {
        sent.truncate(300);
        sent.push('…');
    }
    let reply = target
        .send(request, exchange.streamed)
        .await
        .map_err(|why| (exchange.line, format!("  request:  {sent}\n  no reply: {why}")))?;

    // Captured before the checks, so that a case can continue after any reply.
    for (header, name) in [(LOCATION, "location"), (LINK, "next")] {
        match header_text(&reply, header.as_str()) {
            Some(text) => scope.set(name, local(&text, &path)),
            None => scope.unset(name),
        }
    }
    let explain = |(line, why): (usize, String)| {
        let reply = describe(&reply);
        (line, format!("  request:  {sent}\n{why}\n{reply}"))
    };
    for (line, expectation) in &exchange.expectations {
        check(expectation, &reply, &path, scope).map_err(|why| explain((*line, why)))?;
    }
    check_always(&method, exchange, &reply).map_err(|why| explain((exchange.line, why)))
}

fn request(exchange: &Exchange, scope: &Scope) -> Result<Request<Bytes>, String> {
    let target = scope.expand(&exchange.target)?;
    let body = match &exchange.body {
        Some(value) => value.bytes(scope)?,
        None => Bytes::new(),
    };
    let mut request = Request::builder().method(exchange.method.as_str()).uri(&target);
    for (name, value) in &exchange.headers {
        request = request.header(name, scope.expand(value)?);
    }
    // Add Content-Length as an HTTP client would: in-process tests have no client.
    let told = exchange.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if !exchange.streamed && !told && (exchange.body.is_some() || exchange.method == "POST") {
        request = request.header(CONTENT_LENGTH, body.len());
    }
    request.body(body).map_err(|why| format!("no valid request to {target}: {why}"))
}

fn check(expectation: &Expectation, reply: &Response<Bytes>, path: &str, scope: &mut Scope) -> Result<(), String> {
    match expectation {
        Expectation::Status(statuses) => {
            let status = reply.status().as_u16();
            expect(statuses.contains(&status), || {
                let wanted: Vec<_> = statuses.iter().map(u16::to_string).collect();
                (format!("status {}", wanted.join(" or ")), status.to_string())
            })
        }
        Expectation::Header(name, header) => check_header(name, header, reply, path, scope),
        Expectation::Body(value) => check_bytes(&value.bytes(scope)?, reply.body()),
        Expectation::NoBody => check_bytes(b"", reply.body()),
        Expectation::JsonContains(text) => {
            let wanted = json(scope.expand(text)?.as_bytes())?;
            let actual = json(reply.body())?;
            expect(contains(&actual, &wanted), || (format!("JSON with {wanted}"), actual.to_string()))
        }
        Expectation::JsonExactly(text) => {
            let wanted = json(scope.expand(text)?.as_bytes())?;
            let actual = json(reply.body())?;
            expect(actual == wanted, || (format!("JSON {wanted}"), actual.to_string()))
        }
        Expectation::Error(codes) => {
            let actual = error_codes(reply)?;
            expect(actual.iter().any(|code| codes.contains(code)), || {
                (format!("error {}", codes.join(" or ")), actual.join(", "))
            })
        }
    }
}

fn check_header(
    name: &str,
    check: &HeaderCheck,
    reply: &Response<Bytes>,
    path: &str,
    scope: &mut Scope,
) -> Result<(), String> {
    let mut actual = header_text(reply, name);
    if name.eq_ignore_ascii_case("location") {
        // A Location may be absolute or relative.
        actual = actual.map(|location| local(&location, path));
    }
    let shown = || actual.clone().unwrap_or_else(|| "no such header".into());
    match check {
        HeaderCheck::Equals(value) => {
            let value = scope.expand(value)?;
            expect(actual.as_ref() == Some(&value), || (format!("{name}: {value}"), shown()))
        }
        HeaderCheck::Differs(value) => {
            let value = scope.expand(value)?;
            expect(actual.as_ref().is_some_and(|actual| *actual != value), || {
                (format!("{name} other than {value}"), shown())
            })
        }
        HeaderCheck::Matches(pattern) => {
            let pattern = scope.expand(pattern)?;
            expect(actual.as_ref().is_some_and(|actual| glob(&pattern, actual)), || {
                (format!("{name} like {pattern}"), shown())
            })
        }
        HeaderCheck::Present => expect(actual.is_some(), || (format!("some {name}"), shown())),
        HeaderCheck::Absent => expect(actual.is_none(), || (format!("no {name}"), shown())),
        HeaderCheck::Capture(variable) => match actual {
            Some(actual) => {
                scope.set(variable, actual);
                Ok(())
            }
            None => expect(false, || (format!("some {name}"), shown())),
        },
    }
}

/// Checks the rules that apply to every reply of a registry, whatever the case tests.
fn check_always(method: &Method, exchange: &Exchange, reply: &Response<Bytes>) -> Result<(), String> {
    let header = |name: &str| header_text(reply, name);
    let version = header("docker-distribution-api-version");
    expect(version.as_deref() == Some("registry/2.0"), || {
        let actual = version.clone().unwrap_or_else(|| "no such header".into());
        ("Docker-Distribution-API-Version: registry/2.0".into(), actual)
    })?;

    // A browser must not execute pushed content: anyone may have pushed it.
    for (name, wanted) in
        [("x-content-type-options", "nosniff"), ("content-security-policy", "default-src 'none'; sandbox")]
    {
        let actual = header(name);
        expect(actual.as_deref() == Some(wanted), || {
            (format!("{name}: {wanted}"), actual.clone().unwrap_or_else(|| "no such header".into()))
        })?;
    }

    let length = header("content-length");
    if method == Method::HEAD {
        // Row 20: without a length, a client cannot see the size of the content.
        expect(reply.status() != StatusCode::OK || length.is_some(), || {
            ("a HEAD with Content-Length".into(), "none".into())
        })?;
        return check_bytes(b"", reply.body());
    }
    if !reply.body().is_empty() {
        // Without Content-Length, a truncated reply can look complete.
        let wanted = reply.body().len().to_string();
        expect(length.as_ref() == Some(&wanted), || {
            let actual = length.clone().unwrap_or_else(|| "no such header".into());
            (format!("Content-Length: {wanted}"), actual)
        })?;
    }
    let ours = reply.status().is_client_error();
    if ours {
        // Rows 96 and 97.
        error_codes(reply)?;
    }
    let whole = method == Method::GET && reply.status() == StatusCode::OK;
    match header("docker-content-digest") {
        Some(digest) if whole && !exchange.target.contains("/referrers/") => {
            let actual = if digest.starts_with("sha512:") { sha512(reply.body()) } else { sha256(reply.body()) };
            expect(digest == actual, || (format!("a body of {digest}"), format!("a body of {actual}")))
        }
        _ => Ok(()),
    }
}

fn error_codes(reply: &Response<Bytes>) -> Result<Vec<String>, String> {
    let body = json(reply.body())?;
    let errors = body["errors"].as_array().filter(|errors| !errors.is_empty());
    let errors = errors.ok_or_else(|| format!("  expected: a list of errors\n  actual:   {body}"))?;
    let mut codes = Vec::new();
    for error in errors {
        let code = error["code"].as_str().unwrap_or("no code");
        expect(CODES.contains(&code), || ("a code of the specification".into(), code.into()))?;
        codes.push(code.to_owned());
    }
    Ok(codes)
}

fn expect(holds: bool, wanted_and_actual: impl FnOnce() -> (String, String)) -> Result<(), String> {
    if holds {
        return Ok(());
    }
    let (wanted, actual) = wanted_and_actual();
    Err(format!("  expected: {wanted}\n  actual:   {actual}"))
}

fn check_bytes(wanted: &[u8], actual: &[u8]) -> Result<(), String> {
    expect(wanted == actual, || {
        let same = wanted.iter().zip(actual).take_while(|(a, b)| a == b).count();
        let actual = format!("{}, different from byte {same}", excerpt(actual));
        (format!("the body {}", excerpt(wanted)), actual)
    })
}

fn json(text: &[u8]) -> Result<Json, String> {
    serde_json::from_slice(text).map_err(|why| format!("  expected: JSON\n  actual:   {} ({why})", excerpt(text)))
}

/// Implements `Expectation::JsonContains`.
pub fn contains(actual: &Json, wanted: &Json) -> bool {
    match (actual, wanted) {
        (Json::Object(actual), Json::Object(wanted)) => {
            wanted.iter().all(|(name, wanted)| actual.get(name).is_some_and(|actual| contains(actual, wanted)))
        }
        (Json::Array(actual), Json::Array(wanted)) => {
            let mut actual = actual.iter();
            wanted.iter().all(|wanted| actual.any(|actual| contains(actual, wanted)))
        }
        _ => actual == wanted,
    }
}

/// Matches `text` against `pattern`: `*` is any text, `?` any character.
pub fn glob(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| glob(rest, &text[at..]))
        }
        Some(wanted) => {
            let mut characters = text.chars();
            match characters.next() {
                Some(actual) if wanted == '?' || wanted == actual => {
                    glob(&pattern[wanted.len_utf8()..], characters.as_str())
                }
                _ => false,
            }
        }
    }
}

/// The path and query of a Location or a Link target. `reference` may be absolute or relative to
/// the request's `path`.
pub fn local(reference: &str, path: &str) -> String {
    let reference = match reference.strip_prefix('<') {
        Some(link) => link.split('>').next().unwrap_or(link),
        None => reference,
    };
    if let Some((_, after)) = reference.split_once("://") {
        match after.find('/') {
            Some(at) => after[at..].into(),
            None => "/".into(),
        }
    } else if reference.starts_with('/') {
        reference.into()
    } else if reference.starts_with('?') {
        format!("{path}{reference}")
    } else {
        let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
        format!("{folder}{reference}")
    }
}

fn header_text(reply: &Response<Bytes>, name: &str) -> Option<String> {
    let values: Vec<_> =
        reply.headers().get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn describe(reply: &Response<Bytes>) -> String {
    let mut text = format!("  reply:    {}\n", reply.status());
    for (name, value) in reply.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        writeln!(text, "            {name}: {value}").expect("writing to a string");
    }
    writeln!(text, "            {}", excerpt(reply.body())).expect("writing to a string");
    text
}

fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(400)];
    let more = if shown.len() < bytes.len() { "…" } else { "" };
    format!("of {} bytes: {:?}{more}", bytes.len(), String::from_utf8_lossy(shown))
}
