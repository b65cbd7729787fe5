//! Requests to an S3 server: signed, tried again where that is safe, timed and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_LENGTH, DATE, ETAG, RETRY_AFTER};
use http::{HeaderMap, Request, Response, StatusCode};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use rusty_s3::{Bucket, Credentials, Map, Method, UrlStyle};

use super::S3Settings;
use super::answer;
use super::gather::Part;
use crate::store::{Body, Error, Platform, Result};

/// How often a request is sent at most.
const ATTEMPTS_MAX: u32 = 5;
/// How long the first pause between two attempts is at most; it doubles from one to the next.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest pause that a server can ask for: somebody waits for us, too.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// How long a request may take before its answer begins, and then for the answer, beside the time that each body is given.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// The speed, in bytes a second, at which bodies are likely to go at least.
const BODY_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// How long a signature of a request of ours is valid.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// The most bytes of an answer that is held in memory: a value, or a page of a list.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How many bytes of a refusal are read: more say no more.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
/// The codes of refusals that pass, whatever status they come with.
const PASSING_CODES: [&str; 6] = [
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
];
/// From how far a clock may be the cause of a refusal.
const CLOCK_SKEW_MAX_MS: u64 = 5 * 60 * 1000;

/// What is sent with a request.
pub(super) enum Payload {
    /// Bytes that can be sent again.
    Bytes(Vec<Bytes>),
    /// A stream of known length, which can be sent again as long as no more of it was taken than was held in memory anyway.
    Stream(Part),
}

/// A request to the bucket.
pub(super) struct Call<'a> {
    method: Method,
    /// The object's name behind the prefix; empty for the bucket itself.
    object: &'a str,
    query: Map<'a>,
    headers: Map<'a>,
    payload: Payload,
    timeout: Duration,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, object: &'a str) -> Self {
        let payload = Payload::Bytes(Vec::new());
        Self { method, object, query: Map::new(), headers: Map::new(), payload, timeout: TIMEOUT }
    }

    /// A parameter, whose name must be of letters, digits and `-`.
    pub(super) fn query(mut self, name: &'a str, value: impl Into<std::borrow::Cow<'a, str>>) -> Self {
        self.query.insert(name, value);
        self
    }

    /// A header, in lower case; it is signed.
    pub(super) fn header(mut self, name: &'a str, value: impl Into<std::borrow::Cow<'a, str>>) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(super) fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    /// How long the server may take, beside the time for bodies.
    pub(super) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn payload_bytes(&self) -> u64 {
        match &self.payload {
            Payload::Bytes(pieces) => pieces.iter().map(|piece| piece.len() as u64).sum(),
            Payload::Stream(part) => part.length(),
        }
    }

    /// How long an attempt is likely to take at most.
    fn span(&self) -> Duration {
        self.timeout + Duration::from_secs(self.payload_bytes() / BODY_BYTES_PER_SECOND_MIN)
    }
}

/// The attempts at one request: how many there were, and until when there may be more.
pub(super) struct Attempts {
    pub(super) made: u32,
    until_ms: u64,
}

/// An answer whose body was read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// How often the request was sent: a refusal of a later attempt may come from what an earlier one did.
    pub(super) attempts: u32,
}

impl Answer {
    /// S3's own code of a refusal, such as `NoSuchKey`; empty where there is none.
    pub(super) fn code(&self) -> String {
        answer::Refusal::parse(&self.body).code
    }

