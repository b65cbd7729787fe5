//! The layers depend on each other in one direction only (ARCHITECTURE.md), and only hosts use a
//! host's crates.

use std::collections::{BTreeMap, BTreeSet};
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

/// The text literals of a source text that look like a key of the registry, or like the end of a
/// name in a key.
fn key_literals(text: &str) -> Vec<String> {
    let literals = code(text).split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let is_key = |literal: &String| {
        let begins = KEYS.iter().any(|kind| literal.strip_prefix(kind).is_some_and(|rest| rest.starts_with('/')));
        begins || literal.starts_with('!') || literal.contains("}!") || literal.contains("!{")
    };
    literals.into_iter().filter(is_key).collect()
}

#[test]
fn only_the_layout_spells_keys() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for layer in ["registry", "auth", "http", "host"] {
        let mut files = Vec::new();
        sources(&root.join("src").join(layer), &mut files);
        for file in files {
            let name = file.strip_prefix(root).unwrap().to_str().unwrap();
            if name.contains("/tests/") || name.ends_with("/tests.rs") {
                continue;
            }
            let found = key_literals(&fs::read_to_string(&file).unwrap());
            if name == "src/registry/layout.rs" {
                assert!(found.len() > 5, "the scan finds keys at all: {found:?}");
            } else if layer == "registry" {
                wrong.extend(found.into_iter().map(|literal| format!("{name}: {literal}")));
            } else {
                let of_registry = found.into_iter().filter(|literal| KEYS.iter().any(|kind| literal.starts_with(kind)));
                wrong.extend(of_registry.map(|literal| format!("{name}: {literal}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The modules of a layer, each with the modules of the layer that its code names. The name of a
/// module is its path below the layer; the layer itself is the module with the empty name.
type Modules = BTreeMap<String, BTreeSet<String>>;

fn modules(layer: &str) -> Modules {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(layer);
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut texts = BTreeMap::new();
    for file in files {
        let path = file.strip_prefix(&root).unwrap().with_extension("");
        let mut segments: Vec<&str> = path.iter().map(|segment| segment.to_str().unwrap()).collect();
        segments.pop_if(|last| *last == "mod");
        if !segments.contains(&"tests") {
            texts.insert(segments.join("::"), code(&fs::read_to_string(&file).unwrap()));
        }
    }
    let named = |module: &str, text: &str| {
        let children = texts.keys().filter(|other| parent(other) == Some(module)).cloned();
        let used = named_paths(text).into_iter().filter_map(|path| resolve(layer, module, &path, &texts));
        children.chain(used.filter(|used| used != module)).collect()
    };
    texts.iter().map(|(module, text)| (module.clone(), named(module, text))).collect()
}

/// A source text without comments and without a test module at its end.
fn code(text: &str) -> String {
    let text = text.split("\nmod tests {").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The module that contains a module; `None` for the layer.
fn parent(module: &str) -> Option<&str> {
    if module.is_empty() { None } else { Some(module.rsplit_once("::").map_or("", |(parent, _)| parent)) }
}

/// The paths in a text that begin with `crate` or `super`, each of the paths of a group for itself.
fn named_paths(text: &str) -> Vec<Vec<&str>> {
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in text.match_indices(root) {
            if !text[..at].ends_with([':', '_']) {
                expand(&text[at..], &[], &mut found);
            }
        }
    }
    found
}

/// Adds the paths at the beginning of `text`, below `prefix`, to `found`. Returns the text after
/// the paths.
fn expand<'a>(text: &'a str, prefix: &[&'a str], found: &mut Vec<Vec<&'a str>>) -> &'a str {
    if let Some(mut group) = text.strip_prefix('{') {
        loop {
            group = group.trim_start_matches([',', ' ', '\n']);
            match group.strip_prefix('}') {
                Some(rest) => return rest,
                None if group.is_empty() => return group,
                None => group = expand(group, prefix, found),
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end.max(1).min(text.len()));
    let path = [prefix, &[name]].concat();
    match rest.strip_prefix("::") {
        Some(below) if below.starts_with(|c: char| c.is_alphabetic() || c == '{') => expand(below, &path, found),
        _ => {
            found.push(path);
            // The name that the path gets is no path.
            rest.find([',', '}', ';', '\n']).filter(|_| rest.starts_with(" as ")).map_or(rest, |end| &rest[end..])
        }
    }
}

/// The module of a layer that a path in `module` names; `None` for a path into another layer.
fn resolve(layer: &str, module: &str, path: &[&str], texts: &BTreeMap<String, String>) -> Option<String> {
    let (mut base, mut rest) = match path {
        ["crate", named, rest @ ..] if *named == layer => (String::new(), rest),
        ["super", rest @ ..] => (parent(module)?.to_owned(), rest),
        _ => return None,
    };
    while let ["super", others @ ..] = rest {
        (base, rest) = (parent(&base)?.to_owned(), others);
    }
    // `pub(in crate::layer)` names the layer, but uses nothing.
    rest.first()?;
    while let [name, others @ ..] = rest {
        let child = below(&base, name);
        if !texts.contains_key(&child) {
            break;
        }
        (base, rest) = (child, others);
    }
    // A module may import the name from one of its own modules.
    let imported = rest.first().and_then(|name| import(&base, name, texts));
    Some(imported.unwrap_or(base))
}

/// The child module from which `module` imports `name`, publicly or not.
fn import(module: &str, name: &str, texts: &BTreeMap<String, String>) -> Option<String> {
    let statements = texts[module].split("use ").skip(1).filter_map(|rest| rest.split(';').next());
    let mut paths = Vec::new();
    for statement in statements {
        expand(statement, &[], &mut paths);
    }
    let child = paths.into_iter().find(|path| path.last() == Some(&name)).map(|path| below(module, path[0]));
    child.filter(|child| texts.contains_key(child))
}

/// The name of a module within another one.
fn below(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") }
}

/// A circle of modules that use each other, if there is one.
fn circle(modules: &Modules) -> Option<Vec<&str>> {
    /// Follows the modules that the last module of `path` uses. `done` has the modules from which
    /// no circle can be reached.
    fn follow<'a>(modules: &'a Modules, path: &mut Vec<&'a str>, done: &mut BTreeSet<&'a str>) -> Option<Vec<&'a str>> {
        let module = *path.last()?;
        for next in modules.get(module).into_iter().flatten() {
            if let Some(begin) = path.iter().position(|other| other == next) {
                return Some(path[begin..].to_vec());
            }
            if !done.contains(next.as_str()) {
                path.push(next);
                if let Some(found) = follow(modules, path, done) {
                    return Some(found);
                }
                path.pop();
            }
        }
        done.insert(module);
        None
    }
    let mut done = BTreeSet::new();
    modules.keys().find_map(|module| follow(modules, &mut vec![module], &mut done))
}

#[test]
fn a_part_of_the_registry_uses_only_parts_below_it() {
    let part = |module: &str| module.split("::").next().unwrap().to_owned();
    let rank = |part: &str| PARTS.iter().position(|other| *other == part);
    let modules = modules("registry");
    let mut broken = Vec::new();
    for (module, used) in modules.iter().filter(|(module, _)| !module.is_empty()) {
        let own = rank(&part(module)).unwrap_or_else(|| panic!("{module} has no place in PARTS"));
        for used in used.iter().filter(|used| part(used) != part(module)) {
            if rank(&part(used)).is_none_or(|rank| rank >= own) {
                broken.push(format!("{module} uses {}", if used.is_empty() { "the façade" } else { used }));
            }
        }
    }
    let arrows: usize = modules.values().map(BTreeSet::len).sum();
    assert!(arrows > 50, "the scan finds the arrows at all");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn no_files_of_the_registry_use_each_other_in_a_circle() {
    let mut modules = modules("registry");
    // The phases of a round are methods of one struct, `Collector`.
    modules.retain(|module, _| !module.starts_with("collect"));
    assert_eq!(circle(&modules), None);
}

#[test]
fn the_scan_sees_parts_and_circles() {
    let named =
        named_paths("use super::{Error, a::{b, c::D as E}};\nfn f() { crate::registry::x::y(); my_super::z() }");
    let expected: [&[&str]; 4] =
        [&["crate", "registry", "x", "y"], &["super", "Error"], &["super", "a", "b"], &["super", "a", "c", "D"]];
    assert_eq!(named, expected);

    let text = |module: &str, text: &str| (module.to_owned(), text.to_owned());
    let texts = BTreeMap::from([
        text("", "pub use error::{Error, Result};"),
        text("error", ""),
        text("a", ""),
        text("a::b", ""),
    ]);
    let resolve = |module: &str, path: &[&str]| resolve("registry", module, path, &texts);
    assert_eq!(resolve("a::b", &["crate", "registry", "Error"]).as_deref(), Some("error"));
    assert_eq!(resolve("a::b", &["super", "super", "Registry"]).as_deref(), Some(""));
    assert_eq!(resolve("error", &["super", "a", "b", "C"]).as_deref(), Some("a::b"));
    assert_eq!(resolve("error", &["crate", "store", "Error"]), None);
    assert_eq!(resolve("error", &["crate", "registry"]), None);

    let uses = |module: &str, used: &[&str]| (module.to_owned(), used.iter().map(|used| (*used).to_owned()).collect());
    assert_eq!(circle(&Modules::from([uses("a", &["b"]), uses("b", &["c"]), uses("c", &[])])), None);
    assert_eq!(circle(&Modules::from([uses("a", &["b"]), uses("b", &["c"]), uses("c", &["b"])])), Some(vec!["b", "c"]));
}
