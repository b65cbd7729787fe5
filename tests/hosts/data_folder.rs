//! The data folder in trouble, natively and under wasmtime: read-only, full, with foreign entries,
//! missing; and the permissions of its files. Mounts are made in a namespace of the server's own
//! (`unshare`), which needs root or user namespaces.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::client::{raw, raw_status, whole};
use crate::support::host::{Host, Kind};
use crate::support::repository::Repository;
use crate::support::value::{noise, sha256};
use crate::trace;
use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;

const HOSTS: [Kind; 2] = [Kind::Native, Kind::Wasi];
/// The collection removes unused content at once.
const NO_GRACE: [(&str, &str); 2] = [("GRACE_SECONDS", "0"), ("UNTAGGED_LIFETIME_SECONDS", "0")];
/// More images than fit on any disk of these tests.
const IMAGES_MAX: usize = 1000;
/// More collection rounds than any test here needs.
const ROUNDS_MAX: usize = 6;
const READ_ONLY: &str = "mount --bind \"$1\" \"$1\"; mount -o remount,ro,bind \"$1\"";
const SMALL: &str = "mount -t tmpfs -o size=12m tmpfs \"$1\"";
const FEW_INODES: &str = "mount -t tmpfs -o size=64m,nr_inodes=700 tmpfs \"$1\"";

fn run(scenario: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(scenario);
}

fn repository(host: &Host) -> Repository {
    Repository { client: host.client, name: "team/app" }
}

/// Pushes an image whose layer has `bytes` bytes. Returns the answer that refused the push, if any.
async fn push(repository: &Repository, tag: &str, bytes: usize) -> Result<(), Box<Response<Bytes>>> {
    let layer = noise(bytes, tag);
    for blob in [Bytes::from_static(b"{}"), layer.clone()] {
        let uploads = format!("/v2/{}/blobs/uploads/?digest={}", repository.name, sha256(&blob));
        accepted(repository.send(Request::post(uploads), whole(blob)).await)?;
    }
    let manifest = image(&layer);
    let request = repository.put_manifest(tag).header("content-type", IMAGE);
    accepted(repository.send(request, whole(manifest)).await)
}

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

