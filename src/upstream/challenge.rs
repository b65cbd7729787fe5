//! Login challenges (`WWW-Authenticate`; RFC 9110, section 11.6.1).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use http_auth::parse_challenges;

/// The most bytes of challenges that are read.
const CHALLENGES_BYTES_MAX: usize = 8 * 1024;

/// The way in which an upstream asks for a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With a token that a server at `realm` gives for `service`.
    Bearer { realm: String, service: Option<String> },
    /// With a name and a password.
    Basic,
}

impl Challenge {
    /// The challenge to answer: a Bearer challenge with a realm if there is one, else Basic. `None`
    /// if the headers have neither, or cannot be read.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let lines = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|line| line.to_str().ok());
        let mut takes_basic = false;
        let mut bytes = 0;
        for line in lines {
            bytes += line.len();
            if bytes > CHALLENGES_BYTES_MAX {
                break;
            }
            for challenge in parse_challenges(line).unwrap_or_default() {
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let param = |name: &str| {
                        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                        found.map(|(_, value)| value.to_unescaped())
                    };
                    if let Some(realm) = param("realm") {
                        return Some(Self::Bearer { realm, service: param("service") });
                    }
                }
                takes_basic |= challenge.scheme.eq_ignore_ascii_case("basic");
            }
        }
        takes_basic.then_some(Self::Basic)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn challenges_of_registries() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) })
        };
        let hub = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",\
                   scope=\"repository:library/alpine:pull\"";
        for (lines, expected) in [
            (vec![hub], bearer("https://auth.docker.io/token", Some("registry.docker.io"))),
            (vec!["Basic realm=\"x\"", "bearer REALM=\"https://a\""], bearer("https://a", None)),
            (vec!["Basic realm=\"x\", Bearer realm=\"https://a\""], bearer("https://a", None)),
            (vec!["Basic realm=\"Registry, private\""], Some(Challenge::Basic)),
            (vec!["Bearer service=\"x\""], None),
            (vec!["Negotiate"], None),
            (vec!["\u{7f}garbage=\"", "=,=,"], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in &lines {
                if let Ok(value) = HeaderValue::from_str(line) {
                    headers.append(WWW_AUTHENTICATE, value);
                }
            }
            assert_eq!(Challenge::of(&headers), expected, "{lines:?}");
        }
        let long = format!("Basic realm=\"{}\"", "x".repeat(CHALLENGES_BYTES_MAX));
        let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_str(&long).unwrap())]);
        assert_eq!(Challenge::of(&headers), None);
    }
}
