//! Tells the host whether a request was admitted. The host gives clients less time for the bodies
//! of requests that are not admitted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Extensions;

/// True from the admission of a request until the request is carried out. A host puts a `Wanted`
/// into the extensions of a request, keeps a clone, and reads the clone while the body comes.
#[derive(Clone, Debug, Default)]
pub struct Wanted(Arc<AtomicBool>);

/// Marks the request as being carried out until dropped.
pub(crate) struct Carried(Option<Wanted>);

impl Wanted {
    /// Whether the request was admitted and is being carried out.
    pub fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Tells a host that put a [`Wanted`] into the extensions that the request is being carried
    /// out, until the returned value is dropped.
    pub(crate) fn tell(extensions: &Extensions) -> Carried {
        let wanted = extensions.get::<Self>().cloned();
        wanted.iter().for_each(|wanted| wanted.0.store(true, Ordering::Relaxed));
        Carried(wanted)
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.iter().for_each(|wanted| wanted.0.store(false, Ordering::Relaxed));
    }
}
