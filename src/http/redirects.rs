//! Decides which pulls are redirected to the blob store.

use http::header::USER_AGENT;
use http::request::Parts;

/// Which clients are redirected to the store for layers, if the store has URLs to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirects {
    enabled: bool,
    except: Vec<String>,
}

impl Redirects {
    /// Redirects no client: all content is streamed.
    pub fn none() -> Self {
        Self { enabled: false, except: Vec::new() }
    }

    /// Redirects all clients except those whose `User-Agent` begins with one of the texts in
    /// `except`, separated by commas.
    pub fn all_but(except: &str) -> Self {
        let except = except.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect();
        Self { enabled: true, except }
    }

    pub(super) fn apply_to(&self, head: &Parts) -> bool {
        let agent = head.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.enabled && !self.except.iter().any(|beginning| agent.starts_with(beginning))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applies(redirects: &Redirects, agent: &str) -> bool {
        let request = http::Request::get("/").header(USER_AGENT, agent).body(()).unwrap();
        redirects.apply_to(&request.into_parts().0)
    }

    #[test]
    fn excepted_clients_are_not_redirected() {
        let redirects = Redirects::all_but("skopeo/, oras");
        assert!(applies(&redirects, "docker/28.0"));
        assert!(!applies(&redirects, "skopeo/1.9.3"));
        assert!(!applies(&redirects, "oras/1.2"));
        assert!(applies(&Redirects::all_but(""), ""));
        assert!(!applies(&Redirects::none(), "docker/28.0"));
    }
}
