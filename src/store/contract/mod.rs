//! The clauses that every back end of a port must keep, as functions that panic when a clause is
//! broken.
//!
//! To run the clauses against another back end, with the feature `testing` of this crate:
//!
//! ```
//! use std::sync::Arc;
//! use eyot::store::{contract, memory::MemoryKeyValue};
//!
//! for (name, clause) in contract::KEY_VALUE {
//!     println!("{name}");
//!     futures_executor::block_on(clause(Arc::new(MemoryKeyValue::default())));
//! }
//! ```
//!
//! A back end must refuse a condition that it cannot honour as
//! [`Unsupported`](super::Error::Unsupported), and write nothing. The clauses use keys that begin
//! with `contract`, so the store may hold other data.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{BlobStore, KeyValue};

/// Makes the list of a port's clauses, and a macro `$stamp` for tests, from the functions named.
macro_rules! clauses {
    ($(#[$documentation:meta])* $list:ident: $clause:ty, $module:ident, $stamp:ident, $($name:ident)*) => {
        $(#[$documentation])*
        pub const $list: &[(&str, $clause)] = &[$((stringify!($name), |store| Box::pin($name(store)))),*];

        /// Makes a named test of each clause, on a store that `$make` gives.
        #[cfg(all(test, not(target_family = "wasm")))]
        macro_rules! $stamp {
            ($make:expr) => {
                $(#[test] fn $name() {
                    let (store, _guard) = $make;
                    futures_executor::block_on($crate::store::contract::$module::$name(store));
                })*
            };
        }
        #[cfg(all(test, not(target_family = "wasm")))]
        pub(super) use $stamp;
    };
}

mod blob_store;
mod key_value;
#[cfg(all(test, not(target_family = "wasm")))]
mod tests;

pub use blob_store::BLOB_STORE;
pub use key_value::KEY_VALUE;

/// A clause on a [`KeyValue`].
pub type KeyValueClause = fn(Arc<dyn KeyValue>) -> BoxFuture<'static, ()>;
/// A clause on a [`BlobStore`].
pub type BlobStoreClause = fn(Arc<dyn BlobStore>) -> BoxFuture<'static, ()>;

/// Lets other tasks run.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
