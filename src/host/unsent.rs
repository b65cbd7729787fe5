//! A bound for the bytes of an answer that hyper holds. hyper asks for more of a body while hyper
//! holds less than its buffer size, which has to be large enough for the head of a request. So many
//! slow clients would need much memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use crate::platform::Body;

/// How many bytes of an answer may be unsent when hyper gets the next piece of the body.
const UNSENT_BYTES_MAX: usize = 8 * 1024;

/// The bytes of one answer that hyper holds.
#[derive(Default)]
struct Unsent {
    bytes: AtomicUsize,
    /// The task of the connection, when the task waits for bytes to be sent.
    task: AtomicWaker,
}

/// A piece of a body, counted until hyper drops the piece.
struct Piece {
    bytes: Bytes,
    unsent: Arc<Unsent>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.unsent.bytes.fetch_sub(self.bytes.len(), Ordering::AcqRel);
        self.unsent.task.wake();
    }
}

/// Returns a body that yields the next piece only when at most [`UNSENT_BYTES_MAX`] bytes of earlier
/// pieces are unsent. The consumer must drop sent pieces without waiting for further pieces.
pub(super) fn bounded(mut body: Body) -> Body {
    if body.length().is_some_and(|length| length <= UNSENT_BYTES_MAX as u64) {
        return body;
    }
    let unsent = Arc::<Unsent>::default();
    Body::from_poll(body.length(), move |cx| {
        unsent.task.register(cx.waker());
        if unsent.bytes.load(Ordering::Acquire) > UNSENT_BYTES_MAX {
            return Poll::Pending;
        }
        body.poll_next(cx).map_ok(|bytes| {
            unsent.bytes.fetch_add(bytes.len(), Ordering::AcqRel);
            Bytes::from_owner(Piece { bytes, unsent: unsent.clone() })
        })
    })
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use futures_util::stream;

    use super::*;
    use crate::platform::BodyError;

    #[test]
    fn the_next_piece_comes_when_earlier_pieces_are_sent() {
        let pieces = (0..4).map(|_| Ok::<_, BodyError>(Bytes::from(vec![7; UNSENT_BYTES_MAX])));
        let mut body = bounded(Body::from_stream(stream::iter(pieces)).with_length(4 * UNSENT_BYTES_MAX as u64));
        assert_eq!(body.length(), Some(4 * UNSENT_BYTES_MAX as u64));
        let cx = &mut Context::from_waker(Waker::noop());
        let piece = |polled| match polled {
            Poll::Ready(Some(Ok(piece))) => Some::<Bytes>(piece),
            _ => None,
        };
        let first = piece(body.poll_next(cx)).expect("the first piece");
        let second = piece(body.poll_next(cx)).expect("as many bytes as may be unsent");
        assert!(body.poll_next(cx).is_pending(), "a piece beyond the bound");
        let half = first.slice(1..);
        drop(first);
        assert!(body.poll_next(cx).is_pending(), "a part of the first piece is unsent");
        drop(half);
        assert!(piece(body.poll_next(cx)).is_some());
        drop(second);
        assert!(piece(body.poll_next(cx)).is_some());
        assert!(matches!(body.poll_next(cx), Poll::Ready(None)));
    }
}
