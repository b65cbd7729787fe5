//! The upstreams of a registry, as settings.

use std::str::FromStr;

use crate::auth::{Pattern, PatternError, Secret};
use crate::oci::RepositoryName;
use crate::upstream::{Login, Upstream, UpstreamError};

/// How long a tag is fresh unless an upstream says otherwise, in seconds.
const FRESH_SECONDS_DEFAULT: u64 = 5 * 60;
/// How long a tag is served while its upstream fails unless an upstream says otherwise, in seconds.
const STALE_SECONDS_DEFAULT: u64 = 7 * 24 * 60 * 60;
/// The longest time of both, in seconds.
pub(super) const TAG_SECONDS_MAX: u64 = 365 * 24 * 60 * 60;
/// The most upstreams.
const UPSTREAMS_MAX: usize = 100;

/// The upstreams that a registry mirrors, one per line or separated by `;`: a name, which is also
/// the prefix of the repositories, a URL, and options.
///
/// ```
/// use eyot::mirror::Mirroring;
/// let mirroring: Mirroring = "
///     docker.io    https://registry-1.docker.io  default fresh=600
///     mirror/quay  https://quay.io               only=prometheus/*,coreos/**
/// ".parse().unwrap();
/// ```
///
/// | option | meaning |
/// | --- | --- |
/// | `fresh=SECONDS` | how long a tag is served without asking the upstream (300) |
/// | `stale=SECONDS` | how much longer a tag is served while the upstream fails (604800) |
/// | `only=PATTERNS` | which of the upstream's repositories are mirrored, separated by commas (all) |
/// | `default` | names that are not in this registry mean this upstream |
/// | `realm=HOSTS` | other hosts that give tokens for this upstream, separated by commas |
/// | `redirect` | clients are redirected to where the upstream redirects pulls of blobs |
/// | `plain-http` | the URL may be http, although the host is not this machine |
#[derive(Clone, Debug, Default)]
pub struct Mirroring {
    pub(super) upstreams: Vec<(Upstream, Options)>,
}

/// How one upstream is mirrored.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a tag is served without asking the upstream, in milliseconds.
    pub fresh_ms: u64,
    /// How much longer a tag is served while the upstream fails, in milliseconds.
    pub stale_ms: u64,
    /// The upstream's repositories that are mirrored; all if the list is empty.
    pub only: Vec<Pattern>,
    /// Whether names that are not in this registry mean this upstream.
    pub is_default: bool,
    /// Whether clients are redirected to where the upstream redirects pulls of blobs. Blobs are then
    /// not stored.
    pub redirects: bool,
}

/// The text does not describe upstreams or logins. The error shows no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// An upstream cannot be read. The text is the beginning of the line.
    #[error("{0:?}: {1}")]
    Upstream(String, LineError),
    /// There are too many upstreams.
    #[error("there are more than {most} upstreams", most = UPSTREAMS_MAX)]
    TooMany,
    /// More than one upstream is the default.
    #[error("more than one upstream has the option default")]
    Defaults,
    /// The repositories of one upstream would lie among those of another.
    #[error("the names {0} and {1} are the same or one in the other")]
    Names(String, String),
    /// The line of a login, by its number, has another form.
    #[error("line {0}: want NAME USER PASSWORD, or NAME TOKEN")]
    Login(usize),
    /// The line of a login, by its number, names no upstream.
    #[error("line {0}: no upstream has the name that the line begins with")]
    LoginName(usize),
}

