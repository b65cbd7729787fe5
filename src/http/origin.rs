//! The client's address and the URL by which the client reached the registry, from the connection
//! or from a trusted proxy.

use std::net::IpAddr;
use std::str::FromStr;

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderName, Uri};
use ipnet::IpNet;

use super::error::Error;

/// The properties of a connection that the host knows. The host adds a `Peer` to the extensions of
/// each request on the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The address of the other end, if known.
    pub address: Option<IpAddr>,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
    /// Whether the host passes on the `Host` header as the client sent it, or its absence. If so, a
    /// request of HTTP/1.1 that does not name one host is refused. WASI hosts keep the header to
    /// themselves.
    pub shows_host: bool,
}

/// The proxies whose `X-Forwarded-For`, `-Proto`, `-Host` and `-Port` headers are trusted. Their
/// `Forwarded` header (RFC 7239) gives the values that the former headers lack. Headers of other
/// clients are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    networks: Vec<IpNet>,
    /// Every client counts as a proxy: for hosts that do not report the other end's address.
    all: bool,
}

/// The text does not name proxies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address, a network such as 10.0.0.0/8, or *")]
pub struct ProxiesError(String);

impl FromStr for Proxies {
    type Err = ProxiesError;

    /// Parses addresses and networks, separated by commas or spaces. `*` stands for every address.
    fn from_str(text: &str) -> Result<Self, ProxiesError> {
        let mut proxies = Self::default();
        for word in text.split([',', ' ', '\n']).map(str::trim).filter(|word| !word.is_empty()) {
            if word == "*" {
                proxies.all = true;
                continue;
            }
            let network = word.parse::<IpNet>().or_else(|_| word.parse::<IpAddr>().map(IpNet::from));
            proxies.networks.push(network.map_err(|_| ProxiesError(word.to_owned()))?);
        }
        Ok(proxies)
    }
}

impl Proxies {
    pub(super) fn trusts(&self, address: Option<IpAddr>) -> bool {
        self.all || address.is_some_and(|address| self.holds(address))
    }

    fn holds(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address.to_canonical()))
    }

    /// The client's address: the last address on the way that is not a proxy of this list. If a
    /// proxy does not know the hop before it (`unknown`), the proxy's own address stands for all
    /// its clients.
    pub(super) fn client(&self, head: &Parts) -> Option<IpAddr> {
        let peer = peer(head);
        if !self.trusts(peer.address) {
            return peer.address;
        }
        let lines = head.headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let mut way: Vec<_> = lines.flat_map(|line| line.split(',')).map(node_address).collect();
        if way.is_empty() {
            way = Forwarded::all(head).iter().map(|hop| hop.node.as_deref().and_then(node_address)).collect();
        }
        let mut known = peer.address;
        while let Some(hop) = way.pop() {
            match hop {
                Some(address) if self.holds(address) => known = Some(address),
                Some(address) => return Some(address),
                None => return known,
            }
        }
        known
    }

    /// The scheme and authority by which the client reached the registry. `None` without a valid
    /// host name: wasmtime, for example, keeps the Host header to itself.
    pub(super) fn base(&self, head: &Parts) -> Option<String> {
        let peer = peer(head);
        let trusted = self.trusts(peer.address);
        let forwarded = |name| trusted.then(|| first(head, &HeaderName::from_static(name))).flatten();
        // The first hop is the proxy that the client reached.
        let hop =
            if trusted { Forwarded::all(head).into_iter().next().unwrap_or_default() } else { Forwarded::default() };
        let is_tls = peer.is_tls || head.uri.scheme_str() == Some("https");
        let scheme =
            match forwarded("x-forwarded-proto").or(hop.proto.as_deref()).map(str::to_ascii_lowercase).as_deref() {
                Some("https") => "https",
                Some("http") => "http",
                _ if is_tls => "https",
                _ => "http",
            };
        let host = forwarded("x-forwarded-host")
            .or(hop.host.as_deref())
            .or_else(|| first(head, &http::header::HOST))
            .or_else(|| head.uri.authority().map(|authority| authority.as_str()))
            .filter(|host| is_host(host))?;
        let port = forwarded("x-forwarded-port").filter(|_| !has_port(host)).and_then(|port| port.parse::<u16>().ok());
        Some(match (scheme, port) {
            (_, None) | ("https", Some(443)) | ("http", Some(80)) => format!("{scheme}://{host}"),
            (_, Some(port)) => format!("{scheme}://{host}:{port}"),
        })
    }
}

