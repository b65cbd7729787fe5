//! Who is calling, and what they may do.

use serde::{Deserialize, Serialize};

use super::pattern::Pattern;
use super::scope::Scope;
use crate::oci::RepositoryName;

/// What somebody may do with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// See it in the catalog. Policies give it with `pull`.
    List,
    /// Read manifests, blobs, tags and referrers.
    Pull,
    /// Write manifests and blobs, move tags.
    Push,
    /// Delete tags, manifests and blobs.
    Delete,
    /// Attach warnings; of every repository (`**`): administer users, tokens and the registry itself.
    Admin,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::List, Self::Pull, Self::Push, Self::Delete, Self::Admin];

    /// As scopes and policies call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    /// By the name of [`Action::as_str`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }
}

/// Leave to do something with some repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which ones.
    pub repositories: Pattern,
    /// What may be done.
    pub actions: Vec<Action>,
}

/// Who is calling, as far as that is known, and all that they may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The user; nobody for an anonymous caller.
    pub user: Option<String>,
    /// What they may do, and nothing else.
    pub grants: Vec<Grant>,
}

impl Caller {
    /// Somebody who may do everything.
    pub fn unlimited(user: Option<String>) -> Self {
        Self { user, grants: vec![Grant { repositories: Pattern::everything(), actions: Action::ALL.to_vec() }] }
    }

    /// Whether they may do this with that repository.
    pub fn may(&self, action: Action, repository: &RepositoryName) -> bool {
        self.to(action).any(|grant| grant.repositories.matches(repository))
    }

    /// Whether they may do this with every repository.
    pub fn may_everywhere(&self, action: Action) -> bool {
        self.to(action).any(|grant| grant.repositories.is_everything())
    }

    /// Whether there may be a repository with which they may do this.
    pub fn may_somewhere(&self, action: Action) -> bool {
        self.to(action).next().is_some()
    }

    fn to(&self, action: Action) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(move |grant| grant.actions.contains(&action))
    }

    /// The same caller with no more than `scopes` ask for, and no more than they may.
    pub fn narrowed(&self, scopes: &[Scope]) -> Self {
        let mut grants = Vec::new();
        for scope in scopes {
            match scope {
                Scope::Repository(repository, wanted) => {
                    let actions: Vec<_> =
                        wanted.iter().copied().filter(|action| self.may(*action, repository)).collect();
                    if !actions.is_empty() {
                        grants.push(Grant { repositories: Pattern::exactly(repository), actions });
                    }
                }
                Scope::Catalog => grants.extend(
                    self.to(Action::List)
                        .map(|grant| Grant { repositories: grant.repositories.clone(), actions: vec![Action::List] }),
                ),
                Scope::Administration if self.may_everywhere(Action::Admin) => {
                    grants.push(Grant { repositories: Pattern::everything(), actions: vec![Action::Admin] });
                }
                Scope::Administration => {}
            }
        }
        Self { user: self.user.clone(), grants }
    }
}
