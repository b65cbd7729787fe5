//! The layers depend on each other in one direction only (ARCHITECTURE.md), as do the parts of the
//! registry and the files of each folder, and only hosts use a host's crates.

use std::collections::{BTreeMap, BTreeSet};

use crate::modules::{Arrows, Modules, Names, circle, files};

/// Each layer, with the layers that its code may name.
const LAYERS: &[(&str, &[&str])] = &[
    ("oci", &["oci"]),
    ("platform", &["platform"]),
    ("store", &["store", "platform", "oci"]),
    ("registry", &["registry", "store", "platform", "oci"]),
    ("auth", &["auth", "store", "platform", "oci"]),
    ("upstream", &["upstream", "auth", "store", "platform", "oci"]),
    ("mirror", &["mirror", "upstream", "registry", "auth", "store", "platform", "oci"]),
    ("export", &["export", "auth", "registry", "store", "platform", "oci"]),
    ("import", &["import", "upstream", "registry", "auth", "store", "platform", "oci"]),
    ("http", &["http", "mirror", "upstream", "auth", "registry", "store", "platform", "oci"]),
    (
        "host",
        &["host", "http", "export", "import", "mirror", "upstream", "auth", "registry", "store", "platform", "oci"],
    ),
];

/// Crates that only a host may use; the store that wraps Spin's stores is the one exception.
const HOST_CRATES: &[&str] = &["tokio", "hyper", "hyper_util", "wasip2", "wasip3", "spin_sdk", "wit_bindgen", "anyhow"];
const HOST_CRATE_EXCEPTION: &str = "store::spin";

/// The parts of the registry in order: a part uses only parts that come before it in this list,
/// and no part uses the façade `Registry` (ARCHITECTURE.md).
const PARTS: &[&str] = &[
    "session_id",
    "error",
    "limits",
    "layout",
    "memory",
    "mirrored",
    "pages",
    "precondition",
    "facts",
    "content",
    "uses",
    "guard",
    "sharing",
    "blobs",
    "lists",
    "tags",
    "warnings",
    "uploads",
    "manifests",
    "collect",
];

/// The first parts of the registry's keys.
const KEYS: &[&str] = &[
    "repository",
    "tag",
    "tagged",
    "manifest",
    "blob",
    "content",
    "referrer",
    "warning",
    "large",
    "used",
    "upload",
    "collection",
    "condemned",
    "protected",
];