/// Why the text of one upstream cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// The text has fewer than two words.
    #[error("want NAME URL and options, as in: docker.io https://registry-1.docker.io")]
    Form,
    /// The name cannot be the prefix of a repository.
    #[error("the name is not a repository prefix such as docker.io")]
    Name,
    /// The URL cannot be used.
    #[error(transparent)]
    Url(#[from] UpstreamError),
    /// The value of an option is no time.
    #[error("option {0}: {1:?} is not a number of seconds from 0 to {most}", most = TAG_SECONDS_MAX)]
    Seconds(&'static str, String),
    /// The value of `only` has a text that is no pattern.
    #[error("option only: {0:?} is {1}")]
    Only(String, PatternError),
    /// The value of `realm` has a text that is no host.
    #[error("option realm: {0}")]
    Realm(UpstreamError),
    /// The option does not exist.
    #[error("{0:?} is not one of fresh=, stale=, only=, realm=, default, redirect, plain-http")]
    Option(String),
}

impl Default for Options {
    fn default() -> Self {
        let (fresh_ms, stale_ms) = (FRESH_SECONDS_DEFAULT * 1000, STALE_SECONDS_DEFAULT * 1000);
        Self { fresh_ms, stale_ms, only: Vec::new(), is_default: false, redirects: false }
    }
}

impl Options {
    pub(super) fn mirrors(&self, remote: &RepositoryName) -> bool {
        self.only.is_empty() || self.only.iter().any(|pattern| pattern.matches(remote))
    }
}

impl Mirroring {
    /// The same upstreams with logins, one per line: `NAME USER PASSWORD`, or `NAME TOKEN` with a
    /// token that the upstream itself takes. A password may contain spaces.
    ///
    /// # Errors
    /// When a line has another form, or names an upstream that does not exist. The text names the
    /// line by its number and its upstream only.
    pub fn with_logins(mut self, logins: &str) -> Result<Self, SettingsError> {
        let lines = logins.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.splitn(3, char::is_whitespace);
            let name = words.next().unwrap_or_default();
            let login = match (words.next(), words.next().map(str::trim)) {
                (Some(user), Some(password)) if !user.is_empty() && !password.is_empty() => {
                    Login::Password { user: user.to_owned(), password: Secret::new(password) }
                }
                (Some(token), None) => Login::Token(Secret::new(token)),
                _ => return Err(SettingsError::Login(number)),
            };
            let found = self.upstreams.iter_mut().find(|(upstream, _)| upstream.name() == name);
            let Some((upstream, _)) = found else { return Err(SettingsError::LoginName(number)) };
            *upstream = upstream.clone().with_login(login);
        }
        Ok(self)
    }

    /// The prefixes of all mirrored repositories.
    pub fn prefixes(&self) -> Vec<String> {
        self.upstreams.iter().map(|(upstream, _)| upstream.name().to_owned()).collect()
    }

    /// The upstream that a namespace means: its name, or the host in its URL with the port.
    pub fn in_namespace(&self, namespace: &str) -> Option<&Upstream> {
        let found = self.upstreams.iter().find(|(upstream, _)| upstream.serves_namespace(namespace));
        found.map(|(upstream, _)| upstream)
    }

    /// Whether there is no upstream.
    pub fn is_empty(&self) -> bool {
        self.upstreams.is_empty()
    }
}

impl FromStr for Mirroring {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        let texts = lines.flat_map(|line| line.split(';')).map(str::trim).filter(|text| !text.is_empty());
        let parsed = texts.map(|text| {
            let shown: String = text.chars().take(100).collect();
            parse_upstream(text).map_err(|why| SettingsError::Upstream(shown, why))
        });
        let upstreams = parsed.collect::<Result<Vec<_>, _>>()?;
        if upstreams.len() > UPSTREAMS_MAX {
            return Err(SettingsError::TooMany);
        }
        if upstreams.iter().filter(|(_, options)| options.is_default).count() > 1 {
            return Err(SettingsError::Defaults);
        }
        for (at, (upstream, _)) in upstreams.iter().enumerate() {
            let (name, is_within) = (upstream.name(), |name: &str, outer: &str| {
                name.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
            let clashes =
                |(other, _): &&(Upstream, Options)| is_within(name, other.name()) || is_within(other.name(), name);
            if let Some((other, _)) = upstreams[..at].iter().find(clashes) {
                return Err(SettingsError::Names(other.name().to_owned(), name.to_owned()));
            }
        }
        Ok(Self { upstreams })
    }
}

fn parse_upstream(text: &str) -> Result<(Upstream, Options), LineError> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [name, url, options @ ..] = words.as_slice() else {
        return Err(LineError::Form);
    };
    name.parse::<RepositoryName>().map_err(|_| LineError::Name)?;
    let allows_http = options.contains(&"plain-http");
    let mut upstream = Upstream::new(name, url, allows_http)?;
    let mut parsed = Options::default();
    for option in options {
        match option.split_once('=').unwrap_or((option, "")) {
            ("fresh", value) => parsed.fresh_ms = milliseconds("fresh", value)?,
            ("stale", value) => parsed.stale_ms = milliseconds("stale", value)?,
            ("only", value) => {
                for pattern in value.split(',') {
                    let pattern = pattern.parse().map_err(|why| LineError::Only(pattern.to_owned(), why))?;
                    parsed.only.push(pattern);
                }
            }
            ("realm", value) => {
                for host in value.split(',') {
                    upstream = upstream.with_realm_host(host).map_err(LineError::Realm)?;
                }
            }
            ("default", "") => parsed.is_default = true,
            ("redirect", "") => parsed.redirects = true,
            ("plain-http", "") => {}
            _ => return Err(LineError::Option((*option).to_owned())),
        }
    }
    Ok((upstream, parsed))
}

