//! Each program in examples/ runs and does what its first lines promise.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// The examples that serve until they are ended.
const SERVERS: &[&str] = &["axum", "events", "hyper", "middleware", "own_users"];
/// The examples that end by themselves.
const PROGRAMS: &[&str] = &["own_store", "test_registry"];
/// The examples with a test of their own. `scripts/test lint` checks `spin_app`.
const OTHERS: &[&str] = &["mirror", "spin_app"];

fn program(name: &str) -> Command {
    let tests: PathBuf = std::env::current_exe().expect("the path of this test");
    let path = tests.parent().and_then(Path::parent).expect("the folder of the build").join("examples").join(name);
    assert!(path.exists(), "{} is missing: build it with `cargo build --features native --examples`", path.display());
    Command::new(path)
}

/// A running example. The process is killed when the value is dropped.
struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    fn start(name: &str) -> Self {
        Self::run(name, program(name))
    }

    fn run(name: &str, mut program: Command) -> Self {
        let mut child = program.env("PORT", "0").stdout(Stdio::piped()).spawn().expect("a process");
        let mut output = BufReader::new(child.stdout.take().expect("the output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{name} says {line:?}"));
        Self { child, output, address: address.to_owned() }
    }

    /// Sends a request, and returns the status and the whole answer.
    fn send(&self, method: &str, target: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        let length = body.len();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}",
            self.address
        )
        .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("{method} {target}: {answer:?}")), answer)
    }

    /// Pushes a manifest, and pulls the manifest by tag.
    fn push_and_pull(&self, headers: &str) {
        let headers = format!("Content-Type: {INDEX}\r\n{headers}");
        let (status, answer) = self.send("PUT", "/v2/ada/app/manifests/v1", &headers, MANIFEST);
        assert_eq!(status, 201, "{answer}");
        let (status, answer) = self.send("GET", "/v2/ada/app/manifests/v1", &headers, "");
        assert!(status == 200 && answer.ends_with(MANIFEST), "{answer}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn each_example_is_tested() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let names: BTreeSet<_> = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let tested: BTreeSet<_> = SERVERS.iter().chain(PROGRAMS).chain(OTHERS).map(|name| (*name).to_owned()).collect();
    assert_eq!(names, tested);
}

#[test]
fn examples_that_end_by_themselves() {
    for name in PROGRAMS {
        let output = program(name).output().expect("a process");
        assert!(output.status.success(), "{name}: {output:?}");
    }
}

#[test]
fn examples_that_serve() {
    for name in SERVERS {
        let server = Server::start(name);
        // The name and password of a user of `own_users`, in base64.
        server.push_and_pull(if *name == "own_users" { "Authorization: Basic YWRhOmVuZ2luZQ==\r\n" } else { "" });
    }
}

#[test]
fn axum_serves_the_registry_beside_other_routes_and_below_a_path() {
    let server = Server::start("axum");
    assert!(server.send("GET", "/hello", "", "").1.ends_with("hello from beside the registry"));
    let (status, answer) = server.send("POST", "/internal/v2/team/app/blobs/uploads/", "", "");
    assert_eq!(status, 202, "{answer}");
    let location = answer.lines().find_map(|line| line.strip_prefix("location: ")).expect("a location");
    assert!(location.starts_with("/internal/v2/team/app/blobs/uploads/"), "{location}");
    assert_eq!(server.send("DELETE", location, "", "").0, 204);
    assert_eq!(server.send("DELETE", location.strip_prefix("/internal").unwrap(), "", "").0, 204);
}

#[test]
fn own_users_keep_to_the_policy() {
    let server = Server::start("own_users");
    let push = |user: &str| server.send("PUT", "/v2/ada/app/manifests/v1", user, MANIFEST).0;
    assert_eq!(push(""), 401);
    // grace:compiler
    assert_eq!(push("Authorization: Basic Z3JhY2U6Y29tcGlsZXI=\r\n"), 403);
    // ada:wrong
    assert_eq!(push("Authorization: Basic YWRhOndyb25n\r\n"), 401);
}

#[test]
fn events_name_the_pushed_tag() {
    let mut server = Server::start("events");
    server.push_and_pull("");
    let mut line = String::new();
    server.output.read_line(&mut line).expect("a line");
    assert!(line.starts_with("push-manifest ada/app v1 sha256:"), "{line}");
}

#[test]
fn a_mirror_pulls_through_and_takes_no_pushes() {
    let upstream = Server::start("hyper");
    upstream.push_and_pull("");
    let data = tempfile::tempdir().expect("a folder");
    let mut program = program("mirror");
    program.env("UPSTREAM", format!("http://{}", upstream.address)).env("DATA", data.path());
    let mirror = Server::run("mirror", program);
    for name in ["docker.io/ada/app", "ada/app"] {
        let (status, answer) = mirror.send("GET", &format!("/v2/{name}/manifests/v1"), "", "");
        assert!(status == 200 && answer.ends_with(MANIFEST), "{answer}");
    }
    let headers = format!("Content-Type: {INDEX}\r\n");
    for name in ["docker.io/ada/app", "mine"] {
        let (status, answer) = mirror.send("PUT", &format!("/v2/{name}/manifests/v2"), &headers, MANIFEST);
        assert!([401, 403].contains(&status), "{answer}");
    }
    // The mirror serves what it has while the upstream is gone.
    drop(upstream);
    let (status, answer) = mirror.send("GET", "/v2/docker.io/ada/app/manifests/v1", "", "");
    assert!(status == 200 && answer.ends_with(MANIFEST), "{answer}");
}
