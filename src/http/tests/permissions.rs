//! Every endpoint, for every kind of caller.

use std::collections::BTreeSet;

use super::super::endpoints::{ENDPOINTS, find};
use super::super::query::Query;
use super::*;

/// The expected permissions: whether `user` may do `need` in `repository`.
fn is_allowed(user: &str, repository: &str, need: &str) -> bool {
    match (user, repository, need) {
        (_, _, "none" | "public") | ("root", _, _) => true,
        ("anonymous", _, "login") => false,
        (_, _, "login") => true,
        // Every caller sees their own part of the catalog, and a caller with only public
        // repositories sees those.
        (_, _, "catalog") => true,
        (_, "public/app", "pull") => true,
        ("reader" | "writer" | "cleaner" | "warden", "team/app", "pull") => true,
        ("writer", "team/app", "push") => true,
        ("cleaner", "team/app", "delete") => true,
        ("warden", "team/app", "admin") => true,
        _ => false,
    }
}

const ABSENT: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const SESSION: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";

/// Each row is: method, target, required permission, and the status for an allowed caller. The
/// registry contains only two empty indexes, `v1` and `old`.
pub(super) const ROUTES: &[(&str, &str, &str, u16)] = &[
    ("GET", "/v2/", "login", 200),
    ("GET", "/v2", "login", 200),
    ("GET", "/healthz", "public", 200),
    ("GET", "/readyz", "public", 200),
    ("GET", "/.well-known/wasm-pkg/registry.json", "public", 200),
    ("GET", "/v2/_catalog", "catalog", 200),
    ("GET", "/v2/{repo}/tags/list", "pull", 200),
    ("GET", "/v2/{repo}/manifests/v1", "pull", 200),
    ("GET", "/v2/{repo}/manifests/absent", "pull", 404),
    ("HEAD", "/v2/{repo}/manifests/v1", "pull", 200),
    ("PUT", "/v2/{repo}/manifests/v2", "push", 201),
    ("GET", "/v2/{repo}/blobs/{absent}", "pull", 404),
    ("HEAD", "/v2/{repo}/blobs/{absent}", "pull", 404),
    ("GET", "/v2/{repo}/referrers/{absent}", "pull", 200),
    ("POST", "/v2/{repo}/blobs/uploads/", "push", 202),
    ("POST", "/v2/{repo}/blobs/uploads/?digest={absent}", "push", 400),
    ("POST", "/v2/{repo}/blobs/uploads/?mount={absent}", "push", 202),
    ("POST", "/v2/{repo}/blobs/uploads/?mount={absent}&from=other/app", "push", 202),
    ("GET", "/v2/{repo}/blobs/uploads/{session}", "push", 404),
    ("PATCH", "/v2/{repo}/blobs/uploads/{session}", "push", 404),
    ("PUT", "/v2/{repo}/blobs/uploads/{session}?digest={absent}", "push", 404),
    ("DELETE", "/v2/{repo}/blobs/uploads/{session}", "push", 204),
    ("DELETE", "/v2/{repo}/manifests/absent", "delete", 404),
    ("DELETE", "/v2/{repo}/blobs/{absent}", "delete", 404),
    ("GET", "/v2/_eyot/warnings/{repo}", "pull", 404),
    ("PUT", "/v2/_eyot/warnings/{repo}:v1", "admin", 404),
    ("DELETE", "/v2/_eyot/warnings/{repo}", "admin", 404),
    ("GET", "/v2/_eyot/token", "none", 200),
    ("POST", "/v2/_eyot/token", "none", 200),
    ("GET", "/v2/_eyot/users", "administration", 200),
    ("PUT", "/v2/_eyot/users/eve", "administration", 400),
    ("DELETE", "/v2/_eyot/users/eve", "administration", 204),
    ("GET", "/v2/_eyot/tokens", "administration", 200),
    ("PUT", "/v2/_eyot/tokens/ci", "administration", 400),
    ("DELETE", "/v2/_eyot/tokens/ci", "administration", 204),
    ("POST", "/v2/_eyot/collect", "administration", 200),
    ("POST", "/v2/_eyot/check", "administration", 200),
];

pub(super) fn filled(target: &str, repository: &str) -> String {
    target.replace("{repo}", repository).replace("{absent}", ABSENT).replace("{session}", SESSION)
}

