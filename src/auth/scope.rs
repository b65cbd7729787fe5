//! Scopes: the permissions that a client requests a token for (`repository:team/app:pull,push`).

use std::fmt;

use super::action::Action;
use crate::oci::RepositoryName;

/// A permission that a token is requested for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// `repository:<name>:<actions>`; `*` is every action. The actions are in the order of
    /// [`Action::ALL`], each at most once.
    Repository(RepositoryName, Vec<Action>),
    /// `registry:catalog:*`
    Catalog,
    /// `registry:eyot:admin`: administration of users, tokens, and the registry itself.
    Administration,
}

impl Scope {
    /// Parses one scope. `None` for a scope of another type, with an invalid repository name, or of
    /// more than [`SCOPE_BYTES_MAX`] bytes. Unknown actions are left out.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > SCOPE_BYTES_MAX {
            return None;
        }
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        // A type may have a class, as in `repository(plugin)`.
        match (kind.split('(').next()?, name) {
            ("repository", name) => Some(Self::Repository(name.parse().ok()?, parse_actions(actions))),
            ("registry", "catalog") => Some(Self::Catalog),
            ("registry", "eyot") => Some(Self::Administration),
            _ => None,
        }
    }
}

/// The most bytes of one scope: room for a name of 255 bytes and each action several times.
/// [`Scope::parse`] gives `None` for a longer scope.
pub const SCOPE_BYTES_MAX: usize = 1024;

impl Scope {
    /// Adds this scope to a list that names each repository once. Two scopes for one repository are
    /// merged: the actions of both are requested.
    pub fn add_to(self, scopes: &mut Vec<Self>) {
        match (scopes.iter_mut().find(|known| known.is_for_same(&self)), self) {
            (Some(Self::Repository(_, known)), Self::Repository(_, more)) => {
                *known = in_order(&[&known[..], &more].concat())
            }
            (Some(_), _) => {}
            (None, scope) => scopes.push(scope),
        }
    }

    fn is_for_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Repository(one, _), Self::Repository(other, _)) => one == other,
            (one, other) => one == other,
        }
    }
}

fn parse_actions(text: &str) -> Vec<Action> {
    let named = |word: &str| text.split(',').any(|found| found.trim() == word);
    match named("*") {
        true => Action::ALL.to_vec(),
        false => Action::ALL.into_iter().filter(|action| named(action.as_str())).collect(),
    }
}

fn in_order(actions: &[Action]) -> Vec<Action> {
    Action::ALL.into_iter().filter(|action| actions.contains(action)).collect()
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(name, actions) => {
                let actions: Vec<_> = actions.iter().map(|action| action.as_str()).collect();
                write!(f, "repository:{name}:{}", actions.join(","))
            }
            Self::Catalog => f.write_str("registry:catalog:*"),
            Self::Administration => f.write_str("registry:eyot:admin"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_clients() {
        let app = || "team/app".parse().unwrap();
        for (text, expected) in [
            ("repository:team/app:pull", Some(Scope::Repository(app(), vec![Action::Pull]))),
            ("repository:team/app:push,pull", Some(Scope::Repository(app(), vec![Action::Pull, Action::Push]))),
            ("repository:team/app:pull,*,pull", Some(Scope::Repository(app(), Action::ALL.to_vec()))),
            (
                "repository:team/app:pull,push,pull,push",
                Some(Scope::Repository(app(), vec![Action::Pull, Action::Push])),
            ),
            ("repository:team/app:*", Some(Scope::Repository(app(), Action::ALL.to_vec()))),
            ("repository(plugin):team/app:pull", Some(Scope::Repository(app(), vec![Action::Pull]))),
            ("repository:team/app:fly,pull", Some(Scope::Repository(app(), vec![Action::Pull]))),
            ("registry:catalog:*", Some(Scope::Catalog)),
            ("registry:eyot:admin", Some(Scope::Administration)),
            ("repository:Team/App:pull", None),
            ("repository:host:5000/app:pull", None),
            ("repository:**:pull", None),
            ("planet:earth:*", None),
            ("repository", None),
            ("::", None),
            ("", None),
        ] {
            assert_eq!(Scope::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_scope_has_few_actions_however_many_it_names() {
        let many = format!("repository:team/app:{}", "*,".repeat(32_000));
        assert_eq!(Scope::parse(&many), None, "longer than a scope can be");
        let mut scopes = Vec::new();
        for text in
            ["repository:team/app:push", "registry:catalog:*", "repository:team/app:pull,delete", "registry:catalog:*"]
        {
            Scope::parse(text).unwrap().add_to(&mut scopes);
        }
        let app = Scope::Repository("team/app".parse().unwrap(), vec![Action::Pull, Action::Push, Action::Delete]);
        assert_eq!(scopes, [app, Scope::Catalog]);
    }
}
