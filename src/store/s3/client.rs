//! Sends requests to an S3 server: signs them, repeats them where that is safe, measures their time
//! and counts them.

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

use super::answer;
use super::gather::StreamedPart;
use super::settings::{S3Settings, S3SettingsError};
use crate::platform::{Body, Causes, Platform, SendError};
use crate::store::{Error, Failure, Result};

/// How many times a request is sent at most.
const ATTEMPTS_MAX: u32 = 5;
/// The longest pause between the first two attempts; the limit doubles with every attempt.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest pause that a server can ask for. A client of the registry waits meanwhile, so the
/// pause is short.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// The timeout of a request: for the time until the answer begins, and again for reading the
/// answer. Each body adds time according to its length.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// The lowest expected speed of bodies, in bytes per second. The timeout of a request grows by the
/// time that its body takes at this speed.
const BODY_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// How long the signature of a request by this client is valid.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// The largest answer that is held in memory, in bytes: a value, or a page of a list.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The most bytes that are read of a refusal. S3's refusals are far shorter.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
/// Error codes of temporary failures, for statuses that alone do not show whether the failure is
/// temporary.
const PASSING_CODES: [&str; 6] = [
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
];
/// The clock difference, in milliseconds, above which the clock may be the cause of a refusal.
const CLOCK_SKEW_MAX_MS: u64 = 5 * 60 * 1000;

/// The body of a request.
pub(super) enum Payload {
    /// Bytes in memory, which can be sent again.
    Bytes(Vec<Bytes>),
    /// A stream of known length. The stream can be sent again as long as only bytes were taken that
    /// were in memory anyway.
    Stream(StreamedPart),
}

/// A request to the bucket.
pub(super) struct Call<'a> {
    method: Method,
    /// The object's name without the prefix; empty for the bucket itself.
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

    /// Adds a query parameter. The name must consist of letters, digits and `-`.
    pub(super) fn query(mut self, name: &'a str, value: impl Into<std::borrow::Cow<'a, str>>) -> Self {
        self.query.insert(name, value);
        self
    }

    /// Adds a header, which is signed. The name must be in lower case.
    pub(super) fn header(mut self, name: &'a str, value: impl Into<std::borrow::Cow<'a, str>>) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(super) fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    /// Sets the timeout; the time for bodies comes on top.
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

    /// The longest time that one attempt is likely to take.
    fn span(&self) -> Duration {
        self.timeout + Duration::from_secs(self.payload_bytes() / BODY_BYTES_PER_SECOND_MIN)
    }
}

/// The attempts at one request: how many were made, and until when another one may begin.
pub(super) struct Attempts {
    pub(super) made: u32,
    until_ms: u64,
}

/// An answer whose body was read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// How often the request was sent. A refusal of a later attempt may be caused by the effect of
    /// an earlier attempt.
    pub(super) attempts: u32,
}

impl Answer {
    /// S3's error code, such as `NoSuchKey`; empty if the answer has none.
    pub(super) fn code(&self) -> String {
        answer::Refusal::parse(&self.body).code
    }

