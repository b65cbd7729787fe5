//! The modules of the crate, and the modules that their code uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::Visit;

/// The names of a path, from the root of the crate.
pub type Names = Vec<String>;

/// For each module, the modules that its code uses.
pub type Arrows = BTreeMap<Names, BTreeSet<Names>>;

/// The modules of the crate without their tests.
pub struct Modules(BTreeMap<Names, Code>);

/// What the code of one module names.
#[derive(Default)]
struct Code {
    paths: Vec<Names>,
    /// The paths of the `use` declarations, by the name that each makes.
    imports: BTreeMap<String, Names>,
    /// The modules that are compiled only for tests.
    test_modules: Vec<String>,
}

impl Modules {
    /// All modules of this crate.
    pub fn of_crate() -> Self {
        let files = files("src");
        Self::new(&files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect::<Vec<_>>())
    }

    /// The modules in `files`, which are pairs of a path below `src` and the text.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let read = |(path, text): &(&str, &str)| {
            let mut code = Code::default();
            code.visit_file(&syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}")));
            (module_of(path), code)
        };
        let mut modules: BTreeMap<_, _> = files.iter().map(read).collect();
        let tests = |(module, code): (&Names, &Code)| {
            code.test_modules.iter().map(|name| [&module[..], &[name.clone()]].concat()).collect::<Vec<_>>()
        };
        let tests: Vec<_> = modules.iter().flat_map(tests).collect();
        modules.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        Self(modules)
    }

    /// The modules of the crate that each module uses. A name that a module imports counts for the
    /// module that defines the name.
    pub fn arrows(&self) -> Arrows {
        let used = |module: &Names, code: &Code| {
            let used = code.paths.iter().filter_map(|path| self.defining(&self.absolute(module, path)?));
            used.filter(|used| used != module).collect()
        };
        self.0.iter().map(|(module, code)| (module.clone(), used(module, code))).collect()
    }

    /// The first names of all paths of a module. Names of other crates are among them.
    pub fn first_names(&self) -> impl Iterator<Item = (&Names, &str)> {
        self.0.iter().flat_map(|(module, code)| code.paths.iter().map(move |path| (module, path[0].as_str())))
    }

    /// The path from the root of the crate; `None` for a path into another crate and for a name of
    /// the module itself.
    fn absolute(&self, module: &Names, path: &[String]) -> Option<Names> {
        let supers = path.iter().take_while(|name| *name == "super").count();
        let child = || [&module[..], &path[..1]].concat();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([&module[..], &path[1..]].concat()),
            "super" => Some([&module[..module.len().checked_sub(supers)?], &path[supers..]].concat()),
            _ if self.0.contains_key(&child()) => Some([&module[..], path].concat()),
            _ => None,
        }
    }

    /// The module that defines what an absolute path names.
    fn defining(&self, path: &[String]) -> Option<Names> {
        let depth = (0..=path.len()).rev().find(|depth| self.0.contains_key(&path[..*depth]))?;
        let module = path[..depth].to_vec();
        let imported = path.get(depth).and_then(|name| self.0[&module].imports.get(name));
        match imported.and_then(|import| self.absolute(&module, import)) {
            Some(import) if import != path => self.defining(&import),
            _ => Some(module),
        }
    }
}

impl Code {
    /// Adds the paths of a `use` tree such as `super::{a::B, c}`.
    fn add_tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let below = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_tree(&below(&path.ident), &path.tree),
            syn::UseTree::Name(name) if name.ident == "self" => self.add_import(prefix.last(), prefix.to_vec()),
            syn::UseTree::Name(name) => self.add_import(Some(&name.ident.to_string()), below(&name.ident)),
            syn::UseTree::Rename(rename) => self.add_import(Some(&rename.rename.to_string()), below(&rename.ident)),
            syn::UseTree::Glob(_) => self.paths.push(prefix.to_vec()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(prefix, tree)),
        }
    }

    fn add_import(&mut self, name: Option<&String>, path: Names) {
        self.imports.extend(name.map(|name| (name.clone(), path.clone())));
        self.paths.push(path);
    }
}

impl<'ast> Visit<'ast> for Code {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => return syn::visit::visit_item(self, item),
        };
        match item {
            _ if !is_for_tests(attributes) => syn::visit::visit_item(self, item),
            syn::Item::Mod(module) => self.test_modules.push(module.ident.to_string()),
            _ => {}
        }
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if !is_for_tests(&call.attrs) {
            syn::visit::visit_expr_call(self, call);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.paths.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }

    /// The arguments of a macro are no syntax tree, so paths are found in the text of the arguments.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let text = call.tokens.to_string().replace(" :: ", "::");
        let words = text.split(|letter: char| !letter.is_alphanumeric() && !"_:".contains(letter));
        let paths = words.filter(|word| word.starts_with("crate::") || word.starts_with("super::"));
        self.paths.extend(paths.map(|path| path.split("::").map(str::to_owned).collect()));
        self.visit_path(&call.path);
    }

    /// `pub(in crate::layer)` names a module, but uses nothing of the module.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