fn image(layer: &Bytes) -> String {
    let of = |blob: &[u8]| {
        format!(r#"{{"mediaType": "application/octet-stream", "digest": "{}", "size": {}}}"#, sha256(blob), blob.len())
    };
    format!(r#"{{"schemaVersion": 2, "mediaType": "{IMAGE}", "config": {}, "layers": [{}]}}"#, of(b"{}"), of(layer))
}

fn accepted(reply: Response<Bytes>) -> Result<(), Box<Response<Bytes>>> {
    if reply.status() == 201 { Ok(()) } else { Err(Box::new(reply)) }
}

/// Checks that the tag leads to its image, and that the image is complete.
async fn is_whole(repository: &Repository, tag: &str) {
    let reply = repository.manifest(tag).await;
    assert_eq!(reply.status(), 200, "{tag}: {reply:?}");
    let manifest: Value = serde_json::from_slice(reply.body()).expect("JSON");
    for blob in [&manifest["config"], &manifest["layers"][0]] {
        let digest = blob["digest"].as_str().expect("a digest");
        assert_eq!(repository.pull(digest).await, (digest.to_owned(), blob["size"].as_u64().expect("a size")), "{tag}");
    }
}

async fn tags(repository: &Repository) -> Vec<String> {
    let tags = repository.tags().await;
    tags["tags"].as_array().expect("tags").iter().map(|tag| tag.as_str().expect("a tag").to_owned()).collect()
}

/// Runs one complete round of the collection and returns its report.
async fn collect(repository: &Repository) -> Value {
    for _ in 0..1000 {
        let reply = repository.send(Request::post("/v2/_eyot/collect"), whole("")).await;
        assert_eq!(reply.status(), 200, "{reply:?}");
        let report: Value = serde_json::from_slice(reply.body()).expect("JSON");
        if report["done"] == true {
            return report;
        }
    }
    panic!("the round does not end");
}

/// A read-only replica serves pulls and refuses pushes.
#[test]
fn a_read_only_folder_serves_pulls() {
    for kind in HOSTS {
        run(async move {
            let mut host = Host::start(kind);
            push(&repository(&host), "v1", 100_000).await.expect("pushed");
            let files = all_files(host.data());
            // An older copy may lack the entries that only writers need.
            for copied_without in [&[][..], &["tmp", "locks", "stages", "reserve", "format"][..]] {
                host.kill();
                for part in copied_without {
                    let path = host.data().join(part);
                    let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
                }
                host.restart_in(Some(READ_ONLY));
                let repository = repository(&host);
                is_whole(&repository, "v1").await;
                assert_eq!(tags(&repository).await, ["v1"]);
                let catalog = repository.send(Request::get("/v2/_catalog"), whole("")).await;
                assert!(String::from_utf8_lossy(catalog.body()).contains("team/app"), "{catalog:?}");
                let subject = sha256(b"a subject");
                let referrers =
                    repository.send(Request::get(format!("/v2/team/app/referrers/{subject}")), whole("")).await;
                assert_eq!(referrers.status(), 200, "{referrers:?}");
                for request in [
                    Request::post("/v2/team/app/blobs/uploads/"),
                    repository.put_manifest("v2").header("content-type", IMAGE),
                    Request::delete("/v2/team/app/manifests/v1"),
                    Request::post("/v2/_eyot/collect"),
                ] {
                    let reply = repository.send(request, whole(image(&noise(100_000, "v1")))).await;
                    assert_eq!(reply.status(), 405, "{reply:?}");
                    let text = String::from_utf8_lossy(reply.body()).into_owned();
                    assert!(text.contains("UNSUPPORTED") && text.contains("read-only"), "{text}");
                }
                host.must_log("EROFS");
                let folder = if kind == Kind::Wasi { "/data" } else { host.data().to_str().expect("text") };
                host.must_log(&format!("{folder}/"));
            }
            host.restart_in(None);
            push(&repository(&host), "v2", 1000).await.expect("pushed");
            is_whole(&repository(&host), "v1").await;
            assert!(all_files(host.data()).len() > files.len());
        });
    }
}

/// Pushes get 507 before the disk is full, and pulls continue. Deleting and collecting frees space
/// again.
async fn fill_and_empty(kind: Kind, place: &'static str, bytes: usize, to_the_brim: bool) {
    let mut host = Host::start_in(kind, &NO_GRACE, Some(place));
    let first = repository(&host);
    let mut pushed = 0;
    let refused = loop {
        assert!(pushed < IMAGES_MAX, "the disk is never full");
        match push(&first, &format!("v{pushed}"), bytes).await {
            Ok(()) => pushed += 1,
            Err(reply) => break reply,
        }
    };
    assert_eq!(refused.status(), 507, "{refused:?}");
    let text = String::from_utf8_lossy(refused.body()).into_owned();
    assert!(text.contains("no space left") && text.contains("collected"), "{text}");
    host.must_log("ENOSPC");
    assert!(pushed > 2, "{pushed} images fit");
    let ballast = host.mounted_data().join("ballast");
    if to_the_brim {
        fill_up(&ballast);
    }
    for number in 0..pushed {
        is_whole(&first, &format!("v{number}")).await;
    }
    // Delete half of the images.
    for number in 0..pushed / 2 {
        let reply = first.send(Request::delete(format!("/v2/team/app/manifests/v{number}")), whole("")).await;
        assert_eq!(reply.status(), 202, "{reply:?}");
    }
    let mut freed = 0;
    for _ in 0..ROUNDS_MAX {
        freed += collect(&first).await["bytes_freed"].as_u64().expect("a number");
    }
    assert!(freed >= (pushed / 2 * bytes) as u64, "{freed} bytes freed");
    for number in pushed / 2..pushed {
        is_whole(&first, &format!("v{number}")).await;
    }
    push(&first, "again", bytes).await.expect("there is room again");
    is_whole(&first, "again").await;
    host.kill();
}

fn fill_up(ballast: &Path) {
    let mut file = fs::File::create(ballast).expect("a file");
    let block = noise(4096, "ballast");
    for size in [4096, 1] {
        while file.write_all(&block[..size]).is_ok() {}
    }
}

#[test]
fn a_full_disk_refuses_pushes_and_can_be_emptied() {
    for kind in HOSTS {
        run(fill_and_empty(kind, SMALL, 300_000, false));
    }
}

#[test]
fn a_disk_without_a_free_block_can_be_emptied() {
    for kind in HOSTS {
        run(fill_and_empty(kind, SMALL, 300_000, true));
    }
}

#[test]
fn a_disk_without_a_free_inode_can_be_emptied() {
    for kind in HOSTS {
        run(fill_and_empty(kind, FEW_INODES, 1000, false));
    }
}

/// The collection completes despite foreign entries in the data folder, names the entries, and
/// leaves them alone.
#[test]
fn foreign_entries_do_not_stop_the_collection() {
    for kind in HOSTS {
        run(async move {
            let host = Host::start_with(kind, &NO_GRACE);
            let repository = repository(&host);
            push(&repository, "v1", 1000).await.expect("pushed");
            push(&repository, "v2", 2000).await.expect("pushed");
            let shelf =
                fs::read_dir(host.data().join("blobs")).expect("shelves").next().expect("one").expect("an entry");
            let shelf = format!("blobs/{}", shelf.file_name().to_str().expect("text"));
            let content =
                format!("{shelf}/{}00000-7a1c-4a3e-9d5a-111111111111!{}", &shelf[6..].repeat(2)[..3], sha256(b"x"));
            let files = [
                format!("{shelf}/.nfs0001"),
                "blobs/README".into(),
                "stages/README".into(),
                "stages/6e2fc1a4-7a1c-4a3e-9d5a-111111111111".into(),
                "keys/README".into(),
                "keys/tag/.nfs0001".into(),
                "tmp/README".into(),
            ];
            let folders =
                [content, "blobs/lost+found".into(), "keys/tag/team/app!/folder=".into(), "stages/snapshot".into()];
            files.iter().for_each(|path| fs::write(host.data().join(path), "foreign").expect("a file"));
            folders.iter().for_each(|path| fs::create_dir(host.data().join(path)).expect("a folder"));

            let reply = repository.send(Request::delete("/v2/team/app/manifests/v2"), whole("")).await;
            assert_eq!(reply.status(), 202, "{reply:?}");
            let mut freed = 0;
            for _ in 0..ROUNDS_MAX {
                let report = collect(&repository).await;
                freed += report["bytes_freed"].as_u64().expect("a number");
                let mut told: Vec<&str> = report["unknown"]["first"]
                    .as_array()
                    .expect("names")
                    .iter()
                    .map(|name| name.as_str().unwrap())
                    .collect();
                told.sort_unstable();
                let mut expected: Vec<&str> = files.iter().chain(&folders).map(String::as_str).collect();
                expected.sort_unstable();
                assert_eq!(told, expected);
            }
            assert_eq!(freed, 2000);
            for path in files.iter().chain(&folders) {
                assert!(host.data().join(path).exists(), "{path}");
                host.must_log(path);
            }
            is_whole(&repository, "v1").await;
            assert_eq!(tags(&repository).await, ["v1"]);
        });
    }
}

/// Pushes to a second repository an image whose content is already stored: 5 kinds of facts, each
/// in folders of the repository.
#[test]
fn a_repository_takes_few_inodes() {
    run(async {
        let host = Host::start(Kind::Native);
        push(&repository(&host), "v1", 1000).await.expect("pushed");
        let before = all_files(&host.data().join("keys")).len() + all_files(&host.data().join("blobs")).len();
        let other = Repository { name: "team/other", ..repository(&host) };
        push(&other, "v1", 1000).await.expect("pushed");
        let after = all_files(&host.data().join("keys")).len() + all_files(&host.data().join("blobs")).len();
        assert_eq!(after - before, 15);
    });
}

/// A missing folder causes an error that names the folder. The registry does not report the content
/// as absent.
#[test]
fn a_folder_that_is_gone_is_named() {
    for kind in HOSTS {
        run(async move {
            let host = Host::start(kind);
            let repository = repository(&host);
            push(&repository, "v1", 1000).await.expect("pushed");
            // A file takes the folder's place. Without the file, a host that opens the folder for
            // each request would start with an empty folder.
            let hidden = host.data().join("hidden");
            fs::rename(host.data().join("keys"), &hidden).expect("renamed");
            fs::write(host.data().join("keys"), "a file in the folder's place").expect("a file");
            let reply = repository.manifest("v1").await;
            assert_eq!(reply.status(), 500, "{reply:?}");
            host.must_log("/keys");
            fs::remove_file(host.data().join("keys")).expect("removed");
            fs::rename(&hidden, host.data().join("keys")).expect("renamed");
            is_whole(&repository, "v1").await;
        });
    }
}

/// A request on an open connection needs files that the process cannot open any more.
#[test]
fn too_many_open_files_are_named() {
    for kind in HOSTS {
        run(async move {
            let host = Host::start(kind);
            let repository = repository(&host);
            push(&repository, "v1", 1000).await.expect("pushed");
            let head = format!("HTTP/1.1\r\nHost: {}\r\n", host.client.address);
            let mut connection = raw(host.client.address, format!("HEAD /v2/ {head}\r\n").as_bytes());
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                connection.read_exact(&mut byte).expect("an answer");
                answer.extend(byte);
            }
            host.limit_open_files(3);
            let get = format!("GET /v2/team/app/manifests/v1 {head}Connection: close\r\n\r\n");
            connection.write_all(get.as_bytes()).expect("sent");
            assert_eq!(raw_status(&mut connection), Some(500));
            host.must_log("EMFILE: ");
            host.limit_open_files(256);
            is_whole(&repository, "v1").await;
        });
    }
}

#[test]
fn a_foreign_folder_is_refused_by_name() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("photos");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("island.jpg"), "a picture").expect("a file");
    let output =
        Command::new(env!("CARGO_BIN_EXE_eyot")).args(["collect", "--data"]).arg(&folder).output().expect("a program");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    let expected = format!("{} is not a data folder of eyot and not empty (it holds island.jpg)", folder.display());
    assert!(told.contains("data_dir") && told.contains(&expected), "{told}");
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1);

    run(async {
        let mut host = Host::start(Kind::Wasi);
        fs::write(host.data().join("format"), "eyot data folder, format 9\n").expect("a file");
        host.kill_and_restart();
        let reply = repository(&host).manifest("v1").await;
        assert_eq!(reply.status(), 500, "{reply:?}");
        host.must_log("/data has the format \"9\"");
    });
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(all_files(&path));
        }
        all.push(path);
    }
    all
}

