//! The handler as a service of the crate tower, for axum and other routers.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

use super::Handler;
use crate::platform::Body;

/// Answers requests with any body. The service is always ready and never fails: every error is an
/// answer. Cloning the handler is cheap; all clones share the registry.
///
/// A request should carry the address of the client as the extension
/// [`Peer`](crate::http::Peer), for limits on failed logins and for the audit log.
impl<B> Service<Request<B>> for Handler
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Display,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let handler = self.clone();
        Box::pin(async move { Ok(handler.handle(request.map(Body::new)).await) })
    }
}
