//! Warnings on the wire (distribution-spec, "Warnings"). Warnings need a setting, so no transcript
//! covers them.

use std::sync::Arc;

use eyot::auth::Access;
use eyot::platform::SystemPlatform;
use eyot::registry::Limits;
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::{Body, Handler, Registry};
use http::{Request, Response, StatusCode};

fn send(handler: &Handler, method: &str, uri: &str, body: &[u8]) -> Response<Body> {
    let request = Request::builder().method(method).uri(uri).body(body.to_vec().into()).unwrap();
    futures_executor::block_on(handler.handle(request))
}

fn warnings(response: &Response<Body>) -> Vec<&str> {
    response.headers().get_all("warning").iter().map(|value| value.to_str().unwrap()).collect()
}

#[test]
fn with_warnings_off_no_warning_can_be_set() {
    let reply = send(&Handler::in_memory(), "PUT", "/v2/_eyot/warnings/team/app", b"text");
    assert_eq!(reply.status(), StatusCode::NOT_FOUND);
}

#[test]
fn pulls_show_the_warnings_of_the_repository_and_of_the_tag() {
    let platform = Arc::new(SystemPlatform);
    let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
    let limits = Limits { warnings: true, ..Limits::default() };
    let registry = Registry::new(Arc::new(MemoryKeyValue::default()), blobs, platform, limits);
    let handler = Handler::new(registry, Access::open());
    let index = br#"{"schemaVersion":2,"manifests":[]}"#;
    for tag in ["v1", "v2"] {
        let pushed = send(&handler, "PUT", &format!("/v2/team/app/manifests/{tag}"), index);
        assert_eq!(pushed.status(), StatusCode::CREATED);
    }
    let set = send(&handler, "PUT", "/v2/_eyot/warnings/team/app:v1", b"deprecated: use \"team/app:v2\"\n");
    assert_eq!(set.status(), StatusCode::NO_CONTENT);
    let set = send(&handler, "PUT", "/v2/_eyot/warnings/team/app", "x".repeat(1000).as_bytes());
    assert_eq!(set.status(), StatusCode::NO_CONTENT);

    let of_repository = format!("299 - \"{}\"", "x".repeat(1000));
    let of_tag = r#"299 - "deprecated: use \"team/app:v2\"""#;
    for method in ["GET", "HEAD"] {
        let v1 = send(&handler, method, "/v2/team/app/manifests/v1", b"");
        assert_eq!(warnings(&v1), [of_repository.as_str(), of_tag]);
        assert!(warnings(&v1).iter().map(|warning| warning.len()).sum::<usize>() <= 4096);
        let v2 = send(&handler, method, "/v2/team/app/manifests/v2", b"");
        assert_eq!(warnings(&v2), [of_repository.as_str()]);
    }
    let tags = send(&handler, "GET", "/v2/team/app/tags/list", b"");
    assert_eq!(warnings(&tags), [of_repository.as_str()]);

    assert_eq!(send(&handler, "DELETE", "/v2/_eyot/warnings/team/app", b"").status(), StatusCode::NO_CONTENT);
    assert_eq!(warnings(&send(&handler, "GET", "/v2/team/app/manifests/v1", b"")), [of_tag]);
    let listed = send(&handler, "GET", "/v2/_eyot/warnings/team/app:v1", b"").into_body().collect_up_to(1000);
    let listed: serde_json::Value = serde_json::from_slice(&futures_executor::block_on(listed).unwrap()).unwrap();
    assert_eq!(listed, serde_json::json!({ "warnings": ["deprecated: use \"team/app:v2\""] }));

    for (target, text) in
        [("team/app", "two\nlines".to_owned()), ("TEAM", "x".into()), ("a:b:c", "x".into()), ("a", "x".repeat(5000))]
    {
        let refused = send(&handler, "PUT", &format!("/v2/_eyot/warnings/{target}"), text.as_bytes());
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{target}");
    }
}