/// The files contain password hashes and the key that signs tokens. Under WASI the host's umask
/// decides, which `scripts/up` sets.
#[test]
fn files_are_for_their_owner_alone() {
    for (kind, place) in [(Kind::Native, "umask 000"), (Kind::Wasi, "umask 077")] {
        run(async move {
            let mut host = Host::start_in::<&str>(kind, &[], Some(place));
            push(&repository(&host), "v1", 1000).await.expect("pushed");
            let mut session = repository(&host).start().await;
            session.patch(None, whole("begun")).await;
            for path in all_files(host.data()) {
                let found = fs::metadata(&path).expect("it is there");
                let expected = if found.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(found.mode() & 0o777, expected, "{}", path.display());
            }
            if kind == Kind::Native {
                assert!(!host.has_logged("other users"));
                fs::set_permissions(host.data().join("keys"), fs::Permissions::from_mode(0o755)).expect("changed");
                host.kill_and_restart();
                host.must_log("other users of this machine may read");
                assert!(host.has_logged(&format!("chmod -R go= {}", host.data().display())), "the log says what to do");
            }
        });
    }
}

/// Runs `scripts/backup` while images are pushed and tags move.
#[test]
fn a_copy_made_under_load_is_consistent() {
    run(async {
        let host = Host::start(Kind::Native);
        let done = Arc::new(AtomicBool::new(false));
        push(&repository(&host), "kept", 1000).await.expect("pushed");
        let pushers: Vec<_> = (0..4)
            .map(|pusher| {
                let (repository, done) = (repository(&host), done.clone());
                tokio::spawn(async move {
                    let mut pushed = 0;
                    while !done.load(Ordering::Relaxed) {
                        push(&repository, &format!("of-{pusher}-{}", pushed % 7), 5000 + pushed).await.expect("pushed");
                        pushed += 1;
                    }
                    pushed
                })
            })
            .collect();
        let mut copy = Host::start(Kind::Native);
        copy.kill();
        fs::remove_dir_all(copy.data()).expect("an empty registry");
        // The script's `cp` is replaced by a program that waits until the load has added more than
        // 5 blob files.
        let slow = tempfile::tempdir().expect("a folder");
        let waiting = format!(
            "#!/bin/sh\nbefore=$(find {0} -type f | wc -l)\nuntil [ \"$(find {0} -type f | wc -l)\" -gt $((before + 5)) ]; do :; done\nexec /bin/cp \"$@\"\n",
            host.data().join("blobs").display()
        );
        fs::write(slow.path().join("cp"), waiting).expect("a script");
        fs::set_permissions(slow.path().join("cp"), fs::Permissions::from_mode(0o755)).expect("a program");
        let path = format!("{}:{}", slow.path().display(), std::env::var("PATH").expect("a PATH"));
        let mut backup = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/backup"));
        backup.args([host.data(), copy.data()]).env("PATH", path);
        let status = tokio::task::spawn_blocking(move || backup.status()).await.expect("a thread");
        assert!(status.expect("a script of ours").success());
        done.store(true, Ordering::Relaxed);
        let mut pushed = 0;
        for pusher in pushers {
            pushed += pusher.await.expect("a pusher");
        }
        copy.kill_and_restart();
        let repository = repository(&copy);
        let tags = tags(&repository).await;
        assert!(tags.len() > 1 && pushed > 20, "{pushed} pushed, {tags:?}");
        for tag in &tags {
            is_whole(&repository, tag).await;
        }
        push(&repository, "new", 1000).await.expect("pushed");
    });
}

