//! The credentials of a request (RFC 9110, section 11.6.2; RFC 7617; RFC 6750).

use base64ct::{Base64, Encoding as _};
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::error::Error;
use crate::auth::{Credentials, Refusal, Secret};

/// Reads the `Authorization` header.
///
/// # Errors
/// [`Refusal::Unauthorized`] for a header that cannot be read. Only a few placeholders of clients
/// count as "no credentials".
pub(super) fn credentials(head: &Parts) -> Result<Credentials, Refusal> {
    let mut values = head.headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next(), values.next()) else { return Err(Refusal::Unauthorized) };
    let Some(value) = value else { return Ok(Credentials::Anonymous) };
    parse(value.as_bytes()).ok_or(Refusal::Unauthorized)
}

fn parse(value: &[u8]) -> Option<Credentials> {
    let value = std::str::from_utf8(value).ok()?.trim();
    let (scheme, text) = value.split_once(' ').unwrap_or((value, ""));
    let text = text.trim();
    if is_placeholder(scheme, text) {
        return Some(Credentials::Anonymous);
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Credentials::Bearer(Secret::new(text)));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(Base64::decode_vec(text).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(basic(user, password))
}

/// Whether credentials mean "no credentials": a scheme alone, an empty name with an empty password,
/// or the token of one letter that Homebrew sends to every registry.
fn is_placeholder(scheme: &str, text: &str) -> bool {
    match scheme.to_ascii_lowercase().as_str() {
        "basic" => ["", "Og=="].contains(&text),
        "bearer" => ["", "QQ=="].contains(&text),
        _ => false,
    }
}

fn basic(user: &str, password: &str) -> Credentials {
    Credentials::Basic { user: user.to_owned(), password: Secret::new(password) }
}

/// The credentials in the form of a token request (RFC 6749, sections 4.3 and 6): a password, or a
/// longer-lived token. `None` for a form without credentials: the `Authorization` header is used
/// then.
pub(super) fn form_credentials(form: &[u8]) -> Result<Option<Credentials>, Error> {
    let field = |name: &str| {
        let mut fields = form_urlencoded::parse(form);
        fields.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    match field("grant_type").as_deref() {
        None => Ok(None),
        Some("password") => match (field("username"), field("password")) {
            (Some(user), Some(password)) if !user.is_empty() => Ok(Some(basic(&user, &password))),
            _ => Ok(None),
        },
        Some("refresh_token") => Ok(field("refresh_token").map(|token| Credentials::Bearer(Secret::new(token)))),
        Some(_) => Err(Error::TokenRequest("grant_type must be password or refresh_token")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str) -> String {
        match parse(value.as_bytes()) {
            None => "wrong".into(),
            Some(Credentials::Anonymous) => "anonymous".into(),
            Some(Credentials::Basic { user, password }) => format!("{user} {}", password.expose()),
            Some(Credentials::Bearer(token)) => token.expose().to_owned(),
        }
    }

    #[test]
    fn authorization_headers_are_read() {
        for (value, expected) in [
            ("Basic YWxpY2U6czpjcmV0", "alice s:cret"),
            ("basic YWxpY2U6", "alice "),
            ("Bearer abc.def", "abc.def"),
            ("bEaReR  x", "x"),
            ("Basic YWxpY2U", "wrong"),
            ("Basic YWxpY2U=", "wrong"),
            ("Basic ?", "wrong"),
            ("Basic", "anonymous"),
            ("Basic  ", "anonymous"),
            ("basic Og==", "anonymous"),
            ("Bearer", "anonymous"),
            ("bearer QQ==", "anonymous"),
            ("Bearer QQ", "QQ"),
            ("Basic OnM=", " s"),
            ("Digest", "wrong"),
            ("Digest x", "wrong"),
            ("", "wrong"),
            ("Basic gICA", "wrong"),
        ] {
            assert_eq!(shown(value), expected, "{value}");
        }
    }

    #[test]
    fn two_authorization_headers_are_refused() {
        let request = http::Request::get("/").header("authorization", "Bearer a").header("authorization", "Bearer b");
        assert!(credentials(&request.body(()).unwrap().into_parts().0).is_err());
    }
}
