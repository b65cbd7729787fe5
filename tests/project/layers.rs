//! The layers depend on each other in one direction only (ARCHITECTURE.md), and only hosts use a
//! host's crates.

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer, with the layers that its code may name.
const LAYERS: &[(&str, &[&str])] = &[
    ("oci", &["oci"]),
    ("platform", &["platform"]),
    ("store", &["store", "platform", "oci"]),
    ("registry", &["registry", "store", "platform", "oci"]),
    ("auth", &["auth", "store", "platform", "oci"]),
    ("upstream", &["upstream", "auth", "store", "platform", "oci"]),
    ("mirror", &["mirror", "upstream", "registry", "auth", "store", "platform", "oci"]),
    ("http", &["http", "mirror", "upstream", "auth", "registry", "store", "platform", "oci"]),
    ("host", &["host", "http", "mirror", "upstream", "auth", "registry", "store", "platform", "oci"]),
];

/// Crates that only a host may use; the store that wraps Spin's stores is the one exception.
const HOST_CRATES: &[&str] = &["tokio", "hyper", "hyper_util", "wasip3", "spin_sdk", "anyhow"];
const HOST_CRATE_EXCEPTION: &str = "src/store/spin.rs";

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The layers that a line of code names by `crate::layer`, in a `use` or a path.
fn named_layers(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    let after = code.split("crate::").skip(1);
    after.map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
}

#[test]
fn no_arrow_runs_back_up() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    let mut arrows = 0;
    for (layer, allowed) in LAYERS {
        let mut files = Vec::new();
        sources(&root.join("src").join(layer), &mut files);
        assert!(!files.is_empty(), "layer {layer} has no files");
        for file in files {
            let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
                for named in named_layers(line).filter(|named| LAYERS.iter().any(|(layer, _)| layer == named)) {
                    arrows += 1;
                    if !allowed.contains(&named) {
                        broken.push(format!("{name}:{}: {layer} names {named}", number + 1));
                    }
                }
                let foreign = HOST_CRATES.iter().find(|name| line.contains(&format!("{name}::")));
                if let Some(foreign) = foreign.filter(|_| *layer != "host" && name != HOST_CRATE_EXCEPTION) {
                    broken.push(format!("{name}:{}: {layer} uses {foreign}", number + 1));
                }
            }
        }
    }
    assert!(arrows > 20, "the scan finds the arrows at all");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_scan_sees_an_arrow() {
    assert_eq!(named_layers("use crate::http::Handler;").collect::<Vec<_>>(), ["http"]);
    assert_eq!(named_layers("let x = crate::store::x(crate::oci::y());").collect::<Vec<_>>(), ["store", "oci"]);
    assert_eq!(named_layers("// use crate::http::Handler;").count(), 0);
}
