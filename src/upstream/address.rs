//! The address of an upstream, its login, and the names of its repositories.

use base64ct::{Base64, Encoding as _};
use http::HeaderValue;
use url::{Host, Url};

use crate::auth::Secret;
use crate::oci::RepositoryName;

/// The names of Docker Hub.
const HUB_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// The host that serves the distribution API of Docker Hub.
const HUB_HOST: &str = "registry-1.docker.io";
/// The namespace of Docker Hub's repositories with one-component names.
const HUB_NAMESPACE: &str = "library/";
/// The hosts of registries whose tokens come from another host, and these other hosts. A rule by
/// parent domains would need the list of public suffixes: everybody can have a host below
/// `github.io`.
const REALM_HOSTS: [(&str, &str); 3] = [
    (HUB_HOST, "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
    ("registry.digitalocean.com", "api.digitalocean.com"),
];

/// Another registry: its name, its URL and the login there.
#[derive(Clone, Debug)]
pub struct Upstream {
    name: String,
    url: Url,
    login: Option<Login>,
    realm_hosts: Vec<String>,
    is_hub: bool,
}

/// The credentials for an upstream.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Login {
    /// A user and a password, for Basic challenges and for token servers.
    Password {
        /// The name of the user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token that the upstream itself takes as bearer token.
    Token(Secret),
}

/// The reason why a text cannot be the URL of an upstream, or a host of its realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The text is no URL of a server.
    #[error("want a URL that begins with https:// and a host")]
    Url,
    /// The URL is http, and the host is not this machine.
    #[error("http sends logins and content unprotected: want https://, or the option plain-http")]
    PlainHttp,
    /// The URL has parts that the URL of a registry has not.
    #[error("want a URL without a user, a query and a fragment")]
    Parts,
    /// The text is no host name.
    #[error("want a host name without a port")]
    RealmHost,
}

impl Upstream {
    /// An upstream under a name, at a URL such as `https://quay.io`. The URL may have a path, which
    /// then precedes `/v2/`. The URL must be https; http is for this machine, or for any host with
    /// `allows_http`. `docker.io` and its other names stand for Docker Hub's API host.
    ///
    /// # Errors
    /// When the URL does not have that form.
    pub fn new(name: &str, url: &str, allows_http: bool) -> Result<Self, UpstreamError> {
        let mut url = Url::parse(url).map_err(|_| UpstreamError::Url)?;
        let is_hub_host = url.host_str().is_some_and(is_hub_name);
        if !url.has_host() || !matches!(url.scheme(), "https" | "http") {
            return Err(UpstreamError::Url);
        }
        if url.scheme() == "http" && !allows_http && !is_local(&url) {
            return Err(UpstreamError::PlainHttp);
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(UpstreamError::Parts);
        }
        if is_hub_host {
            url.set_host(Some(HUB_HOST)).map_err(|_| UpstreamError::Url)?;
        }
        let path = format!("{}/", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let is_hub = is_hub_host || is_hub_name(name);
        Ok(Self { name: name.to_owned(), url, login: None, realm_hosts: Vec::new(), is_hub })
    }

    /// The same upstream with credentials.
    #[must_use]
    pub fn with_login(self, login: Login) -> Self {
        Self { login: Some(login), ..self }
    }

    /// The same upstream, whose tokens may also come from this host. By default tokens come from
    /// the upstream's own host and, for a few registries, from the known host of their tokens.
    ///
    /// # Errors
    /// When the text is not a host name.
    pub fn with_realm_host(mut self, host: &str) -> Result<Self, UpstreamError> {
        match Url::parse(&format!("https://{host}/")) {
            Ok(url) if url.host_str().is_some() && url.path() == "/" && url.port().is_none() => {
                self.realm_hosts.extend(url.host_str().map(str::to_owned));
                Ok(self)
            }
            _ => Err(UpstreamError::RealmHost),
        }
    }

    /// The name of the upstream.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there are credentials for the upstream.
    pub fn has_login(&self) -> bool {
        self.login.is_some()
    }

    pub(super) fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// Whether `namespace`, the value of a client's `ns` parameter, means this upstream: its name,
    /// its host with the port, or another name of Docker Hub.
    pub fn serves_namespace(&self, namespace: &str) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        let with_port = self.url.port().map(|port| format!("{host}:{port}"));
        namespace == self.name
            || namespace == with_port.as_deref().unwrap_or(host)
            || self.is_hub && is_hub_name(namespace)
    }

    /// The upstream's name of a repository. Docker Hub's one-component names mean repositories in
    /// `library/`. `None` if the name would become too long.
    pub fn repository(&self, name: &str) -> Option<RepositoryName> {
        if self.is_hub && !name.contains('/') {
            return format!("{HUB_NAMESPACE}{name}").parse().ok();
        }
        name.parse().ok()
    }

    /// The URL of a path of the API, such as `v2/library/alpine/tags/list`, with a query.
    pub(super) fn endpoint(&self, path: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{path}", self.url.path()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Whether credentials and tokens for the upstream may be sent to `url`: over https, or over
    /// http where the upstream itself is reached over http.
    pub(super) fn is_safe(&self, url: &Url) -> bool {
        url.has_host() && (url.scheme() == "https" || url.scheme() == "http" && self.url.scheme() == "http")
    }

    /// Whether `url` has the upstream's own scheme, host and port.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.url.origin()
    }

