//! A registry below a path of a larger site.

use http::header::{LINK, LOCATION, WWW_AUTHENTICATE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};

use super::authorizer::TOKEN_PATH;

/// The text is not the path of a folder of a site, such as `/registry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a path prefix begins with a slash and has no query, such as /registry")]
#[non_exhaustive]
pub struct PathPrefixError;

/// The path below which a program serves the handler, such as `/registry`; empty for the root.
#[derive(Clone, Debug, Default)]
pub(super) struct PathPrefix(String);

impl PathPrefix {
    /// # Errors
    /// If `path` does not begin with a slash, or has characters that a path must encode.
    pub(super) fn new(path: &str) -> Result<Self, PathPrefixError> {
        let path = path.trim_end_matches('/');
        let is_path = path.is_empty() || path.starts_with('/') && path.parse::<PathAndQuery>().is_ok();
        match is_path && !path.contains(['?', '"', '<', '>']) {
            true => Ok(Self(path.to_owned())),
            false => Err(PathPrefixError),
        }
    }

    /// Removes the prefix from the path of a request. Routers such as axum's have removed the prefix
    /// already, so a path without the prefix stays as it is.
    pub(super) fn remove_from(&self, uri: &mut Uri) {
        let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let rest = target.strip_prefix(&self.0).filter(|rest| !self.0.is_empty() && rest.starts_with('/'));
        let Some(Ok(rest)) = rest.map(str::parse::<PathAndQuery>) else { return };
        let mut parts = std::mem::take(uri).into_parts();
        parts.path_and_query = Some(rest);
        *uri = Uri::from_parts(parts).unwrap_or_default();
    }

    /// Adds the prefix to the paths of an answer: where an upload goes on, where the next page is,
    /// and where a client gets a token.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        let replace = |headers: &mut HeaderMap, name, from: &str, to: String| {
            let value = headers.get(&name).and_then(|value| value.to_str().ok());
            let changed = value.and_then(|value| {
                let at = value.find(from)?;
                HeaderValue::try_from(format!("{}{to}{}", &value[..at], &value[at + from.len()..])).ok()
            });
            if let Some(changed) = changed {
                headers.insert(name, changed);
            }
        };
        let prefix = &self.0;
        if headers.get(LOCATION).is_some_and(|location| location.as_bytes().starts_with(b"/v2/")) {
            replace(headers, LOCATION, "/v2/", format!("{prefix}/v2/"));
        }
        replace(headers, LINK, "</v2/", format!("<{prefix}/v2/"));
        replace(headers, WWW_AUTHENTICATE, TOKEN_PATH, format!("{prefix}{TOKEN_PATH}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_leaves_requests_and_enters_answers() {
        let prefix = PathPrefix::new("/registry/").unwrap();
        for (given, expected) in [
            ("/registry/v2/a/tags/list?n=1", "/v2/a/tags/list?n=1"),
            ("/v2/a/tags/list", "/v2/a/tags/list"),
            ("/registry", "/registry"),
            ("/registryv2/", "/registryv2/"),
            ("http://example.org/registry/v2/", "http://example.org/v2/"),
        ] {
            let mut uri: Uri = given.parse().unwrap();
            prefix.remove_from(&mut uri);
            assert_eq!(uri, expected);
        }
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, "/v2/v2/blobs/uploads/1".parse().unwrap());
        headers.insert(LINK, "</v2/_catalog?last=a>; rel=\"next\"".parse().unwrap());
        headers.insert(WWW_AUTHENTICATE, "Bearer realm=\"https://a/v2/_eyot/token\"".parse().unwrap());
        prefix.add_to(&mut headers);
        assert_eq!(headers[LOCATION], "/registry/v2/v2/blobs/uploads/1");
        assert_eq!(headers[LINK], "</registry/v2/_catalog?last=a>; rel=\"next\"");
        assert_eq!(headers[WWW_AUTHENTICATE], "Bearer realm=\"https://a/registry/v2/_eyot/token\"");
        headers.insert(LOCATION, "https://bucket.example/v2/x".parse().unwrap());
        prefix.add_to(&mut headers);
        assert_eq!(headers[LOCATION], "https://bucket.example/v2/x");
        for wrong in ["registry", "/a?b", "/a b", "/a\"b"] {
            assert!(PathPrefix::new(wrong).is_err(), "{wrong}");
        }
    }
}
