//! The components of WASI 0.2. The component for any host keeps its data in files of a preopened
//! folder or in S3, and its settings are environment variables. With the feature `spin3` the
//! component is that of Spin 3 (`spin3.rs`). The bindings are those of the crate `wasip2`
//! (docs/decisions/0011).
#![allow(unsafe_code, reason = "the macro that exports the handler expands to unsafe code")]

mod executor;
mod inbound;
mod outbound;
mod streams;

use std::sync::Arc;

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

#[cfg(not(feature = "spin3"))]
use super::environment::open;
#[cfg(feature = "spin3")]
use super::spin3::open;
use outbound::Wasi2Platform;

struct Component;

wasip2::http::proxy::export!(Component);

impl wasip2::exports::http::incoming_handler::Guest for Component {
    fn handle(request: IncomingRequest, to: ResponseOutparam) {
        executor::run(inbound::answer(request, to, async || open(Arc::new(Wasi2Platform))));
    }
}