    /// XML as the parsers of rusty-s3 want it.
    pub(super) fn xml(&self) -> Result<String> {
        let text = std::str::from_utf8(&self.body);
        let text = text.map_err(|_| Error::Unavailable("S3 answered with what is no text".into()))?;
        if !answer::is_whole(text) {
            return Err(Error::Unavailable("S3 answered with XML that breaks off".into()));
        }
        Ok(answer::in_namespace(text, answer::NAMESPACE))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The entity tag. Proxies may call it weak, which S3 itself never does.
    pub(super) fn etag(&self) -> Option<&str> {
        let etag = self.header(ETAG.as_str())?;
        Some(etag.strip_prefix("W/").unwrap_or(etag))
    }

    /// A server that says it cannot just now.
    pub(super) fn is_passing(&self, method: Method) -> bool {
        let is_passing_code = || PASSING_CODES.contains(&self.code().as_str());
        match self.status {
            StatusCode::NOT_IMPLEMENTED => false,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => true,
            StatusCode::BAD_REQUEST | StatusCode::CONFLICT => is_passing_code(),
            // S3 may say 200 before it knows, and then tell an error in the body.
            StatusCode::OK => matches!(method, Method::Post) && is_passing_code(),
            status => status.is_server_error(),
        }
    }

    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Duration {
        let seconds = self.header(RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
        Duration::from_secs(seconds.unwrap_or(0)).min(RETRY_AFTER_MAX)
    }
}

/// A client of one bucket.
pub(super) struct Client {
    bucket: Bucket,
    /// The bucket by the address that clients know.
    public_bucket: Bucket,
    credentials: Credentials,
    prefix: String,
    platform: Arc<dyn Platform>,
    requests: AtomicU64,
}

impl Client {
    pub(super) fn new(settings: &S3Settings, platform: Arc<dyn Platform>) -> Result<Self, String> {
        let style = if settings.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let bucket = |name: &str, endpoint: &str| {
            let unusable = |why: &dyn std::fmt::Display| format!("setting {name}: {endpoint:?}: {why}");
            let url = endpoint.parse().map_err(|why: url::ParseError| unusable(&why))?;
            Bucket::new(url, style, settings.bucket.clone(), settings.region.clone()).map_err(|why| unusable(&why))
        };
        let public = settings.public_endpoint.as_ref().unwrap_or(&settings.endpoint);
        let (key, secret) = (settings.access_key_id.clone(), settings.secret_access_key.clone());
        Ok(Self {
            bucket: bucket("s3_endpoint", &settings.endpoint)?,
            public_bucket: bucket("s3_public_endpoint", public)?,
            credentials: match &settings.session_token {
                Some(token) => Credentials::new_with_token(key, secret, token.clone()),
                None => Credentials::new(key, secret),
            },
            prefix: settings.prefix.clone(),
            platform,
            requests: AtomicU64::new(0),
        })
    }

    pub(super) fn platform(&self) -> &dyn Platform {
        &*self.platform
    }

    pub(super) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// A name behind the prefix as the bucket has it.
    pub(super) fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name behind the prefix of what the bucket has.
    pub(super) fn own_name<'a>(&self, full_name: &'a str) -> Option<&'a str> {
        full_name.strip_prefix(self.prefix.as_str())
    }

    /// A URL by which whoever has it may read the object for `lifetime`, with any Range.
    pub(super) fn presign(&self, object: &str, lifetime: Duration) -> Result<String> {
        let call = Call::new(Method::Get, object);
        Ok(self.sign(&self.public_bucket, &call, lifetime)?.into())
    }

    /// Sends a request and reads the answer; a failing server or a broken connection is tried again. What can be done once
    /// only is told by [`Answer::attempts`], and the caller finds out what became of it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no attempt was answered, or the last with 500 and above. Every other status is an answer.
    pub(super) async fn send(&self, call: Call<'_>) -> Result<Answer> {
        let mut attempts = self.attempts(call.span());
        loop {
            attempts.made += 1;
            let result = match self.send_once(&call).await {
                Ok(response) => self.collect(&call, response, attempts.made).await,
                Err(error) => Err(error),
            };
            let (error, retry_after) = match result {
                Ok(answer) if !answer.is_passing(call.method) => return Ok(answer),
                Ok(answer) => (self.refusal(&call_name(&call), &answer), answer.retry_after()),
                Err(error) => (error, Duration::ZERO),
            };
            let can_repeat = match &call.payload {
                Payload::Bytes(_) => true,
                Payload::Stream(part) => part.rewind(),
            };
            if !can_repeat {
                return Err(error);
            }
            self.pause(&attempts, error, retry_after).await?;
        }
    }

    /// Attempts at a request that may take `span` each.
    pub(super) fn attempts(&self, span: Duration) -> Attempts {
        // Time for two of them that are not answered at all.
        Attempts { made: 0, until_ms: self.platform.now_ms() + 2 * span.as_millis() as u64 }
    }

