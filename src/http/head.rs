//! Checks of the head of a request, before anything else looks at the request.

use http::HeaderName;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;

use super::error::Error;
use super::limits::{HEADER_BYTES_MAX, URI_BYTES_MAX};

/// The value of a header that controls a write, as text. Refuses a value that is not text.
pub(super) fn text<'a>(head: &'a Parts, name: &HeaderName) -> Result<Option<&'a str>, Error> {
    let Some(value) = head.headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| Error::BadHeader(name.clone()))
}

/// Refuses a request with too large a URL or too large headers.
pub(super) fn check_size(head: &Parts) -> Result<(), Error> {
    let uri_bytes = head.uri.path_and_query().map_or(0, |text| text.as_str().len());
    if uri_bytes > URI_BYTES_MAX {
        return Err(Error::UriTooLong);
    }
    let header_bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if header_bytes > HEADER_BYTES_MAX {
        return Err(Error::HeadersTooLarge);
    }
    Ok(())
}

/// Refuses a body whose end is ambiguous: two programs that disagree about the end of a body also
/// disagree about where the next request begins (RFC 9112, section 6.1). Also refuses transfer
/// codings other than chunked: they are not decoded here, so the body would be stored encoded.
pub(super) fn check_framing(head: &Parts) -> Result<(), Error> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
        return Err(Error::UnknownCoding);
    }
    if head.headers.contains_key(CONTENT_LENGTH) { Err(Error::LengthAndCoding) } else { Ok(()) }
}
