//! The token endpoint.

use p256::ecdsa::signature::Signer as _;

use super::*;

#[test]
fn a_token_ends_no_later_than_the_machine_token_it_was_made_from() {
    let fixture = Fixture::new(POLICY);
    for (seconds, expected) in [("3", 3), ("299", 299), ("100000", 300)] {
        let new = format!(r#"{{"rules":["team/app pull"],"expires_in_seconds":{seconds}}}"#);
        let made = fixture.json("PUT", "/v2/_eyot/tokens/ci", &basic("root"), new.leak());
        let machine = format!("Bearer {}", made["token"].as_str().unwrap());
        let token = fixture.json("GET", "/v2/_eyot/token?scope=repository:team/app:pull", &machine, "");
        assert_eq!(token["expires_in"], expected, "a machine token of {seconds} s");
        let payload = token["token"].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
        let claims: Value = serde_json::from_slice(&Base64UrlUnpadded::decode_vec(&payload).unwrap()).unwrap();
        assert_eq!(claims["exp"].as_u64().unwrap(), FixedPlatform::default().now_ms() / 1000 + expected, "{claims}");
    }
}

#[test]
fn a_pipeline_logs_in_with_its_own_token() {
    let fixture = Fixture::new(POLICY);
    let signed = |repository: &str| {
        let now = FixedPlatform::default().now_ms() / 1000;
        let claims = json!({
            "iss": ISSUER, "aud": "registry.example", "iat": now, "exp": now + 60, "repository": repository,
        });
        let part = |json: Value| Base64UrlUnpadded::encode_string(json.to_string().as_bytes());
        let signed = format!("{}.{}", part(json!({ "alg": "ES256", "kid": "1" })), part(claims));
        let signature: p256::ecdsa::Signature = issuer_key().sign(signed.as_bytes());
        format!("{signed}.{}", Base64UrlUnpadded::encode_string(&signature.to_bytes()))
    };
    // `docker login` sends the token as a password, with any user name. Other clients send the
    // token as a bearer header.
    let (right, wrong) = (signed("acme/app"), signed("evil/app"));
    let basic = |token: &str| format!("Basic {}", Base64::encode_string(format!("oidc:{token}").as_bytes()));
    let uri = "/v2/_eyot/token?scope=repository:acme/app:pull,push&scope=repository:team/app:pull";
    for authorization in [basic(&right), format!("Bearer {right}")] {
        let token = fixture.json("GET", uri, &authorization, "");
        assert_eq!(token["scope"], "repository:acme/app:pull,push");
        assert_eq!(token["expires_in"], 60, "as long as the pipeline's own token");
        let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
        assert_eq!(fixture.send("PUT", "/v2/acme/app/manifests/v1", &bearer, INDEX).status(), StatusCode::CREATED);
    }
    for authorization in [basic(&wrong), format!("Bearer {wrong}")] {
        assert_eq!(fixture.send("GET", uri, &authorization, "").status(), StatusCode::UNAUTHORIZED);
    }
}

#[test]
fn a_form_with_a_password_gets_a_token() {
    let fixture = Fixture::new(POLICY);
    let form = "grant_type=password&service=eyot&client_id=containerd-client&scope=repository%3Ateam%2Fapp%3Apull%2Cpush\
                &scope=repository%3Aother%2Fapp%3Apull&username=writer&password=writer%27s+password";
    let token = fixture.json("POST", "/v2/_eyot/token", "", form);
    assert_eq!(token["scope"], "repository:team/app:pull,push");
    assert_eq!(token["expires_in"], 300);
    let bearer = format!("Bearer {}", token["access_token"].as_str().unwrap());
    assert_eq!(fixture.send("PUT", "/v2/team/app/manifests/v3", &bearer, INDEX).status(), StatusCode::CREATED);
    // A token cannot be used to obtain another token.
    assert_eq!(fixture.send("GET", "/v2/_eyot/token", &bearer, "").status(), StatusCode::UNAUTHORIZED);
    for wrong in ["grant_type=password&username=writer&password=wrong", "grant_type=refresh_token&refresh_token=x"] {
        assert_eq!(fixture.send("POST", "/v2/_eyot/token", "", wrong).status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(fixture.send("POST", "/v2/_eyot/token", "", "grant_type=fly").status(), StatusCode::BAD_REQUEST);
    // skopeo deletes with a token for all actions.
    let token = fixture.token("cleaner", "scope=\"repository:team/app:*\"");
    assert_eq!(fixture.send("DELETE", "/v2/team/app/manifests/old", &token, "").status(), StatusCode::ACCEPTED);
}

#[test]
fn a_token_request_costs_bounded_work_and_yields_a_token_that_fits() {
    let rules: Vec<_> =
        (0..30).map(|n| format!("anonymous a{n}*/x*z pull; anonymous {}/** pull", "n".repeat(n + 1))).collect();
    let fixture = Fixture::new(&format!("{POLICY}; {}", rules.join("; ")));
    let rules = 2 * rules.len() as u64 + 7;
    let long_name = |n: usize| format!("n/{n:03}{}", "x".repeat(150));
    let many =
        |count: usize| (0..count).map(|n| format!("repository:{}:pull", long_name(n))).collect::<Vec<_>>().join("+");
    for (what, form, expected) in [
        ("every action, often", format!("scope=repository:a0/xz:{}", "*,".repeat(32_000)), 400),
        ("one action, often", format!("scope=repository:n/app:{}", "pull,".repeat(200)), 200),
        ("the same scope, often", format!("scope={}", "repository:n/app:pull,push+".repeat(250)), 200),
        ("the same scope, too often", format!("scope={}", "repository:n/app:pull+".repeat(2_900)), 400),
        ("scopes of nothing", format!("scope={}", "planet:x:y+".repeat(5_900)), 400),
        ("as many scopes as there can be", format!("scope={}", many(64)), 200),
        ("more", format!("scope={}", many(65)), 400),
        ("long scopes, too long for a header", format!("scope={}", many(64).replace("xxx", "xxxxx")), 400),
        ("the catalog, often", format!("scope={}", "registry:catalog:*+".repeat(250)), 200),
    ] {
        crate::auth::MATCHES.set(0);
        let request = Request::post("/v2/_eyot/token")
            .header("host", "registry.example")
            .body(Body::from(form.into_bytes()))
            .unwrap();
        let response = block_on(fixture.handler.handle(request));
        assert_eq!(response.status(), expected, "{what}");
        let matches = crate::auth::MATCHES.get();
        assert!(matches <= 64 * rules, "{what}: {matches} matches");
        let reply = block_on(response.into_body().collect_up_to(1 << 20)).unwrap();
        let token = serde_json::from_slice::<Value>(&reply).unwrap()["token"].as_str().map_or(0, str::len);
        assert!(token <= 24 * 1024, "{what}: a token of {token} bytes");
    }
    // A token for the catalog would not fit into a header if the caller has too many rules, so the
    // request fails.
    let rules: Vec<_> = (0..900).map(|n| format!("root {}/** pull", long_name(n))).collect();
    let fixture = Fixture::new(&format!("{POLICY}; {}", rules.join("; ")));
    let refused = fixture.send("GET", "/v2/_eyot/token?scope=registry:catalog:*", &basic("root"), "");
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}

#[test]
fn anonymous_callers_without_any_permission_get_no_token() {
    let fixture = Fixture::new("root ** all; authenticated ** pull");
    let refused = fixture.send("GET", "/v2/_eyot/token", "", "");
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let realm = "Bearer realm=\"http://registry.example/v2/_eyot/token\",service=\"eyot\"";
    assert!(challenge(&refused).unwrap().starts_with(realm));
}
