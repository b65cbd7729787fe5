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
    /// When the credentials end that these rights come from, in milliseconds since the Unix epoch. Tokens made
    /// for the caller end no later. `None`: the credentials have no end of their own.
    pub ends_ms: Option<u64>,
    /// What a signed token says beyond its grants. `None`: the grants are all rights of the user.
    pub narrowed: Option<Narrowed>,
}

/// What a signed token says of its user beyond the scopes that the token was made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowed {
    /// The user may pull every repository, with another token.
    pub pulls_everything: bool,
    /// The token was asked for leave to pull these repositories, and the user has none.
    pub refused: Vec<RepositoryName>,
}

impl Caller {
    /// Somebody who may do everything.
    pub fn unlimited(user: Option<String>) -> Self {
        let grants = vec![Grant { repositories: Pattern::everything(), actions: Action::ALL.to_vec() }];
        Self { user, grants, ..Self::default() }
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

    /// Whether the user may pull every repository, as far as the credentials tell.
    pub fn pulls_everything(&self) -> bool {
        self.may_everywhere(Action::Pull) || self.narrowed.as_ref().is_some_and(|token| token.pulls_everything)
    }

    /// Whether the user might pull this repository with another token: this token was not asked for it.
    pub fn might_pull(&self, repository: &RepositoryName) -> bool {
        let asked = |token: &Narrowed| token.refused.contains(repository);
        self.narrowed.as_ref().is_some_and(|token| !asked(token)) && !self.may(Action::Pull, repository)
    }

    fn to(&self, action: Action) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(move |grant| grant.actions.contains(&action))
    }

    /// The same caller with no more than `scopes` ask for, and no more than they may. Each grant is compared at
    /// most once with each scope.
    pub fn narrowed(&self, scopes: &[Scope]) -> Self {
        let mut grants = Vec::new();
        let mut refused = Vec::new();
        for scope in scopes {
            match scope {
                Scope::Repository(repository, wanted) => {
                    let actions = self.among(wanted, repository);
                    if wanted.contains(&Action::Pull) && !actions.contains(&Action::Pull) {
                        refused.push(repository.clone());
                    }
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
        let narrowed = Some(Narrowed { pulls_everything: self.pulls_everything(), refused });
        Self { user: self.user.clone(), grants, ends_ms: self.ends_ms, narrowed }
    }

    /// Those of `wanted` that the caller may do with a repository, in the order of [`Action::ALL`].
    fn among(&self, wanted: &[Action], repository: &RepositoryName) -> Vec<Action> {
        let mut missing: Vec<Action> = Action::ALL.into_iter().filter(|action| wanted.contains(action)).collect();
        let mut found = Vec::new();
        for grant in &self.grants {
            if missing.is_empty() {
                break;
            }
            if missing.iter().any(|action| grant.actions.contains(action)) && grant.repositories.matches(repository) {
                found.extend(missing.extract_if(.., |action| grant.actions.contains(action)));
            }
        }
        Action::ALL.into_iter().filter(|action| found.contains(action)).collect()
    }
}
