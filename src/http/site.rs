//! Refuses requests that a browser sends for a page of another site. A registry without a login, or
//! one whose password a browser remembers, must not carry out requests of other sites' pages.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::uri::{Authority, Uri};

use super::authorizer::Authorizer;
use super::error::Error;
use crate::auth::Credentials;

impl Authorizer {
    /// Refuses a request that changes something and that a browser sends for a page of another
    /// site, according to `Sec-Fetch-Site` or `Origin`. Programs other than browsers send neither
    /// header. Requests with a bearer token pass, because a browser never adds a bearer token by
    /// itself. A registry for this machine only also refuses requests under any other name.
    pub(super) fn check_site(&self, head: &Parts) -> Result<(), Error> {
        if self.is_local && own_names(head).any(|name| !self.is_name_of_this_machine(name)) {
            return Err(Error::OtherName);
        }
        if head.method.is_safe() || self.brings_token(head) {
            return Ok(());
        }
        let origin = head.headers.get(ORIGIN).map(|value| value.to_str().unwrap_or_default());
        // Another party's domain name may resolve to this machine (DNS rebinding). The browser then
        // treats pages of that domain as same-origin, so the origin's name is checked here.
        if self.is_local && origin.is_some_and(|origin| !self.is_of_this_machine(origin)) {
            return Err(Error::OtherSite);
        }
        let says = head.headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or_default());
        let is_own = match (says, origin) {
            (Some(site), _) => ["same-origin", "none"].contains(&site),
            (None, Some(origin)) => self.is_own(head, origin),
            (None, None) => true,
        };
        if is_own { Ok(()) } else { Err(Error::OtherSite) }
    }

    fn brings_token(&self, head: &Parts) -> bool {
        let credentials = super::credentials::credentials(head);
        self.access.service().is_some() && matches!(credentials, Ok(Credentials::Bearer(_)))
    }

    /// Whether an origin is the registry itself, under any of the registry's known names.
    fn is_own(&self, head: &Parts, origin: &str) -> bool {
        let Some((origin, port)) = parse_origin(origin) else { return false };
        let is_same = |authority: &Authority| {
            authority.host().eq_ignore_ascii_case(origin.host())
                && authority.port_u16().unwrap_or(port) == origin.port_u16().unwrap_or(port)
        };
        let forwarded = self.proxies.base(head);
        let urls = [self.public_url.as_deref(), forwarded.as_deref()].into_iter().flatten();
        let urls = urls.filter_map(|url| url.parse::<Uri>().ok()?.into_parts().authority);
        let names = own_names(head).filter_map(|name| name.parse().ok());
        urls.chain(names).any(|authority| is_same(&authority))
    }

    fn is_of_this_machine(&self, origin: &str) -> bool {
        parse_origin(origin).is_some_and(|(authority, _)| self.is_name_of_this_machine(authority.as_str()))
    }

    /// Whether a name is a loopback address, a name that always means a loopback address (RFC
    /// 6761), or the host of `public_url`.
    fn is_name_of_this_machine(&self, name: &str) -> bool {
        let Ok(authority) = name.parse::<Authority>() else { return false };
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let public =
            self.public_url.as_deref().and_then(|url| Some(url.parse::<Uri>().ok()?.host()?.to_ascii_lowercase()));
        address.is_ok_and(|address| address.to_canonical().is_loopback())
            || host == "localhost"
            || host.ends_with(".localhost")
            || public.is_some_and(|public| public == host)
    }
}

/// The names of the registry in the request: `Host` and the URL's authority. A WASI host may
/// withhold both.
fn own_names(head: &Parts) -> impl Iterator<Item = &str> {
    let hosts = head.headers.get_all(HOST).iter().map(|value| value.to_str().unwrap_or_default());
    hosts.chain(head.uri.authority().map(Authority::as_str))
}

/// The authority of an origin, and the default port of its scheme. `None` unless the scheme is http
/// or https, as for `null`.
fn parse_origin(text: &str) -> Option<(Authority, u16)> {
    let uri: Uri = text.parse().ok()?;
    let port = match uri.scheme_str()? {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    Some((uri.into_parts().authority?, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Access;
    use crate::http::Peer;

    fn check(authorizer: &Authorizer, method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = http::Request::builder().method(method).uri("/v2/_eyot/collect").extension(Peer::default());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        authorizer.check_site(&request.body(()).unwrap().into_parts().0).is_ok()
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let mut authorizer = Authorizer::new(Access::open());
        authorizer.set_public_url("https://registry.example").unwrap();
        for (headers, expected) in [
            (vec![], true),
            (vec![("origin", "http://inside:5000")], true),
            (vec![("origin", "HTTP://INSIDE:5000")], true),
            (vec![("origin", "https://registry.example")], true),
            (vec![("origin", "https://registry.example:443")], true),
            (vec![("origin", "https://registry.example:444")], false),
            (vec![("origin", "http://inside")], false),
            (vec![("origin", "https://evil.example")], false),
            (vec![("origin", "https://registry.example.evil.example")], false),
            (vec![("origin", "null")], false),
            (vec![("origin", "file://")], false),
            (vec![("origin", "")], false),
            (vec![("sec-fetch-site", "cross-site")], false),
            (vec![("sec-fetch-site", "same-site")], false),
            (vec![("sec-fetch-site", "same-origin")], true),
            (vec![("sec-fetch-site", "none")], true),
            (vec![("sec-fetch-site", "cross-site"), ("origin", "http://inside:5000")], false),
            // A proxy has changed the Host header, so `Sec-Fetch-Site` decides.
            (vec![("sec-fetch-site", "same-origin"), ("origin", "https://outside.example")], true),
        ] {
            let headers = [vec![("host", "inside:5000")], headers].concat();
            for method in ["POST", "PUT", "PATCH", "DELETE"] {
                assert_eq!(check(&authorizer, method, &headers), expected, "{method} {headers:?}");
            }
            for method in ["GET", "HEAD"] {
                assert!(check(&authorizer, method, &headers), "{method} {headers:?}");
            }
        }
    }

    #[test]
    fn a_local_registry_answers_only_under_names_of_this_machine() {
        let mut authorizer = Authorizer::new(Access::open());
        authorizer.is_local = true;
        authorizer.set_public_url("http://registry.test:5000").unwrap();
        for (host, expected) in [
            ("127.0.0.1:5000", true),
            ("127.8.9.1", true),
            ("[::1]:5000", true),
            ("[::ffff:127.0.0.1]", true),
            ("localhost:5000", true),
            ("LocalHost.", true),
            ("a.localhost:5000", true),
            ("registry.test:5000", true),
            ("evil.example:5000", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("192.0.2.1:5000", false),
            ("", false),
        ] {
            for method in ["GET", "DELETE"] {
                assert_eq!(check(&authorizer, method, &[("host", host)]), expected, "{method} {host:?}");
            }
            // If the WASI host withholds the Host header, the page's origin decides.
            let origin = format!("http://{host}");
            let headers = [("origin", origin.as_str()), ("sec-fetch-site", "same-origin")];
            assert_eq!(check(&authorizer, "DELETE", &headers), expected, "{origin}");
        }
        assert!(check(&authorizer, "POST", &[]));
        authorizer.is_local = false;
        assert!(check(&authorizer, "GET", &[("host", "evil.example")]));
    }
}
