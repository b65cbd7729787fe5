//! Limits for slow clients, which are slow to send a request body or to take an answer. Counted is
//! the time in which the server waits for the client, less a credit for the bytes that arrived: a
//! large layer over a slow line may take hours in total.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::settings::Connections;
use super::slots::Connection;
use crate::http::Progress;
use crate::platform::{Body, BodyError};

/// The debt of waiting time from which a client counts as slow. The connection of a slow client may
/// be closed to free the slot for another one.
const SLOW: Duration = Duration::from_secs(5);
/// The most debt that a request body may run up: waiting time beyond what its lowest rate explains.
const BODY_ALLOWANCE: Duration = Duration::from_secs(30);

/// How long a client may keep the server waiting.
#[derive(Clone, Copy)]
struct Limits {
    /// The longest single wait.
    idle: Duration,
    /// The most debt: all waiting time, less one second per `bytes_per_second` bytes.
    allowance: Duration,
    bytes_per_second: Rate,
}

#[derive(Clone, Copy)]
enum Rate {
    /// Bytes give no credit: the allowance is a deadline.
    Deadline,
    /// Any byte clears the whole debt.
    Any,
    Least(u64),
}

/// Why the wait for the client ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Late {
    Idle,
    Slow,
}

/// Measures the waiting time for one client and ends the wait at its limits.
struct Patience {
    limits: Limits,
    /// The debt: how long the client has kept the server waiting, less the credit for its bytes.
    debt: Duration,
    waits_since: Option<Instant>,
    /// The timer, made by the first wait.
    sleep: Option<Pin<Box<Sleep>>>,
    /// The connection, which is notified when the client becomes slow and when it recovers.
    connection: Arc<Connection>,
    is_slow: bool,
}

impl Patience {
    fn new(limits: Limits, connection: Arc<Connection>) -> Self {
        Self { limits, debt: Duration::ZERO, waits_since: None, sleep: None, connection, is_slow: false }
    }

    /// Passes on a ready value, with `bytes` as the credit for the value; returns [`Late`] when the
    /// wait exceeds a limit.
    fn check<T>(
        &mut self,
        polled: Poll<T>,
        bytes: impl FnOnce(&T) -> u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, Late>> {
        match polled {
            Poll::Ready(value) => {
                if let Some(since) = self.waits_since.take() {
                    self.debt += since.elapsed();
                }
                self.pay(bytes(&value));
                Poll::Ready(Ok(value))
            }
            Poll::Pending => self.wait(cx).map(Err),
        }
    }

    fn pay(&mut self, bytes: u64) {
        match self.limits.bytes_per_second {
            Rate::Deadline => {}
            Rate::Any => self.debt = Duration::ZERO,
            Rate::Least(rate) => {
                let worth = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
                self.debt = self.debt.saturating_sub(worth);
            }
        }
        if self.is_slow && self.debt < SLOW {
            self.is_slow = false;
            self.connection.slow(false);
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        let is_new = self.waits_since.is_none();
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        let left = self.limits.allowance.saturating_sub(self.debt);
        let late = if left < self.limits.idle { Late::Slow } else { Late::Idle };
        let end = since + left.min(self.limits.idle);
        let slow_from = since + SLOW.saturating_sub(self.debt);
        let next = if self.is_slow { end } else { end.min(slow_from) };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(Duration::ZERO)));
        if is_new {
            sleep.as_mut().reset(next);
        }
        ready!(sleep.as_mut().poll(cx));
        if next >= end {
            return Poll::Ready(late);
        }
        self.is_slow = true;
        self.connection.slow(true);
        sleep.as_mut().reset(end);
        sleep.as_mut().poll(cx).map(|()| late)
    }
}

