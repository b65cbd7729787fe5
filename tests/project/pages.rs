//! The links between the project's pages: each link names a file and a heading that exist, and the
//! site that mdBook makes of `docs/` has every page.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The folders that are searched for pages, beside the top of the source tree.
const FOLDERS: [&str; 5] = [".github", "deploy", "docs", "tests/transcripts", "tests/spin_host"];
/// Folders of build results.
const BUILT: [&str; 2] = ["target", "node_modules"];

struct Page {
    /// Relative to the top of the source tree.
    path: PathBuf,
    text: String,
}

impl Page {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(Path::new(ROOT).join(&path)).unwrap();
        Self { path, text }
    }

    /// The text outside of code blocks and code spans, line by line.
    fn prose(&self) -> impl Iterator<Item = String> {
        let mut is_code = false;
        self.text.lines().filter_map(move |line| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            (!is_fence && !is_code && !line.starts_with("    ")).then(|| line.split('`').step_by(2).collect())
        })
    }

    /// The targets of the links to other pages and to headings.
    fn links(&self) -> Vec<String> {
        let targets = |line: String| -> Vec<String> {
            line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
        };
        self.prose().flat_map(targets).filter(|target| !target.contains("://")).collect()
    }

    /// The names of the headings in links: lower case, a hyphen for each space, without punctuation.
    fn anchors(&self) -> BTreeSet<String> {
        let mut seen = BTreeMap::<String, usize>::new();
        let headings = self
            .text
            .lines()
            .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
        headings
            .map(|heading| {
                let kept = |c: &char| c.is_alphanumeric() || ['-', '_', ' '].contains(c);
                let name: String =
                    heading.to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect();
                let count = seen.entry(name.clone()).or_default();
                *count += 1;
                if *count == 1 { name } else { format!("{name}-{}", *count - 1) }
            })
            .collect()
    }
}

fn find(folder: &Path, recursive: bool, found: &mut Vec<Page>) {
    let Ok(entries) = fs::read_dir(Path::new(ROOT).join(folder)) else { return };
    for entry in entries {
        let path = folder.join(entry.unwrap().file_name());
        let is_folder = Path::new(ROOT).join(&path).is_dir();
        if is_folder && recursive && !BUILT.iter().any(|name| path.ends_with(name)) {
            find(&path, true, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(Page::read(path));
        }
    }
}

fn pages() -> Vec<Page> {
    let mut found = Vec::new();
    find(Path::new(""), false, &mut found);
    FOLDERS.iter().for_each(|folder| find(Path::new(folder), true, &mut found));
    found
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, component| {
        match component {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            other => path.push(other),
        }
        path
    })
}

/// The reason why a link leads nowhere, if it does.
fn fault(page: &Page, link: &str) -> Option<String> {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let path = if file.is_empty() { page.path.clone() } else { normal(&page.path.parent().unwrap().join(file)) };
    if !Path::new(ROOT).join(&path).exists() {
        return Some(format!("{} does not exist", path.display()));
    }
    if page.path.starts_with("docs") && !path.starts_with("docs") {
        return Some(format!("{} is not a page of the site", path.display()));
    }
    let is_known = anchor.is_empty() || Page::read(path.clone()).anchors().contains(anchor);
    (!is_known).then(|| format!("{} has no heading #{anchor}", path.display()))
}

#[test]
fn each_link_leads_to_a_page_and_a_heading() {
    let pages = pages();
    let links: Vec<(&Page, String)> =
        pages.iter().flat_map(|page| page.links().into_iter().map(move |link| (page, link))).collect();
    assert!(links.len() > 100, "only {} links in {} pages", links.len(), pages.len());
    let faults: Vec<String> = links
        .iter()
        .filter_map(|(page, link)| Some(format!("{}: {link}: {}", page.path.display(), fault(page, link)?)))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_site_has_every_page_of_docs() {
    let summary = Page::read("docs/SUMMARY.md".into());
    let listed: BTreeSet<PathBuf> = summary.links().iter().map(|link| Path::new("docs").join(link)).collect();
    let in_docs = |page: &Page| page.path.starts_with("docs") && page.path != summary.path;
    let written: BTreeSet<PathBuf> = pages().into_iter().filter(in_docs).map(|page| page.path).collect();
    assert_eq!(listed, written);
}

#[test]
fn a_broken_link_is_found() {
    let page = |text: &str| Page { path: "docs/page.md".into(), text: text.into() };
    let read =
        page("# A `b`, c\n\n# A b c\n[x](y.md) and [z](#a-b-c), `[no](code)`\n```\n[no](fence)\n```\n[w](https://a.b)");
    assert_eq!(read.links(), ["y.md", "#a-b-c"]);
    assert_eq!(read.anchors(), ["a-b-c", "a-b-c-1"].map(str::to_owned).into());
    assert_eq!(fault(&read, "y.md").unwrap(), "docs/y.md does not exist");
    assert_eq!(fault(&read, "../README.md").unwrap(), "README.md is not a page of the site");
    assert_eq!(fault(&read, "README.md#nowhere").unwrap(), "docs/README.md has no heading #nowhere");
    assert_eq!(fault(&read, "README.md#documentation"), None);
}
