//! What the package on a crate registry consists of: its files, its dependencies, and the oldest Rust
//! that builds the package.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The files of the package: whole folders, which end in a slash, and single files.
const FILES: &[&str] = &[
    ".cargo_vcs_info.json",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "Cargo.toml.orig",
    "LICENSE",
    "README.md",
    "docs/library.md",
    "examples/",
    "src/",
    "wit/",
];
/// The most dependencies of the library without a host, such as an axum program gets. The procedural
/// macros and build scripts count too.
const DEPENDENCIES_MAX: usize = 60;

/// The lines that cargo prints.
fn cargo(arguments: &[&str]) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo).args(arguments).current_dir(ROOT).output().expect("cargo runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "cargo {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn the_package_has_the_library_and_nothing_else() {
    let files = cargo(&["package", "--list", "--allow-dirty", "--offline"]);
    let belongs =
        |file: &str| FILES.iter().any(|known| file == *known || known.ends_with('/') && file.starts_with(known));
    let foreign: Vec<&String> = files.iter().filter(|file| !belongs(file)).collect();
    assert!(foreign.is_empty(), "the list `include` in Cargo.toml lets these files into the package: {foreign:?}");
    // The file about the Git repository is there only for a commit without changes beside it.
    let expected = FILES.iter().filter(|known| !known.starts_with(".cargo_vcs"));
    let missing: Vec<_> = expected.filter(|known| !files.iter().any(|file| file.starts_with(**known))).collect();
    assert!(missing.is_empty(), "the package lacks {missing:?}");
}

#[test]
fn the_library_has_few_dependencies() {
    let tree = |features: &str| {
        let arguments = ["tree", "--offline", "--no-default-features", "--features", features];
        let lines = cargo(&[&arguments[..], &["--edges", "normal,build", "--prefix", "none"]].concat());
        let names = lines.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "));
        names.filter(|name| !name.starts_with("eyot ")).collect::<BTreeSet<String>>()
    };
    let dependencies = tree("tower");
    let count = dependencies.len();
    assert!(count < DEPENDENCIES_MAX, "the library has {count} dependencies: {dependencies:#?}");
    let page = fs::read_to_string(Path::new(ROOT).join("docs/library.md")).unwrap();
    for (features, sentence) in [("tower", "has {} dependencies"), ("tower,files", "with `files` {}")] {
        let sentence = sentence.replace("{}", &tree(features).len().to_string());
        assert!(page.contains(&sentence), "docs/library.md does not say: {sentence}");
    }
}

#[test]
fn the_oldest_rust_is_tested() {
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"'));
    let version = version.expect("a line rust-version in Cargo.toml");
    let workflow = fs::read_to_string(Path::new(ROOT).join(".github/workflows/ci.yml")).unwrap();
    let image = format!("container: rust:{version}-bookworm");
    assert!(workflow.contains(&image), ".github/workflows/ci.yml has no job with {image}");
}
