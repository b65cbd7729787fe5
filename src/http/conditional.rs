//! Conditional requests (RFC 9110, section 13): content is what its digest says, so the digest is its entity tag.

use http::HeaderName;
use http::header::{IF_NONE_MATCH, IF_RANGE};
use http::request::Parts;

use crate::oci::Digest;

/// The entity tag of content.
pub(super) fn entity_tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client has this content already (`If-None-Match`).
pub(super) fn is_known(head: &Parts, digest: &Digest) -> bool {
    let tag = entity_tag(digest);
    let lines = head.headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    // A digest has no comma, so cutting there harms nothing that could match. Comparison is weak here: `W/` does not count.
    let mut listed = lines.flat_map(|line| line.split(',')).map(str::trim);
    listed.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// Whether a range of this content is what the client wants (`If-Range`); if not, it wants the whole.
pub(super) fn is_range_valid(head: &Parts, digest: &Digest) -> bool {
    // Comparison is strong here. A date is never right: content has none.
    text(head, &IF_RANGE).is_none_or(|known| known.trim() == entity_tag(digest))
}

/// A header's value; what is not text is a value that matches nothing.
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
    fn a_list_of_entity_tags() {
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
    fn a_range_of_what_the_client_has() {
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