/// An element of `Forwarded`: a proxy's description of the hop before the proxy.
#[derive(Debug, Default, PartialEq, Eq)]
struct Forwarded {
    node: Option<String>,
    proto: Option<String>,
    host: Option<String>,
}

impl Forwarded {
    /// The hops on the way, starting at the client's end. Parts that cannot be read are left out.
    fn all(head: &Parts) -> Vec<Self> {
        let lines = head.headers.get_all("forwarded").iter().filter_map(|value| value.to_str().ok());
        lines.flat_map(|line| split(line, ',')).map(Self::parse).collect()
    }

    fn parse(text: &str) -> Self {
        let mut hop = Self::default();
        for (name, value) in split(text, ';').into_iter().filter_map(|pair| pair.split_once('=')) {
            let value = value.trim();
            let value = match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
                Some(quoted) => unescape(quoted),
                None => value.to_owned(),
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "for" => hop.node = Some(value),
                "proto" => hop.proto = Some(value),
                "host" => hop.host = Some(value),
                _ => {}
            }
        }
        hop
    }
}

/// Splits at separators outside quoted text.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let is_end = |c: char| {
        let ends = c == separator && !quoted;
        (quoted, escaped) = match c {
            _ if escaped => (quoted, false),
            '"' => (!quoted, false),
            '\\' => (quoted, quoted),
            _ => (quoted, false),
        };
        ends
    };
    text.split(is_end).collect()
}

fn unescape(quoted: &str) -> String {
    let mut text = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

/// The address of a hop, without port and brackets. `None` for `unknown` and for names.
fn node_address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        // One colon separates an IPv4 address from a port; an IPv6 address has more.
        None if text.matches(':').count() == 1 => text.split_once(':')?.0,
        None => text,
    };
    bare.split('%').next()?.parse().ok()
}

/// Refuses a request without a valid host (RFC 9112, section 3.2), if the `Host` header is passed
/// on. Refuses a request with two hosts in any case: a proxy before the registry may have used the
/// other host.
pub(super) fn check_host(head: &Parts) -> Result<(), Error> {
    let mut hosts = head.headers.get_all(http::header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let shows_host = peer(head).shows_host;
    let is_missing = first.is_none() && shows_host && head.version >= http::Version::HTTP_11;
    let is_host = |host: &http::HeaderValue| {
        let authority = Authority::try_from(host.as_bytes());
        host.is_empty() || authority.is_ok_and(|authority| !authority.as_str().contains('@'))
    };
    let is_wrong = shows_host && !first.is_none_or(is_host);
    if second.is_some() || is_missing || is_wrong { Err(Error::BadHost) } else { Ok(()) }
}

fn peer(head: &Parts) -> Peer {
    head.extensions.get::<Peer>().copied().unwrap_or_default()
}

/// The first of the comma-separated values of a header.
fn first<'a>(head: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    let line = head.headers.get(name)?.to_str().ok()?;
    line.split(',').next().map(str::trim).filter(|value| !value.is_empty())
}

/// Whether a text is a name or an address, with or without a port, and has no character that could
/// end a quoted text.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'))
}

/// The text is not a scheme and a host alone, such as `https://registry.example`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use http:// or https:// and a host, without a path")]
#[non_exhaustive]
pub struct PublicUrlError;

