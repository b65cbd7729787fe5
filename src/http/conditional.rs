//! Conditional requests (RFC 9110, section 13). The digest of content is its entity tag.

use http::HeaderName;
use http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE};
use http::request::Parts;

use crate::oci::Digest;
use crate::registry::{Expected, Precondition};

/// The entity tag of content.
pub(super) fn entity_tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// The precondition of a change, from `If-Match` and `If-None-Match`.
pub(super) fn precondition(head: &Parts) -> Precondition {
    // Comparison is strong for If-Match, where a weak entity tag never matches, and weak for
    // If-None-Match.
    Precondition { matches: expected(head, &IF_MATCH, false), matches_none: expected(head, &IF_NONE_MATCH, true) }
}

/// The precondition of a read, from `If-Match`; for `If-None-Match` see [`is_known`].
pub(super) fn read_precondition(head: &Parts) -> Precondition {
    Precondition { matches: expected(head, &IF_MATCH, false), matches_none: None }
}

/// Whether the client has this content already (`If-None-Match`).
pub(super) fn is_known(head: &Parts, digest: &Digest) -> bool {
    expected(head, &IF_NONE_MATCH, true).is_some_and(|known| known.is_met_by(Some(digest)))
}

/// The entity tags in all lines of a header; `None` if the header is absent. An entity tag that is
/// not a digest matches nothing. No digest has a comma, so splitting at commas is safe.
fn expected(head: &Parts, name: &HeaderName, takes_weak: bool) -> Option<Expected> {
    let mut lines = head.headers.get_all(name).iter().peekable();
    lines.peek()?;
    let listed = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim);
    let mut digests = Vec::new();
    for tag in listed {
        let tag = match tag.strip_prefix("W/") {
            Some(_) if !takes_weak => continue,
            Some(weak) => weak,
            None if tag == "*" => return Some(Expected::Any),
            None => tag,
        };
        let opaque = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        digests.extend(opaque.and_then(|opaque| opaque.parse().ok()));
    }
    Some(Expected::OneOf(digests))
}

/// Whether the client wants a range of this content: `If-Range` matches the content or is absent.
/// Otherwise the client wants the whole content.
pub(super) fn is_range_valid(head: &Parts, digest: &Digest) -> bool {
    // The comparison is strong. A date never matches, because content has no date.
    text(head, &IF_RANGE).is_none_or(|known| known.trim() == entity_tag(digest))
}

/// The value of a header. A value that is not text is read as an empty text, which matches nothing.
fn text<'a>(head: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    head.headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn head(name: &str, value: &str) -> Parts {
        http::Request::get("/").header(name, value).body(()).unwrap().into_parts().0
    }

    #[test]
    fn if_none_match_is_a_list_of_entity_tags() {
        let digest = Algorithm::Sha256.digest(b"");
        let tag = entity_tag(&digest);
        for (value, expected) in [
            (tag.clone(), true),
            (format!("W/{tag}"), true),
            (format!("\"other\", {tag}"), true),
            ("*".to_owned(), true),
            ("\"other\"".to_owned(), false),
            (digest.to_string(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_known(&head("if-none-match", &value), &digest), expected, "{value}");
        }
        assert!(!is_known(&head("accept", "*"), &digest));
    }

    #[test]
    fn preconditions_of_a_change() {
        let (digest, other) = (Algorithm::Sha256.digest(b""), Algorithm::Sha256.digest(b"other"));
        let tag = entity_tag(&digest);
        for (name, value, on_it, on_other, on_nothing) in [
            ("if-match", tag.clone(), true, false, false),
            ("if-match", format!("\"x\" , {tag}"), true, false, false),
            ("if-match", format!("W/{tag}"), false, false, false),
            ("if-match", "*".to_owned(), true, true, false),
            ("if-match", "unquoted".to_owned(), false, false, false),
            ("if-match", String::new(), false, false, false),
            ("if-none-match", tag.clone(), false, true, true),
            ("if-none-match", format!("W/{tag}"), false, true, true),
            ("if-none-match", "*".to_owned(), false, false, true),
            ("if-none-match", "\"x\"".to_owned(), true, true, true),
            ("accept", "*".to_owned(), true, true, true),
        ] {
            let precondition = precondition(&head(name, &value));
            let holds = [Some(&digest), Some(&other), None].map(|current| precondition.check(current).is_ok());
            assert_eq!(holds, [on_it, on_other, on_nothing], "{name}: {value}");
        }
        let lines = http::Request::get("/").header("if-match", "\"x\"").header("if-match", tag);
        let precondition = precondition(&lines.body(()).unwrap().into_parts().0);
        assert!(precondition.check(Some(&digest)).is_ok());
    }

    #[test]
    fn if_range_compares_entity_tags() {
        let digest = Algorithm::Sha256.digest(b"");
        let tag = entity_tag(&digest);
        for (value, expected) in
            [(tag.clone(), true), (format!("W/{tag}"), false), ("Sat, 21 Nov 2026 00:00:00 GMT".into(), false)]
        {
            assert_eq!(is_range_valid(&head("if-range", &value), &digest), expected, "{value}");
        }
        assert!(is_range_valid(&head("accept", "*"), &digest));
    }
}
