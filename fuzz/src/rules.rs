//! Texts that administrators write: patterns, policies, scopes, issuers, htpasswd files, proxies.
//! Patterns and policies are compared with a second implementation in this file.

use eyot::auth::{Action, IssuerRules, Pattern, Policy, Scope, check_user_name, parse_htpasswd};
use eyot::http::Proxies;
use eyot::oci::RepositoryName;

/// For how many repositories, and for how many users, a policy is evaluated.
const NAMES_MAX: usize = 20;

/// The first line is a pattern and the second line a name. The whole input is also parsed as each
/// of the other texts.
pub fn rules(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let second = rest.lines().next().unwrap_or_default();
    if let (Ok(pattern), Ok(name)) = (first.parse::<Pattern>(), second.parse::<RepositoryName>()) {
        assert_eq!(pattern.as_str(), first);
        assert_eq!(pattern.matches(&name), is_match(first, second), "{first:?} and {second:?}");
    }
    if let Ok(policy) = text.parse::<Policy>() {
        check_policy(text, &policy);
    }
    for line in text.lines() {
        if let Some(scope) = Scope::parse(line) {
            let again = Scope::parse(&scope.to_string());
            assert_eq!(again.as_ref(), Some(&scope), "{line:?}");
        }
    }
    if let Ok(users) = parse_htpasswd(text) {
        assert!(users.len() <= text.lines().count());
        assert!(
            users.iter().all(|(user, hash)| check_user_name(user).is_ok() && format!("{hash:?}") == "PasswordHash")
        );
    }
    let _ = text.parse::<IssuerRules>().and_then(|rules| rules.with_key_hosts(first));
    if let Err(why) = text.parse::<Proxies>() {
        assert!(!why.to_string().is_empty());
    }
}

/// Matches a pattern step by step. `ends` are all positions in the name that the pattern so far can
/// reach.
fn is_match(pattern: &str, name: &str) -> bool {
    let mut ends = vec![0];
    let mut rest = pattern;
    while !rest.is_empty() {
        let (deep, shallow) = (rest.strip_prefix("**"), rest.strip_prefix('*'));
        ends = match (deep, shallow) {
            (Some(behind), _) => {
                rest = behind;
                ends.first().map_or(vec![], |first| (*first..=name.len()).collect())
            }
            (_, Some(behind)) => {
                rest = behind;
                let reach = |at: &usize| *at..=at + name[*at..].find('/').unwrap_or(name.len() - at);
                let mut all: Vec<_> = ends.iter().flat_map(reach).collect();
                all.sort_unstable();
                all.dedup();
                all
            }
            _ => {
                let letter = rest.as_bytes()[0];
                rest = &rest[1..];
                ends.iter().filter(|at| name.as_bytes().get(**at) == Some(&letter)).map(|at| at + 1).collect()
            }
        };
    }
    ends.contains(&name.len())
}

/// A rule of a policy, split into words.
struct Rule<'a> {
    who: Vec<&'a str>,
    pattern: &'a str,
    actions: Vec<&'a str>,
}

fn check_policy(text: &str, policy: &Policy) {
    let lines = text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().split(';'));
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|words| !words.is_empty());
    let rules: Vec<Rule<'_>> = words
        .map(|words| Rule {
            who: words[0].split(',').collect(),
            pattern: words[1],
            actions: words[2].split(',').collect(),
        })
        .collect();
    let names =
        rules.iter().flat_map(|rule| ["x", "x/y"].map(|part| rule.pattern.replace("**", part).replace('*', "z")));
    let users: Vec<Option<&str>> =
        std::iter::once(None).chain(rules.iter().filter_map(|rule| rule.who.first().copied().map(Some))).collect();
    for name in names.take(NAMES_MAX).filter_map(|name| name.parse::<RepositoryName>().ok()) {
        for user in users.iter().take(NAMES_MAX) {
            // Reserved names and invalid names belong to no user.
            if user.is_some_and(|user| check_user_name(user).is_err()) {
                continue;
            }
            let caller = policy.caller(*user);
            for action in Action::ALL {
                let applies = |rule: &&Rule<'_>| {
                    let is_meant = |who: &&str| {
                        *who == "anonymous" || user.is_some_and(|user| [user, "authenticated"].contains(who))
                    };
                    let is_granted = |word: &&str| {
                        *word == "all" || *word == action.as_str() || (*word == "pull" && action == Action::List)
                    };
                    rule.who.iter().any(is_meant)
                        && rule.actions.iter().any(is_granted)
                        && is_match(rule.pattern, name.as_str())
                };
                let expected = rules.iter().any(|rule| applies(&rule));
                assert_eq!(caller.may(action, &name), expected, "{user:?} {action:?} {name} by {text:?}");
            }
        }
    }
}
