//! Where a request comes from, and by which name it reached us: as the connection says, or a proxy that we trust.

use std::net::IpAddr;
use std::str::FromStr;

use http::request::Parts;
use http::{HeaderName, Uri};
use ipnet::IpNet;

/// What a host knows of a connection. It goes into the extensions of the connection's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Who is at the other end, where that is known.
    pub address: Option<IpAddr>,
    /// Whether it is encrypted.
    pub is_tls: bool,
}

/// The proxies whose `X-Forwarded-For`, `-Proto` and `-Host` are believed; nobody else's are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    networks: Vec<IpNet>,
    /// Whoever can reach us is a proxy: for hosts that do not say who is at the other end.
    all: bool,
}

/// The text does not name proxies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address, a network such as 10.0.0.0/8, or *")]
pub struct ProxiesError(String);

impl FromStr for Proxies {
    type Err = ProxiesError;

    /// Addresses and networks with commas or spaces in between; `*`: whoever can reach us.
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
    fn trusts(&self, address: Option<IpAddr>) -> bool {
        self.all || address.is_some_and(|address| self.holds(address))
    }

    fn holds(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address.to_canonical()))
    }

    /// The client's address: the last one on the way that is no proxy of ours.
    pub(super) fn client(&self, head: &Parts) -> Option<IpAddr> {
        let peer = peer(head);
        if !self.trusts(peer.address) {
            return peer.address;
        }
        let lines = head.headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let mut way: Vec<_> = lines.flat_map(|line| line.split(',')).map(|word| word.trim().parse().ok()).collect();
        while let Some(hop) = way.pop() {
            match hop {
                Some(address) if self.holds(address) => {}
                other => return other,
            }
        }
        peer.address
    }

    /// Scheme and authority by which the client knows us, where the host lets us know: wasmtime keeps it to itself.
    pub(super) fn base(&self, head: &Parts) -> Option<String> {
        let peer = peer(head);
        let trusted = self.trusts(peer.address);
        let forwarded = |name| trusted.then(|| first(head, &HeaderName::from_static(name))).flatten();
        let is_tls = peer.is_tls || head.uri.scheme_str() == Some("https");
        let scheme = match forwarded("x-forwarded-proto") {
            Some("https") => "https",
            Some("http") => "http",
            _ if is_tls => "https",
            _ => "http",
        };
        let host = forwarded("x-forwarded-host")
            .or_else(|| first(head, &http::header::HOST))
            .or_else(|| head.uri.authority().map(|authority| authority.as_str()))
            .filter(|host| is_host(host));
        Some(format!("{scheme}://{}", host?))
    }
}

fn peer(head: &Parts) -> Peer {
    head.extensions.get::<Peer>().copied().unwrap_or_default()
}

/// The first of the values that a header lists.
fn first<'a>(head: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    let line = head.headers.get(name)?.to_str().ok()?;
    line.split(',').next().map(str::trim).filter(|value| !value.is_empty())
}

/// A name or an address with or without a port, and nothing that could end a quoted text.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
}

/// Checks the URL by which clients reach us, and takes off what follows the authority.
///
/// # Errors
/// The text says what is wanted.
pub(super) fn parse_public_url(text: &str) -> Result<String, &'static str> {
    const WANTED: &str = "want http:// or https:// and a host, without a path";
    let uri: Uri = text.parse().map_err(|_| WANTED)?;
    let (Some(scheme @ ("http" | "https")), Some(host)) = (uri.scheme_str(), uri.authority()) else {
        return Err(WANTED);
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || !is_host(host.as_str()) {
        return Err(WANTED);
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
            request = request.extension(Peer { address: Some(address.parse().unwrap()), is_tls: false });
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
    fn hosts_that_are_none_are_not_repeated() {
        for host in ["a\"b", "a b", "", "user@host", "a/b", "é"] {
            let head = head(None, &[("host", host)]);
            assert_eq!(Proxies::default().base(&head), None, "{host}");
        }
    }

    #[test]
    fn addresses_of_ourselves() {
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
