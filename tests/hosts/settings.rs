//! Settings as users give them: wrong values and names on every host, and `scripts/up`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use eyot::host::settings::{Host as SettingHost, all_settings};

use crate::support::host::{self, Host, Kind};
use crate::support::hub::{Hub, REPOSITORY};

/// The variables of Spin's manifest that are not settings of eyot: the hosts to which the component
/// may send requests.
const MANIFEST_ONLY: [&str; 4] = ["oidc_host", "upstream_host", "upstream_token_host", "upstream_content_host"];

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn get(address: SocketAddr, path: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{header}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request that is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// The names of the settings that components have.
fn of_components() -> impl Iterator<Item = &'static str> {
    all_settings().filter(|setting| setting.hosts().contains(&SettingHost::Wasi)).map(|setting| setting.name())
}

/// The names before `=` in a section of `spin.toml`.
fn names_in(section: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(ROOT).join("spin.toml")).expect("the manifest");
    let (_, rest) = text.split_once(&format!("\n[{section}]\n")).expect("a section");
    let lines = rest.lines().take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| Some(line.split_once(" = ")?.0.to_owned())).collect()
}

#[test]
fn spins_manifest_has_the_settings_of_components() {
    let settings: BTreeSet<String> = of_components().map(str::to_owned).collect();
    assert_eq!(names_in("component.eyot.variables"), settings);
    let mut variables = names_in("variables");
    for name in MANIFEST_ONLY {
        assert!(variables.remove(name), "{name}");
    }
    assert_eq!(variables, settings);
    let manifest = fs::read_to_string(Path::new(ROOT).join("spin.toml")).expect("the manifest");
    assert!(manifest.contains("\nkeys = { default = \"spin-sqlite\" }\n"));
    assert!(manifest.contains("\nsqlite_databases = [\"default\"]\n"));
}

/// An instance serves 128 requests, so 300 requests need several instances.
const REQUESTS: usize = 300;

#[test]
fn components_do_not_warn_with_every_instance() {
    for kind in [Kind::Wasi, Kind::SpinHost("spin-sqlite")] {
        let host = Host::start(kind);
        for _ in 0..REQUESTS {
            assert!(get(host.client.address, "/v2/", "").starts_with("HTTP/1.1 200"));
        }
        assert_eq!(host.times_logged("auth_mode") + host.times_logged("warn"), 0);
    }
    let host = Host::start(Kind::Native);
    assert!(get(host.client.address, "/v2/", "").starts_with("HTTP/1.1 200"));
    host.must_log("auth_mode is none");
    assert_eq!(host.times_logged("auth_mode is none"), 1);
}

#[test]
fn a_wrong_setting_is_in_each_answer_and_seldom_in_the_log() {
    for kind in [Kind::Wasi, Kind::SpinHost("spin-sqlite")] {
        let host = Host::start_with(kind, &[("AUTH_MODE", "nonee\u{202e}")]);
        for _ in 0..REQUESTS {
            let answer = get(host.client.address, "/v2/", "");
            assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
            let text = r#"the registry is not set up: setting auth_mode: \"nonee\\u{202e}\" is not one of none, "#;
            assert!(answer.contains(text), "{answer}");
        }
        host.must_log("setting auth_mode");
        let logged = host.times_logged("setting auth_mode");
        assert!((1..REQUESTS / 20).contains(&logged), "{logged} lines for {REQUESTS} requests");
    }
}

#[test]
fn a_misspelt_name_stops_a_component_and_causes_a_warning_natively() {
    let misspelt = [("AUHT_MODE", "read_write")];
    let host = Host::start_with(Kind::Wasi, &misspelt);
    let answer = get(host.client.address, "/v2/", "");
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(answer.contains("setting AUHT_MODE: eyot has no such setting; AUTH_MODE has a similar name"), "{answer}");
    let host = Host::start_with(Kind::Native, &misspelt);
    assert!(get(host.client.address, "/v2/", "").starts_with("HTTP/1.1 200"));
    host.must_log("AUHT_MODE: eyot has no such setting; AUTH_MODE has a similar name");
    assert_eq!(host.times_logged("AUHT_MODE: eyot has no such setting; AUTH_MODE has a similar name"), 1);
}

/// A copy of the project files that `scripts/up` needs, with programs that stand in for builds and
/// for Spin.
struct Project {
    folder: tempfile::TempDir,
    data: tempfile::TempDir,
}

