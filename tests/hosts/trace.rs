//! Checks the system calls of a server, recorded by strace: which data was durable when an answer
//! was sent.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Runs a server under strace; see `Host::start_in`.
pub const PLACE: &str = r#"trace="$1.trace"; shift; exec strace -f -y -s 64 -o "$trace" "$@""#;

/// The trace file of a server with this data folder.
pub fn file(data: &Path) -> PathBuf {
    data.with_extension("trace")
}

/// The calls found in a trace.
#[derive(Debug, Default)]
pub struct Seen {
    pub answers: usize,
    pub files_synced: usize,
    pub folders_synced: usize,
    pub names_placed: usize,
}

/// The parts of a data folder that are not durable at a moment.
#[derive(Default)]
struct Volatile {
    /// Files with written but unsynced bytes.
    files: BTreeSet<PathBuf>,
    /// Names that were created or removed, and whose folder was not synced.
    names: BTreeSet<PathBuf>,
}

/// Checks a whole trace. The error is the first answer that was sent too early.
pub fn check(trace: &str, data: &Path) -> Result<Seen, String> {
    let mut volatile = Volatile::default();
    let mut seen = Seen::default();
    // strace prints a call that another thread's call interrupts in two lines.
    let mut begun: HashMap<&str, String> = HashMap::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let whole = match (call.strip_suffix("<unfinished ...>"), call.split_once(" resumed>")) {
            (Some(first), _) => {
                // Check when the call begins: the client may receive the answer at once.
                if let Some(status) = answer(first) {
                    volatile.check(status, &mut seen)?;
                }
                begun.insert(thread, first.to_owned());
                continue;
            }
            (None, Some((_, rest))) => begun.remove(thread).unwrap_or_default() + rest,
            (None, None) => {
                if let Some(status) = answer(call) {
                    volatile.check(status, &mut seen)?;
                }
                call.to_owned()
            }
        };
        volatile.note(&whole, data, &mut seen);
    }
    Ok(seen)
}

/// The status of an answer that a call sends, if the answer acknowledges a change.
fn answer(call: &str) -> Option<&str> {
    let status = call.split_once("\"HTTP/1.1 ")?.1.get(..3)?;
    let is_send = ["write", "send"].iter().any(|name| call.starts_with(name));
    (is_send && matches!(status, "201" | "202" | "204")).then_some(status)
}

/// The paths that a call names, each joined to the folder before it, and the paths of its
/// descriptors.
fn paths(call: &str) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut named, mut descriptors): (Vec<PathBuf>, Vec<PathBuf>) = (Vec::new(), Vec::new());
    let mut rest = call;
    while let Some(at) = rest.find(['<', '"']) {
        let (end, is_name) = if rest[at..].starts_with('"') { ('"', true) } else { ('>', false) };
        let inside = &rest[at + 1..];
        let Some(length) = inside.find(end) else { break };
        let text = &inside[..length];
        if is_name {
            named.push(descriptors.last().map_or_else(|| PathBuf::from(text), |folder| folder.join(text)));
        } else {
            descriptors.push(text.into());
        }
        rest = &inside[length + 1..];
    }
    (named, descriptors)
}

impl Volatile {
    fn check(&self, status: &str, seen: &mut Seen) -> Result<(), String> {
        seen.answers += 1;
        if self.files.is_empty() && self.names.is_empty() {
            return Ok(());
        }
        Err(format!(
            "answer {} ({status}) goes out before it is durable: not synced are the files {:?} and the folders of {:?}",
            seen.answers, self.files, self.names
        ))
    }

