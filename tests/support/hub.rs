//! An upstream that behaves as Docker Hub does, and fails as a test asks. Tokens come from a server
//! of another name. Pulls of blobs are redirected to a third server. Pulls of manifests show a rate
//! limit. A repository that does not exist is answered with 401.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use super::value::sha256;

/// The repository that exists, as the upstream names the repository.
pub const REPOSITORY: &str = "library/app";
/// How many bytes of a blob are written at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// What the upstream does in place of its answer to a pull of a manifest or a blob.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The upstream takes the request and never answers.
    Hangs,
    /// The body stops after so many bytes, and the connection stays open.
    HangsAfter(usize),
    /// The connection is closed after so many bytes of the body.
    Short(usize),
    /// The answer is no HTTP.
    Garbage,
    /// The body has the right length and another content.
    OtherContent,
    /// 429, with this `Retry-After`.
    Limited(Option<&'static str>),
    /// A right answer without Docker-Content-Digest and ETag.
    NoDigest,
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Registry,
    Tokens,
    Storage,
}

pub struct Hub {
    shared: Arc<Shared>,
    servers: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    registry: SocketAddr,
    tokens: SocketAddr,
    storage: SocketAddr,
    /// Manifests by tag and by digest.
    manifests: Mutex<HashMap<String, (String, Bytes)>>,
    blobs: Mutex<HashMap<String, Bytes>>,
    /// The requests, as in [`Hub::take`].
    requests: Mutex<Vec<String>>,
    /// How many bytes of manifests and blobs were written.
    bytes: AtomicU64,
    /// How long the storage waits before each piece, in milliseconds.
    pause_ms: AtomicU64,
    /// The fault, and for how many answers the fault lasts.
    fault: Mutex<(Option<Fault>, usize)>,
    healed: Condvar,
    /// A token is valid if the token has this number.
    generation: AtomicU64,
    is_stopped: AtomicBool,
}

struct Asked {
    method: String,
    path: String,
    authorization: Option<String>,
    if_none_match: Option<String>,
    /// The first byte and the byte after the last, if the last is named.
    range: Option<(usize, Option<usize>)>,
}

impl Hub {
    pub fn start() -> Self {
        let free = || SocketAddr::from((Ipv4Addr::LOCALHOST, super::host::free_port()));
        let shared = Arc::new(Shared {
            registry: free(),
            tokens: free(),
            storage: free(),
            manifests: Mutex::default(),
            blobs: Mutex::default(),
            requests: Mutex::default(),
            bytes: AtomicU64::default(),
            pause_ms: AtomicU64::default(),
            fault: Mutex::default(),
            healed: Condvar::new(),
            generation: AtomicU64::new(1),
            is_stopped: AtomicBool::new(true),
        });
        let hub = Self { shared, servers: Mutex::default() };
        hub.start_again();
        hub
    }

    /// The line of the setting `upstreams`, with further options.
    pub fn setting(&self, options: &str) -> String {
        format!("docker.io http://{} realm=localhost {options}", self.shared.registry)
    }

    /// The URLs of the three servers, in the order of requests.
    pub fn urls(&self) -> [String; 3] {
        let Shared { registry, tokens, storage, .. } = &*self.shared;
        [format!("http://{registry}"), format!("http://localhost:{}", tokens.port()), format!("http://{storage}")]
    }

    /// Adds a blob. Returns the digest.
    pub fn add_blob(&self, bytes: Bytes) -> String {
        let digest = sha256(&bytes);
        self.shared.blobs.lock().unwrap().insert(digest.clone(), bytes);
        digest
    }

    /// Adds a manifest under its digest and, if there is one, under a tag. Returns the digest.
    pub fn add_manifest(&self, tag: Option<&str>, media_type: &str, bytes: Bytes) -> String {
        let digest = sha256(&bytes);
        let mut manifests = self.shared.manifests.lock().unwrap();
        for name in tag.into_iter().chain([digest.as_str()]) {
            manifests.insert(name.to_owned(), (media_type.to_owned(), bytes.clone()));
        }
        digest
    }

    /// Fails the next `times` pulls of manifests and blobs.
    pub fn fail(&self, fault: Fault, times: usize) {
        *self.shared.fault() = (Some(fault), times);
    }

    /// Ends all faults.
    pub fn heal(&self) {
        *self.shared.fault() = (None, 0);
        self.shared.healed.notify_all();
    }

    /// Makes all tokens invalid that the token server has given.
    pub fn expire_tokens(&self) {
        self.shared.generation.fetch_add(1, SeqCst);
    }

