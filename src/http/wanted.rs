//! Whether the body of a request is wanted: the handler tells its host, which gives clients less time for bodies that nobody
//! has let them send.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Extensions;

/// True from the moment at which a request is let in until it is carried out. A host puts this into the extensions of a
/// request, keeps a clone, and reads it while the body comes.
#[derive(Clone, Debug, Default)]
pub struct Wanted(Arc<AtomicBool>);

/// Ends with the request.
pub(crate) struct Carried(Option<Wanted>);

impl Wanted {
    /// Whether the request was let in and is being carried out.
    pub fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Tells the host, if it asks, that the request is being carried out until the result of this is dropped.
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
