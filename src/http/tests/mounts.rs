//! Mounts, by callers who may pull from the source and by callers who may not.

use super::*;

#[test]
fn a_mount_from_a_repository_that_the_caller_may_not_pull_begins_an_upload() {
    let fixture = Fixture::new(&format!("{POLICY}; reader **/app pull; reader team/** push"));
    let push =
        "/v2/other/app/blobs/uploads/?digest=sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    assert_eq!(fixture.send("POST", push, &basic("root"), "foo").status(), StatusCode::CREATED);
    let digest = push.split_once('=').unwrap().1;
    for (user, from, expected) in [
        ("writer", "&from=other/app", 202),
        ("writer", "", 202),
        // The caller may pull from the source.
        ("reader", "&from=other/app", 201),
        // A mount without a source works only for callers who may pull from every repository.
        ("reader", "", 202),
        ("root", "", 201),
    ] {
        let uri = format!("/v2/team/target/blobs/uploads/?mount={digest}{from}");
        assert_eq!(fixture.send("POST", &uri, &basic(user), "").status(), expected, "{user} {from}");
        assert_eq!(
            fixture
                .send("DELETE", &format!("/v2/team/target/blobs/{digest}"), &basic("root"), "")
                .status()
                .is_success(),
            expected == 201
        );
    }
}

#[test]
fn a_mount_under_a_token_that_lacks_its_source_asks_for_another_token() {
    let fixture = Fixture::new(&format!("{POLICY}; pusher team/** pull,push; pusher shared/** pull"));
    let hashed = hash_of(&password("pusher"));
    let directory = fixture.handler.authorizer.access.directory().unwrap();
    block_on(directory.add_user_with_hash("pusher", hashed.as_str())).unwrap();
    let digest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    for source in ["shared/app", "other/app"] {
        let push = format!("/v2/{source}/blobs/uploads/?digest={digest}");
        assert_eq!(fixture.send("POST", &push, &basic("root"), "foo").status(), StatusCode::CREATED);
    }
    let to_target = "scope=\"repository:team/target:pull,push\"";
    for (user, source, expected) in [
        ("pusher", "shared/app", 201),
        ("root", "shared/app", 201),
        // Without permission to pull from the source, the mount starts an upload, whether or not
        // the content exists.
        ("pusher", "other/app", 202),
        ("pusher", "nowhere/app", 202),
    ] {
        let uri = format!("/v2/team/target/blobs/uploads/?mount={digest}&from={source}");
        let refused = fixture.send("POST", &uri, &fixture.token(user, to_target), "");
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{user} {source}");
        let challenge = challenge(&refused).unwrap();
        let scope = format!("scope=\"repository:team/target:pull,push repository:{source}:pull\"");
        assert!(challenge.contains(&scope) && challenge.contains("error=\"insufficient_scope\""), "{challenge}");
        let token = fixture.token(user, challenge);
        assert_eq!(fixture.send("POST", &uri, &token, "").status(), expected, "{user} {source}");
    }
    // A mount without a source needs permission to pull from every repository, which the token
    // states.
    let anywhere = format!("/v2/team/target/blobs/uploads/?mount={digest}");
    fixture.send("DELETE", &format!("/v2/team/target/blobs/{digest}"), &basic("root"), "");
    for (user, expected) in [("pusher", 202), ("root", 201)] {
        let token = fixture.token(user, to_target);
        assert_eq!(fixture.send("POST", &anywhere, &token, "").status(), expected, "{user}");
    }
}