    pub fn pause_ms(&self, milliseconds: u64) {
        self.shared.pause_ms.store(milliseconds, SeqCst);
    }

    /// The requests and the bytes of manifests and blobs since the last call. A request is `token REPOSITORY`,
    /// `METHOD manifest NAME`, `METHOD blob` (answered by a redirect) or `METHOD content FROM`
    /// (the storage, from this byte on).
    pub fn take(&self) -> (Vec<String>, u64) {
        (std::mem::take(&mut self.shared.requests.lock().unwrap()), self.shared.bytes.swap(0, SeqCst))
    }

    /// Closes all three ports, so that connections are refused.
    pub fn stop(&self) {
        self.shared.is_stopped.store(true, SeqCst);
        self.heal();
        for address in [self.shared.registry, self.shared.tokens, self.shared.storage] {
            // Wakes the thread that accepts connections.
            drop(TcpStream::connect(address));
        }
        for server in self.servers.lock().unwrap().drain(..) {
            server.join().unwrap();
        }
    }

    /// Opens the ports again.
    pub fn start_again(&self) {
        self.shared.is_stopped.store(false, SeqCst);
        let Shared { registry, tokens, storage, .. } = &*self.shared;
        let roles = [(*registry, Role::Registry), (*tokens, Role::Tokens), (*storage, Role::Storage)];
        let servers = roles.map(|(address, role)| {
            let (listener, shared) = (TcpListener::bind(address).unwrap(), self.shared.clone());
            std::thread::spawn(move || accept(&listener, role, &shared))
        });
        self.servers.lock().unwrap().extend(servers);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(listener: &TcpListener, role: Role, shared: &Arc<Shared>) {
    for connection in listener.incoming() {
        if shared.is_stopped.load(SeqCst) {
            return;
        }
        let (Ok(connection), shared) = (connection, shared.clone()) else { continue };
        std::thread::spawn(move || serve(connection, role, &shared));
    }
}

/// Answers requests until the client or a fault ends the connection.
fn serve(mut connection: TcpStream, role: Role, shared: &Shared) -> Option<()> {
    let mut lines = BufReader::new(connection.try_clone().ok()?).lines();
    loop {
        let first = lines.next()?.ok()?;
        let (method, path) = first.split_once(' ')?;
        let mut asked = Asked {
            method: method.to_owned(),
            path: path.split(' ').next()?.to_owned(),
            authorization: None,
            if_none_match: None,
            range: None,
        };
        for line in lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ")?;
            match name.to_ascii_lowercase().as_str() {
                "authorization" => asked.authorization = Some(value.to_owned()),
                "if-none-match" => asked.if_none_match = Some(value.to_owned()),
                "range" => {
                    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
                    asked.range = Some((first.parse().ok()?, last.parse().ok().map(|last: usize| last + 1)));
                }
                _ => {}
            }
        }
        if shared.is_stopped.load(SeqCst) {
            return None;
        }
        match role {
            Role::Registry => shared.registry(&mut connection, &asked)?,
            Role::Tokens => shared.token(&mut connection, &asked)?,
            Role::Storage => shared.content(&mut connection, &asked)?,
        }
    }
}

impl Shared {
    fn fault(&self) -> MutexGuard<'_, (Option<Fault>, usize)> {
        self.fault.lock().unwrap()
    }

    fn note(&self, request: String) {
        self.requests.lock().unwrap().push(request);
    }

    /// The fault of this answer.
    fn next_fault(&self) -> Option<Fault> {
        let mut fault = self.fault();
        if fault.1 == 0 {
            return None;
        }
        fault.1 -= 1;
        fault.0
    }

    fn wait_until_healed(&self) {
        let fault = self.fault();
        drop(self.healed.wait_while(fault, |fault| fault.0.is_some()).unwrap());
    }

