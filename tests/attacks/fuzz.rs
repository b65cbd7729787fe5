//! The fuzz targets on stable Rust. The inputs are every file of `fuzz/corpus` and mutations of the
//! files by a seed. `EYOT_SEED` repeats a run, and `EYOT_FUZZ_ROUNDS` makes a run longer. A failing
//! input is printed, and written where cargo-fuzz would write it.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::support::random::Random;

/// The numbers of runs in CI, for targets that parse one text and for targets that send many
/// requests. All runs together take some seconds without optimisation.
const TEXTS: usize = 4000;
const SEQUENCES: usize = 600;
/// The longest input in bytes. A sequence of requests takes a byte or two for each decision.
const INPUT_BYTES_MAX: usize = 2000;

/// Texts with a meaning in the protocol, which random bytes would hardly ever produce.
const WORDS: [&[u8]; 36] = [
    b"sha256:",
    b"sha512:",
    b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"bytes=",
    b"bytes ",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-",
    b"/",
    b"..",
    b"%2f",
    b"%00",
    b"\0",
    b"{",
    b"[[[[[[[[",
    b"\"mediaType\":",
    b"\"digest\":\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\",",
    b"\"layers\":null,",
    b"\"subject\":null,",
    b"1e999",
    b"\\ud800",
    b"\xff\xfe",
    "\u{ff56}\u{202e}".as_bytes(),
    b"__",
    b"**",
    b"/*",
    b"anonymous",
    b"authenticated ** all\n",
    b"repository:a:pull,push",
    b"\nx-forwarded-for: 192.0.2.1, 10.1.1.1",
    b"\nx-forwarded-host: ",
    b"\nforwarded: for=\"[2001:db8::1]:80\";host=\"a\\\"b\";proto=https",
    b"\nauthorization: Basic YWxpY2U6czpjcmV0",
    b"&grant_type=password&username=alice&password=s%3acret",
    b" xmlns='",
    b"<![CDATA[",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = folder().join("corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    // The operating system lists folders in any order. Sorting makes a run with the same seed
    // repeatable.
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn mutated(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.choose(corpus).clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below(bytes.len() + 1 - at);
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] = random.next() as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.extend_from_within(at..end),
            4 => drop(bytes.splice(at..at, random.choose(&WORDS).iter().copied())),
            5 => {
                let other = random.choose(corpus);
                let from = random.below(other.len() + 1);
                bytes.splice(at..end, other[from..].iter().copied());
            }
            _ => {
                let fresh: Vec<u8> = (0..random.below(64)).map(|_| random.next() as u8).collect();
                bytes.splice(at..end, fresh);
            }
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn run(name: &str, target: fn(&[u8]), rounds: usize) {
    let mut random = Random::from_environment();
    let seed = random.seed();
    let rounds = std::env::var("EYOT_FUZZ_ROUNDS").map_or(rounds, |text| text.parse().expect("a number of rounds"));
    let corpus = corpus(name);
    let mutations = (0..rounds).map(|_| mutated(&mut random, &corpus));
    for (number, input) in corpus.iter().cloned().chain(mutations).enumerate() {
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            let file = folder().join("artifacts").join(name).join(format!("seed-{seed}-{number}"));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &input).unwrap();
            panic!("{name}: EYOT_SEED={seed}, input {number}, {}: {}", file.display(), input.escape_ascii());
        }
    }
    println!("{name}: EYOT_SEED={seed}, {} inputs of {} files", corpus.len() + rounds, corpus.len());
}

#[test]
fn words() {
    run("words", targets::words, TEXTS);
}

#[test]
fn ranges() {
    run("ranges", targets::ranges, TEXTS);
}

#[test]
fn manifests() {
    run("manifests", targets::manifests, TEXTS);
}

#[test]
fn rules() {
    run("rules", targets::rules, TEXTS);
}

#[test]
fn answers() {
    run("answers", targets::answers, TEXTS);
}

#[test]
fn logins() {
    run("logins", targets::logins, TEXTS);
    let reached = targets::LOGINS_REACHED.lock().unwrap();
    println!("logins: {reached:?}");
    for outcome in
        ["GET token 200", "POST token 200", "POST token 400", "POST token 401", "GET other 200", "GET other 401"]
    {
        assert!(reached.contains(outcome), "no input comes as far as {outcome}, only: {reached:?}");
    }
}

#[test]
fn uploads() {
    run("uploads", targets::uploads, SEQUENCES);
}

#[test]
fn requests() {
    run("requests", targets::requests, SEQUENCES);
    let reached = targets::REACHED.lock().unwrap();
    println!("requests: {} outcomes", reached.len());
    for outcome in [
        "POST blob 201",
        "POST begin 201",
        "POST begin 202",
        "PATCH upload 202",
        "PATCH upload 416",
        "PUT upload 201",
        "PUT manifest 201",
        "PUT manifest 400",
        "PUT manifest 413",
        "GET look 200",
        "GET look 206",
        "GET look 304",
        "GET look 416",
        "DELETE delete 202",
        "POST own 200",
        "PUT own 204",
    ] {
        assert!(reached.contains(outcome), "no input comes as far as {outcome}, only: {reached:?}");
    }
}
