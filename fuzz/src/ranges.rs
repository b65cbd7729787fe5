//! Range headers of pulls, and Content-Range headers of chunks.

use eyot::oci::range::{RANGES_MAX, RangeRequest, parse_chunk_range};

/// The first eight bytes of the input, or all bytes of a shorter input, are the size of the
/// content. The rest is the header.
pub fn ranges(data: &[u8]) {
    let (size, header) = data.split_at(data.len().min(8));
    let size = size.iter().fold(0, |size, byte| size << 8 | u64::from(*byte));
    let Ok(header) = std::str::from_utf8(header) else { return };
    for size in [size, size % 1000] {
        let found = RangeRequest::parse(Some(header), size);
        if let RangeRequest::Part(part) = &found {
            assert!(part.start < part.end && part.end <= size, "{header:?} of {size}: {part:?}");
        }
        if let RangeRequest::Parts(parts) = &found {
            assert!(parts.len() > 1 && parts.len() <= RANGES_MAX, "{header:?} of {size}: {parts:?}");
            let mut sorted = parts.clone();
            sorted.sort_by_key(|part| part.start);
            assert!(sorted.iter().all(|part| part.start < part.end && part.end <= size), "{header:?}: {parts:?}");
            assert!(sorted.windows(2).all(|pair| pair[0].end < pair[1].start), "{header:?}: {parts:?}");
        }
        if let Some(expected) = expected(header, size) {
            assert_eq!(found, expected, "{header:?} of {size}");
        }
    }
    if let Some(range) = parse_chunk_range(header) {
        assert!(range.start < range.end, "{header:?}: {range:?}");
        let plain = format!("{}-{}", range.start, range.end - 1);
        assert_eq!(parse_chunk_range(&plain), Some(range), "{header:?}");
    }
}

/// RFC 9110, section 14.1.2, in numbers that never overflow. Returns `None` for a header that is
/// not in the form of a single range.
fn expected(header: &str, size: u64) -> Option<RangeRequest> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| match text {
        "" => Some(None),
        _ if text.len() > 30 || !text.bytes().all(|byte| byte.is_ascii_digit()) => None,
        _ => text.parse::<u128>().ok().map(Some),
    };
    let all = u128::from(size);
    let part = match (number(first)?, number(last)?) {
        (None, None) => return Some(RangeRequest::Whole),
        (None, Some(suffix)) => all.saturating_sub(suffix)..all,
        (Some(first), None) => first..all,
        // A range whose end lies before its start is unsatisfiable.
        (Some(first), Some(last)) if last < first => first..first,
        (Some(first), Some(last)) => first..all.min(last + 1),
    };
    match part.is_empty() {
        true => Some(RangeRequest::Unsatisfiable),
        false => Some(RangeRequest::Part(u64::try_from(part.start).ok()?..u64::try_from(part.end).ok()?)),
    }
}