    fn registry(&self, connection: &mut TcpStream, asked: &Asked) -> Option<()> {
        let (kind, name) =
            asked.path.rsplit_once('/').and_then(|(rest, name)| Some((rest.rsplit('/').next()?, name)))?;
        let repository = asked.path.strip_prefix("/v2/")?.split(&format!("/{kind}/")).next()?;
        let token = format!("Bearer {}:{repository}", self.generation.load(SeqCst));
        if asked.authorization.as_deref() != Some(&token) || repository != REPOSITORY {
            let realm = format!("http://localhost:{}/token", self.tokens.port());
            let challenge = format!("Bearer realm=\"{realm}\",service=\"hub\",scope=\"repository:{repository}:pull\"");
            return head(connection, "401 Unauthorized", 0, &[("www-authenticate", &challenge)]);
        }
        if kind == "blobs" {
            self.note(format!("{} blob", asked.method));
            let location = format!("http://{}/{name}?signature=1", self.storage);
            return head(connection, "307 Temporary Redirect", 0, &[("location", &location)]);
        }
        self.note(format!("{} manifest {name}", asked.method));
        let fault = self.next_fault();
        let found = self.manifests.lock().unwrap().get(name).cloned();
        let Some((media_type, bytes)) = found else { return head(connection, "404 Not Found", 0, &[]) };
        let digest = sha256(&bytes);
        let entity_tag = format!("\"{digest}\"");
        let mut headers = vec![("content-type", media_type.as_str()), ("ratelimit-remaining", "99;w=21600")];
        if fault != Some(Fault::NoDigest) {
            headers.extend([("docker-content-digest", digest.as_str()), ("etag", entity_tag.as_str())]);
            if asked.if_none_match.as_deref() == Some(&entity_tag) && fault.is_none() {
                return head(connection, "304 Not Modified", 0, &headers);
            }
        }
        self.respond(connection, asked, fault, "200 OK", &headers, &bytes)
    }

    fn token(&self, connection: &mut TcpStream, asked: &Asked) -> Option<()> {
        let (_, scope) = asked.path.split_once("scope=repository%3A")?;
        let repository = scope.strip_suffix("%3Apull")?.replace("%2F", "/");
        self.note(format!("token {repository}"));
        let body = format!(r#"{{"token":"{}:{repository}","expires_in":300}}"#, self.generation.load(SeqCst));
        head(connection, "200 OK", body.len(), &[])?;
        connection.write_all(body.as_bytes()).ok()
    }

    fn content(&self, connection: &mut TcpStream, asked: &Asked) -> Option<()> {
        if asked.authorization.is_some() {
            // As storage with signed URLs.
            return head(connection, "400 Bad Request", 0, &[]);
        }
        let digest = asked.path.trim_start_matches('/').split('?').next()?;
        let found = self.blobs.lock().unwrap().get(digest).cloned();
        let Some(blob) = found else { return head(connection, "404 Not Found", 0, &[]) };
        let (start, end) = asked.range.map_or((0, blob.len()), |(start, end)| (start, end.unwrap_or(blob.len())));
        self.note(format!("{} content {start}", asked.method));
        let fault = self.next_fault();
        let range = format!("bytes {start}-{}/{}", end - 1, blob.len());
        let (status, headers) = match asked.range {
            Some(_) => ("206 Partial Content", vec![("content-range", range.as_str())]),
            None => ("200 OK", vec![]),
        };
        self.respond(connection, asked, fault, status, &headers, &blob.slice(start..end))
    }

    /// Sends an answer with a body, or what the fault makes of the answer.
    fn respond(
        &self,
        connection: &mut TcpStream,
        asked: &Asked,
        fault: Option<Fault>,
        status: &str,
        headers: &[(&str, &str)],
        body: &Bytes,
    ) -> Option<()> {
        let (mut sent, mut content) = (body.len(), body.clone());
        match fault {
            None | Some(Fault::NoDigest) => {}
            Some(Fault::Hangs) => {
                self.wait_until_healed();
                return None;
            }
            Some(Fault::Garbage) => {
                connection.write_all(b"<html>This is a login page</html>\r\n\r\n").ok()?;
                return None;
            }
            Some(Fault::Limited(retry_after)) => {
                let headers: Vec<_> = retry_after.map(|value| ("retry-after", value)).into_iter().collect();
                return head(connection, "429 Too Many Requests", 0, &headers);
            }
            Some(Fault::OtherContent) => content = content.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>().into(),
            Some(Fault::HangsAfter(most) | Fault::Short(most)) => sent = sent.min(most),
        }
        head(connection, status, content.len(), headers)?;
        if asked.method == "HEAD" {
            return Some(());
        }
        for piece in content.slice(..sent).chunks(PIECE_BYTES) {
            std::thread::sleep(Duration::from_millis(self.pause_ms.load(SeqCst)));
            connection.write_all(piece).ok()?;
            self.bytes.fetch_add(piece.len() as u64, SeqCst);
        }
        match fault {
            Some(Fault::HangsAfter(_)) => {
                self.wait_until_healed();
                None
            }
            Some(Fault::Short(_)) => None,
            _ => Some(()),
        }
    }
}

fn head(connection: &mut TcpStream, status: &str, length: usize, headers: &[(&str, &str)]) -> Option<()> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    connection.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{lines}\r\n").as_bytes()).ok()
}
