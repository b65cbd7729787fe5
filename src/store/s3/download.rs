//! Reads ranges of objects, and continues after broken connections.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::stream;
use http::header::CONTENT_RANGE;
use http::{Response, StatusCode};
use rusty_s3::Method;

use super::client::{Call, Client, TIMEOUT, call_name};
use crate::platform::{Body, BodyError};
use crate::store::{Error, Result};

/// An object that is being downloaded.
struct Download {
    body: Body,
    /// How many bytes of `body` precede the wanted bytes.
    skip: u64,
}

/// The kind of an answer to a request for a range.
enum Beginning {
    /// The range, after this many other bytes.
    Behind(u64),
    /// Another range.
    Elsewhere,
    /// A refusal.
    Refusal,
}

impl Client {
    /// Reads a range of an object as a stream. A download that breaks off is continued from the
    /// next byte; the number of attempts without progress is bounded. Returns `None` if the object
    /// does not exist or is shorter than the range.
    pub(super) async fn read(self: &Arc<Self>, object: &str, range: Range<u64>) -> Result<Option<Body>> {
        let length = range.end - range.start;
        let Some(download) = self.open(object, range.clone()).await? else { return Ok(None) };
        let state = (self.clone(), object.to_owned(), range, download, None);
        let pieces = stream::try_unfold(state, |(client, object, mut range, mut download, mut attempts)| async move {
            loop {
                if range.is_empty() {
                    return Ok::<_, Error>(None);
                }
                let why = match download.next(range.end - range.start).await {
                    Some(Ok(data)) => {
                        range.start += data.len() as u64;
                        return Ok(Some((data, (client, object, range, download, None))));
                    }
                    Some(Err(error)) => error,
                    None => BodyError::Interrupted("the answer ended too early".into()),
                };
                let attempts = attempts.get_or_insert_with(|| client.attempts(TIMEOUT));
                attempts.made += 1;
                let name = format!("GET {object} from byte {}", range.start);
                client.pause(attempts, client.no_answer(&name, why), Duration::ZERO).await?;
                let gone = || Error::corrupt(format!("{object} was removed during a read"));
                download = client.open(&object, range.clone()).await?.ok_or_else(gone)?;
            }
        });
        Ok(Some(Body::from_stream(pieces).with_length(length)))
    }

    /// Begins to read a range of an object.
    async fn open(&self, object: &str, range: Range<u64>) -> Result<Option<Download>> {
        let span = format!("bytes={}-{}", range.start, range.end - 1);
        let call = Call::new(Method::Get, object).header("range", span);
        let (name, mut attempts) = (call_name(&call), self.attempts(TIMEOUT));
        loop {
            attempts.made += 1;
            let mut retry_after = Duration::ZERO;
            let why = match self.send_once(&call).await {
                Ok(response) => match beginning(&response, range.start) {
                    Beginning::Behind(skip) => return Ok(Some(Download { body: response.into_body(), skip })),
                    Beginning::Elsewhere => {
                        Error::unavailable(format!("S3 answered {name} with another range than requested"))
                    }
                    Beginning::Refusal => match self.collect(&call, response, attempts.made).await {
                        Ok(answer) if answer.code() == "NoSuchKey" => return Ok(None),
                        Ok(answer) if answer.status == StatusCode::RANGE_NOT_SATISFIABLE => return Ok(None),
                        Ok(answer) if !answer.is_passing(Method::Get) => return Err(self.refusal(&name, &answer)),
                        Ok(answer) => {
                            retry_after = answer.retry_after();
                            self.refusal(&name, &answer)
                        }
                        Err(error) => error,
                    },
                },
                Err(error) => error,
            };
            self.pause(&attempts, why, retry_after).await?;
        }
    }
}

impl Download {
    /// The next wanted bytes, at most `most`.
    async fn next(&mut self, most: u64) -> Option<Result<Bytes, BodyError>> {
        loop {
            let mut data = match self.body.next().await? {
                Ok(data) => data,
                Err(error) => return Some(Err(error)),
            };
            let skipped = self.skip.min(data.len() as u64);
            data.advance(skipped as usize);
            self.skip -= skipped;
            if !data.is_empty() {
                data.truncate(most.min(data.len() as u64) as usize);
                return Some(Ok(data));
            }
        }
    }
}

fn beginning(response: &Response<Body>, start: u64) -> Beginning {
    match response.status() {
        // A server that ignores the range answers with the whole object.
        StatusCode::OK => Beginning::Behind(start),
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let is_wanted = |range: &str| range.starts_with(&format!("bytes {start}-"));
            if range.is_none_or(is_wanted) { Beginning::Behind(0) } else { Beginning::Elsewhere }
        }
        status if status.is_success() => Beginning::Elsewhere,
        _ => Beginning::Refusal,
    }
}
