//! Requests that a browser sends for a page of another site.

use super::permissions::{ROUTES, filled};
use super::*;

#[test]
fn a_page_of_another_site_changes_nothing_with_a_password_that_the_browser_remembers() {
    let fixture = Fixture::new(POLICY);
    let send = |method: &str, uri: &str, authorization: &str| {
        let request = Request::builder().method(method).uri(uri).header("host", "registry.example");
        let request = request.header("origin", "https://evil.example").header(AUTHORIZATION, authorization);
        block_on(fixture.handler.handle(request.body(Body::empty()).unwrap())).status().as_u16()
    };
    for (method, target, need, success) in ROUTES {
        let uri = filled(target, "team/app");
        let expected = if method == &"GET" || method == &"HEAD" { *success } else { 403 };
        assert_eq!(send(method, &uri, &basic("root")), expected, "{method} {uri} ({need})");
    }
    // Browsers never add a bearer token by themselves, so the token shows that the sender intends
    // the request.
    let token = fixture.token("root", "scope=\"repository:team/app:*\"");
    assert_eq!(send("DELETE", "/v2/team/app/manifests/old", &token), 202);
}