    /// Sends a request and expects success, or what `allowed` lists.
    pub(super) async fn expect(&self, call: Call<'_>, allowed: &[StatusCode]) -> Result<Answer> {
        let name = call_name(&call);
        let answer = self.send(call).await?;
        if answer.status.is_success() || allowed.contains(&answer.status) {
            return Ok(answer);
        }
        Err(self.refusal(&name, &answer))
    }

    pub(super) async fn send_once(&self, call: &Call<'_>) -> Result<Response<Body>> {
        let url = self.sign(&self.bucket, call, SIGNATURE_LIFETIME)?;
        let mut request = Request::builder().method(call.method.to_str()).uri(url.as_str());
        for (name, value) in call.headers.iter() {
            request = request.header(name, value);
        }
        let body = match &call.payload {
            Payload::Bytes(pieces) => body_of(pieces),
            Payload::Stream(part) => part.body(),
        };
        let length = call.payload_bytes();
        // A host sends a body whose length nobody states in chunks, also one without bytes, and S3 takes no chunks.
        if !matches!(call.method, Method::Get | Method::Head) {
            request = request.header(CONTENT_LENGTH, length);
        }
        let request = request.body(body).map_err(|e| Error::Unavailable(format!("S3: {e}")))?;
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let begin_ms = self.platform.now_ms();
        let result = self.platform.send(request, call.timeout).await;
        let took_ms = self.platform.now_ms().saturating_sub(begin_ms);
        let outcome = result.as_ref().map_or_else(Error::to_string, |response| response.status().as_u16().to_string());
        log::debug!("S3: {}: {outcome} after {took_ms} ms, {length} bytes, request {number}", call_name(call));
        result.map_err(|error| self.no_answer(&call_name(call), error))
    }

    /// Says what was not answered, and by whom.
    pub(super) fn no_answer(&self, name: &str, error: Error) -> Error {
        match error {
            Error::Unavailable(why) => {
                let server = self.bucket.base_url().origin().ascii_serialization();
                Error::Unavailable(format!("S3: {name}: {server} (setting s3_endpoint): {why}"))
            }
            other => other,
        }
    }

    fn sign(&self, bucket: &Bucket, call: &Call<'_>, lifetime: Duration) -> Result<url::Url> {
        let now = i64::try_from(self.platform.now_ms()).ok().and_then(|now| Timestamp::from_millisecond(now).ok());
        let now = now.ok_or_else(|| Error::Unavailable("the clock is not set".into()))?;
        let url = match call.object {
            "" => bucket.base_url().clone(),
            object => bucket.object_url(&self.full_name(object)),
        };
        let credentials = &self.credentials;
        Ok(rusty_s3::signing::sign(
            &now,
            call.method,
            url,
            credentials.key(),
            credentials.secret(),
            credentials.token(),
            bucket.region(),
            lifetime.as_secs(),
            call.query.iter(),
            call.headers.iter(),
        ))
    }

    /// Reads an answer, of a refusal no more than its beginning.
    pub(super) async fn collect(&self, call: &Call<'_>, response: Response<Body>, attempts: u32) -> Result<Answer> {
        let (name, (head, mut body)) = (call_name(call), response.into_parts());
        let (begin_ms, mut all) = (self.platform.now_ms(), Vec::new());
        while let Some(data) = body.next().await {
            all.extend_from_slice(&data.map_err(|error| self.no_answer(&name, error.into()))?);
            if !head.status.is_success() && all.len() >= REFUSAL_BYTES_MAX {
                return Ok(Answer { status: head.status, headers: head.headers, body: all.into(), attempts });
            }
            let most = call.timeout + Duration::from_secs(all.len() as u64 / BODY_BYTES_PER_SECOND_MIN);
            let took = Duration::from_millis(self.platform.now_ms().saturating_sub(begin_ms));
            if all.len() > ANSWER_BYTES_MAX || took > most {
                let why = format!("an answer of over {} bytes, or without end", all.len());
                return Err(self.no_answer(&name, Error::Unavailable(why)));
            }
        }
        let answer = Answer { status: head.status, headers: head.headers, body: all.into(), attempts };
        // Not every host tells an answer that breaks off from one that ends.
        let declared = answer.header(CONTENT_LENGTH.as_str()).filter(|_| call.method != Method::Head);
        match declared.is_some_and(|declared| declared != answer.body.len().to_string()) {
            true => {
                let why = format!("the answer broke off after {} bytes", answer.body.len());
                Err(self.no_answer(&name, Error::Unavailable(why)))
            }
            false => Ok(answer),
        }
    }

