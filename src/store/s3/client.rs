//! Requests to an S3 server: signed, tried again where that is safe, timed and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, Request, Response, StatusCode};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use rusty_s3::{Bucket, Credentials, Map, Method, UrlStyle};

use super::S3Settings;
use super::answer;
use crate::store::{Body, Error, Platform, Result};

/// How often a request is sent at most.
const ATTEMPTS_MAX: u32 = 5;
/// How long the first pause between two attempts is at most; it doubles from one to the next.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// How long a request may take before its answer begins, beside the time that its body is given.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The speed, in bytes a second, at which a body must go out at least.
const BODY_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// How long a signature of a request of ours is valid.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// The most bytes of an answer that is held in memory: a value, or a page of a list.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// From how far a clock may be the cause of a refusal.
const CLOCK_SKEW_MAX_MS: u64 = 5 * 60 * 1000;

/// What is sent with a request.
pub(super) enum Payload {
    /// Bytes that can be sent again.
    Bytes(Vec<Bytes>),
    /// A stream of known length, which can be sent once.
    Stream(Body),
}

/// A request to the bucket.
pub(super) struct Call<'a> {
    method: Method,
    /// The object's name behind the prefix; empty for the bucket itself.
    object: &'a str,
    query: Map<'a>,
    headers: Map<'a>,
    payload: Payload,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, object: &'a str) -> Self {
        Self { method, object, query: Map::new(), headers: Map::new(), payload: Payload::Bytes(Vec::new()) }
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

    pub(super) fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body).map_err(|_| Error::Unavailable("S3 answered with what is no text".into()))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
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
    pub(super) async fn send(&self, mut call: Call<'_>) -> Result<Answer> {
        let mut attempt = 1;
        loop {
            let can_repeat = attempt < ATTEMPTS_MAX && matches!(call.payload, Payload::Bytes(_));
            let result = match self.send_once(&mut call).await {
                Ok(response) => self.collect(&call_name(&call), response, attempt).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(answer) if !is_passing(answer.status) => return Ok(answer),
                Ok(answer) if !can_repeat => return Err(self.refusal(&call_name(&call), &answer)),
                Err(error) if !can_repeat || matches!(error, Error::Unsupported(_)) => return Err(error),
                Ok(answer) => log::warn!("S3: {}: {} {}, again", call_name(&call), answer.status, answer.code()),
                Err(error) => log::warn!("{error}, again"),
            }
            self.pause(attempt).await;
            attempt += 1;
        }
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

    /// Reads a part of an object as it comes. What breaks off is gone on with, a bounded number of times without progress.
    /// `None` when there is no such object, or it is shorter.
    pub(super) async fn read(self: &Arc<Self>, object: &str, range: std::ops::Range<u64>) -> Result<Option<Body>> {
        let length = range.end - range.start;
        let Some(body) = self.open(object, range.clone()).await? else { return Ok(None) };
        let state = (self.clone(), object.to_owned(), range, body, 1);
        let pieces = stream::try_unfold(state, |(client, object, mut range, mut body, mut attempt)| async move {
            loop {
                if range.is_empty() {
                    return Ok::<_, Error>(None);
                }
                let why = match body.next().await {
                    Some(Ok(mut data)) => {
                        data.truncate((range.end - range.start).min(data.len() as u64) as usize);
                        range.start += data.len() as u64;
                        return Ok(Some((data, (client, object, range, body, 1))));
                    }
                    Some(Err(error)) => error.to_string(),
                    None => "the answer is too short".into(),
                };
                if attempt == ATTEMPTS_MAX {
                    return Err(Error::Unavailable(format!("S3: reading {object}: {why}")));
                }
                log::warn!("S3: reading {object}: {why}, again from byte {}", range.start);
                client.pause(attempt).await;
                attempt += 1;
                let gone = || Error::Corrupt(format!("{object} is gone"));
                body = client.open(&object, range.clone()).await?.ok_or_else(gone)?;
            }
        });
        Ok(Some(Body::from_stream(pieces).with_length(length)))
    }

    /// Begins to read a part of an object.
    async fn open(&self, object: &str, range: std::ops::Range<u64>) -> Result<Option<Body>> {
        for attempt in 1.. {
            let span = format!("bytes={}-{}", range.start, range.end - 1);
            let mut call = Call::new(Method::Get, object).header("range", span);
            let (name, can_repeat) = (call_name(&call), attempt < ATTEMPTS_MAX);
            match self.send_once(&mut call).await {
                // Whoever ignores the range answers with all of it.
                Ok(response) if response.status() == StatusCode::PARTIAL_CONTENT => {
                    return Ok(Some(response.into_body()));
                }
                Ok(response) if response.status() == StatusCode::OK && range.start == 0 => {
                    return Ok(Some(response.into_body()));
                }
                Ok(response) => {
                    let answer = self.collect(&name, response, attempt).await?;
                    if answer.code() == "NoSuchKey" || answer.status == StatusCode::RANGE_NOT_SATISFIABLE {
                        return Ok(None);
                    }
                    if !is_passing(answer.status) || !can_repeat {
                        return Err(self.refusal(&name, &answer));
                    }
                    log::warn!("S3: {name}: {}, again", answer.status);
                }
                Err(error) if !can_repeat => return Err(error),
                Err(error) => log::warn!("{error}, again"),
            }
            self.pause(attempt).await;
        }
        unreachable!("the last attempt returns")
    }

    async fn send_once(&self, call: &mut Call<'_>) -> Result<Response<Body>> {
        let url = self.sign(&self.bucket, call, SIGNATURE_LIFETIME)?;
        let mut request = Request::builder().method(call.method.to_str()).uri(url.as_str());
        for (name, value) in call.headers.iter() {
            request = request.header(name, value);
        }
        let body = match &mut call.payload {
            Payload::Bytes(pieces) => body_of(pieces),
            Payload::Stream(body) => std::mem::replace(body, Body::empty()),
        };
        let length = body.length().unwrap_or(0);
        // A host sends a body whose length nobody states in chunks, also one without bytes, and S3 takes no chunks.
        if !matches!(call.method, Method::Get | Method::Head) {
            request = request.header(CONTENT_LENGTH, length);
        }
        let request = request.body(body).map_err(|e| Error::Unavailable(format!("S3: {e}")))?;
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let begin_ms = self.platform.now_ms();
        let timeout = TIMEOUT + Duration::from_secs(length / BODY_BYTES_PER_SECOND_MIN);
        let result = self.platform.send(request, timeout).await;
        let took_ms = self.platform.now_ms().saturating_sub(begin_ms);
        let outcome = result.as_ref().map_or_else(Error::to_string, |response| response.status().as_u16().to_string());
        log::debug!("S3: {}: {outcome} after {took_ms} ms, {length} bytes, request {number}", call_name(call));
        result.map_err(|error| self.no_answer(&call_name(call), error))
    }

    /// Says what was not answered, and by whom.
    fn no_answer(&self, name: &str, error: Error) -> Error {
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

    async fn collect(&self, name: &str, response: Response<Body>, attempts: u32) -> Result<Answer> {
        let (head, body) = response.into_parts();
        let body = body.collect_up_to(ANSWER_BYTES_MAX).await.map_err(|error| self.no_answer(name, error.into()))?;
        Ok(Answer { status: head.status, headers: head.headers, body, attempts })
    }

    /// Waits before the next attempt: a random part of a span that doubles, so that those who failed together do not come
    /// back together.
    async fn pause(&self, attempt: u32) {
        let most_ms = (PAUSE_FIRST.as_millis() as u64) << attempt.min(10);
        let [low, high, ..] = self.platform.random();
        let part = u64::from(u16::from_le_bytes([low, high]));
        self.platform.sleep(Duration::from_millis(most_ms / 4 + most_ms * part / u64::from(u16::MAX))).await;
    }

    /// What S3 refused, why, and what is likely to help.
    pub(super) fn refusal(&self, name: &str, answer: &Answer) -> Error {
        let refusal = answer::Refusal::parse(&answer.body);
        let hint = match refusal.code.as_str() {
            "NoSuchBucket" => "; see the setting s3_bucket".into(),
            "PermanentRedirect" => "; see the settings s3_endpoint and s3_region".into(),
            _ if answer.status.is_client_error() => self.clock_skew(answer).unwrap_or_else(|| {
                match refusal.code.as_str() {
                    "InvalidAccessKeyId" => "; see the setting s3_access_key_id",
                    "SignatureDoesNotMatch" => "; see the settings s3_secret_access_key and s3_region",
                    "AccessDenied" => "; see what the access key is allowed to do in the bucket",
                    _ => "",
                }
                .into()
            }),
            _ => String::new(),
        };
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

fn call_name(call: &Call<'_>) -> String {
    let kind =
        if call.query.get("uploadId").is_some() || call.query.get("uploads").is_some() { " (multipart)" } else { "" };
    format!("{} {}{kind}", call.method.to_str(), if call.object.is_empty() { "(bucket)" } else { call.object })
}

/// A server that says it cannot just now.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

fn body_of(pieces: &[Bytes]) -> Body {
    let length = pieces.iter().map(|piece| piece.len() as u64).sum();
    let pieces: Vec<Result<Bytes>> = pieces.iter().cloned().map(Ok).collect();
    Body::from_stream(stream::iter(pieces)).with_length(length)
}