/// Checks the URL by which clients reach the registry, and removes the slash after the authority.
///
/// # Errors
/// The text says which form is allowed.
pub(super) fn parse_public_url(text: &str) -> Result<String, PublicUrlError> {
    let uri: Uri = text.parse().map_err(|_| PublicUrlError)?;
    let (Some(scheme @ ("http" | "https")), Some(host)) = (uri.scheme_str(), uri.authority()) else {
        return Err(PublicUrlError);
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || !is_host(host.as_str()) {
        return Err(PublicUrlError);
    }
    Ok(format!("{scheme}://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(peer: Option<&str>, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::get("/v2/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(address) = peer {
            request = request.extension(Peer { address: Some(address.parse().unwrap()), ..Peer::default() });
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let forwarded = [
            ("host", "inside:5000"),
            ("x-forwarded-host", "registry.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "203.0.113.9, 198.51.100.7, 10.0.0.2"),
        ];
        for (proxies, peer, base, client) in [
            ("", Some("10.0.0.1"), "http://inside:5000", Some("10.0.0.1")),
            ("10.0.0.0/8", Some("10.0.0.1"), "https://registry.example", Some("198.51.100.7")),
            ("10.0.0.0/8,198.51.100.7", Some("10.0.0.1"), "https://registry.example", Some("203.0.113.9")),
            ("10.0.0.0/8", Some("::ffff:10.0.0.1"), "https://registry.example", Some("198.51.100.7")),
            ("10.0.0.0/8", Some("192.0.2.1"), "http://inside:5000", Some("192.0.2.1")),
            ("10.0.0.0/8", None, "http://inside:5000", None),
            ("*", None, "https://registry.example", Some("10.0.0.2")),
        ] {
            let (proxies, head) = (proxies.parse::<Proxies>().unwrap(), head(peer, &forwarded));
            let client = client.map(|address| address.parse::<IpAddr>().unwrap());
            assert_eq!(
                (proxies.base(&head), proxies.client(&head)),
                (Some(base.to_owned()), client),
                "{proxies:?} {peer:?}"
            );
        }
    }

    #[test]
    fn forwarding_headers_have_many_forms() {
        for (headers, base, client) in [
            (vec![("x-forwarded-proto", "HTTPS")], "https://inside:5000", "10.0.0.1"),
            (vec![("x-forwarded-proto", "Https, http")], "https://inside:5000", "10.0.0.1"),
            (
                vec![("x-forwarded-host", "r.example"), ("x-forwarded-port", "8443"), ("x-forwarded-proto", "https")],
                "https://r.example:8443",
                "10.0.0.1",
            ),
            (
                vec![("x-forwarded-host", "r.example"), ("x-forwarded-port", "443"), ("x-forwarded-proto", "https")],
                "https://r.example",
                "10.0.0.1",
            ),
            (vec![("x-forwarded-host", "r.example:1"), ("x-forwarded-port", "443")], "http://r.example:1", "10.0.0.1"),
            (
                vec![("x-forwarded-host", "[2001:db8::1]"), ("x-forwarded-port", "5000")],
                "http://[2001:db8::1]:5000",
                "10.0.0.1",
            ),
            (vec![("x-forwarded-port", "5001\"")], "http://inside:5000", "10.0.0.1"),
            (vec![("forwarded", "for=192.0.2.60;proto=https;host=r.example")], "https://r.example", "192.0.2.60"),
            (
                vec![("forwarded", "For=\"[2001:db8::9]:4711\"; Proto=HTTPS, for=10.0.0.9")],
                "https://inside:5000",
                "2001:db8::9",
            ),
            (
                vec![("forwarded", "host=\"r.example:8443\";for=\"192.0.2.60:1\\2\""), ("forwarded", "for=10.0.0.2")],
                "http://r.example:8443",
                "192.0.2.60",
            ),
            (vec![("forwarded", "for=\"a,b;c\", for=192.0.2.61;by=x")], "http://inside:5000", "192.0.2.61"),
            // `X-Forwarded-…` headers take precedence: a proxy that does not know `Forwarded`
            // passes on the client's own `Forwarded` header.
            (
                vec![
                    ("forwarded", "for=192.0.2.60;proto=https"),
                    ("x-forwarded-for", "192.0.2.7"),
                    ("x-forwarded-proto", "http"),
                ],
                "http://inside:5000",
                "192.0.2.7",
            ),
            (vec![("x-forwarded-for", "192.0.2.7:4711")], "http://inside:5000", "192.0.2.7"),
            (vec![("x-forwarded-for", "[2001:db8::9]:4711, 10.0.0.2")], "http://inside:5000", "2001:db8::9"),
            (vec![("x-forwarded-for", "2001:db8::9")], "http://inside:5000", "2001:db8::9"),
            (vec![("x-forwarded-for", "[2001:db8::9]")], "http://inside:5000", "2001:db8::9"),
            (vec![("x-forwarded-for", "\"[2001:db8::9]:1\"")], "http://inside:5000", "2001:db8::9"),
            // The proxy does not know the hop before it, so the proxy's address stands for all its
            // clients.
            (vec![("x-forwarded-for", "192.0.2.7, unknown, 10.0.0.2")], "http://inside:5000", "10.0.0.2"),
            (vec![("x-forwarded-for", "unknown")], "http://inside:5000", "10.0.0.1"),
            (vec![("forwarded", "for=_hidden;proto=http")], "http://inside:5000", "10.0.0.1"),
        ] {
            let all = [vec![("host", "inside:5000")], headers].concat();
            let head = head(Some("10.0.0.1"), &all);
            let proxies: Proxies = "10.0.0.0/8".parse().unwrap();
            let client: IpAddr = client.parse().unwrap();
            assert_eq!((proxies.base(&head).as_deref(), proxies.client(&head)), (Some(base), Some(client)), "{all:?}");
            let nobody = Proxies::default();
            let expected = (Some("http://inside:5000".to_owned()), "10.0.0.1".parse().ok());
            assert_eq!((nobody.base(&head), nobody.client(&head)), expected, "{all:?}");
        }
    }

    #[test]
    fn a_request_must_name_one_host() {
        for (version, hosts, shown, expected) in [
            (http::Version::HTTP_11, vec![], true, false),
            (http::Version::HTTP_11, vec![], false, true),
            (http::Version::HTTP_10, vec![], true, true),
            (http::Version::HTTP_11, vec!["a.example:5000"], true, true),
            (http::Version::HTTP_11, vec!["[::1]:5000"], true, true),
            (http::Version::HTTP_11, vec![""], true, true),
            (http::Version::HTTP_11, vec!["a", "a"], true, false),
            (http::Version::HTTP_10, vec!["a", "b"], false, false),
            (http::Version::HTTP_11, vec!["a b"], true, false),
            (http::Version::HTTP_11, vec!["a/b"], true, false),
            (http::Version::HTTP_11, vec!["me@a"], true, false),
        ] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            let mut head = head(None, &headers);
            head.version = version;
            head.extensions.insert(Peer { shows_host: shown, ..Peer::default() });
            assert_eq!(check_host(&head).is_ok(), expected, "{version:?} {hosts:?} {shown}");
        }
    }

    #[test]
    fn an_invalid_host_is_not_repeated_in_a_url() {
        for host in ["a\"b", "a b", "", "user@host", "a/b", "é"] {
            let head = head(None, &[("host", host)]);
            assert_eq!(Proxies::default().base(&head), None, "{host}");
        }
    }

    #[test]
    fn a_public_url_is_a_scheme_and_a_host() {
        for (text, expected) in [
            ("https://registry.example", Some("https://registry.example")),
            ("http://[::1]:5000/", Some("http://[::1]:5000")),
            ("registry.example", None),
            ("ftp://registry.example", None),
            ("https://registry.example/path", None),
            ("https://me:secret@registry.example", None),
            ("", None),
        ] {
            assert_eq!(parse_public_url(text).ok().as_deref(), expected, "{text}");
        }
        assert!("10.0.0.0/99".parse::<Proxies>().is_err());
    }
}