/// Every write is durable before the answer: when an answer goes out, all files written under
/// `keys`, `blobs` and `stages` were synced, and so were the folders of all names. The trace of the
/// system calls proves the order.
#[test]
fn every_answer_follows_its_sync() {
    for kind in HOSTS {
        run(async move {
            let mut host = Host::start_in::<&str>(kind, &[], Some(trace::PLACE));
            let repository = repository(&host);
            let blob = noise(300_000, "traced");
            let mut session = repository.start().await;
            session.patch(None, whole(blob.slice(..100_000))).await;
            session.patch(Some((100_000, 300_000)), whole(blob.slice(100_000..))).await;
            session.finish(&sha256(&blob)).await;
            push(&repository, "v1", 1000).await.expect("pushed");
            push(&repository, "v1", 1001).await.expect("pushed");
            for reference in ["v1", &sha256(image(&noise(1000, "v1")).as_bytes())] {
                let reply =
                    repository.send(Request::delete(format!("/v2/team/app/manifests/{reference}")), whole("")).await;
                assert_eq!(reply.status(), 202, "{reply:?}");
            }
            host.terminate_all();
            host.ended();
            let file = trace::file(host.data());
            let text = fs::read_to_string(&file).expect("a trace");
            fs::remove_file(&file).expect("a file of ours");
            let seen = trace::check(&text, host.data()).unwrap_or_else(|why| panic!("{why}"));
            println!("{seen:?}");
            assert!(seen.answers >= 12, "{seen:?}");
            assert!(seen.files_synced > seen.answers && seen.folders_synced > seen.answers, "{seen:?}");
            assert!(seen.names_placed > seen.answers, "{seen:?}");
        });
    }
}
