//! The component for any WASI 0.2 HTTP host: the stores are files in a preopened folder or S3, and
//! the settings are environment variables. The bindings are those of the crate `wasip2`
//! (docs/decisions/0011).
#![allow(unsafe_code, reason = "the macro that exports the handler expands to unsafe code")]

mod executor;
mod inbound;
mod outbound;
mod streams;

use std::sync::Arc;

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use super::environment;
use outbound::Wasi2Platform;

struct Component;

wasip2::http::proxy::export!(Component);

impl wasip2::exports::http::incoming_handler::Guest for Component {
    fn handle(request: IncomingRequest, to: ResponseOutparam) {
        executor::run(inbound::answer(request, to, async || environment::open(Arc::new(Wasi2Platform))));
    }
}
