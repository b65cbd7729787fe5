//! Tells the host which requests are being carried out. The host gives clients less time for the
//! bodies of all other requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Extensions;

/// True from the moment at which the caller of a request is authorized until the request is carried
/// out. A host puts a `Progress` into the extensions of a request, keeps a clone, and reads the
/// clone while the body arrives.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicBool>);

/// Marks a request as being carried out until dropped.
pub(crate) struct CarriedOut(Option<Progress>);

impl Progress {
    /// Whether the caller was authorized and the request is being carried out.
    pub fn is_carried_out(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Reports to a host that put a [`Progress`] into the extensions that the request is being
    /// carried out, until the returned value is dropped.
    pub(crate) fn begin(extensions: &Extensions) -> CarriedOut {
        let progress = extensions.get::<Self>().cloned();
        progress.iter().for_each(|progress| progress.0.store(true, Ordering::Relaxed));
        CarriedOut(progress)
    }
}

impl Drop for CarriedOut {
    fn drop(&mut self) {
        self.0.iter().for_each(|progress| progress.0.store(false, Ordering::Relaxed));
    }
}
