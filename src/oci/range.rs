//! Byte ranges: `Range` of a pull (RFC 9110, section 14) and `Content-Range` of a chunk (distribution-spec,
//! "Pushing a blob in chunks").

use std::ops::Range;

/// What a `Range` header asks of content of a known size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    /// The whole content: no header, one that RFC 9110 lets a server ignore (another unit, several ranges), or one that
    /// cannot be read.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// No byte of the content lies in the range.
    Unsatisfiable,
}

impl RangeRequest {
    /// Reads a `Range` header's value against content of `size` bytes.
    ///
    /// A reversed range (`bytes=500-0`) is answered as unsatisfiable: it asks for nothing that could be sent.
    pub fn parse(header: Option<&str>, size: u64) -> Self {
        let Some((unit, set)) = header.and_then(|text| text.split_once('=')) else { return Self::Whole };
        if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
            return Self::Whole;
        }
        let Some((first, last)) = set.trim().split_once('-') else { return Self::Whole };
        match (number(first), number(last)) {
            _ if first.is_empty() && last.is_empty() => Self::Whole,
            (None, _) if !first.is_empty() => Self::Whole,
            (_, None) if !last.is_empty() => Self::Whole,
            // The last bytes of the content.
            (None, Some(suffix)) if suffix > 0 && size > 0 => Self::Part(size.saturating_sub(suffix)..size),
            (Some(first), last) if first < size && last.is_none_or(|last| last >= first) => {
                Self::Part(first..last.map_or(size, |last| size.min(last.saturating_add(1))))
            }
            _ => Self::Unsatisfiable,
        }
    }
}

/// The place of a chunk in its blob: `<first>-<last>`, both inclusive; `bytes ` before and `/size` after it, as RFC 9110
/// writes it, are accepted too.
///
/// `None` when the text has another form, or the last byte lies before the first.
pub fn parse_chunk_range(header: &str) -> Option<Range<u64>> {
    let text = header.trim();
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..last.checked_add(1)?)
}

/// Digits only: `+1` and ` 1` are not numbers here. One too large for us is beyond any content.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_pull() {
        use RangeRequest::{Part, Unsatisfiable, Whole};
        for (header, size, expected) in [
            ("bytes=0-3", 10, Part(0..4)),
            ("bytes=4-", 10, Part(4..10)),
            ("bytes=-3", 10, Part(7..10)),
            ("bytes=-30", 10, Part(0..10)),
            ("bytes=8-30", 10, Part(8..10)),
            ("bytes=9-9", 10, Part(9..10)),
            ("bytes=0-18446744073709551615", 10, Part(0..10)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=9999999999999999999999999-", 10, Unsatisfiable),
            ("bytes=5-4", 10, Unsatisfiable),
            ("bytes=500-0", 1000, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-5", 0, Unsatisfiable),
            ("bytes=0-1,3-4", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("items=0-1", 10, Whole),
            ("bytes", 10, Whole),
        ] {
            assert_eq!(RangeRequest::parse(Some(header), size), expected, "{header} of {size}");
        }
        assert_eq!(RangeRequest::parse(None, 10), Whole);
    }

    #[test]
    fn ranges_of_a_chunk() {
        for (header, expected) in [
            ("0-0", Some(0..1)),
            ("5-9", Some(5..10)),
            ("bytes 5-9/10", Some(5..10)),
            ("bytes=5-9", Some(5..10)),
            ("9-5", None),
            ("-5", None),
            ("5-", None),
            ("a-b", None),
            ("0--1", None),
            ("", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(parse_chunk_range(header), expected, "{header}");
        }
    }
}