    /// Whether tokens may be requested at `realm`: on the upstream's own host, on the known host of
    /// the registry's tokens, or on a host that the operator has named.
    pub(super) fn trusts_realm(&self, realm: &Url) -> bool {
        let (Some(own), Some(other)) = (self.url.host_str(), realm.host_str()) else { return false };
        let is_known = own == other || REALM_HOSTS.contains(&(own, other));
        self.is_safe(realm) && (is_known || self.realm_hosts.iter().any(|host| host == other))
    }
}

impl Login {
    /// The value of the `Authorization` header: Basic with a password, Bearer with a token. `None`
    /// for a text that no header can carry.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        match self {
            Self::Password { user, password } => {
                let text = Base64::encode_string(format!("{user}:{}", password.expose()).as_bytes());
                sensitive(&format!("Basic {text}"))
            }
            Self::Token(token) => sensitive(&format!("Bearer {}", token.expose())),
        }
    }
}

/// A header value that debug output does not show.
pub(super) fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn is_hub_name(name: &str) -> bool {
    HUB_NAMES.contains(&name)
}

fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scripts/up` lets the Spin component ask the same hosts for tokens.
    #[test]
    fn the_script_that_starts_spin_knows_the_hosts_of_tokens() {
        let script = include_str!("../../scripts/up");
        for (own, realm) in REALM_HOSTS {
            assert!(script.contains(&format!("{own}) echo https://{realm} ;;")), "{own}: {realm}");
        }
        assert_eq!(script.matches(") echo https://").count(), REALM_HOSTS.len());
    }

    #[test]
    fn docker_hub_has_several_names_and_a_namespace() {
        let hub = Upstream::new("docker.io", "https://docker.io", false).unwrap();
        assert_eq!(hub.endpoint("v2/", &[]).as_str(), "https://registry-1.docker.io/v2/");
        for (name, expected) in [("alpine", "library/alpine"), ("library/alpine", "library/alpine"), ("a/b", "a/b")] {
            assert_eq!(hub.repository(name).unwrap().as_str(), expected);
        }
        let quay = Upstream::new("mirror/quay", "https://quay.io:8443/base/", false).unwrap();
        assert_eq!(quay.repository("alpine").unwrap().as_str(), "alpine");
        assert_eq!(
            quay.endpoint("v2/a/tags/list", &[("n", "5")]).as_str(),
            "https://quay.io:8443/base/v2/a/tags/list?n=5"
        );
        for (namespace, is_hub, is_quay) in [
            ("docker.io", true, false),
            ("index.docker.io", true, false),
            ("registry-1.docker.io", true, false),
            ("quay.io:8443", false, true),
            ("mirror/quay", false, true),
            ("quay.io", false, false),
            ("evil.example", false, false),
        ] {
            assert_eq!(
                (hub.serves_namespace(namespace), quay.serves_namespace(namespace)),
                (is_hub, is_quay),
                "{namespace}"
            );
        }
        assert_eq!(hub.repository(&"a".repeat(250)), None, "library/ makes the name too long");
    }

    #[test]
    fn a_url_protects_the_login() {
        for (url, allows_http, expected) in [
            ("https://quay.io", false, true),
            ("http://127.0.0.1:5000", false, true),
            ("http://localhost:5000", false, true),
            ("http://quay.io", false, false),
            ("http://quay.io", true, true),
            ("ftp://quay.io", true, false),
            ("https://me:secret@quay.io", false, false),
            ("https://quay.io?x=1", false, false),
            ("quay.io", false, false),
        ] {
            assert_eq!(Upstream::new("q", url, allows_http).is_ok(), expected, "{url}");
        }
    }

    #[test]
    fn tokens_come_from_the_own_host_and_named_hosts_over_https() {
        let upstream = |url: &str| Upstream::new("up", url, false).unwrap();
        let named = upstream("https://ghcr.io").with_realm_host("login.example").unwrap();
        let hub = upstream("https://docker.io");
        let local = upstream("http://127.0.0.1:5000").with_realm_host("127.0.0.2").unwrap();
        let local = local.with_realm_host("localhost").unwrap();
        // Everybody can have a host below the public suffix github.io.
        let (gitlab, pages) = (upstream("https://registry.gitlab.com"), upstream("https://images.github.io"));
        for (upstream, realm, expected) in [
            (&hub, "https://auth.docker.io/token", true),
            (&hub, "https://registry-1.docker.io:8443/token", true),
            (&hub, "https://docker.io/token", false),
            (&hub, "http://auth.docker.io/token", false),
            (&hub, "https://auth.docker.io.evil.example/token", false),
            (&hub, "https://evildocker.io/token", false),
            (&gitlab, "https://gitlab.com/jwt/auth", true),
            (&gitlab, "https://auth.docker.io/token", false),
            (&pages, "https://images.github.io/token", true),
            (&pages, "https://evil.github.io/token", false),
            (&pages, "https://github.io/token", false),
            (&named, "https://ghcr.io/token", true),
            (&named, "https://login.example/token", true),
            (&named, "https://a.login.example/token", false),
            (&named, "https://other.io/token", false),
            (&local, "http://127.0.0.1:5001/token", true),
            (&local, "http://127.0.0.2:5001/token", true),
            (&local, "http://localhost:5001/token", true),
            (&local, "http://127.0.0.3:5001/token", false),
            (&local, "data:text/plain,token", false),
        ] {
            assert_eq!(upstream.trusts_realm(&Url::parse(realm).unwrap()), expected, "{realm}");
        }
        assert!(hub.with_realm_host("a/b").is_err());
    }
}
