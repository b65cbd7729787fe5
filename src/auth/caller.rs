//! The caller of a request, and the grants of the caller.

use super::action::Action;
use super::pattern::Pattern;
use super::scope::Scope;
use crate::oci::RepositoryName;

/// The permission to perform some actions on some repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The repositories.
    pub repositories: Pattern,
    /// The permitted actions.
    pub actions: Vec<Action>,
}

impl Grant {
    /// Permits `actions` in the repositories whose names match.
    pub fn new(repositories: Pattern, actions: impl Into<Vec<Action>>) -> Self {
        Self { repositories, actions: actions.into() }
    }
}

/// The caller of a request, as far as known, and everything that the caller may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The user; `None` for an anonymous caller.
    pub user: Option<String>,
    /// All permissions of the caller.
    pub grants: Vec<Grant>,
    /// When the credentials behind these grants expire, in milliseconds since the Unix epoch.
    /// Tokens made for the caller expire no later. `None`: the credentials do not expire.
    pub ends_ms: Option<u64>,
    /// Facts that a signed token states beyond its grants. `None`: the grants are all rights of the
    /// user.
    pub narrowed: Option<Narrowed>,
}

/// Facts that a signed token states about its user, beyond the scopes that the token was made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowed {
    /// The user may pull every repository, with another token.
    pub pulls_everything: bool,
    /// The token was requested with permission to pull these repositories, and the user lacks the
    /// permission.
    pub refused: Vec<RepositoryName>,
}

impl Caller {
    /// A caller who may do everything.
    pub fn unlimited(user: Option<String>) -> Self {
        let grants = vec![Grant { repositories: Pattern::everything(), actions: Action::ALL.to_vec() }];
        Self { user, grants, ..Self::default() }
    }

    /// Whether the caller may perform `action` on `repository`.
    pub fn may(&self, action: Action, repository: &RepositoryName) -> bool {
        self.to(action).any(|grant| grant.repositories.matches(repository))
    }

    /// Whether the caller may perform `action` on every repository.
    pub fn may_everywhere(&self, action: Action) -> bool {
        self.to(action).any(|grant| grant.repositories.is_everything())
    }

    /// Whether any grant of the caller permits `action`; a matching repository need not exist.
    pub fn may_somewhere(&self, action: Action) -> bool {
        self.to(action).next().is_some()
    }

    /// Whether the user may pull every repository, as far as the credentials tell.
    pub fn pulls_everything(&self) -> bool {
        self.may_everywhere(Action::Pull) || self.narrowed.as_ref().is_some_and(|token| token.pulls_everything)
    }

    /// Whether the user might be allowed to pull this repository with another token: the caller's
    /// own token was not requested for the repository.
    pub fn might_pull(&self, repository: &RepositoryName) -> bool {
        let asked = |token: &Narrowed| token.refused.contains(repository);
        self.narrowed.as_ref().is_some_and(|token| !asked(token)) && !self.may(Action::Pull, repository)
    }

    fn to(&self, action: Action) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(move |grant| grant.actions.contains(&action))
    }

    /// The same caller, with only the permissions that the caller has and that `scopes` ask for.
    /// Each grant is compared at most once with each scope.
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

    /// The actions among `wanted` that the caller may perform on a repository, in the order of
    /// [`Action::ALL`].
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