    /// Waits before the next attempt: a random part of a span that doubles, so that those who failed together do not come
    /// back together; at least as long as the server has asked for.
    ///
    /// # Errors
    /// `why` the last attempt failed, when there may be no other.
    pub(super) async fn pause(&self, attempts: &Attempts, why: Error, at_least: Duration) -> Result<()> {
        let is_late = self.platform.now_ms() >= attempts.until_ms;
        if attempts.made >= ATTEMPTS_MAX || is_late || matches!(why, Error::Unsupported(_)) {
            return Err(why);
        }
        log::warn!("attempt {} failed, another follows: {why}", attempts.made);
        let most_ms = (PAUSE_FIRST.as_millis() as u64) << (attempts.made - 1).min(10);
        let [low, high, ..] = self.platform.random();
        let part = u64::from(u16::from_le_bytes([low, high]));
        let pause = Duration::from_millis(most_ms / 4 + most_ms * 3 / 4 * part / u64::from(u16::MAX));
        self.platform.sleep(pause.max(at_least)).await;
        Ok(())
    }

    /// What S3 refused, why, and what is likely to help.
    pub(super) fn refusal(&self, name: &str, answer: &Answer) -> Error {
        let refusal = answer::Refusal::parse(&answer.body);
        let skew = if answer.status.is_client_error() { self.clock_skew(answer) } else { None };
        let hint = skew.unwrap_or_else(|| hint(&refusal.code).to_owned());
        let code = if refusal.code.is_empty() { String::new() } else { format!(" {}", refusal.code) };
        let message = refusal.message.trim().trim_end_matches('.');
        Error::Unavailable(format!("S3: {name}: {}{code}: {message}{hint}", answer.status.as_u16()))
    }

    /// A clock that is off makes signatures look expired or not yet valid; servers call that by many names.
    fn clock_skew(&self, answer: &Answer) -> Option<String> {
        let theirs = rfc2822::parse(answer.header(DATE.as_str())?).ok()?.timestamp().as_millisecond();
        let skew_ms = self.platform.now_ms().abs_diff(u64::try_from(theirs).ok()?);
        let minutes = (skew_ms + 30_000) / 60_000;
        (skew_ms > CLOCK_SKEW_MAX_MS)
            .then(|| format!("; the clock here is {minutes} minutes off that of the S3 server"))
    }
}

pub(super) fn call_name(call: &Call<'_>) -> String {
    let kind =
        if call.query.get("uploadId").is_some() || call.query.get("uploads").is_some() { " (multipart)" } else { "" };
    format!("{} {}{kind}", call.method.to_str(), if call.object.is_empty() { "(bucket)" } else { call.object })
}

/// What is likely to help against a refusal.
fn hint(code: &str) -> &'static str {
    match code {
        "NoSuchBucket" | "InvalidBucketName" => "; see the setting s3_bucket",
        "InvalidAccessKeyId" => "; see the setting s3_access_key_id",
        "SignatureDoesNotMatch" => "; see the settings s3_secret_access_key and s3_region",
        "AccessDenied" => "; see what the access key is allowed to do in the bucket",
        "ExpiredToken" | "InvalidToken" => "; see the setting s3_session_token",
        "AuthorizationHeaderMalformed" | "AuthorizationQueryParametersError" => "; see the setting s3_region",
        "PermanentRedirect" | "TemporaryRedirect" => "; see the settings s3_endpoint and s3_region",
        "NotImplemented" => "; without conditional writes this server needs s3_conditional_puts=false",
        "KeyTooLongError" => "; see the setting s3_prefix",
        _ => "",
    }
}

fn body_of(pieces: &[Bytes]) -> Body {
    let length = pieces.iter().map(|piece| piece.len() as u64).sum();
    let pieces: Vec<Result<Bytes>> = pieces.iter().cloned().map(Ok).collect();
    Body::from_stream(stream::iter(pieces)).with_length(length)
}