/// A stand-in for Spin: takes the options of `spin up` that `scripts/up` gives, and serves with the
/// tests' own host.
const SPIN: &str = r#"#!/usr/bin/env bash
set -euo pipefail
[ "$1" != --version ] || { echo 'spin 4.1.0 (a stand-in)'; exit; }
options=()
while [ $# -gt 0 ]; do
  case $1 in
    --from)
      mount=$(sed -n 's/^files = \[{ source = "\(.*\)", destination = .*/\1/p' "$2")
      options+=(--mount "$mount::/data" --manifest "$2"); shift 2 ;;
    --listen | --variable) options+=("$1" "$2"); shift 2 ;;
    --state-dir) options+=(--state "$2"); shift 2 ;;
    up | --direct-mounts | --allow-transient-write) shift ;;
    *) echo "spin: unknown option $1" >&2; exit 2 ;;
  esac
done
exec "$SPIN_HOST" --component "$SPIN_COMPONENT" --compiled "$SPIN_COMPILED" "${options[@]}"
"#;

impl Project {
    fn new() -> Self {
        let folder = || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let project = Self { folder: folder(), data: folder() };
        for name in ["scripts/up", "spin.toml", "docs/settings.md"] {
            let text = fs::read_to_string(Path::new(ROOT).join(name)).expect("a file of the project");
            project.write(name, &text);
        }
        project.write("scripts/build", "#!/bin/sh\n");
        project.write("bin/cargo", "#!/bin/sh\n");
        project.write("bin/spin", SPIN);
        let wasmtime = host::wasmtime_program();
        project.write("scripts/install/wasmtime", &format!("#!/bin/sh\necho '{}'\n", wasmtime.display()));
        project.link("target/release/eyot", Path::new(env!("CARGO_BIN_EXE_eyot")));
        project.link("target/eyot-wasi.wasm", &host::built("EYOT_WASI_COMPONENT", "target/eyot-wasi.wasm"));
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        path
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
    }

    fn link(&self, name: &str, to: &Path) {
        std::os::unix::fs::symlink(to, self.path(name)).expect("a link");
    }

    /// `scripts/up` with these settings, on a port of its own.
    fn up(&self, host: &str, port: u16, settings: &[&str]) -> Command {
        let mut script = Command::new(self.folder.path().join("scripts/up"));
        script.args(["--host", host, "--port", &port.to_string(), "--data"]).arg(self.data.path());
        for setting in settings {
            script.args(["--set", setting]);
        }
        let mut script = host::mortal(&script);
        let path = std::env::var("PATH").expect("a search path");
        let component = host::built("EYOT_SPIN_COMPONENT", "target/eyot-spin.wasm");
        script.env("PATH", format!("{}:{path}", self.folder.path().join("bin").display()));
        script.env("CARGO_TARGET_DIR", self.folder.path().join("target"));
        script.env("SPIN_HOST", host::built("EYOT_SPIN_HOST", "tests/spin_host/target/debug/spin-host"));
        script.env("SPIN_COMPILED", host::compiled(&component)).env("SPIN_COMPONENT", component);
        script.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        script
    }

