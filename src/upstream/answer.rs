//! Reads answers of an upstream: the class of a status, and headers.

use std::ops::Range;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, StatusCode};

use super::error::Kind;
use crate::oci::Digest;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The longest `Retry-After` that is passed on, in bytes; a date has 29.
const RETRY_AFTER_BYTES_MAX: usize = 40;

/// The class of trouble that a status means; `None` for the statuses of success and for 304. With
/// `is_own`, the upstream itself answers, and not the target of a redirect.
pub(super) fn trouble(status: StatusCode, headers: &HeaderMap, is_own: bool) -> Option<Kind> {
    Some(match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED => return None,
        StatusCode::TOO_MANY_REQUESTS => {
            let retry_after = text(headers, &RETRY_AFTER).filter(|text| text.len() <= RETRY_AFTER_BYTES_MAX);
            Kind::Limited { retry_after: retry_after.map(str::to_owned) }
        }
        StatusCode::RANGE_NOT_SATISFIABLE => Kind::Range,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Kind::Slow(format!("answer {status}")),
        _ if status.is_server_error() => Kind::Down(format!("answer {status}")),
        _ if !is_own => Kind::Down(format!("the target of its redirect answers {status}")),
        StatusCode::NOT_FOUND => Kind::Unknown,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Denied,
        _ => Kind::Invalid(format!("answer {status}")),
    })
}

/// The value of a header that is text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The declared length of the body, in bytes.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, &CONTENT_LENGTH)?.parse().ok()
}

/// The digest that the upstream states; `None` if the header is absent or is no digest.
pub(super) fn digest(headers: &HeaderMap) -> Option<Digest> {
    text(headers, &CONTENT_DIGEST)?.parse().ok()
}

/// The media type without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = text(headers, &CONTENT_TYPE)?;
    Some(value.split(';').next().unwrap_or_default().trim())
}

/// The range of a partial answer and the size of the whole content, from `Content-Range`.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let (range, total) = text(headers, &CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then_some((first..last + 1, total))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_status_keeps_its_class() {
        let limited = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("30"))]);
        let long = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(&"3".repeat(41)).unwrap())]);
        let none = HeaderMap::new();
        let retry = |text: Option<&str>| Some(Kind::Limited { retry_after: text.map(str::to_owned) });
        for (status, headers, is_own, expected) in [
            (200, &none, true, None),
            (304, &none, true, None),
            (404, &none, true, Some(Kind::Unknown)),
            (403, &none, true, Some(Kind::Denied)),
            (429, &limited, false, retry(Some("30"))),
            (429, &long, true, retry(None)),
            (429, &none, true, retry(None)),
            (416, &none, false, Some(Kind::Range)),
            (504, &none, true, Some(Kind::Slow("answer 504 Gateway Timeout".into()))),
            (500, &none, true, Some(Kind::Down("answer 500 Internal Server Error".into()))),
            (403, &none, false, Some(Kind::Down("the target of its redirect answers 403 Forbidden".into()))),
            (418, &none, true, Some(Kind::Invalid("answer 418 I'm a teapot".into()))),
        ] {
            assert_eq!(trouble(StatusCode::from_u16(status).unwrap(), headers, is_own), expected, "{status}");
        }
    }

    #[test]
    fn partial_answers() {
        for (value, expected) in [
            ("bytes 5-9/10", Some((5..10, 10))),
            ("bytes 5-10/10", None),
            ("bytes 5-4/10", None),
            ("bytes 5-9/*", None),
            ("bytes */10", None),
            ("items 5-9/10", None),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::from_static(value))]);
            assert_eq!(content_range(&headers), expected, "{value}");
        }
    }
}