/// Whether attributes such as `#[cfg(test)]` limit code to tests.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    let is_for_tests = |attribute: &syn::Attribute| {
        let condition = attribute.meta.require_list().map(|list| list.tokens.to_string()).unwrap_or_default();
        attribute.path().is_ident("cfg")
            && !condition.contains("not (test")
            && condition.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == "test")
    };
    attributes.iter().any(is_for_tests)
}

fn module_of(path: &str) -> Names {
    let mut names: Names = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    names.pop_if(|last| last == "mod" || last == "lib");
    names
}

/// The Rust files below a folder of the project that are no tests: the path below the folder, and
/// the text.
pub fn files(folder: &str) -> Vec<(String, String)> {
    fn read(folder: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                read(&path, root, found);
            } else if name.ends_with(".rs") && !name.contains("tests") && name != "main.rs" {
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    read(&root, &root, &mut found);
    assert!(!found.is_empty(), "{folder} has no files");
    found
}

/// A circle of nodes that use each other, if there is a circle.
pub fn circle<T: Ord + Clone>(arrows: &BTreeMap<T, BTreeSet<T>>) -> Option<Vec<T>> {
    /// Follows the nodes that the last node of `path` uses. `done` has the nodes from which no
    /// circle can be reached.
    fn follow<T: Ord + Clone>(
        arrows: &BTreeMap<T, BTreeSet<T>>,
        path: &mut Vec<T>,
        done: &mut BTreeSet<T>,
    ) -> Option<Vec<T>> {
        let node = path.last()?.clone();
        for next in arrows.get(&node).into_iter().flatten() {
            if let Some(begin) = path.iter().position(|other| other == next) {
                return Some(path[begin..].to_vec());
            }
            if !done.contains(next) {
                path.push(next.clone());
                if let Some(found) = follow(arrows, path, done) {
                    return Some(found);
                }
                path.pop();
            }
        }
        done.insert(node);
        None
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|node| follow(arrows, &mut vec![node.clone()], &mut done))
}

#[test]
fn paths_lead_to_the_module_that_defines_a_name() {
    let used_by = |code: &str| {
        let files = [
            ("lib.rs", "pub mod x; pub use x::A;"),
            ("x/mod.rs", "mod a; mod b; pub use a::{A, Other as Another}; use crate::y::Y; pub struct Shared;"),
            ("x/a.rs", ""),
            ("x/b.rs", code),
            ("y.rs", ""),
        ];
        let arrows = Modules::new(&files).arrows();
        let used = &arrows[&vec!["x".to_owned(), "b".to_owned()]];
        used.iter().map(|module| module.join("::")).collect::<Vec<_>>()
    };
    assert_eq!(used_by("use super::a::B;"), ["x::a"]);
    assert_eq!(used_by("use super::{Another, Shared};"), ["x", "x::a"]);
    assert_eq!(used_by("use crate::{A, x::{self, Shared as S}};"), ["x", "x::a"]);
    assert_eq!(used_by("use super::Y;"), ["y"]);
    assert_eq!(used_by("fn f() { super::a::g(1) }"), ["x::a"]);
    assert_eq!(used_by("fn f() { assert!(matches!(g(), crate::y::Z)) }"), ["y"]);
    assert_eq!(used_by("struct S(Option<super::a::T>);"), ["x::a"]);
    assert!(used_by("pub(in crate::x) struct S;").is_empty());
    assert!(used_by("// use super::a::B;\nuse std::fmt;").is_empty());
    assert!(used_by("#[cfg(test)]\nmod tests { use super::super::a::B; }").is_empty());
    assert!(used_by("#[cfg(all(test, unix))]\nmod tests { use super::super::a::B; }").is_empty());
    assert!(used_by("fn f() {\n#[cfg(test)]\nsuper::a::g(1);\n}").is_empty());
    assert_eq!(used_by("#[cfg(not(test))]\nuse super::a::B;"), ["x::a"]);
}

#[test]
fn circles_are_found() {
    let circle_of = |arrows: &[(&'static str, &[&'static str])]| {
        circle(&arrows.iter().map(|(node, used)| (*node, used.iter().copied().collect())).collect())
    };
    assert_eq!(circle_of(&[("a", &["b"]), ("b", &["c"]), ("c", &[])]), None);
    assert_eq!(circle_of(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]), Some(vec!["b", "c"]));
}
