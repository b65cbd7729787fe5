//! The administration of users and machine tokens.

use super::*;

#[test]
fn users_and_machine_tokens_are_added_and_removed() {
    let fixture = Fixture::new(POLICY);
    let root = basic("root");
    let made = fixture.json("PUT", "/v2/_eyot/tokens/ci", &root, r#"{"rules":["team/app pull,push"]}"#);
    let token = made["token"].as_str().unwrap().to_owned();
    for authorization in
        [format!("Bearer {token}"), format!("Basic {}", Base64::encode_string(format!("x:{token}").as_bytes()))]
    {
        for (uri, expected) in [
            ("/v2/", 200),
            ("/v2/team/app/tags/list", 200),
            ("/v2/public/app/tags/list", 200),
            ("/v2/other/app/tags/list", if authorization.starts_with("Bearer") { 401 } else { 403 }),
        ] {
            assert_eq!(fixture.send("GET", uri, &authorization, "").status(), expected, "{uri}");
        }
    }
    let wrong = format!("Bearer {}x", &token[..token.len() - 1]);
    assert_eq!(fixture.send("GET", "/v2/", &wrong, "").status(), StatusCode::UNAUTHORIZED);
    assert_eq!(fixture.json("GET", "/v2/_eyot/tokens", &root, ""), json!({ "tokens": ["ci"] }));
    assert_eq!(fixture.send("DELETE", "/v2/_eyot/tokens/ci", &root, "").status(), StatusCode::NO_CONTENT);
    assert_eq!(fixture.send("GET", "/v2/", &format!("Bearer {token}"), "").status(), StatusCode::UNAUTHORIZED);

    let add = fixture.send("PUT", "/v2/_eyot/users/reader2", &root, r#"{"password":"reader2's password"}"#);
    assert_eq!(add.status(), StatusCode::NO_CONTENT);
    assert_eq!(fixture.send("GET", "/v2/", &basic("reader2"), "").status(), StatusCode::OK);
    assert_eq!(fixture.json("GET", "/v2/_eyot/users", &root, ""), json!({ "users": ["reader2"] }));
    for weak in [r#"{"password":"aaaaaaaaaaaaa"}"#, r#"{"hash":"secret"}"#, "{}", "secret"] {
        let refused = fixture.send("PUT", "/v2/_eyot/users/reader3", &root, weak);
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{weak}");
        let text = block_on(refused.into_body().collect_up_to(1 << 20)).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("secret"), "{weak}");
    }
}
