//! What an operation needs leave for. Every operation is decided here; one without a decision does not compile.

use super::operation::Operation;
use crate::auth::{Action, Caller, Scope};
use crate::oci::RepositoryName;

/// What a caller must have leave for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Permission<'a> {
    /// Nothing: the endpoint looks at the credentials itself.
    None,
    /// Being somebody, where one can log in: how clients find out that, and how, they can.
    Login,
    /// The catalog, of which everybody sees their part.
    Catalog,
    /// Something with a repository.
    Repository(Action, &'a RepositoryName),
    /// A push that would like to take content from another repository. A user without leave to pull there begins an
    /// upload; a token that was not asked for that repository is refused, so that the client asks for another token.
    Mount { repository: &'a RepositoryName, from: Option<&'a RepositoryName> },
    /// The registry itself.
    Administration,
}

impl Operation {
    pub(super) fn permission(&self) -> Permission<'_> {
        use Permission::Repository;
        match self {
            Self::Version => Permission::Login,
            Self::Token(_) | Self::PostToken => Permission::None,
            Self::Catalog(_) => Permission::Catalog,
            Self::Tags(repository, _)
            | Self::GetManifest(repository, _)
            | Self::GetBlob(repository, _)
            | Self::Referrers(repository, ..)
            | Self::GetWarnings(repository, _) => Repository(Action::Pull, repository),
            Self::PutManifest(repository, ..)
            | Self::BeginUpload(repository, _)
            | Self::PushBlob(repository, _)
            | Self::UploadStatus(repository, _)
            | Self::AppendUpload(repository, _)
            | Self::CompleteUpload(repository, ..)
            | Self::CancelUpload(repository, _) => Repository(Action::Push, repository),
            Self::MountBlob { repository, from, .. } => Permission::Mount { repository, from: from.as_ref() },
            Self::DeleteManifest(repository, _) | Self::DeleteBlob(repository, _) => {
                Repository(Action::Delete, repository)
            }
            Self::SetWarning(repository, _) | Self::DeleteWarning(repository, _) => {
                Repository(Action::Admin, repository)
            }
            Self::Collect { .. }
            | Self::Check
            | Self::ListUsers(_)
            | Self::PutUser(_)
            | Self::DeleteUser(_)
            | Self::ListTokens(_)
            | Self::PutToken(_)
            | Self::DeleteToken(_) => Permission::Administration,
        }
    }
}

impl Permission<'_> {
    /// Whether a caller has it.
    pub(super) fn is_given(&self, caller: &Caller) -> bool {
        match self {
            Self::None | Self::Login => true,
            Self::Catalog => caller.may_somewhere(Action::List),
            Self::Repository(action, repository) => caller.may(*action, repository),
            Self::Mount { repository, from } => {
                caller.may(Action::Push, repository) && !from.is_some_and(|from| caller.might_pull(from))
            }
            Self::Administration => caller.may_everywhere(Action::Admin),
        }
    }

    /// What a token must be for to give it.
    pub(super) fn scopes(&self) -> Vec<Scope> {
        // Whoever pushes looks first what is there already.
        let push =
            |repository: &RepositoryName| Scope::Repository(repository.clone(), vec![Action::Pull, Action::Push]);
        match self {
            Self::None | Self::Login => Vec::new(),
            Self::Catalog => vec![Scope::Catalog],
            Self::Repository(Action::Push, repository) => vec![push(repository)],
            Self::Repository(action, repository) => vec![Scope::Repository((*repository).clone(), vec![*action])],
            Self::Mount { repository, from } => {
                let from = from.map(|from| Scope::Repository(from.clone(), vec![Action::Pull]));
                std::iter::once(push(repository)).chain(from).collect()
            }
            Self::Administration => vec![Scope::Administration],
        }
    }
}
