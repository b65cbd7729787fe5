//! Bodies over the streams of WASI 0.2, with backpressure in both directions: a body is read only
//! when the registry asks for bytes, and written only as far as the host takes bytes.

use bytes::Bytes;
use futures_util::stream;
use wasip2::http::types::{ErrorCode, IncomingBody, OutgoingBody};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use super::super::exchange::{Writing, beside};
use super::executor::Ready;
use crate::platform::{Body, BodyError};

/// The most bytes of a body that one read takes from the host.
const READ_BYTES: u64 = 128 * 1024;

/// A body on its way from the host. The stream is a child of `body`, so the stream comes first and
/// is dropped first.
struct Incoming {
    stream: InputStream,
    body: IncomingBody,
    /// The bytes that have been read.
    bytes: u64,
    /// The rest of the request, where `body` is an answer that began before the request's end.
    writing: Option<Writing>,
}

/// Reads a body from the host. A body whose length differs from `checked_length`, in bytes, is an
/// error. `writing` is carried on while the body is read.
pub(super) fn read(body: IncomingBody, checked_length: Option<u64>, writing: Option<Writing>) -> Body {
    let Ok(stream) = body.stream() else { return Body::empty() };
    let start = Some(Incoming { stream, body, bytes: 0, writing });
    Body::from_stream(stream::try_unfold(start, move |incoming| async move {
        let Some(mut incoming) = incoming else { return Ok(None) };
        if let Some(piece) = incoming.next().await? {
            return Ok(Some((piece, Some(incoming))));
        }
        let bytes = incoming.finish().await?;
        match checked_length {
            Some(declared) if declared != bytes => Err(BodyError::Length { declared }),
            _ => Ok(None),
        }
    }))
}

impl Incoming {
    /// The next bytes; `None` where the stream ends.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            match self.stream.read(READ_BYTES) {
                Ok(piece) if piece.is_empty() => {
                    beside(&mut self.writing, Ready::new(self.stream.subscribe())).await;
                }
                Ok(piece) => {
                    self.bytes += piece.len() as u64;
                    return Ok(Some(piece.into()));
                }
                Err(StreamError::Closed) => return Ok(None),
                Err(error) => return Err(BodyError::Interrupted(text(&error))),
            }
        }
    }

    /// Waits for the trailers: a stream that ends may be cut off, and only the trailers tell whether
    /// the body is complete. Returns the length of the body.
    async fn finish(self) -> Result<u64, BodyError> {
        let Self { stream, body, bytes, mut writing } = self;
        drop(stream);
        let trailers = IncomingBody::finish(body);
        loop {
            match trailers.get() {
                Some(Ok(Ok(_))) => return Ok(bytes),
                Some(Ok(Err(error))) => return Err(BodyError::Interrupted(error.to_string())),
                Some(Err(())) => return Err(BodyError::Interrupted("its end was asked for twice".into())),
                None => beside(&mut writing, Ready::new(trailers.subscribe())).await,
            }
        }
    }
}

/// Why a body was not written to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The receiver takes no more bytes.
    #[error("the receiver takes no more bytes: {0}")]
    Gone(String),
    /// The body itself failed.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The host does not accept the end of the body.
    #[error("the host refuses the body: {0}")]
    Refused(ErrorCode),
}

impl From<StreamError> for WriteError {
    fn from(error: StreamError) -> Self {
        Self::Gone(text(&error))
    }
}

/// Writes a body to the host, in pieces of at most `piece_bytes()` bytes. After an error the host
/// gets no end of the body, so the receiver sees a body that broke off.
pub(super) async fn write(
    mut body: Body,
    to: OutgoingBody,
    mut piece_bytes: impl FnMut() -> usize,
) -> Result<(), WriteError> {
    let stream = to.write().map_err(|()| WriteError::Gone("the stream was taken before".into()))?;
    while let Some(data) = body.next().await {
        let mut data = data?;
        while !data.is_empty() {
            let room = room(&stream).await?;
            let piece = data.split_to(data.len().min(room).min(piece_bytes()));
            stream.write(&piece)?;
        }
    }
    match flush(&stream).await {
        // A server closes the stream as soon as it has the bytes of `Content-Length`.
        Ok(()) | Err(StreamError::Closed) => {}
        Err(error) => return Err(error.into()),
    }
    drop(stream);
    OutgoingBody::finish(to, None).map_err(WriteError::Refused)
}

/// Waits until the host has sent all bytes that were written.
async fn flush(stream: &OutputStream) -> Result<(), StreamError> {
    stream.flush()?;
    room(stream).await.map(drop)
}

/// Waits until the host takes at least one byte. Returns how many bytes the host takes.
async fn room(stream: &OutputStream) -> Result<usize, StreamError> {
    loop {
        match stream.check_write()? {
            0 => Ready::new(stream.subscribe()).await,
            room => return Ok(usize::try_from(room).unwrap_or(usize::MAX)),
        }
    }
}

fn text(error: &StreamError) -> String {
    match error {
        StreamError::LastOperationFailed(cause) => cause.to_debug_string(),
        StreamError::Closed => "the stream is closed".into(),
    }
}