fn milliseconds(name: &'static str, value: &str) -> Result<u64, LineError> {
    match value.parse() {
        Ok(seconds @ 0..=TAG_SECONDS_MAX) => Ok(seconds * 1000),
        _ => Err(LineError::Seconds(name, value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_upstream() {
        let text = "# mirrors\ndocker.io https://registry-1.docker.io default fresh=0 stale=60\n\
                    mirror/quay https://quay.io only=prom/*,core/** realm=login.example; \
                    local http://reg.lan:5000 plain-http";
        let mirroring: Mirroring = text.parse().unwrap();
        let [(hub, first), (_, second), (local, third)] = mirroring.upstreams.as_slice() else { panic!() };
        assert_eq!((hub.name(), first.fresh_ms, first.stale_ms, first.is_default), ("docker.io", 0, 60_000, true));
        assert_eq!((second.fresh_ms, second.stale_ms, second.is_default), (300_000, 604_800_000, false));
        for (name, expected) in [("prom/a", true), ("prom/a/b", false), ("core/a/b", true), ("other", false)] {
            assert_eq!(second.mirrors(&name.parse().unwrap()), expected, "{name}");
        }
        assert!(third.mirrors(&"any".parse().unwrap()) && local.name() == "local");
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, expected) in [
            ("docker.io", "want NAME URL"),
            ("Docker https://x.example", "not a repository prefix"),
            ("q http://quay.io", "plain-http"),
            ("q https://quay.io fast", "\"fast\" is not one of"),
            ("q https://quay.io fresh=x", "not a number of seconds"),
            ("q https://quay.io fresh=99999999999", "not a number of seconds"),
            ("q https://quay.io only=A", "option only"),
            ("q https://quay.io realm=a/b", "option realm"),
            ("q https://quay.io; q https://ghcr.io", "are the same"),
            ("q https://quay.io; q/a https://ghcr.io", "one in the other"),
            ("q https://quay.io default; r https://ghcr.io default", "more than one"),
        ] {
            let error = text.parse::<Mirroring>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let similar: Mirroring = "q https://quay.io; qq https://ghcr.io".parse().unwrap();
        assert_eq!(similar.upstreams.len(), 2);
    }

    #[test]
    fn logins_belong_to_upstreams_and_are_never_shown() {
        let mirroring: Mirroring = "q https://quay.io; g https://ghcr.io".parse().unwrap();
        let with = mirroring.clone().with_logins("q me hunter2 hunter3\n\n# none\ng hunter4\n").unwrap();
        let shown = format!("{with:?}");
        assert!(shown.contains("Password") && shown.contains("Token") && !shown.contains("hunter"), "{shown}");
        for (logins, expected) in [("q", "line 1: want NAME"), ("\nhunter2 me hunter2", "line 2: no upstream")] {
            let error = mirroring.clone().with_logins(logins).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("hunter"), "{error}");
        }
    }
}
