//! S3 servers as child processes, each with a folder and ports of its own.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use eyot::host::outbound::NativePlatform;
use eyot::platform::Platform;
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};

use eyot::store::s3::{PART_BYTES_DEFAULT, S3, S3Settings};

pub const ACCESS_KEY_ID: &str = "testkey";
pub const SECRET_ACCESS_KEY: &str = "testsecret";
pub const BUCKET: &str = "eyot";

const START: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// SeaweedFS: supports conditional puts and enforces a minimum part size.
    SeaweedFs,
    /// JuiceFS's gateway, which is MinIO's code: checks signatures strictly, lacks conditional
    /// puts.
    JuiceFs,
}

pub struct S3Server {
    pub address: SocketAddr,
    pub kind: Kind,
    command: Command,
    child: Child,
    data: tempfile::TempDir,
}

impl S3Server {
    pub fn start(kind: Kind) -> Self {
        Self::start_with(kind, &[])
    }

    /// Starts a server with additional arguments on its command line.
    pub fn start_with(kind: Kind, arguments: &[String]) -> Self {
        let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for data");
        let port = free_port();
        let mut command = match kind {
            Kind::SeaweedFs => seaweedfs(data.path(), port),
            Kind::JuiceFs => juicefs(data.path(), port),
        };
        let log = std::fs::File::create(data.path().join("log")).expect("a log");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let child = spawn(&mut command, address);
        Self { address, kind, command, child, data }
    }

    /// Ends the server at once (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts the server again after its end, on the same data and ports.
    pub fn start_again(&mut self) {
        self.child = spawn(&mut self.command, self.address);
    }

    pub fn settings(&self) -> S3Settings {
        S3Settings {
            endpoint: format!("http://{}", self.address),
            public_endpoint: None,
            region: "us-east-1".into(),
            bucket: BUCKET.into(),
            prefix: "registry/".into(),
            path_style: true,
            access_key_id: ACCESS_KEY_ID.into(),
            secret_access_key: SECRET_ACCESS_KEY.into(),
            session_token: None,
            part_bytes: PART_BYTES_DEFAULT,
            equal_parts: false,
            conditional_puts: self.kind == Kind::SeaweedFs,
            redirect_lifetime: Duration::from_secs(60),
        }
    }

    /// The settings as environment variables of a program.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let S3Settings { endpoint, bucket, access_key_id, secret_access_key, .. } = self.settings();
        vec![
            ("KEYS", "s3".into()),
            ("BLOBS", "s3".into()),
            ("S3_ENDPOINT", endpoint),
            ("S3_BUCKET", bucket),
            ("S3_ACCESS_KEY_ID", access_key_id),
            ("S3_SECRET_ACCESS_KEY", secret_access_key),
            ("S3_CONDITIONAL_PUTS", (self.kind == Kind::SeaweedFs).to_string()),
        ]
    }

    /// Creates the bucket, for a server that starts without buckets.
    async fn make_bucket(&self) {
        let S3Settings { endpoint, region, .. } = self.settings();
        let bucket = Bucket::new(endpoint.parse().unwrap(), UrlStyle::Path, BUCKET, region).unwrap();
        let credentials = Credentials::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY);
        let url = bucket.create_bucket(&credentials).sign(Duration::from_secs(60));
        let request = http::Request::put(url.as_str()).body(eyot::Body::empty()).unwrap();
        // The server may not be up yet, or the bucket may exist. The caller finds out.
        let _ = NativePlatform::default().send(request, START).await;
    }

    /// Waits until the server answers requests and the bucket exists.
    pub async fn ready(&self) {
        let s3 = self.open();
        let begin = Instant::now();
        loop {
            if self.kind == Kind::JuiceFs {
                self.make_bucket().await;
            }
            match s3.reach().await {
                Ok(()) => return,
                Err(why) => assert!(begin.elapsed() < START, "the S3 server gets no bucket: {why}\n{}", self.log()),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn open(&self) -> S3 {
        open(self.settings())
    }

    /// The last part of the server's output.
    fn log(&self) -> String {
        let log = std::fs::read(self.data.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4000)..]).into_owned()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn open(settings: S3Settings) -> S3 {
    let platform: Arc<dyn Platform> = Arc::new(NativePlatform::default());
    S3::new(settings, platform).expect("settings that can be used")
}

fn seaweedfs(data: &Path, port: u16) -> Command {
    let mut command = mortal(&program("weed"));
    command.args(["-logtostderr=true", "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false"]);
    command.args(["-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"]);
    command.arg(format!("-dir={}", data.display())).arg(format!("-bucket={BUCKET}")).arg(format!("-s3.port={port}"));
    for part in ["master", "volume", "filer"] {
        command.arg(format!("-{part}.port={}", free_port()));
    }
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    command
}

fn juicefs(data: &Path, port: u16) -> Command {
    let database = format!("sqlite3://{}", data.join("meta.db").display());
    let mut format = Command::new(program("juicefs"));
    format.args(["format", "--storage", "file", "--trash-days", "0", "--bucket"]);
    format.arg(format!("{}/", data.join("data").display())).arg(&database).arg("eyot");
    let formatted = format.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(formatted.is_ok_and(|status| status.success()), "juicefs format");
    let mut command = mortal(&program("juicefs"));
    command.args(["gateway", "--multi-buckets", "--keep-etag", "--object-meta", "--no-usage-report"]);
    command.args(["--backup-meta", "0", "--metrics", &format!("127.0.0.1:{}", free_port())]);
    command.arg(&database).arg(format!("127.0.0.1:{port}"));
    command.env("MINIO_ROOT_USER", ACCESS_KEY_ID).env("MINIO_ROOT_PASSWORD", SECRET_ACCESS_KEY);
    command
}

/// Starts the command and waits until the server listens at `address`.
fn spawn(command: &mut Command, address: SocketAddr) -> Child {
    let child = command.spawn().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let begin = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < START, "the S3 server does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

/// Wraps a program so that its process dies with the tests, even when the tests are killed, if the
/// system has `setpriv`.
fn mortal(program: &Path) -> Command {
    if Command::new("setpriv").arg("--version").output().is_ok() {
        let mut mortal = Command::new("setpriv");
        mortal.args(["--pdeathsig", "KILL", "--"]).arg(program);
        return mortal;
    }
    Command::new(program)
}

fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/s3/bin").join(name);
    assert!(path.is_file(), "{} is missing: run scripts/install/s3-servers", path.display());
    path
}

/// A port that no other call returns. The ports lie below 32768, where local ports of outgoing
/// connections begin.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test programs do not run side by side, but servers of one program may briefly outlive it.
    let begin = std::process::id().wrapping_mul(97);
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    for _ in 0..COUNT {
        let offset = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("a small number");
        // SeaweedFS opens a second port for each port, 10000 above it.
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
    panic!("no port is free");
}
