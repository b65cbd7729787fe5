//! What all pulls have in common.

use async_trait::async_trait;

use super::path::Target;
use super::{Call, Operation, operation};
use crate::http::Handler;
use crate::http::audit::Change;
use crate::http::error::Error;
use crate::http::permission::Permission;
use crate::http::pulled::Pulled;
use crate::http::reply::Reply;

/// What a pull reads from its repository.
#[async_trait]
pub(super) trait Read: Sized + Send + Sync {
    /// Reads for a caller who may pull `repository`.
    async fn read(self, repository: Pulled, handler: &Handler, call: Call<'_>) -> Result<Reply, Error>;
}

/// An operation that reads one repository, own or mirrored, and changes nothing.
struct Pull<R> {
    repository: Pulled,
    read: R,
}

/// The pull of the repository in a request's path.
pub(super) fn pull(target: &Target<'_>, read: impl Read + 'static) -> Result<Box<dyn Operation>, Error> {
    operation(Pull { repository: target.repository()?.into(), read })
}

#[async_trait]
impl<R: Read> Operation for Pull<R> {
    fn permission(&self) -> Permission<'_> {
        self.repository.permission()
    }

    fn pulled(&mut self) -> Option<&mut Pulled> {
        Some(&mut self.repository)
    }

    fn change(&self) -> Option<Change> {
        None
    }

    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error> {
        self.read.read(self.repository, handler, call).await
    }
}
