//! A stream for the guest whose items come from another thread.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc::Receiver;
use wasmtime::component::{Destination, StreamProducer, StreamResult, VecBuffer};
use wasmtime::{Result, StoreContextMut};

/// Delivers at most `at_a_time` items for each read of the guest.
pub struct Received<I> {
    pub items: Receiver<I>,
    pub at_a_time: usize,
}

impl<T, I: Send + Sync + 'static> StreamProducer<T> for Received<I> {
    type Item = I;
    type Buffer = VecBuffer<I>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        store: StoreContextMut<'a, T>,
        mut destination: Destination<'a, I, VecBuffer<I>>,
        finish: bool,
    ) -> Poll<Result<StreamResult>> {
        if finish {
            return Poll::Ready(Ok(StreamResult::Cancelled));
        }
        if destination.remaining(store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let mut items = Vec::new();
        let limit = self.at_a_time;
        if ready!(self.items.poll_recv_many(context, &mut items, limit)) == 0 {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        destination.set_buffer(items.into());
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
