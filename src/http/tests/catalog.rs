//! The catalog of repositories.

use super::*;

#[test]
fn callers_see_only_their_part_of_the_catalog() {
    let fixture = Fixture::new(POLICY);
    for (user, expected) in [
        ("anonymous", vec!["public/app"]),
        ("reader", vec!["public/app", "team/app"]),
        ("root", vec!["other/app", "public/app", "team/app"]),
    ] {
        for authorization in [basic(user), fixture.token(user, "scope=\"registry:catalog:*\"")] {
            let mut seen = Vec::new();
            let mut uri = "/v2/_catalog?n=1".to_owned();
            loop {
                let response = fixture.send("GET", &uri, &authorization, "");
                let next = response.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
                let body = block_on(response.into_body().collect_up_to(1 << 20)).unwrap();
                let page: Value = serde_json::from_slice(&body).unwrap();
                seen.extend(page["repositories"].as_array().unwrap().clone());
                let Some(next) = next else { break };
                for name in REPOSITORIES {
                    let shown = name.replace('/', "%2F");
                    let is_shown = next.contains(name) || next.contains(&shown);
                    assert!(expected.contains(&name) || !is_shown, "{user}: {next} names {name}");
                }
                uri = next[1..next.find('>').unwrap()].to_owned();
            }
            assert_eq!(seen, expected, "{user}");
        }
    }
    for wrong in ["~", "~AAAA", "~other/app"] {
        let uri = format!("/v2/_catalog?last={wrong}");
        assert_eq!(fixture.send("GET", &uri, &basic("reader"), "").status(), StatusCode::BAD_REQUEST, "{uri}");
    }
    // A token for one repository does not open the catalog, which would look empty.
    let token = fixture.token("reader", "scope=\"repository:team/app:pull\"");
    assert_eq!(fixture.send("GET", "/v2/_catalog", &token, "").status(), StatusCode::UNAUTHORIZED);
}
