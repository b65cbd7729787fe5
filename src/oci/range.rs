//! Byte ranges: `Range` of a pull (RFC 9110, section 14) and `Content-Range` of a chunk
//! (distribution-spec, "Pushing a blob in chunks").

use std::ops::Range;

/// How many ranges one request may ask for. Clients that pull only the missing parts of a layer
/// (podman's zstd:chunked) ask for at most as many.
pub const RANGES_MAX: usize = 1024;

/// A `Range` header, resolved against content of a known size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    /// The whole content: there is no header, the header cannot be read, or RFC 9110 lets a server
    /// ignore the header (another unit, more than [`RANGES_MAX`] ranges).
    Whole,
    /// A single range of bytes.
    Part(Range<u64>),
    /// Two or more ranges of bytes, with gaps between them.
    Parts(Vec<Range<u64>>),
    /// No byte of the content lies in any of the ranges.
    Unsatisfiable,
}

/// A single range of a `Range` header, resolved against the size of the content.
enum Spec {
    /// The text does not have the form of a range.
    Malformed,
    /// No byte of the content lies in the range.
    Unsatisfiable,
    Part(Range<u64>),
}

impl RangeRequest {
    /// Resolves the value of a `Range` header against content of `size` bytes. Ranges that overlap
    /// or touch are joined; the joined range takes the place of the earliest of them in the header.
    /// Ranges beyond the content are left out.
    ///
    /// A reversed range (`bytes=500-0`) asks for no byte and counts as unsatisfiable.
    pub fn parse(header: Option<&str>, size: u64) -> Self {
        let Some((unit, set)) = header.and_then(|text| text.split_once('=')) else { return Self::Whole };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Self::Whole;
        }
        let mut listed = set.split(',').map(str::trim).filter(|spec| !spec.is_empty()).peekable();
        if listed.peek().is_none() {
            return Self::Whole;
        }
        let mut parts = Vec::new();
        for (number, spec) in listed.enumerate() {
            match Spec::parse(spec, size) {
                _ if number == RANGES_MAX => return Self::Whole,
                Spec::Malformed => return Self::Whole,
                Spec::Part(part) => parts.push(part),
                Spec::Unsatisfiable => {}
            }
        }
        match joined(parts) {
            mut parts if parts.len() == 1 => Self::Part(parts.remove(0)),
            parts if parts.is_empty() => Self::Unsatisfiable,
            parts => Self::Parts(parts),
        }
    }
}

impl Spec {
    fn parse(text: &str, size: u64) -> Self {
        let Some((first, last)) = text.split_once('-') else { return Self::Malformed };
        match (number(first), number(last)) {
            _ if first.is_empty() && last.is_empty() => Self::Malformed,
            (None, _) if !first.is_empty() => Self::Malformed,
            (_, None) if !last.is_empty() => Self::Malformed,
            // A suffix range: the last `suffix` bytes of the content.
            (None, Some(suffix)) if suffix > 0 && size > 0 => Self::Part(size.saturating_sub(suffix)..size),
            (Some(first), last) if first < size && last.is_none_or(|last| last >= first) => {
                Self::Part(first..last.map_or(size, |last| size.min(last.saturating_add(1))))
            }
            _ => Self::Unsatisfiable,
        }
    }
}

/// Joins ranges that overlap or touch.
fn joined(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut sorted: Vec<(usize, Range<u64>)> = ranges.into_iter().enumerate().collect();
    sorted.sort_by_key(|(_, range)| range.start);
    let mut parts: Vec<(usize, Range<u64>)> = Vec::new();
    for (place, range) in sorted {
        match parts.last_mut() {
            Some((first_place, part)) if range.start <= part.end => {
                part.end = part.end.max(range.end);
                *first_place = place.min(*first_place);
            }
            _ => parts.push((place, range)),
        }
    }
    parts.sort_by_key(|(place, _)| *place);
    parts.into_iter().map(|(_, part)| part).collect()
}

/// Parses the position of a chunk in its blob: `<first>-<last>`, both inclusive. As in RFC 9110,
/// `bytes ` may precede the range and `/size` may follow. The returned range excludes its end.
///
/// Returns `None` when the text has another form, when the last byte lies before the first, or when
/// the end exceeds `u64`.
pub fn parse_chunk_range(header: &str) -> Option<Range<u64>> {
    let text = header.trim();
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..last.checked_add(1)?)
}

/// Parses decimal digits only: `+1` and ` 1` give `None`. A number too large for `u64` gives
/// `u64::MAX`, which lies beyond any content.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_pull() {
        use RangeRequest::{Part, Parts, Unsatisfiable, Whole};
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
            ("bytes=0-1,3-4", 10, Parts(vec![0..2, 3..5])),
            ("Bytes = 0-1 , 3-4 ,", 10, Parts(vec![0..2, 3..5])),
            ("bytes=8-,-1,0-0", 10, Parts(vec![8..10, 0..1])),
            ("bytes=6-7,0-1,3-4", 10, Parts(vec![6..8, 0..2, 3..5])),
            ("bytes=6-7,0-1,1-6", 10, Part(0..8)),
            ("bytes=0-1,2-3", 10, Part(0..4)),
            ("bytes=0-5,2-3", 10, Part(0..6)),
            ("bytes=0-1,0-1,5-6,5-6", 10, Parts(vec![0..2, 5..7])),
            ("bytes=0-1,20-30", 10, Part(0..2)),
            ("bytes=20-30,5-4", 10, Unsatisfiable),
            ("bytes=0-1,x", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes=,", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("items=0-1", 10, Whole),
            ("bytes", 10, Whole),
        ] {
            assert_eq!(RangeRequest::parse(Some(header), size), expected, "{header} of {size}");
        }
        assert_eq!(RangeRequest::parse(None, 10), Whole);
        let ranges = |count| (0..count).map(|n| format!("{}-{}", n * 2, n * 2)).collect::<Vec<_>>().join(",");
        let most = RangeRequest::parse(Some(&format!("bytes={}", ranges(RANGES_MAX))), 1 << 20);
        assert!(matches!(most, Parts(parts) if parts.len() == RANGES_MAX));
        assert_eq!(RangeRequest::parse(Some(&format!("bytes={}", ranges(RANGES_MAX + 1))), 1 << 20), Whole);
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
