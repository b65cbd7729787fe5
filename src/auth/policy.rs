//! Policies: rules that say which users may do what with which repositories.

use std::str::FromStr;

use async_trait::async_trait;

use super::action::Action;
use super::caller::{Caller, Grant};
use super::invalid::InvalidAccess;
use super::pattern::Pattern;
use super::{Attempt, Authority, Refusal};

/// The rules of a registry, one per line or separated by `;`. A rule names users, repositories, and
/// the permitted actions.
///
/// ```
/// use eyot::auth::Policy;
/// let policy: Policy = "
///     anonymous      public/**  pull            # whoever comes
///     authenticated  **         pull            # whoever has logged in
///     alice,bob      team/**    pull,push,delete
///     root           **         all
/// ".parse().unwrap();
/// assert!(policy.caller(None).may(eyot::auth::Action::Pull, &"public/app".parse().unwrap()));
/// ```
///
/// Every caller has the rights of `anonymous`. Every user who has logged in with a password also
/// has the rights of `authenticated`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    who: Vec<String>,
    grant: Grant,
}

/// The name in rules for every caller, logged in or not.
pub(super) const ANONYMOUS: &str = "anonymous";
/// The name in rules for every user who has logged in with a password.
pub(super) const AUTHENTICATED: &str = "authenticated";
/// The most rules of a policy.
pub const RULES_MAX: usize = 1000;

/// The text is not a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule:?}: {why}")]
pub struct PolicyError {
    /// The rule that cannot be read.
    pub rule: String,
    /// The reason.
    pub why: InvalidAccess,
}

impl Policy {
    /// Anyone may do everything.
    pub fn open() -> Self {
        Self::of([(ANONYMOUS, Action::ALL.to_vec())])
    }

    /// Anyone may pull; every other action is denied.
    pub fn read_only() -> Self {
        Self::of([(ANONYMOUS, vec![Action::List, Action::Pull])])
    }

    /// Anyone may pull, users may do everything.
    pub fn write_only() -> Self {
        Self::of([(ANONYMOUS, vec![Action::List, Action::Pull]), (AUTHENTICATED, Action::ALL.to_vec())])
    }

    /// Users may do everything; anonymous callers may do nothing.
    pub fn read_write() -> Self {
        Self::of([(AUTHENTICATED, Action::ALL.to_vec())])
    }

    fn of(rules: impl IntoIterator<Item = (&'static str, Vec<Action>)>) -> Self {
        let rule = |(who, actions): (&str, _)| Rule {
            who: vec![who.to_owned()],
            grant: Grant { repositories: Pattern::everything(), actions },
        };
        Self { rules: rules.into_iter().map(rule).collect() }
    }

    /// The caller for a user who has logged in with a password; for `None`, the anonymous caller.
    pub fn caller(&self, user: Option<&str>) -> Caller {
        match user {
            Some(user) => self.granted(user, &[ANONYMOUS, AUTHENTICATED, user]),
            None => Caller { grants: self.grants(&[ANONYMOUS]), ..Caller::default() },
        }
    }

    /// The caller called `user`, with the grants of all rules for any of `names`.
    pub(super) fn granted(&self, user: &str, names: &[&str]) -> Caller {
        Caller { user: Some(user.to_owned()), grants: self.grants(names), ..Caller::default() }
    }

    fn grants(&self, names: &[&str]) -> Vec<Grant> {
        let applies = |rule: &&Rule| rule.who.iter().any(|who| names.contains(&who.as_str()));
        self.rules.iter().filter(applies).map(|rule| rule.grant.clone()).collect()
    }
}

/// A policy alone knows no users: every caller is anonymous, whatever the credentials.
#[async_trait]
impl Authority for Policy {
    async fn identify(&self, _: Attempt<'_>) -> Result<Caller, Refusal> {
        Ok(self.caller(None))
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        let texts = lines.flat_map(|line| line.split(';')).map(str::trim).filter(|rule| !rule.is_empty());
        let rules = texts
            .map(|text| parse_rule(text).map_err(|why| PolicyError { rule: text.chars().take(100).collect(), why }));
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        if rules.len() > RULES_MAX {
            let rule = rules[RULES_MAX].who.join(",");
            return Err(PolicyError { rule, why: format!("there are more than {RULES_MAX} rules").into() });
        }
        Ok(Self { rules })
    }
}

fn parse_rule(text: &str) -> Result<Rule, InvalidAccess> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [who, repositories, actions] = words[..] else {
        return Err("want WHO REPOSITORIES ACTIONS, as in: alice team/** pull,push".into());
    };
    let who: Vec<String> = who.split(',').map(str::to_owned).collect();
    if who.iter().any(String::is_empty) {
        return Err("a name in the list of users is empty".into());
    }
    Ok(Rule { who, grant: parse_grant(repositories, actions)? })
}

/// Parses a pattern and actions, as in `team/** pull,push`.
pub(super) fn parse_grant(repositories: &str, actions: &str) -> Result<Grant, InvalidAccess> {
    let repositories = repositories.parse::<Pattern>().map_err(|error| error.to_string())?;
    let mut granted = Vec::new();
    for word in actions.split(',') {
        match (word, Action::named(word)) {
            ("all", _) => granted.extend(Action::ALL),
            ("pull", _) => granted.extend([Action::List, Action::Pull]),
            (_, Some(action)) => granted.push(action),
            (_, None) => return Err(format!("{word:?} is not one of pull, push, delete, admin, all").into()),
        }
    }
    Ok(Grant { repositories, actions: granted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_add_up() {
        let policy: Policy = "anonymous public/** pull; authenticated shared/* pull\n\
                              alice,bob team/** pull,push # both\n\n# none\nbob team/** delete; root ** all"
            .parse()
            .unwrap();
        let may = |user: Option<&str>, action, name: &str| policy.caller(user).may(action, &name.parse().unwrap());
        for (user, action, name, expected) in [
            (None, Action::Pull, "public/a", true),
            (None, Action::List, "public/a", true),
            (None, Action::Push, "public/a", false),
            (None, Action::Pull, "shared/a", false),
            (Some("carol"), Action::Pull, "shared/a", true),
            (Some("carol"), Action::Pull, "public/a/b", true),
            (Some("carol"), Action::Pull, "team/a", false),
            (Some("alice"), Action::Push, "team/a", true),
            (Some("alice"), Action::Delete, "team/a", false),
            (Some("bob"), Action::Delete, "team/a", true),
            (Some("root"), Action::Admin, "any/thing", true),
        ] {
            assert_eq!(may(user, action, name), expected, "{user:?} {action:?} {name}");
        }
        assert!(policy.caller(Some("root")).may_everywhere(Action::Admin));
        assert!(!policy.caller(Some("bob")).may_everywhere(Action::Pull));
    }

    #[test]
    fn a_rule_that_cannot_be_read_is_named() {
        for (text, expected) in [
            ("alice team/**", "want WHO REPOSITORIES ACTIONS"),
            ("alice team/** fly", "\"fly\" is not one of"),
            ("alice Team pull", "not a pattern"),
            (",alice team pull", "is empty"),
        ] {
            let error = text.parse::<Policy>().unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(text), "{error}");
        }
    }
}