    /// Runs `scripts/up` until the script ends. Returns the exit status and the standard error
    /// output.
    fn ends(&self, host: &str, settings: &[&str]) -> (Option<i32>, String) {
        let output = self.up(host, host::free_port(), settings).output().expect("bash");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn the_script_knows_the_settings_of_each_host() {
    let project = Project::new();
    let all: Vec<&str> = all_settings().map(|setting| setting.name()).collect();
    for (host, names) in [("native", all), ("wasmtime", of_components().collect()), ("spin", of_components().collect())]
    {
        let mut settings: Vec<String> = names.into_iter().map(|name| format!("{name}=")).collect();
        settings.push("auht_mode=read_write".into());
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let (status, said) = project.ends(host, &settings);
        assert_eq!(status, Some(1), "{said}");
        let unknown: Vec<&str> = said.lines().filter(|line| line.contains("has no such setting")).collect();
        assert_eq!(unknown.len(), 1, "{said}");
        assert!(unknown[0].contains("--set auht_mode: eyot has no such setting"), "{said}");
        assert!(unknown[0].contains("did you mean auth_mode?"), "{said}");
    }
    let (status, said) = project.ends("wasmtime", &["tls_key=key.pem"]);
    assert!(status == Some(1) && said.contains("--set tls_key: eyot has no such setting on host wasmtime;"), "{said}");
    let (status, said) = project.ends("native", &["auth_user=me", "auth_password"]);
    assert!(status == Some(1) && said.contains("the environment variable AUTH_PASSWORD, which is not set"), "{said}");
}

#[test]
fn the_script_shows_the_answer_to_a_wrong_value() {
    let project = Project::new();
    for host in ["native", "wasmtime", "spin"] {
        let (status, said) = project.ends(host, &["log=loud"]);
        assert_eq!(status, Some(1), "{host}: {said}");
        assert!(said.contains("setting log: ") && said.contains("loud") && said.contains("is not one of"), "{said}");
    }
}

/// A value that Spin's command line would take for the name of a file.
const PASSWORD: &str = "@a long passphrase";
const BASIC: &str = "Authorization: Basic bWU6QGEgbG9uZyBwYXNzcGhyYXNl\r\n";

#[test]
fn the_script_keeps_secrets_off_command_lines() {
    let project = Project::new();
    for host in ["native", "wasmtime", "spin"] {
        let port = host::free_port();
        let mut script = project.up(host, port, &["auth_user=me", "auth_password"]);
        script.env("AUTH_PASSWORD", PASSWORD);
        let answers = |address| (get(address, "/v2/", ""), get(address, "/v2/", BASIC), command_lines());
        let ((refused, let_in, commands), status, said) = while_serving(script, port, answers);
        assert!(refused.starts_with("HTTP/1.1 401"), "{host}: {refused}");
        assert!(let_in.starts_with("HTTP/1.1 200"), "{host}: {let_in}");
        assert!(!commands.contains("long passphrase"), "{host}: {commands}");
        assert_eq!(said.contains("'worker panicked'"), host == "spin", "{said}");
        assert_eq!(status, Some(0), "{said}");
    }
}

/// Runs `scripts/up`, acts while the server serves, and stops the script. Returns the exit status
/// and the standard error output too.
fn while_serving<T>(mut script: Command, port: u16, act: impl FnOnce(SocketAddr) -> T) -> (T, Option<i32>, String) {
    let mut child = script.process_group(0).spawn().expect("bash");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let is_serving = lines.any(|line| line.is_ok_and(|line| line.starts_with("eyot is serving")));
    let result = is_serving.then(|| act(([127, 0, 0, 1], port).into()));
    // A shell that starts the tests in the background makes the tests ignore SIGINT, and bash
    // cannot trap an ignored signal.
    let told = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status();
    assert!(told.expect("a program of every system").success());
    let output = child.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (result.unwrap_or_else(|| panic!("the script does not serve: {said}")), output.status.code(), said)
}

/// On Spin a component may send requests only to the hosts that the manifest allows.
#[test]
fn the_script_allows_requests_to_upstreams() {
    let (project, hub) = (Project::new(), Hub::start());
    let digest = hub.add_blob("a layer".into());
    let [_, _, storage] = hub.urls();
    let setting = format!("upstreams={}", hub.setting(""));
    for (outbound, expected) in [(vec![], "502"), (vec!["--outbound", &storage], "200")] {
        let port = host::free_port();
        let mut script = project.up("spin", port, &[&setting]);
        script.args(&outbound);
        let pull = |address| get(address, &format!("/v2/docker.io/{REPOSITORY}/blobs/{digest}"), "");
        let (answer, _, said) = while_serving(script, port, pull);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{outbound:?}: {answer}\n{said}");
        assert_eq!(answer.contains("allowed_outbound_hosts"), expected == "502", "{answer}");
    }
    let (status, said) = {
        let mut script = project.up("spin", host::free_port(), &[]);
        let output = script.args(["--outbound", "cdn.example.com/path"]).output().expect("bash");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(status == Some(1) && said.contains("--outbound takes the URL of a server"), "{said}");
}

/// The arguments of all processes, as every user can read them.
fn command_lines() -> String {
    let processes = fs::read_dir("/proc").expect("Linux").filter_map(|entry| Some(entry.ok()?.path().join("cmdline")));
    let lines: Vec<Vec<u8>> = processes.filter_map(|file| fs::read(file).ok()).collect();
    String::from_utf8_lossy(&lines.join(&b'\n')).into_owned()
}