    /// Reads the body with `parse`. The error names the request `name`.
    pub(super) fn parse<T>(&self, name: &str, parse: impl FnOnce(&[u8]) -> answer::Result<T>) -> Result<T> {
        parse(&self.body)
            .map_err(|error| Error::unavailable(format!("cannot read S3's answer to {name}")).because(error))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The entity tag without `W/`: proxies may mark an entity tag as weak, but S3's own entity
    /// tags are strong.
    pub(super) fn etag(&self) -> Option<&str> {
        let etag = self.header(ETAG.as_str())?;
        Some(etag.strip_prefix("W/").unwrap_or(etag))
    }

    /// Whether the answer reports a temporary failure, so that the request is worth another
    /// attempt.
    pub(super) fn is_passing(&self, method: Method) -> bool {
        let is_passing_code = || PASSING_CODES.contains(&self.code().as_str());
        match self.status {
            StatusCode::NOT_IMPLEMENTED => false,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => true,
            StatusCode::BAD_REQUEST | StatusCode::CONFLICT => is_passing_code(),
            // S3 may send status 200 before the operation is finished, and then report an error in
            // the body.
            StatusCode::OK => matches!(method, Method::Post) && is_passing_code(),
            status => status.is_server_error(),
        }
    }

    /// How long the server asks the client to wait (`Retry-After` in seconds), at most
    /// [`RETRY_AFTER_MAX`].
    pub(super) fn retry_after(&self) -> Duration {
        let seconds = self.header(RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
        Duration::from_secs(seconds.unwrap_or(0)).min(RETRY_AFTER_MAX)
    }
}

/// A client of one bucket.
pub(super) struct Client {
    bucket: Bucket,
    /// The bucket at the address that the registry's clients use.
    public_bucket: Bucket,
    credentials: Credentials,
    prefix: String,
    platform: Arc<dyn Platform>,
    requests: AtomicU64,
}

impl Client {
    pub(super) fn new(settings: &S3Settings, platform: Arc<dyn Platform>) -> Result<Self, S3SettingsError> {
        let style = if settings.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let bucket = |name, endpoint: &str| {
            let unusable = |why: &dyn std::fmt::Display| S3SettingsError::new(name, format!("{endpoint:?}: {why}"));
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

    /// Adds the prefix: the object's full name in the bucket.
    pub(super) fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Removes the prefix from an object's full name; `None` if the name does not begin with the
    /// prefix.
    pub(super) fn own_name<'a>(&self, full_name: &'a str) -> Option<&'a str> {
        full_name.strip_prefix(self.prefix.as_str())
    }

    /// A presigned URL: every holder of the URL may read the object for `lifetime`, with any Range.
    pub(super) fn presign(&self, object: &str, lifetime: Duration) -> Result<String> {
        let call = Call::new(Method::Get, object);
        Ok(self.sign(&self.public_bucket, &call, lifetime)?.into())
    }

    /// Sends a request and reads the answer. After a temporary failure or a broken connection the
    /// request is sent again. If an operation is not idempotent, the caller must check
    /// [`Answer::attempts`] and find out which attempt took effect.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the last attempt got no answer or a temporary failure, such as a
    /// status of 500 and above except 501. Every other status is returned as an answer.
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

    /// Begins to count the attempts at a request. `span` is the longest time of an attempt.
    pub(super) fn attempts(&self, span: Duration) -> Attempts {
        // Enough time for two attempts that get no answer at all.
        Attempts { made: 0, until_ms: self.platform.now_ms() + 2 * span.as_millis() as u64 }
    }

    /// Sends a request and returns an answer with a status of success or one of `allowed`; any
    /// other status is an error.
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
        // A host sends a body without Content-Length in chunks, even if the body is empty, and S3
        // accepts no chunks.
        if !matches!(call.method, Method::Get | Method::Head) {
            request = request.header(CONTENT_LENGTH, length);
        }
        let request = request.body(body).map_err(|error| {
            Error::unavailable(format!("cannot build the request {}", call_name(call))).because(error)
        })?;
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let begin_ms = self.platform.now_ms();
        let result = self.platform.send(request, call.timeout).await;
        let took_ms = self.platform.now_ms().saturating_sub(begin_ms);
        let outcome =
            result.as_ref().map_or_else(ToString::to_string, |response| response.status().as_u16().to_string());
        tracing::debug!("S3: {}: {outcome} after {took_ms} ms, {length} bytes, request {number}", call_name(call));
        result.map_err(|error| match error {
            SendError::Unsupported => error.into(),
            SendError::TimedOut(_) | SendError::Failed(_) => self.no_answer(&call_name(call), error),
        })
    }

    /// The error for a request that got no answer, or only the beginning of an answer. The text names
    /// the request and the server.
    pub(super) fn no_answer(&self, name: &str, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
        let server = self.bucket.base_url().origin().ascii_serialization();
        let text = format!("S3 server {server} (setting s3_endpoint) did not answer {name} in full");
        Error::unavailable(text).because(cause)
    }

    fn sign(&self, bucket: &Bucket, call: &Call<'_>, lifetime: Duration) -> Result<url::Url> {
        let now = i64::try_from(self.platform.now_ms()).ok().and_then(|now| Timestamp::from_millisecond(now).ok());
        let now = now.ok_or_else(|| Error::unavailable("cannot sign a request to S3: the clock is not set"))?;
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

    /// Reads the body of an answer. Only the beginning of a refusal is read.
    pub(super) async fn collect(&self, call: &Call<'_>, response: Response<Body>, attempts: u32) -> Result<Answer> {
        let (name, (head, mut body)) = (call_name(call), response.into_parts());
        let (begin_ms, mut all) = (self.platform.now_ms(), Vec::new());
        while let Some(data) = body.next().await {
            all.extend_from_slice(&data.map_err(|error| self.no_answer(&name, error))?);
            if !head.status.is_success() && all.len() >= REFUSAL_BYTES_MAX {
                return Ok(Answer { status: head.status, headers: head.headers, body: all.into(), attempts });
            }
            let most = call.timeout + Duration::from_secs(all.len() as u64 / BODY_BYTES_PER_SECOND_MIN);
            let took = Duration::from_millis(self.platform.now_ms().saturating_sub(begin_ms));
            if all.len() > ANSWER_BYTES_MAX || took > most {
                let why = format!("the answer is too large or too slow: {} bytes came so far", all.len());
                return Err(self.no_answer(&name, Failure::new(why)));
            }
        }
        let answer = Answer { status: head.status, headers: head.headers, body: all.into(), attempts };
        // Not every host notices an answer that is cut off, so the length is compared here.
        let declared = answer.header(CONTENT_LENGTH.as_str()).filter(|_| call.method != Method::Head);
        match declared.is_some_and(|declared| declared != answer.body.len().to_string()) {
            true => {
                let why = format!("the answer broke off after {} bytes", answer.body.len());
                Err(self.no_answer(&name, Failure::new(why)))
            }
            false => Ok(answer),
        }
    }

    /// Waits before the next attempt, for a random part of a span that doubles with every attempt,
    /// so that clients that failed at the same time do not return at the same time. The pause lasts
    /// at least `at_least`, which is the time that the server asked for.
    ///
    /// # Errors
    /// `why` (the error of the last attempt) when no other attempt is allowed.
    pub(super) async fn pause(&self, attempts: &Attempts, why: Error, at_least: Duration) -> Result<()> {
        let is_late = self.platform.now_ms() >= attempts.until_ms;
        if attempts.made >= ATTEMPTS_MAX || is_late || matches!(why, Error::Unsupported(_)) {
            return Err(why);
        }
        tracing::warn!("attempt {} failed, another follows: {}", attempts.made, Causes(&why));
        let most_ms = (PAUSE_FIRST.as_millis() as u64) << (attempts.made - 1).min(10);
        let [low, high, ..] = self.platform.random();
        let part = u64::from(u16::from_le_bytes([low, high]));
        let pause = Duration::from_millis(most_ms / 4 + most_ms * 3 / 4 * part / u64::from(u16::MAX));
        self.platform.sleep(pause.max(at_least)).await;
        Ok(())
    }

    /// The error for a refused request: the request, S3's reason, and a hint at a likely fix.
    pub(super) fn refusal(&self, name: &str, answer: &Answer) -> Error {
        let refusal = answer::Refusal::parse(&answer.body);
        let skew = if answer.status.is_client_error() { self.clock_skew(answer) } else { None };
        let hint = skew.unwrap_or_else(|| hint(&refusal.code).to_owned());
        let code = if refusal.code.is_empty() { String::new() } else { format!(" {}", refusal.code) };
        let message = refusal.message.trim().trim_end_matches('.');
        Error::unavailable(format!("S3 refused {name}: {}{code}: {message}{hint}", answer.status.as_u16()))
    }

    /// A hint if the clocks differ. A wrong clock makes signatures look expired or not yet valid,
    /// and servers report that with many different codes.
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

/// A hint at the setting that is likely to cause a refusal.
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