/// A request body that fails when its sender stalls. Only time in which the server waits for the
/// body counts.
pub(super) fn patient(mut body: Body, limits: &Connections, progress: Progress, connection: &Arc<Connection>) -> Body {
    let idle = limits.body_idle_timeout;
    let bytes_per_second = match limits.body_bytes_per_second_min {
        0 => Rate::Any,
        rate => Rate::Least(rate),
    };
    let patience = |limits| Patience::new(limits, connection.clone());
    let mut carried = patience(Limits { idle, allowance: BODY_ALLOWANCE, bytes_per_second });
    // The limits before the caller is authorized, and after the request was answered or refused.
    let allowance = limits.unwanted_body_timeout;
    let mut unwanted = patience(Limits { idle, allowance, bytes_per_second: Rate::Deadline });
    Body::from_poll(body.length(), move |cx| {
        let polled = body.poll_next(cx);
        let patience = if progress.is_carried_out() { &mut carried } else { &mut unwanted };
        let bytes = |data: &Option<Result<Bytes, BodyError>>| match data {
            Some(Ok(data)) => data.len() as u64,
            _ => 0,
        };
        let Limits { idle, bytes_per_second, allowance } = patience.limits;
        Poll::Ready(match ready!(patience.check(polled, bytes, cx)) {
            Ok(data) => data,
            Err(Late::Idle) => Some(Err(BodyError::Idle { limit_seconds: idle.as_secs() })),
            Err(Late::Slow) => Some(Err(BodyError::Slow(match bytes_per_second {
                Rate::Least(rate) => format!("less than {rate} bytes a second"),
                _ => format!("the server waited {} seconds in all", allowance.as_secs()),
            }))),
        })
    })
}

/// An answer's body that marks the end of the request on its connection when the body is dropped.
pub(super) fn ending(mut body: Body, connection: Arc<Connection>) -> Body {
    let end = RequestEnd(connection);
    Body::from_poll(body.length(), move |cx| {
        // The use of `end` makes the body own `end`.
        let _ = &end;
        body.poll_next(cx)
    })
}

/// Marks the end of a request on its connection when dropped.
struct RequestEnd(Arc<Connection>);

impl Drop for RequestEnd {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A connection that fails when its client stops taking the bytes of an answer.
pub(super) struct PatientStream<S> {
    stream: S,
    patience: Patience,
}

impl<S> PatientStream<S> {
    pub(super) fn new(stream: S, idle: Duration, connection: Arc<Connection>) -> Self {
        let limits = Limits { idle, allowance: Duration::MAX, bytes_per_second: Rate::Any };
        Self { stream, patience: Patience::new(limits, connection) }
    }

    fn check<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let stalled = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing more of the answer"));
        self.patience.check(polled, |_| 0, cx).map(|written| written.unwrap_or_else(stalled))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PatientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.check(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.check(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PatientStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::super::slots::Slots;
    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    /// Polls up to 60 pieces of `bytes` bytes, one every 10 ms; returns how many pieces arrived
    /// before the limit.
    async fn pieces_before_limit(bytes_per_second: Rate, bytes: u64) -> usize {
        let slot = Slots::new(1, 1).acquire(None).await.unwrap();
        let limits = Limits { idle: IDLE, allowance: Duration::from_millis(200), bytes_per_second };
        let mut patience = Patience::new(limits, slot.connection.clone());
        for piece in 0..60 {
            let mut pause = Box::pin(sleep(Duration::from_millis(10)));
            match poll_fn(|cx| patience.check(pause.as_mut().poll(cx), |()| bytes, cx)).await {
                Ok(()) => {}
                Err(late) => {
                    assert_eq!(late, Late::Slow);
                    return piece;
                }
            }
        }
        60
    }

    #[tokio::test]
    async fn arrived_bytes_pay_for_waiting_time() {
        let (slow, fast) = (pieces_before_limit(Rate::Least(1000), 1), pieces_before_limit(Rate::Least(1000), 100));
        let (any, deadline) = (pieces_before_limit(Rate::Any, 1), pieces_before_limit(Rate::Deadline, 1_000_000));
        let (slow, fast, any, deadline) = tokio::join!(slow, fast, any, deadline);
        assert!((1..=25).contains(&slow) && (1..=20).contains(&deadline), "{slow}, {deadline}");
        assert_eq!((fast, any), (60, 60));
    }
}