#[test]
fn a_layer_uses_only_layers_below_it() {
    let mut broken = Vec::new();
    let mut layers = BTreeSet::new();
    for (module, used) in Modules::of_crate().arrows() {
        let Some(layer) = module.first() else { continue };
        layers.insert(layer.clone());
        let (_, allowed) = LAYERS.iter().find(|(name, _)| name == layer).expect("the layer is in LAYERS");
        for used in used {
            if !used.first().is_some_and(|layer| allowed.contains(&layer.as_str())) {
                broken.push(format!("{} uses {}", module.join("::"), used.join("::")));
            }
        }
    }
    assert_eq!(layers.len(), LAYERS.len(), "each layer has code: {layers:?}");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn only_hosts_use_crates_of_hosts() {
    let modules = Modules::of_crate();
    let used: BTreeSet<_> = modules.first_names().filter(|(_, name)| HOST_CRATES.contains(name)).collect();
    let is_host = |module: &Names| module[0] == "host" || module.join("::") == HOST_CRATE_EXCEPTION;
    let wrong: Vec<_> = used.iter().filter(|(module, _)| !is_host(module)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let used: BTreeSet<_> = used.iter().map(|(_, name)| *name).collect();
    assert_eq!(used, BTreeSet::from_iter(HOST_CRATES.iter().copied()), "each crate of the list is used");
}

#[test]
fn a_part_of_the_registry_uses_only_parts_below_it() {
    let rank = |module: &[String]| PARTS.iter().position(|part| *part == module[1]);
    let arrows = registry();
    let mut broken = Vec::new();
    for (module, used) in arrows.iter().filter(|(module, _)| module.len() > 1) {
        let own = rank(module).unwrap_or_else(|| panic!("{module:?} has no place in PARTS"));
        for used in used.iter().filter(|used| used.get(1) != module.get(1)) {
            let is_below = used.len() > 1 && rank(used).is_some_and(|rank| rank < own);
            if !is_below {
                broken.push(format!("{} uses {}", module.join("::"), used.join("::")));
            }
        }
    }
    assert!(arrows.values().map(BTreeSet::len).sum::<usize>() > 50, "the scan finds the arrows at all");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn no_files_of_the_registry_use_each_other_in_a_circle() {
    let mut arrows = registry();
    // The phases of a round are methods of one struct, `Collector`.
    arrows.retain(|module, _| module.get(1).is_none_or(|part| part != "collect"));
    assert_eq!(circle(&arrows), None);
}

/// The modules of the registry, and the modules of the registry that each uses.
fn registry() -> Arrows {
    let is_registry = |module: &Names| module.first().is_some_and(|layer| layer == "registry");
    let mut arrows = Modules::of_crate().arrows();
    arrows.retain(|module, _| is_registry(module));
    arrows.values_mut().for_each(|used| used.retain(is_registry));
    arrows
}

/// Each file of a folder can be read after the files that it uses. The `mod.rs` of a folder is left
/// out: `mod.rs` declares the files and holds the items that they share.
#[test]
fn no_files_of_a_folder_use_each_other_in_a_circle() {
    let arrows = Modules::of_crate().arrows();
    let folders: BTreeSet<&[String]> =
        arrows.keys().filter_map(|module| module.split_last()).map(|(_, up)| up).collect();
    assert!(folders.len() > 15, "{folders:?}");
    let mut circles = Vec::new();
    for folder in folders {
        circles.extend(
            circle(&files_of(folder, &arrows)).map(|found| format!("{}: {}", folder.join("::"), found.join(", "))),
        );
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

/// The files of a folder, and the files of the folder that each uses. A folder in the folder counts
/// as one file.
fn files_of(folder: &[String], arrows: &Arrows) -> BTreeMap<String, BTreeSet<String>> {
    let file = |module: &Names| module.starts_with(folder).then(|| module.get(folder.len()).cloned()).flatten();
    let mut files: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (module, used) in arrows {
        let Some(from) = file(module) else { continue };
        let used = used.iter().filter_map(file).filter(|to| *to != from).collect::<Vec<_>>();
        files.entry(from).or_default().extend(used);
    }
    files
}

/// The text literals of a source text that look like a key of the registry, or like the end of a
/// name in a key.
fn key_literals(text: &str) -> Vec<String> {
    let code = text.split("\nmod tests {").next().unwrap();
    let code = code.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    let literals = code.split('"').skip(1).step_by(2);
    let is_key = |literal: &&str| {
        let begins = KEYS.iter().any(|kind| literal.strip_prefix(kind).is_some_and(|rest| rest.starts_with('/')));
        begins || literal.starts_with('!') || literal.contains("}!") || literal.contains("!{")
    };
    literals.filter(is_key).map(str::to_owned).collect()
}

#[test]
fn only_the_layout_spells_keys() {
    let mut wrong = Vec::new();
    for layer in ["registry", "auth", "http", "host"] {
        for (name, text) in files(&format!("src/{layer}")) {
            let found = key_literals(&text);
            if layer == "registry" && name == "layout.rs" {
                assert!(found.len() > 5, "the scan finds keys at all: {found:?}");
            } else {
                let is_key =
                    |literal: &String| layer == "registry" || KEYS.iter().any(|kind| literal.starts_with(kind));
                wrong.extend(found.into_iter().filter(is_key).map(|literal| format!("{layer}/{name}: {literal}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
