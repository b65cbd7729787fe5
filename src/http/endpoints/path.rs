//! Matches the path of a request with the paths of endpoints.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;

use super::super::error::Error;
use super::super::query::Query;
use crate::oci::name::ReferenceError;
use crate::oci::{Digest, Reference, RepositoryName};
use crate::registry::{self, InvalidManifest, SessionId};

/// The path of an endpoint. The first value in a path takes one segment or more, because
/// repository names have slashes. Every further value takes one segment.
pub(super) struct Template {
    pub(super) path: &'static str,
    /// The parameter of the query without which the endpoint does not apply.
    pub(super) parameter: Option<&'static str>,
}

/// The values in the path of a request, each with its name in the template. The values are
/// percent-decoded and not yet checked.
pub(super) type Values = Vec<(&'static str, String)>;

/// The values in the URL of a request.
pub(in crate::http) struct Target<'a> {
    pub(super) values: Values,
    pub(super) query: Query<'a>,
    pub(super) method: &'a Method,
}

impl Template {
    /// Reads the path of an endpoint, such as `/v2/<name>/blobs/uploads/?mount=<digest>`.
    pub(super) fn new(text: &'static str) -> Self {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        Self { path, parameter: query.split_once('=').map(|(name, _)| name) }
    }

    /// The values in the path of a request; `None` if the path does not fit.
    pub(super) fn values(&self, segments: &[Cow<'_, str>]) -> Option<Values> {
        let template: Vec<&'static str> = without_last_slash(self.path).split('/').collect();
        // The first value takes all segments that no other part of the template needs.
        let first_value_takes = (segments.len() + 1).checked_sub(template.len()).filter(|&count| count > 0)?;
        let mut values = Values::new();
        let mut rest = segments;
        for part in template {
            let name = part.strip_prefix('<').and_then(|part| part.strip_suffix('>'));
            let count = if name.is_some() && values.is_empty() { first_value_takes } else { 1 };
            let (taken, others) = rest.split_at_checked(count)?;
            rest = others;
            match name {
                Some(name) => values.push((name, taken.join("/"))),
                None if taken == [part] => {}
                None => return None,
            }
        }
        rest.is_empty().then_some(values)
    }
}

/// The segments of a path. Each segment between two slashes is decoded on its own (RFC 3986,
/// section 2.4), so `team%2Fapp` is the same repository as `team/app`. One slash at the end of the
/// path is ignored.
pub(super) fn segments(path: &str) -> Vec<Cow<'_, str>> {
    // Clients may write the colon of a digest as `%3A`. Bytes that are not UTF-8 become U+FFFD,
    // which the grammar of no name allows.
    without_last_slash(path).split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy()).collect()
}

fn without_last_slash(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

impl Target<'_> {
    /// A value in the path, not checked against any grammar.
    pub(super) fn text(&self, name: &str) -> &str {
        let value = self.values.iter().find(|(key, _)| *key == name);
        value.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    pub(super) fn repository(&self) -> Result<RepositoryName, Error> {
        self.text("name").parse().map_err(Error::NameInvalid)
    }

    pub(super) fn digest(&self) -> Result<Digest, Error> {
        parse_digest(self.text("digest"))
    }

    pub(super) fn session(&self) -> Result<SessionId, Error> {
        Ok(self.text("session").parse::<SessionId>().map_err(registry::Error::from)?)
    }

    pub(super) fn reference(&self) -> Result<Reference, Error> {
        let text = self.text("reference");
        text.parse::<Reference>().map_err(|error| match error {
            ReferenceError::Digest(error) => registry::Error::from(error).into(),
            // An invalid tag is an error of a push. Any other request asks for an unknown manifest,
            // because no manifest can have an invalid tag.
            ReferenceError::Tag(error) if *self.method == Method::PUT => {
                registry::Error::from(InvalidManifest::Tag(error)).into()
            }
            ReferenceError::Tag(_) => registry::Error::ManifestUnknown(text.chars().take(128).collect()).into(),
        })
    }
}

pub(super) fn parse_digest(text: &str) -> Result<Digest, Error> {
    Ok(text.parse::<Digest>().map_err(registry::Error::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(template: &'static str, path: &str) -> Option<String> {
        let values = Template::new(template).values(&segments(path))?;
        Some(values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_template_finds_the_values_of_a_path() {
        for (template, path, expected) in [
            ("/v2/", "/v2", Some("")),
            ("/v2/", "/v2/", Some("")),
            ("/v2/", "/v2//", None),
            ("/v2/", "/", None),
            ("/v2/", "/v3/", None),
            ("/v2/<name>/tags/list", "/v2/a/tags/list", Some("name=a")),
            ("/v2/<name>/tags/list", "/v2/a/b/c/tags/list/", Some("name=a/b/c")),
            ("/v2/<name>/tags/list", "/v2/a%2Fb/tags/list", Some("name=a/b")),
            ("/v2/<name>/tags/list", "/v2/tags/list", None),
            ("/v2/<name>/tags/list", "/v2//tags/list", Some("name=")),
            ("/v2/<name>/tags/list", "/v2/a/tags/list/b", None),
            ("/v2/<name>/blobs/<digest>", "/v2/a/blobs/sha256%3A12", Some("name=a digest=sha256:12")),
            ("/v2/<name>/blobs/<digest>", "/v2/a/blobs/b/blobs/c", Some("name=a/blobs/b digest=c")),
            ("/v2/<name>/blobs/<digest>", "/v2/a/blobs", None),
            ("/v2/_eyot/users/<user>", "/v2/_eyot/users/a/b", Some("user=a/b")),
            ("/v2/_eyot/users/<user>", "/v2/_eyot/users/", None),
        ] {
            assert_eq!(values(template, path).as_deref(), expected, "{template} {path}");
        }
        let template = Template::new("/v2/<name>/blobs/uploads/?mount=<digest>");
        assert_eq!((template.path, template.parameter), ("/v2/<name>/blobs/uploads/", Some("mount")));
    }
}
