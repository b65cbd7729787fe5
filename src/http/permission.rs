//! The permissions that operations require.

use crate::auth::{Action, Caller, Scope};
use crate::oci::RepositoryName;

/// The permission that a request requires of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Permission<'a> {
    /// No permission: the endpoint serves anyone, or checks the credentials itself.
    None,
    /// A login, if the registry has logins. Clients learn from the answer to `/v2/` whether they
    /// must log in, and how.
    Login,
    /// The catalog. Each caller sees only the repositories that the caller may list.
    Catalog,
    /// An action on one repository.
    Repository(Action, &'a RepositoryName),
    /// A pull that the first repository answers if it exists, and else the second one.
    PullEither { own: &'a RepositoryName, mirrored: &'a RepositoryName },
    /// A push that asks to mount content from another repository. If the user may not pull there,
    /// an upload begins instead. If the caller's token was not requested for that repository, the
    /// request is refused, so that the client requests another token.
    Mount { repository: &'a RepositoryName, from: Option<&'a RepositoryName> },
    /// The administration of the registry itself.
    Administration,
}

impl Permission<'_> {
    /// The repository that the request pushes to.
    pub(super) fn pushed(&self) -> Option<&RepositoryName> {
        match self {
            Self::Repository(Action::Push, repository) | Self::Mount { repository, .. } => Some(repository),
            _ => None,
        }
    }

    /// Whether the caller has this permission.
    pub(super) fn is_given(&self, caller: &Caller) -> bool {
        match self {
            Self::None | Self::Login => true,
            Self::Catalog => caller.may_somewhere(Action::List),
            Self::Repository(action, repository) => caller.may(*action, repository),
            Self::PullEither { own, mirrored } => caller.may(Action::Pull, own) || caller.may(Action::Pull, mirrored),
            Self::Mount { repository, from } => {
                caller.may(Action::Push, repository) && !from.is_some_and(|from| caller.might_pull(from))
            }
            Self::Administration => caller.may_everywhere(Action::Admin),
        }
    }

    /// The scopes that a token must have to give this permission.
    pub(super) fn scopes(&self) -> Vec<Scope> {
        // A push also reads: clients look for existing content before they upload.
        let push =
            |repository: &RepositoryName| Scope::Repository(repository.clone(), vec![Action::Pull, Action::Push]);
        match self {
            Self::None | Self::Login => Vec::new(),
            Self::Catalog => vec![Scope::Catalog],
            Self::Repository(Action::Push, repository) => vec![push(repository)],
            Self::Repository(action, repository) => vec![Scope::Repository((*repository).clone(), vec![*action])],
            Self::PullEither { own, mirrored } => {
                let scope = |name: &RepositoryName| Scope::Repository(name.clone(), vec![Action::Pull]);
                vec![scope(own), scope(mirrored)]
            }
            Self::Mount { repository, from } => {
                let from = from.map(|from| Scope::Repository(from.clone(), vec![Action::Pull]));
                std::iter::once(push(repository)).chain(from).collect()
            }
            Self::Administration => vec![Scope::Administration],
        }
    }
}
