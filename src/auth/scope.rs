//! Scopes: what a client wants a token for (`repository:team/app:pull,push`).

use std::fmt;

use super::caller::Action;
use crate::oci::RepositoryName;

/// One thing that a token is wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `repository:<name>:<actions>`; `*` is every action.
    Repository(RepositoryName, Vec<Action>),
    /// `registry:catalog:*`
    Catalog,
    /// `registry:eyot:admin`: users, tokens, and the registry itself.
    Administration,
}

impl Scope {
    /// Reads one scope. `None` for what there is nothing of here: another type, a name that no repository has.
    /// Actions that are not known are left out.
    pub fn parse(text: &str) -> Option<Self> {
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

fn parse_actions(text: &str) -> Vec<Action> {
    let mut actions = Vec::new();
    for word in text.split(',').map(str::trim) {
        let named = if word == "*" { Action::ALL.to_vec() } else { Action::named(word).into_iter().collect() };
        actions.extend(named);
    }
    actions.dedup();
    actions
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
            ("repository:team/app:push,pull", Some(Scope::Repository(app(), vec![Action::Push, Action::Pull]))),
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
}
