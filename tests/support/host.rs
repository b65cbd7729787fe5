//! Servers as child processes, each with a data folder and a port of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eyot::store::contract;
use http::Request;

use super::client::{Client, whole};
use super::memory::Memory;
use super::value::sha256;

/// The time limit for a start. Compiling a component on a busy machine is slow.
const START: Duration = Duration::from_secs(300);

/// The time limit until a line of the log has arrived.
const LOG: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Native,
    /// The WASI 0.3 component under `wasmtime serve`.
    Wasi,
    /// The WASI 0.2 component under `wasmtime serve`. An instance serves several requests, one after
    /// the other.
    Wasi2,
    /// As `Wasi2`, with an instance for every request.
    Wasi2Once,
    /// The WASI 0.2 component under `jco serve`, on Node.
    Jco,
    /// The Spin component under the project's own test host. The value names the key store.
    SpinHost(&'static str),
    /// As `SpinHost`, with `--manners real`, for tests of operations that are slow in Spin. An
    /// empty name selects the default store.
    SlowSpinHost(&'static str),
    /// The component for Spin 3 under the project's own test host, with Spin's key-value store, whose
    /// values are as small as those of Akamai Functions.
    Spin3Host,
    /// The Spin component under an installed `spin`.
    Spin,
    /// The components that answer every request by running the contract of their stores.
    WasiContract,
    Wasi2Contract,
    SpinHostContract(&'static str),
    Spin3HostContract,
}

/// The manifests of Spin, from which the test host takes the servers that a component may reach.
const SPIN_MANIFEST: &str = "spin.toml";
const SPIN3_MANIFEST: &str = "deploy/spin3/spin.toml";

/// The most bytes of a value in the key-value store of Akamai Functions.
const AKAMAI_VALUE_BYTES_MAX: &str = "1000000";

impl Kind {
    /// Whether the host is missing. Only real Spin may be absent or too old for components of WASI
    /// 0.3. Debian has another program of this name.
    pub fn is_absent(self) -> bool {
        self == Kind::Spin && spin_version().is_none_or(|version| version < (4, 1))
    }

    fn command(self, data: &Path, settings: &[Setting]) -> Command {
        match self {
            Kind::Native => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_eyot"));
                command.env("AUTH_MODE", "none");
                command.args(["serve", "--address", "127.0.0.1", "--port", "0", "--data"]);
                command.arg(data);
                command
            }
            Kind::Wasi => wasmtime(data, settings, &built("EYOT_WASI_COMPONENT", "target/eyot-wasi.wasm")),
            Kind::Wasi2Once => wasmtime(data, settings, &built("EYOT_WASI2_COMPONENT", "target/eyot-wasi2.wasm")),
            Kind::Wasi2 => {
                let component = built("EYOT_WASI2_COMPONENT", "target/eyot-wasi2.wasm");
                wasmtime_with(&["--max-instance-reuse-count", "128"], data, settings, &component)
            }
            Kind::Jco => jco(data, settings, &built("EYOT_WASI2_COMPONENT", "target/eyot-wasi2.wasm")),
            Kind::Wasi2Contract => {
                wasmtime(data, settings, &built("EYOT_WASI2_CONTRACT", "target/eyot-contract-wasi2.wasm"))
            }
            Kind::WasiContract => {
                wasmtime(data, settings, &built("EYOT_WASI_CONTRACT", "target/eyot-contract-wasi.wasm"))
            }
            Kind::SpinHost(keys) => {
                let component = built("EYOT_SPIN_COMPONENT", "target/eyot-spin.wasm");
                spin_host(data, settings, &component, SPIN_MANIFEST, keys)
            }
            Kind::Spin3Host => spin3_host(data, settings, &built("EYOT_SPIN3_COMPONENT", "target/eyot-spin3.wasm")),
            Kind::Spin3HostContract => {
                spin3_host(data, settings, &built("EYOT_SPIN3_CONTRACT", "target/eyot-contract-spin3.wasm"))
            }
            Kind::SlowSpinHost(keys) => {
                let component = built("EYOT_SPIN_COMPONENT", "target/eyot-spin.wasm");
                let mut command = spin_host(data, settings, &component, SPIN_MANIFEST, keys);
                command.args(["--manners", "real"]);
                command
            }
            Kind::SpinHostContract(keys) => {
                let component = built("EYOT_SPIN_CONTRACT", "target/eyot-contract-spin.wasm");
                spin_host(data, settings, &component, SPIN_MANIFEST, keys)
            }
            Kind::Spin => {
                let mut command = Command::new("spin");
                command.args(["up", "--from", "spin.toml", "--state-dir"]);
                command.arg(data);
                command.args(["--variable", "auth_mode=none", "--listen", &format!("127.0.0.1:{}", free_port())]);
                command
            }
        }
    }
}

/// Settings of a host; names are in capitals. An installed `spin` ignores them.
pub type Settings = [(&'static str, &'static str)];

type Setting = (&'static str, String);

fn wasmtime(data: &Path, settings: &[Setting], component: &Path) -> Command {
    wasmtime_with(&[], data, settings, component)
}

fn wasmtime_with(options: &[&str], data: &Path, settings: &[Setting], component: &Path) -> Command {
    let mut command = Command::new(wasmtime_program());
    command.args(["serve", "-Scli", "-O", "pooling-total-core-instances=4096", "--addr", "127.0.0.1:0"]);
    command.args(options).arg("--dir");
    command.arg(format!("{}::/data", data.display()));
    // If a name occurs twice, wasmtime uses the first value.
    if settings.iter().all(|(name, _)| *name != "AUTH_MODE") {
        command.args(["--env", "AUTH_MODE=none"]);
    }
    for (name, value) in settings {
        command.args(["--env", &format!("{name}={value}")]);
    }
    command.arg(component);
    command
}

/// The wasmtime program that the scripts use, too.
pub fn wasmtime_program() -> PathBuf {
    installed("EYOT_WASMTIME", "scripts/install/wasmtime")
}

/// The program that a variable names, or else the program that a script installs.
fn installed(variable: &str, script: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let output = Command::new(path).stderr(Stdio::inherit()).output().expect("a script of ours");
    assert!(output.status.success(), "{script} installs nothing; see above");
    String::from_utf8(output.stdout).expect("a path").trim_end().into()
}

/// As docs/hosts.md shows. jco makes Node's module of the component in a folder below `data`.
fn jco(data: &Path, settings: &[Setting], component: &Path) -> Command {
    let folder = data.join("jco");
    std::fs::create_dir_all(&folder).expect("a folder for jco");
    let module = folder.join("data.mjs");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/jco/data.mjs"), &module).expect("the module");
    let registry = data.join("registry");
    std::fs::create_dir_all(&registry).expect("a folder for the registry");
    // jco gives the component every variable of the environment.
    let mut command = Command::new("env");
    command.args(["-i", &format!("DATA_FOLDER={}", registry.display())]);
    command.arg(format!("PATH={}", std::env::var("PATH").expect("a path")));
    if settings.iter().all(|(name, _)| *name != "AUTH_MODE") {
        command.arg("AUTH_MODE=none");
    }
    command.args(settings.iter().map(|(name, value)| format!("{name}={value}")));
    command.arg("node").arg(installed("EYOT_JCO", "scripts/install/jco")).arg("serve");
    command.arg("--jco-dir").arg(&folder).arg("--jco-import").arg(&module);
    command.args(["--host", "127.0.0.1", "--port", &free_port().to_string()]).arg(component);
    command
}

fn spin3_host(data: &Path, settings: &[Setting], component: &Path) -> Command {
    let mut command = spin_host(data, settings, component, SPIN3_MANIFEST, "");
    command.args(["--value-bytes-max", AKAMAI_VALUE_BYTES_MAX]);
    command
}

fn spin_host(data: &Path, settings: &[Setting], component: &Path, manifest: &str, keys: &str) -> Command {
    let mut command = Command::new(built("EYOT_SPIN_HOST", "tests/spin_host/target/debug/spin-host"));
    command.arg("--component").arg(component).arg("--state").arg(data);
    command.arg("--compiled").arg(compiled(component));
    command.arg("--manifest").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(manifest));
    command.args(["--listen", "127.0.0.1:0", "--variable", "blobs=packed", "--variable", "auth_mode=none"]);
    command.args(["--variable", &format!("keys={keys}")]);
    // If a name occurs twice, the test host uses the last value.
    for (name, value) in settings {
        command.args(["--variable", &format!("{}={value}", name.to_lowercase())]);
    }
    command
}

fn spin_version() -> Option<(u32, u32)> {
    let output = Command::new("spin").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.strip_prefix("spin ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The file where the test host caches this component in compiled form for the next start. The name
/// contains the component's digest.
pub fn compiled(component: &Path) -> PathBuf {
    let digest = sha256(&std::fs::read(component).expect("a readable component"));
    let name = format!("eyot-spin-{}.compiled", &digest["sha256:".len()..][..16]);
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

pub fn built(variable: &str, default: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var_os(variable).map_or_else(|| root.join(default), PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: run scripts/test, which builds what these tests need, or set {variable}",
        path.display()
    );
    path
}

/// A free port, for a host that cannot report which port it took.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

pub struct Host {
    kind: Kind,
    settings: Vec<Setting>,
    place: Option<&'static str>,
    data: tempfile::TempDir,
    child: Child,
    log: Log,
    pub client: Client,
}

/// The output of the processes, shown when a test fails.
type Log = Arc<Mutex<Vec<String>>>;

impl Host {
    pub fn start(kind: Kind) -> Self {
        Self::start_with::<&str>(kind, &[])
    }

    pub fn start_with<V: AsRef<str>>(kind: Kind, settings: &[(&'static str, V)]) -> Self {
        Self::start_in(kind, settings, None)
    }

    /// Starts the host after the shell commands in `place`, which get the data folder as `$1`.
    /// Mounts by these commands are visible only to the host's process.
    pub fn start_in<V: AsRef<str>>(kind: Kind, settings: &[(&'static str, V)], place: Option<&'static str>) -> Self {
        let settings = owned(settings);
        let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for data");
        let log = Log::default();
        let (child, address) = spawn(kind, data.path(), &settings, &log, place);
        Self { kind, settings, place, data, child, log, client: Client { address } }
    }

    /// As [`Host::kill_and_restart`], with other commands before the start.
    pub fn restart_in(&mut self, place: Option<&'static str>) {
        self.place = place;
        self.kill_and_restart();
    }

    /// The data folder as the host's process sees it, including mounts.
    pub fn mounted_data(&self) -> PathBuf {
        let inside = self.data.path().strip_prefix("/").expect("an absolute path");
        Path::new(&format!("/proc/{}/root", self.child.id())).join(inside)
    }

    /// Ends the process at once (SIGKILL) and starts another one on the same data.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        let (child, address) = spawn(self.kind, self.data.path(), &self.settings, &self.log, self.place);
        self.child = child;
        self.client = Client { address };
    }

    /// Asserts that a component that runs the contract reports every clause as kept by its stores.
    pub async fn keeps_the_contract(&self) {
        let request = Request::get("/").body(whole("")).expect("a request");
        let reply = self.client.fetch(request).await.expect("a reply");
        let kept = String::from_utf8(reply.body().to_vec()).expect("text");
        assert_eq!(reply.status(), 200, "a clause is broken, see the host's last lines");
        let clauses = contract::KEY_VALUE.len() + contract::BLOB_STORE.len();
        assert_eq!(kept.lines().count(), clauses, "{kept}");
    }

    /// Asks the process to stop (SIGTERM).
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    pub fn signal(&self, name: &str) {
        self.signal_to(name, &self.child.id().to_string());
    }

    /// Sends SIGTERM to all processes of the host: the serving process may be below our child.
    pub fn terminate_all(&self) {
        self.signal_to("TERM", &format!("-{}", self.child.id()));
    }

    /// From now on the process can open no file number from `end` on. Open files stay open.
    pub fn limit_open_files(&self, end: u32) {
        let limit = format!("--nofile={end}:");
        let limited = Command::new("prlimit").args([&limit, "--pid", &self.child.id().to_string()]).status();
        assert!(limited.expect("a program of util-linux").success());
    }

    fn signal_to(&self, name: &str, processes: &str) {
        let told = Command::new("kill").args(["-s", name, "--", processes]).status();
        assert!(told.expect("a program of every system").success());
    }

    /// Waits for the end of a process that was asked to stop.
    pub fn ended(&mut self) -> ExitStatus {
        self.child.wait().expect("a child of ours")
    }

    pub fn has_logged(&self, text: &str) -> bool {
        self.times_logged(text) > 0
    }

    pub fn times_logged(&self, text: &str) -> usize {
        self.log.lock().expect("the log").iter().filter(|line| line.contains(text)).count()
    }

    /// Waits until the host has logged `text`: log lines arrive by a pipe, perhaps after the
    /// answer.
    pub fn must_log(&self, text: &str) {
        let deadline = Instant::now() + LOG;
        while !self.has_logged(text) {
            assert!(Instant::now() < deadline, "the host does not log {text:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As [`Host::kill_and_restart`], with other settings.
    pub fn restart_with<V: AsRef<str>>(&mut self, settings: &[(&'static str, V)]) {
        self.settings = owned(settings);
        self.kill_and_restart();
    }

    /// The host's data folder.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    pub fn kill(&mut self) {
        // The child leads a process group of its own, because `spin up` serves from a process below
        // it.
        let group = format!("-{}", self.child.id());
        let killed = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        if !killed.is_ok_and(|status| status.success()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }

    pub fn memory(&self) -> Memory {
        Memory::of(self.child.id())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log.lock().expect("the log");
            let last = &log[log.len().saturating_sub(100)..];
            eprintln!("the host's last lines:\n{}", last.join("\n"));
        }
    }
}

fn owned<V: AsRef<str>>(settings: &[(&'static str, V)]) -> Vec<Setting> {
    settings.iter().map(|(name, value)| (*name, value.as_ref().to_owned())).collect()
}

fn spawn(kind: Kind, data: &Path, settings: &[Setting], log: &Log, place: Option<&'static str>) -> (Child, SocketAddr) {
    let mut command = mortal(&kind.command(data, settings));
    if let Some(place) = place {
        command = placed(&command, place, data);
    }
    command
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|why| panic!("{command:?} does not start: {why}"));
    let (sender, addresses) = channel();
    follow(child.stdout.take().expect("a pipe"), log, sender.clone());
    follow(child.stderr.take().expect("a pipe"), log, sender);
    let Ok(address) = addresses.recv_timeout(START) else {
        let _ = child.kill();
        let _ = child.wait();
        let log = log.lock().expect("the log").join("\n");
        panic!("{command:?} says no address, only:\n{log}");
    };
    // Some hosts report the address a moment before they listen.
    while TcpStream::connect(address).is_err() {
        let ended = child.try_wait().expect("a child of ours");
        assert!(ended.is_none(), "{command:?} has ended: {ended:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    (child, address)
}

/// A command in a mount namespace of its own. The command needs no privileges if the system has
/// user namespaces.
fn placed(command: &Command, place: &str, data: &Path) -> Command {
    let script = format!("set -e\n{place}\nshift\nexec \"$@\"");
    let mut placed = Command::new("unshare");
    placed.args(["--mount", "--map-root-user", "--", "sh", "-c", &script, "sh"]).arg(data);
    placed.arg(command.get_program()).args(command.get_args());
    placed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    placed
}

/// Wraps a command so that its process dies with the tests, even when the tests are killed, if the
/// system has `setpriv`.
pub fn mortal(command: &Command) -> Command {
    let program = command.get_program();
    let mut mortal;
    if Command::new("setpriv").arg("--version").output().is_ok() {
        mortal = Command::new("setpriv");
        mortal.args(["--pdeathsig", "KILL", "--"]).arg(program);
    } else {
        mortal = Command::new(program);
    }
    mortal.args(command.get_args());
    mortal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    mortal
}

/// Collects a server's output lines and sends each address among the lines to `addresses`.
fn follow(pipe: impl Read + Send + 'static, log: &Log, addresses: Sender<SocketAddr>) {
    let log = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if let Some(address) = address_in(&line) {
                // The receiver is gone after the first address. Ignore the error.
                let _ = addresses.send(address);
            }
            log.lock().expect("the log").push(line);
        }
    });
}

/// Finds the address in a line: all hosts print `http://127.0.0.1:PORT` when they are ready, except
/// for jco, which prints `@ 127.0.0.1:PORT...`.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, address) = line.split_once("http://").or_else(|| line.split_once("listening @ "))?;
    let end = address.find(|c: char| !c.is_ascii_digit() && !".:".contains(c));
    address[..end.unwrap_or(address.len())].trim_end_matches('.').parse().ok()
}
