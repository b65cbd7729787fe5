//! What writes to the native program cost: `cargo bench --bench writes`.
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `PROGRAM` | the program that is measured | the one built here |
//! | `DATA` | the folder below which the data folders are made | the folder for temporary files |
//! | `CONNECTIONS` | how many clients push tags at the same time | 8 |
//! | `SECONDS` | how long tags are pushed | 5 |
//! | `MIB` | the size of the blobs | 128 |
//! | `ROUNDS` | how often everything is measured, each time with a new folder | 3 |
//!
//! The output is, for each round: tags pushed per second, with the server's CPU time per push; the
//! speed of a blob in one streamed `PATCH` and in chunks of 5 MiB, each until the answer to the
//! `PUT` that ends the upload.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use eyot::oci::Algorithm;
use eyot::oci::manifest::OCI_IMAGE;

const CHUNK_BYTES: usize = 5 * 1024 * 1024;
const MIB: usize = 1024 * 1024;

fn main() -> Result<()> {
    let number = |name: &str, default: usize| std::env::var(name).map_or(Ok(default), |text| text.parse());
    let connections = number("CONNECTIONS", 8).context("CONNECTIONS")?;
    let seconds = number("SECONDS", 5).context("SECONDS")?;
    let blob_bytes = number("MIB", 128).context("MIB")? * MIB;
    let rounds = number("ROUNDS", 3).context("ROUNDS")?;
    for _ in 0..rounds {
        let folder = match std::env::var_os("DATA") {
            Some(data) => tempfile::tempdir_in(data)?,
            None => tempfile::tempdir()?,
        };
        let server = Server::start(folder.path())?;
        let (per_second, cpu_ms) = server.push_tags(connections, Duration::from_secs(seconds as u64))?;
        println!("tag PUT, {connections} connections: {per_second:.0} a second, {cpu_ms:.2} ms of CPU each");
        let blob = noise(blob_bytes);
        let streamed = server.push_blob(&blob, blob_bytes)?;
        let chunked = server.push_blob(&blob, CHUNK_BYTES)?;
        println!(
            "a blob of {} MiB: {streamed:.0} MiB/s in one PATCH, {chunked:.0} MiB/s in chunks of 5 MiB ({:.2})",
            blob_bytes / MIB,
            chunked / streamed
        );
    }
    Ok(())
}

/// Bytes without a pattern.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let words = (0..length / 8).flat_map(|_| {
        // Xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

/// The program under load.
struct Server {
    process: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start(data: &Path) -> Result<Self> {
        let program = std::env::var_os("PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_eyot").into());
        let mut command = Command::new(program);
        command.env("AUTH_MODE", "none").args(["serve", "--address", "127.0.0.1", "--port", "0", "--data"]).arg(data);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut output = BufReader::new(process.stdout.take().context("the output of the server")?);
        let mut line = String::new();
        while !line.contains("http://") {
            line.clear();
            ensure!(output.read_line(&mut line)? > 0, "the server has ended");
        }
        let address = line.split("http://").nth(1).unwrap_or_default();
        let address: String = address.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Ok(Self { process, address })
    }

    fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        Ok(Connection { reader: BufReader::new(stream.try_clone()?), stream })
    }

    /// The CPU time that the server has used, in seconds.
    fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        // Linux reports hundredths of a second.
        Ok(ticks as f64 / 100.0)
    }

    /// Pushes one manifest under many tags. Returns the pushes per second, and the server's CPU
    /// time per push in milliseconds.
    fn push_tags(&self, connections: usize, time: Duration) -> Result<(f64, f64)> {
        let config = b"{}";
        let digest = Algorithm::Sha256.digest(config);
        let mut first = self.connect()?;
        first.send(
            "POST",
            &format!("/v2/app/blobs/uploads/?digest={digest}"),
            "application/octet-stream",
            &[config],
        )?;
        let descriptor = serde_json::json!({ "mediaType": "application/x", "digest": digest, "size": config.len() });
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": descriptor, "layers": [descriptor],
        });
        let manifest = manifest.to_string();
        first.send("PUT", "/v2/app/manifests/first", OCI_IMAGE, &[manifest.as_bytes()])?;
        let (pushed, before, began) = (AtomicU64::new(0), self.cpu_seconds()?, Instant::now());
        std::thread::scope(|scope| {
            let pushers: Vec<_> = (0..connections)
                .map(|pusher| {
                    let (pushed, manifest) = (&pushed, &manifest);
                    scope.spawn(move || -> Result<()> {
                        let mut connection = self.connect()?;
                        for number in 0.. {
                            if began.elapsed() > time {
                                break;
                            }
                            let path = format!("/v2/app/manifests/v{pusher}.{number}");
                            connection.send("PUT", &path, OCI_IMAGE, &[manifest.as_bytes()])?;
                            pushed.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(())
                    })
                })
                .collect();
            pushers.into_iter().try_for_each(|pusher| pusher.join().expect("a pusher"))
        })?;
        let (elapsed, pushed) = (began.elapsed().as_secs_f64(), pushed.into_inner() as f64);
        Ok((pushed / elapsed, (self.cpu_seconds()? - before) * 1000.0 / pushed))
    }

    /// Pushes a blob in chunks of `chunk_bytes`. Returns the speed in MiB per second.
    fn push_blob(&self, blob: &[u8], chunk_bytes: usize) -> Result<f64> {
        let digest = Algorithm::Sha256.digest(blob);
        let mut connection = self.connect()?;
        let began = Instant::now();
        let mut location = connection.send("POST", "/v2/app/blobs/uploads/", "application/octet-stream", &[])?;
        for chunk in blob.chunks(chunk_bytes) {
            let pieces: Vec<&[u8]> = chunk.chunks(MIB).collect();
            location = connection.send("PATCH", &location, "application/octet-stream", &pieces)?;
        }
        let separator = if location.contains('?') { '&' } else { '?' };
        connection.send("PUT", &format!("{location}{separator}digest={digest}"), "application/octet-stream", &[])?;
        let elapsed = began.elapsed().as_secs_f64();
        connection.send("DELETE", &format!("/v2/app/blobs/{digest}"), "application/octet-stream", &[])?;
        Ok(blob.len() as f64 / MIB as f64 / elapsed)
    }
}

/// A connection that stays open between requests.
struct Connection {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Sends a request and reads the answer. Returns the `Location` of the answer.
    fn send(&mut self, method: &str, path: &str, content_type: &str, body: &[&[u8]]) -> Result<String> {
        let length: usize = body.iter().map(|piece| piece.len()).sum();
        let mut message = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
        )
        .into_bytes();
        // A small request leaves in one packet.
        let mut pieces = body.iter();
        if let Some(first) = pieces.next() {
            message.extend_from_slice(first);
        }
        self.stream.write_all(&message)?;
        pieces.try_for_each(|piece| self.stream.write_all(piece))?;
        let (mut status, mut location, mut answer_bytes) = (String::new(), String::new(), 0);
        self.reader.read_line(&mut status)?;
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "location" => location = value.to_owned(),
                "content-length" => answer_bytes = value.parse()?,
                _ => {}
            }
        }
        let mut answer = vec![0; answer_bytes];
        self.reader.read_exact(&mut answer)?;
        if !status.contains(" 20") {
            bail!("{method} {path}: {status}{}", String::from_utf8_lossy(&answer));
        }
        if let Some((_, path)) = location.split_once("://").and_then(|(_, rest)| rest.split_once('/')) {
            location = format!("/{path}");
        }
        Ok(location)
    }
}
