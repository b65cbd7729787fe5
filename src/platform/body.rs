//! A stream of bytes, in or out.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};

/// A stream of bytes that may fail on the way: the body of requests and answers, and the input and
/// output of the stores.
pub struct Body {
    inner: UnsyncBoxBody<Bytes, BodyError>,
    // The exact length, if the body's maker declared the length. A stream alone has no known
    // length.
    length: Option<u64>,
}

/// Why a body failed before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The sender stopped before the end of the body.
    #[error("the body broke off: {0}")]
    Interrupted(String),
    /// The sender sent nothing for too long.
    #[error("the body stalled: nothing of it came for {limit_seconds} seconds")]
    Idle {
        /// The limit, in seconds.
        limit_seconds: u64,
    },
    /// The sender sent too little for too long. The text states the limit.
    #[error("the body came too slowly: {0}")]
    Slow(String),
    /// The body does not have the declared length.
    #[error("the body has not the declared length of {declared} bytes")]
    Length {
        /// The length that was declared, in bytes.
        declared: u64,
    },
    /// The body is longer than a limit.
    #[error("the body is longer than {limit_bytes} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The place that the bytes are read from failed, for example a store.
    #[error(transparent)]
    Source(SourceError),
}

/// An error of the place that a body is read from. The layer that knows the place gets its error
/// back by [`SourceError::downcast_ref`].
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct SourceError(Arc<dyn std::error::Error + Send + Sync>);

impl SourceError {
    /// Wraps the error of a source.
    pub fn new(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }

    /// The wrapped error, if the error has the type `E`.
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}

/// Two errors are equal if their texts are.
impl PartialEq for SourceError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for SourceError {}

impl Body {
    /// A body without bytes.
    pub fn empty() -> Self {
        Self::from(Bytes::new())
    }

    /// Takes any HTTP body: of hyper, axum or a WASI host. An error that is a [`BodyError`] stays
    /// the same; every other error becomes [`BodyError::Interrupted`].
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        let length = body.size_hint().exact();
        let known = |error: &dyn Any| error.downcast_ref::<BodyError>().cloned();
        let inner = body.map_err(move |e| known(&e).unwrap_or_else(|| BodyError::Interrupted(e.to_string())));
        let inner = inner.boxed_unsync();
        Self { inner, length }
    }

    /// Takes a stream of unknown length.
    pub fn from_stream<S, E>(stream: S) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<BodyError>,
    {
        let frames = stream.map(|item| item.map(Frame::data).map_err(Into::into));
        Self { inner: StreamBody::new(frames).boxed_unsync(), length: None }
    }

    /// A body whose bytes come from `poll`, which is not called again after the end or an error.
    /// `length` is the exact length in bytes, where it is known. A wrapper of another body passes
    /// on the length of that body.
    pub fn from_poll<F>(length: Option<u64>, poll: F) -> Self
    where
        F: FnMut(&mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> + Send + Unpin + 'static,
    {
        Self::new(Polled { poll, length, has_ended: false })
    }

    /// States the length, in bytes, of a stream whose maker knows the length.
    pub fn with_length(mut self, length: u64) -> Self {
        self.length = Some(length);
        self
    }

    /// The exact length in bytes, where it is known.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for the next bytes; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Poll::Ready(Some(Ok(data))),
                // Trailers carry no meaning for a registry.
                Err(_) => {}
            }
        }
    }

    /// The same body, which calls `see` with all bytes as they pass, and with an error.
    pub fn inspected<F>(mut self, mut see: F) -> Self
    where
        F: FnMut(Result<&Bytes, &BodyError>) + Send + Unpin + 'static,
    {
        Self::from_poll(self.length(), move |cx| {
            let polled = self.poll_next(cx);
            if let Poll::Ready(Some(read)) = &polled {
                see(read.as_ref());
            }
            polled
        })
    }

    /// The same body, after its first bytes have arrived. A body that turns out to be empty gets
    /// the length 0.
    pub async fn peeked(mut self) -> Self {
        let Some(first) = self.next().await else { return Self::empty() };
        let length = self.length;
        let rest = stream::unfold(self, |mut body| async move { Some((body.next().await?, body)) });
        Self { length, ..Self::from_stream(stream::iter([first]).chain(rest)) }
    }

    /// The whole body, if it has at most `limit_bytes`.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] as soon as the body exceeds the limit; no more than the limit is
    /// collected in memory.
    pub async fn collect_up_to(mut self, limit_bytes: u64) -> Result<Bytes, BodyError> {
        let too_large = BodyError::TooLarge { limit_bytes };
        if self.length.is_some_and(|length| length > limit_bytes) {
            return Err(too_large);
        }
        let mut all = Vec::new();
        while let Some(data) = self.next().await {
            let data = data?;
            if (all.len() + data.len()) as u64 > limit_bytes {
                return Err(too_large);
            }
            all.extend_from_slice(&data);
        }
        Ok(all.into())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        let length = Some(bytes.len() as u64);
        Self { inner: Full::new(bytes).map_err(|never| match never {}).boxed_unsync(), length }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(|| self.inner.size_hint(), SizeHint::with_exact)
    }
}

/// A body that a function produces.
struct Polled<F> {
    poll: F,
    length: Option<u64>,
    has_ended: bool,
}

impl<F> http_body::Body for Polled<F>
where
    F: FnMut(&mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let polled = ready!((self.poll)(cx));
        self.has_ended = !matches!(polled, Some(Ok(_)));
        Poll::Ready(polled.map(|data| data.map(Frame::data)))
    }

    /// HTTP sends the head alone where the length is 0.
    fn is_end_stream(&self) -> bool {
        self.has_ended || self.length == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("length", &self.length).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;

    #[test]
    fn a_polled_body_declares_its_length_and_is_not_polled_after_its_end() {
        let ended = Some(Err(BodyError::Interrupted("the client left".into())));
        for (length, last) in [(None, None), (Some(0), None), (Some(4), None), (Some(4), ended)] {
            let mut pieces = vec![last.clone(), Some(Ok(Bytes::from_static(b"body")))];
            let polls = move |_: &mut Context<'_>| Poll::Ready(pieces.pop().expect("no poll after the end"));
            let mut body = Body::from_poll(length, polls);
            assert_eq!((body.length(), body.size_hint().exact()), (length, length));
            assert_eq!(body.is_end_stream(), length == Some(0));
            assert_eq!(block_on(body.next()), Some(Ok(Bytes::from_static(b"body"))));
            assert_eq!(block_on(body.next()), last);
            assert!(body.is_end_stream());
            assert_eq!(block_on(body.next()), None);
        }
    }
}