/// The body of the request, for endpoints that need a body.
fn body(method: &str, target: &str) -> &'static str {
    match (method, target.contains("/manifests/"), target.contains("?digest=")) {
        ("PUT", true, _) => INDEX,
        ("POST", _, true) => "content of another digest",
        _ => "",
    }
}

#[test]
fn every_endpoint_for_every_caller() {
    let fixture = Fixture::new(POLICY);
    for repository in REPOSITORIES {
        for (method, target, need, success) in ROUTES {
            let (uri, body) = (filled(target, repository), body(method, target));
            for user in USERS {
                let what = format!("{user}: {method} {uri}");
                let allowed = is_allowed(user, repository, need);
                let response = fixture.send(method, &uri, &basic(user), body);
                let expected = match (allowed, user) {
                    (true, _) => *success,
                    (false, "anonymous") => 401,
                    (false, _) => 403,
                };
                assert_eq!(response.status(), expected, "{what}");
                assert_eq!(challenge(&response).is_some(), !allowed, "{what}");
                if matches!(*need, "none" | "public") {
                    continue;
                }

                // Repeat the request with a token for its scope, and with a token without a scope.
                let scope = challenge(&fixture.send(method, &uri, "Bearer x", body)).unwrap().to_owned();
                let token = fixture.token(user, &scope);
                let allowed = allowed || *need == "login";
                let expected = if allowed { *success } else { 401 };
                let response = fixture.send(method, &uri, &token, body);
                assert_eq!(response.status(), expected, "{what} with a token");
                assert_eq!(challenge(&response).is_some(), !allowed, "{what} with a token");
                let expected = if *need == "login" { 200 } else { 401 };
                let response = fixture.send(method, &uri, &fixture.token(user, ""), body);
                assert_eq!(response.status(), expected, "{what} with a token without a scope");
            }
            // Clients without credentials send these headers. The answer is the same as for
            // anonymous callers.
            for empty in ["Basic", "Basic Og==", "Bearer", "Bearer QQ=="] {
                let response = fixture.send(method, &uri, empty, body);
                let expected = if is_allowed("anonymous", repository, need) { *success } else { 401 };
                assert_eq!(response.status(), expected, "{method} {uri} with {empty:?}");
            }
            for wrong in ["Digest x", "Bearer x", "Bearer a.b.c", "Basic eA==", "x"] {
                let response = fixture.send(method, &uri, wrong, body);
                // A public endpoint does not look at credentials.
                let is_refused = *need != "public";
                let expected = if is_refused { 401 } else { *success };
                assert_eq!(response.status(), expected, "{method} {uri} with {wrong:?}");
                assert_eq!(challenge(&response).is_some(), is_refused, "{method} {uri} with {wrong:?}");
            }
        }
    }
}

/// The method and the path of an endpoint.
type Name = (&'static str, &'static str);

fn all_endpoints() -> BTreeSet<Name> {
    ENDPOINTS.iter().copied().flatten().map(|endpoint| (endpoint.method, endpoint.path)).collect()
}

/// The endpoint that a row of [`ROUTES`] reaches.
fn endpoint(method: &str, target: &str) -> Name {
    let request = Request::builder().method(method).uri(filled(target, "team/app")).body(()).unwrap();
    let head = request.into_parts().0;
    let (endpoint, _) = find(&head, &Query(head.uri.query().unwrap_or_default())).unwrap();
    (endpoint.method, endpoint.path)
}

#[test]
fn every_endpoint_has_a_row() {
    let tested: BTreeSet<_> = ROUTES.iter().map(|(method, target, ..)| endpoint(method, target)).collect();
    assert_eq!(tested, all_endpoints());
    assert_eq!(tested.len(), ENDPOINTS.iter().map(|endpoints| endpoints.len()).sum::<usize>(), "no endpoint twice");
}

#[test]
fn the_page_lists_every_endpoint_with_its_permission() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/access.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let listed: BTreeSet<_> = rows
        .filter_map(|(endpoint, rest)| Some((endpoint.split_once(" /")?, rest.split_once(" | ")?.0)))
        .map(|((method, path), permission)| format!("{method} /{path} {permission}"))
        .collect();
    let rows = ROUTES.iter().map(|(method, target, need, _)| (endpoint(method, target), need));
    let expected: BTreeSet<_> = rows.map(|((method, path), need)| format!("{method} {path} {need}")).collect();
    assert_eq!(listed, expected);
}
