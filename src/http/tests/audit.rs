//! The audit log.

use super::*;

/// A writer for the log that keeps the audit lines of each thread.
struct AuditLines;

thread_local! {
    static LINES: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl std::io::Write for AuditLines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        if let Some((_, audit)) = text.trim_end().split_once(&format!(" {AUDIT_TARGET}: ")) {
            LINES.with_borrow_mut(|lines| lines.push(audit.to_owned()));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_audit_log_has_each_change_and_each_refused_login() {
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false).without_time();
    // A subscriber of this thread alone can miss lines: tests on other threads, without a subscriber,
    // may switch the log line off for the whole process.
    let subscriber = subscriber.with_writer(|| AuditLines).finish();
    tracing::subscriber::set_global_default(subscriber).expect("no other subscriber in this process");
    let fixture = Fixture::new(POLICY);
    let digest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    let index = crate::oci::Algorithm::default().digest(INDEX.as_bytes());
    let pushed = format!("/v2/team/app/blobs/uploads/?digest={digest}");
    let guess = format!("Basic {}", Base64::encode_string("no\u{202e}body\n\u{1b}[2J:guess".as_bytes()));
    for (method, uri, authorization, body, expected) in [
        (
            "PUT",
            "/v2/team/app/manifests/v9?tag=v8",
            basic("writer"),
            INDEX,
            format!("push-manifest user=\"writer\" address=192.0.2.7 repository=team/app tag=v9 tag=v8 digest={index}"),
        ),
        (
            "POST",
            &pushed,
            basic("writer"),
            "foo",
            format!("push-blob user=\"writer\" address=192.0.2.7 repository=team/app digest={digest}"),
        ),
        (
            "POST",
            &format!("/v2/other/app/blobs/uploads/?mount={digest}&from=team/app"),
            basic("root"),
            "",
            format!("mount-blob user=\"root\" address=192.0.2.7 repository=other/app from=team/app digest={digest}"),
        ),
        (
            "DELETE",
            "/v2/team/app/manifests/v9",
            basic("cleaner"),
            "",
            "delete-tag user=\"cleaner\" address=192.0.2.7 repository=team/app tag=v9".into(),
        ),
        (
            "DELETE",
            &format!("/v2/team/app/blobs/{digest}"),
            basic("cleaner"),
            "",
            format!("delete-blob user=\"cleaner\" address=192.0.2.7 repository=team/app digest={digest}"),
        ),
        (
            "DELETE",
            &format!("/v2/team/app/manifests/{index}"),
            basic("cleaner"),
            "",
            format!("delete-manifest user=\"cleaner\" address=192.0.2.7 repository=team/app digest={index}"),
        ),
        (
            "PUT",
            "/v2/_eyot/users/eve",
            basic("root"),
            r#"{"password":"eve's password"}"#,
            "put-user user=\"root\" address=192.0.2.7 name=\"eve\"".into(),
        ),
        (
            "DELETE",
            "/v2/_eyot/users/eve",
            basic("root"),
            "",
            "delete-user user=\"root\" address=192.0.2.7 name=\"eve\"".into(),
        ),
        (
            "PUT",
            "/v2/_eyot/tokens/ci",
            basic("root"),
            r#"{"rules":["a pull"]}"#,
            "put-token user=\"root\" address=192.0.2.7 name=\"ci\"".into(),
        ),
        (
            "DELETE",
            "/v2/_eyot/tokens/ci",
            basic("root"),
            "",
            "delete-token user=\"root\" address=192.0.2.7 name=\"ci\"".into(),
        ),
        ("POST", "/v2/_eyot/collect", basic("root"), "", "collect user=\"root\" address=192.0.2.7".into()),
        (
            "GET",
            "/v2/team/app/tags/list",
            guess.clone(),
            "",
            "login-refused user=\"no\\u{202e}body\\n\\u{1b}[2J\" address=192.0.2.7 with=password why=wrong".into(),
        ),
        (
            "GET",
            "/v2/_eyot/token",
            guess,
            "",
            "login-refused user=\"no\\u{202e}body\\n\\u{1b}[2J\" address=192.0.2.7 with=password why=wrong".into(),
        ),
        ("GET", "/v2/", "Bearer x".into(), "", "login-refused user=- address=192.0.2.7 with=token why=wrong".into()),
        (
            "GET",
            "/v2/",
            "Digest x".into(),
            "",
            "login-refused user=- address=192.0.2.7 with=unreadable why=wrong".into(),
        ),
        (
            "POST",
            "/v2/_eyot/token",
            String::new(),
            "grant_type=password&username=writer&password=guess",
            "login-refused user=\"writer\" address=192.0.2.7 with=password why=wrong".into(),
        ),
        // Reads, the start of an upload, refused requests, and callers without credentials leave no
        // audit line.
        ("GET", "/v2/team/app/tags/list", basic("reader"), "", String::new()),
        ("GET", "/v2/team/app/tags/list", String::new(), "", String::new()),
        ("POST", "/v2/team/app/blobs/uploads/", basic("writer"), "", String::new()),
        ("POST", &pushed, basic("reader"), "foo", String::new()),
        ("POST", "/v2/_eyot/collect?dry_run=true", basic("root"), "", String::new()),
        ("DELETE", "/v2/team/app/manifests/absent", basic("cleaner"), "", String::new()),
    ] {
        LINES.with_borrow_mut(Vec::clear);
        let peer = Peer { address: "192.0.2.7".parse().ok(), ..Peer::default() };
        let request = Request::builder().method(method).uri(uri).header("host", "registry.example").extension(peer);
        let request = request.header(AUTHORIZATION, authorization).body(body.into()).unwrap();
        if request.headers()[AUTHORIZATION].is_empty() {
            let (mut head, body) = request.into_parts();
            head.headers.remove(AUTHORIZATION);
            block_on(fixture.handler.handle(Request::from_parts(head, body)));
        } else {
            block_on(fixture.handler.handle(request));
        }
        assert_eq!(LINES.with_borrow(|lines| lines.join("|")), expected, "{method} {uri}");
    }
    // A client that disconnects before the answer still leaves an audit line for the change.
    LINES.with_borrow_mut(Vec::clear);
    let body = Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, crate::platform::BodyError>>());
    let request = Request::post(&pushed).header("host", "registry.example").header(AUTHORIZATION, basic("writer"));
    let mut answer = Box::pin(fixture.handler.handle(request.body(body).unwrap()));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(answer.as_mut().poll(&mut context).is_pending());
    drop(answer);
    let line = "push-blob user=\"writer\" address=- repository=team/app outcome=unknown";
    assert_eq!(LINES.with_borrow(|lines| lines.join("|")), line);
}
