//! The query of a request.

use percent_encoding::percent_decode_str;

use super::error::Error;
use crate::oci::{Algorithm, Tag};
use crate::registry::{self, InvalidManifest, PageRequest};

/// The text of a query.
pub(super) struct Query<'a>(pub(super) &'a str);

impl Query<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The first value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.0.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The first value of a parameter; `None` if the value is empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// The first value of a parameter that holds a media type. A bare `+` stands for itself: media
    /// types have no spaces, and clients send `application/vnd.x+json` without encoding it.
    pub(super) fn media_type(&self, name: &str) -> Option<String> {
        let decode = |text| percent_decode_str(text).decode_utf8_lossy();
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let value = pairs.filter(|(key, _)| decode(key) == name).map(|(_, value)| decode(value)).next()?;
        (!value.is_empty()).then(|| value.into_owned())
    }

    /// The hash algorithm of a new upload (`digest-algorithm`).
    pub(super) fn algorithm(&self) -> Result<Algorithm, Error> {
        let Some(name) = self.text("digest-algorithm") else { return Ok(Algorithm::default()) };
        Ok(name.parse::<Algorithm>().map_err(registry::Error::from)?)
    }

    /// The tags that a push names.
    pub(super) fn tags(&self) -> Result<Vec<Tag>, Error> {
        let named = form_urlencoded::parse(self.0.as_bytes()).filter(|(key, _)| key == "tag");
        let tags = named.map(|(_, text)| text.parse::<Tag>());
        let tags: Result<_, _> = tags.collect();
        tags.map_err(|error| registry::Error::from(InvalidManifest::Tag(error)).into())
    }

    /// The page of a list (`n` and `last`).
    pub(super) fn page(&self) -> Result<PageRequest, Error> {
        let count = match self.text("n") {
            // A number that overflows is above the limit of a page in any case.
            Some(n) if n.bytes().all(|b| b.is_ascii_digit()) => Some(n.parse().unwrap_or(usize::MAX)),
            Some(_) => return Err(Error::BadCount),
            None => None,
        };
        Ok(PageRequest { count, last: self.text("last") })
    }
}
