//! Logins with a password, and requests without a login.

use super::*;

#[test]
fn a_password_costs_one_hash_and_a_token_costs_no_storage_call() {
    let fixture = Fixture::new(POLICY);
    let uri = "/v2/team/app/tags/list";
    let cost = |authorization: &str| {
        fixture.keys.counts.take();
        let before = fixture.accounts.password_checks();
        assert_eq!(fixture.send("GET", uri, authorization, "").status(), StatusCode::OK);
        // The list itself costs one call.
        let calls = fixture.keys.counts.take().iter().sum::<u64>() - 1;
        (fixture.accounts.password_checks() - before, calls)
    };
    let (first, again) = (cost(&basic("reader")), cost(&basic("reader")));
    let token = fixture.token("reader", "scope=\"repository:team/app:pull\"");
    fixture.keys.counts.take();
    let with_token = cost(&token);
    println!(
        "password checks and storage calls of a request: first with a password {first:?}, then {again:?}, with a token {with_token:?}"
    );
    // Looking up the user costs one call. Counting the attempt before the password check costs two
    // calls, and undoing the count costs two.
    assert_eq!((first, again, with_token), ((1, 5), (0, 0), (0, 0)));
}

#[test]
fn password_guesses_are_slowed_down() {
    let fixture = Fixture::new(POLICY);
    let guess = |user: &str| {
        let authorization = format!("Basic {}", Base64::encode_string(format!("{user}:guess").as_bytes()));
        fixture.send("GET", "/v2/", &authorization, "")
    };
    let statuses: Vec<_> = (0..12).map(|_| guess("reader").status().as_u16()).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 401, 401, 401, 401, 401, 401, 429]);
    let refused = guess("reader");
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&seconds), "{seconds}");
    // Unknown users are treated in the same way. Other users, and requests with tokens, are not
    // delayed.
    let checks = fixture.accounts.password_checks();
    let statuses: Vec<_> = (0..12).map(|_| guess("nobody").status().as_u16()).collect();
    assert_eq!(statuses[10..], [401, 429]);
    assert_eq!(fixture.accounts.password_checks() - checks, 11);
    assert_eq!(fixture.send("GET", "/v2/", &basic("writer"), "").status(), StatusCode::OK);
}

#[test]
fn random_headers_cause_no_panic() {
    let fixture = Fixture::new(POLICY);
    // A small generator with a fixed seed, so that every run sends the same headers.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let seeds = [
        "Basic ",
        "Bearer ",
        "Bearer eyJ",
        "eyot_ci_",
        ".",
        "=",
        ":",
        "YWxpY2U6",
        "\"",
        ",",
        "\u{e9}",
        "{}",
        "\t",
        "e30.e30.",
    ];
    for round in 0..3000 {
        let mut value = Vec::new();
        for _ in 0..random() % 6 {
            match random() % 3 {
                0 => value.push((random() % 224 + 32) as u8),
                _ => value.extend_from_slice(seeds[random() as usize % seeds.len()].as_bytes()),
            }
        }
        let Ok(value) = http::HeaderValue::from_bytes(&value) else { continue };
        let mut request = Request::builder().method("GET").uri(["/v2/", "/v2/_eyot/token"][round % 2]);
        for name in ["authorization", "host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"] {
            request = request.header(name, value.clone());
        }
        let request = request.extension(Peer::default()).body(Body::empty()).unwrap();
        let handler = fixture.handler.clone().with_proxies("*".parse().unwrap());
        let status = block_on(handler.handle(request)).status();
        // The token endpoint issues tokens to anonymous callers.
        let is_known = [401, 429].contains(&status.as_u16()) || (round % 2 == 1 && status == 200);
        assert!(is_known, "{value:?}: {status}");
    }
}

#[test]
fn without_a_known_host_name_the_challenge_asks_for_a_password() {
    let fixture = Fixture::new(POLICY);
    let request = |authorization: &str| {
        let request = Request::get("/v2/team/app/tags/list").header(AUTHORIZATION, authorization);
        block_on(fixture.handler.handle(request.body(Body::empty()).unwrap()))
    };
    assert_eq!(challenge(&request("Basic x")), Some("Basic realm=\"eyot\""));
    assert_eq!(request(&basic("reader")).status(), StatusCode::OK);
    let handler = fixture.handler.clone().with_public_url("https://registry.example").unwrap();
    let response = block_on(handler.handle(Request::get("/v2/").body(Body::empty()).unwrap()));
    let realm = "Bearer realm=\"https://registry.example/v2/_eyot/token\",service=\"eyot\"";
    assert_eq!(challenge(&response), Some(realm));
}

#[test]
fn without_logins_a_refusal_has_no_challenge() {
    let registry = Registry::in_memory(Arc::new(FixedPlatform::default()));
    let handler = Handler::new(registry, Access::read_only());
    for (method, uri, expected) in [
        ("GET", "/v2/", 200),
        ("POST", "/v2/a/blobs/uploads/", 403),
        ("GET", "/v2/a/tags/list", 404),
        ("GET", "/v2/_eyot/token", 404),
    ] {
        // Without logins the registry ignores credentials, including credentials that cannot be
        // parsed.
        for authorization in ["", "Bearer QQ==", "Bearer x", "Basic Og==", "Basic eDp5", "Digest x", "x"] {
            let request = Request::builder().method(method).uri(uri).header(AUTHORIZATION, authorization);
            let response = block_on(handler.handle(request.body(Body::empty()).unwrap()));
            assert_eq!(response.status(), expected, "{method} {uri} {authorization}");
            assert!(challenge(&response).is_none());
        }
    }
}