    fn note(&mut self, call: &str, data: &Path, seen: &mut Seen) {
        let Some((name, rest)) = call.split_once('(') else { return };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { return };
        if result.starts_with('-') {
            return;
        }
        let (named, descriptors) = paths(arguments);
        let lasting =
            |path: &&PathBuf| ["keys", "blobs", "stages"].iter().any(|part| path.starts_with(data.join(part)));
        match name {
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "ftruncate" => {
                self.files.extend(descriptors.first().filter(lasting).cloned());
                self.files.extend(descriptors.first().filter(|path| path.starts_with(data.join("tmp"))).cloned());
            }
            "fsync" | "fdatasync" => {
                let Some(synced) = descriptors.first().filter(|path| path.starts_with(data)) else { return };
                if self.files.remove(synced) {
                    seen.files_synced += 1;
                } else if name == "fsync" {
                    seen.folders_synced += 1;
                    self.names.retain(|name| name.parent() != Some(synced));
                }
            }
            "rename" | "renameat" | "renameat2" | "link" | "linkat" => {
                let [from, to] = &named[..] else { return };
                if self.files.contains(from) {
                    self.files.insert(to.clone());
                }
                if name.starts_with("rename") {
                    self.files.remove(from);
                }
                seen.names_placed += 1;
                self.names.extend(Some(to).filter(lasting).cloned());
            }
            "mkdir" | "mkdirat" => self.names.extend(named.first().filter(lasting).cloned()),
            "open" | "openat" | "openat2" | "creat" if arguments.contains("O_CREAT") => {
                self.names.extend(named.first().filter(lasting).cloned());
            }
            "unlink" | "unlinkat" | "rmdir" => {
                let Some(path) = named.first() else { return };
                self.files.remove(path);
                if name == "rmdir" || arguments.contains("AT_REMOVEDIR") {
                    // Removing a folder removes all names in it. If the removed folder reappears
                    // after a crash, the folder does no harm.
                    self.names.retain(|name| !name.starts_with(path));
                } else if path.starts_with(data.join("keys")) {
                    self.names.insert(path.clone());
                } else {
                    // A stage that reappears after a crash is garbage.
                    self.names.remove(path);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writing a key and a piece of an upload, by the native program and by wasmtime.
    const TRACE: &str = r#"
1 openat(AT_FDCWD</>, "/d/tmp/a", O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC, 0600) = 9</d/tmp/a>
1 write(9</d/tmp/a>, "value", 5) = 5
1 fsync(9</d/tmp/a> <unfinished ...>
2 futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 1
1 <... fsync resumed>) = 0
1 mkdir("/d/keys/tag", 0700) = 0
1 fsync(8</d/keys>) = 0
1 rename("/d/tmp/a", "/d/keys/tag/v1=") = 0
1 fsync(8</d/keys/tag>) = 0
1 mkdirat(7</d>, "stages/f", 0777) = 0
1 fsync(8</d/stages>) = 0
1 openat(7</d>, "stages/f/1~", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0666) = 9</d/stages/f/1~>
1 pwrite64(9</d/stages/f/1~>, "bytes", 5, 0) = 5
1 fdatasync(9</d/stages/f/1~>) = 0
1 fsync(8</d/stages/f>) = 0
2 writev(12<socket:[77]>, [{iov_base="HTTP/1.1 201 Created\r\n", iov_len=22}], 1) = 22
1 unlinkat(7</d>, "keys/tag/v1=", 0) = 0
1 fsync(8</d/keys/tag>) = 0
2 sendto(12<socket:[77]>, "HTTP/1.1 202 Accepted\r\n", 23, 0, NULL, 0) = 23
"#;

    #[test]
    fn a_sync_that_is_missing_is_found() {
        let seen = check(TRACE, Path::new("/d")).unwrap();
        assert_eq!((seen.answers, seen.files_synced, seen.folders_synced, seen.names_placed), (2, 2, 5, 1));
        let mut without = 0;
        for (number, line) in TRACE.lines().enumerate().filter(|(_, line)| line.contains("sync(")) {
            let rest: Vec<&str> =
                TRACE.lines().enumerate().filter(|(other, _)| *other != number).map(|(_, line)| line).collect();
            let found = check(&rest.join("\n"), Path::new("/d"));
            assert!(found.is_err(), "without {line}: {found:?}");
            without += 1;
        }
        assert_eq!(without, 7);
    }
}
