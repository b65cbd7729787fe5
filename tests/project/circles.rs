//! No two files of a folder use each other, directly or through others, so that each file can be
//! read after the files that it uses. The `mod.rs` of a folder is left out: it declares the files
//! and holds the items that they share.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The folders that are checked.
const FOLDERS: &[&str] = &[
    "oci",
    "platform",
    "store",
    "store/s3",
    "registry",
    "registry/collect",
    "registry/manifests",
    "registry/uploads",
    "auth",
    "http",
    "http/endpoints",
    "upstream",
];

/// The names of a module path, from the root of the crate.
type Names = Vec<String>;

/// The modules of the crate: the code of each module without comments and tests.
struct Modules {
    code: BTreeMap<Names, String>,
    /// What the `pub use` declarations of modules name, by the name that they make.
    exported: BTreeMap<Names, Names>,
}

impl Modules {
    fn new(files: &[(&str, &str)]) -> Self {
        let code: BTreeMap<_, _> = files.iter().map(|(path, text)| (module_of(path), code_of(text))).collect();
        let mut modules = Self { code, exported: BTreeMap::new() };
        for (module, code) in &modules.code {
            for (public, path) in used_paths(code) {
                let absolute = modules.absolute(module, &path).filter(|_| public);
                if let Some(absolute) = absolute {
                    let made = [&module[..], &absolute[absolute.len() - 1..]].concat();
                    modules.exported.insert(made, absolute);
                }
            }
        }
        modules
    }

    /// The path from the root of the crate. `None` for paths into other crates and the prelude.
    fn absolute(&self, module: &Names, path: &[String]) -> Option<Names> {
        let supers = path.iter().take_while(|name| *name == "super").count();
        let child = || [&module[..], &path[..1]].concat();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([&module[..], &path[1..]].concat()),
            "super" => Some([&module[..module.len().checked_sub(supers)?], &path[supers..]].concat()),
            _ if self.code.contains_key(&child()) => Some([&module[..], path].concat()),
            _ => None,
        }
    }

    /// The module that defines what a path names.
    fn defined_in(&self, path: &[String]) -> Option<Names> {
        for length in (1..=path.len()).rev() {
            if let Some(exported) = self.exported.get(&path[..length]) {
                return self.defined_in(exported);
            }
            if self.code.contains_key(&path[..length]) {
                return Some(path[..length].to_vec());
            }
        }
        None
    }

    /// Which files of a folder use which others. A folder within the folder counts as one file.
    fn arrows(&self, folder: &str) -> BTreeMap<&str, BTreeSet<String>> {
        let folder: Names = folder.split('/').map(str::to_owned).collect();
        let inside =
            |module: &[String]| module.starts_with(&folder).then(|| module.get(folder.len()).cloned()).flatten();
        let mut arrows: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (module, code) in self.code.iter().filter(|(module, _)| inside(module).is_some()) {
            let from = module[folder.len()].as_str();
            let used = used_paths(code);
            let used = used.iter().filter_map(|(_, path)| self.defined_in(&self.absolute(module, path)?));
            arrows.entry(from).or_default().extend(used.filter_map(|used| inside(&used)).filter(|to| to != from));
        }
        arrows
    }
}

fn module_of(path: &str) -> Names {
    let mut names: Names = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|last| last == "mod" || last == "lib") {
        names.pop();
    }
    names
}

fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that code names in `use` declarations and elsewhere by `crate::` and `super::`. The
/// flag says whether a declaration is a `pub use`.
fn used_paths(code: &str) -> Vec<(bool, Names)> {
    let mut found = Vec::new();
    for statement in code.split(';') {
        let words = statement.rsplit_once("use ").filter(|(before, _)| {
            let word = before.split_whitespace().next_back().unwrap_or_default();
            word.is_empty() || word.starts_with("pub") || word.ends_with([')', ']', '}'])
        });
        match words {
            Some((before, tree)) => {
                let public = before.split_whitespace().next_back().is_some_and(|word| word.starts_with("pub"));
                found.extend(expand(tree).into_iter().map(|path| (public, path)));
            }
            None => found.extend(inline_paths(statement).map(|path| (false, path))),
        }
    }
    found
}

/// The paths of a tree such as `super::{a::B, c}`.
fn expand(tree: &str) -> Vec<Names> {
    let names = |text: &str| -> Names {
        let text = text.split(" as ").next().unwrap_or_default();
        text.split("::").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let Some((prefix, rest)) = tree.split_once('{') else { return vec![names(tree)] };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut branches) = (0, vec![String::new()]);
    for letter in inner.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branches.push(String::new());
                continue;
            }
            _ => {}
        }
        branches.last_mut().expect("a branch").push(letter);
    }
    let branches = branches.iter().filter(|branch| !branch.trim().is_empty());
    branches.flat_map(|branch| expand(branch)).map(|path| [names(prefix), path].concat()).collect()
}

fn inline_paths(code: &str) -> impl Iterator<Item = Names> {
    let is_path = |letter: char| letter.is_alphanumeric() || "_:".contains(letter);
    code.split(move |letter| !is_path(letter))
        .filter(|text| text.starts_with("crate::") || text.starts_with("super::"))
        .map(|text| text.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// The files on a circle of arrows, if there is one.
fn circle(arrows: &BTreeMap<&str, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut left = arrows.clone();
    // Take away the files that use none of the files that are left.
    loop {
        let uses_none = |used: &BTreeSet<String>| used.iter().all(|file| !left.contains_key(file.as_str()));
        let Some(file) = left.iter().find(|(_, used)| uses_none(used)).map(|(file, _)| *file) else { break };
        left.remove(file);
    }
    (!left.is_empty()).then(|| left.keys().map(|file| (*file).to_owned()).collect())
}

fn read(folder: &Path, root: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            read(&path, root, found);
        } else if name.ends_with(".rs") && !name.contains("tests") {
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn no_circle_between_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    read(&root, &root, &mut files);
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let modules = Modules::new(&files);
    for folder in FOLDERS {
        let arrows = modules.arrows(folder);
        assert!(!arrows.is_empty(), "src/{folder} has no files");
        assert_eq!(circle(&arrows), None, "src/{folder}: files on a circle, or that use one: {arrows:#?}");
    }
    assert!(modules.arrows("auth").values().map(BTreeSet::len).sum::<usize>() > 20, "the scan finds arrows");
}

#[test]
fn the_scan_finds_a_circle() {
    let shared = "pub mod a;\npub mod b;\npub use a::{A, Other as Another};\npub struct Shared;";
    let circle_of =
        |a: &str, b: &str| circle(&Modules::new(&[("x/mod.rs", shared), ("x/a.rs", a), ("x/b.rs", b)]).arrows("x"));
    let both = Some(vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(circle_of("use super::b::B;", "use super::{A, Shared};"), both);
    assert_eq!(circle_of("fn f() { super::b::g() }", "use crate::x::{Shared, a::{self, C}};"), both);
    assert_eq!(circle_of("use super::Shared;", "use super::A;"), None);
    assert_eq!(circle_of("// use super::b::B;", "use super::A;"), None);
    assert_eq!(circle_of("#[cfg(test)]\nmod tests { use super::super::b::B; }", "use super::A;"), None);
}
