//! A registry with many tags in one repository among others: pages are complete, and the cost of a
//! page does not grow with the number of tags.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use eyot::platform::{Platform, SystemPlatform};
use eyot::registry::Limits;
use eyot::store::counting::Counting;
use eyot::store::file::{FileBlobStore, FileKeyValue};
use eyot::store::{KeyValue, When};
use eyot::{Body, Handler, Registry};
use futures_executor::block_on;
use http::{Method, Request, StatusCode};

const REPOSITORY: &str = "team/app-50";
const REPOSITORIES: usize = 100;
const TAGS: usize = 10_000;
const PAGE: usize = 100;

/// How many folder entries a page of `PAGE` tags or fewer may read.
const PAGE_ENTRIES_MAX: u64 = 1500;
/// The number of parallel writers, enough to keep the disk busy.
const WRITERS: usize = 16;

struct Files {
    handler: Handler,
    files: Arc<FileKeyValue>,
    keys: Arc<Counting<FileKeyValue>>,
    folder: tempfile::TempDir,
}

/// The cost of the most expensive page of a list.
#[derive(Debug, Default)]
struct Cost {
    entries: u64,
    calls: u64,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let platform: Arc<dyn Platform> = Arc::new(SystemPlatform);
        let files = Arc::new(FileKeyValue::open(folder.path(), platform.clone()).unwrap());
        let keys = Arc::new(Counting::new(files.clone()));
        let blobs = Arc::new(FileBlobStore::open(folder.path(), platform.clone()).unwrap());
        let registry = Registry::new(keys.clone(), blobs, platform, Limits::default());
        Self { handler: Handler::new(registry, eyot::auth::Access::open()), files, keys, folder }
    }

    fn send(&self, method: Method, uri: &str, body: impl Into<Bytes>) -> (StatusCode, bool, Bytes) {
        let request = Request::builder().method(method).uri(uri);
        let request = request.header("content-type", "application/vnd.oci.image.index.v1+json");
        block_on(async {
            let response = self.handler.handle(request.body(Body::from(body.into())).unwrap()).await;
            let (status, more) = (response.status(), response.headers().contains_key("link"));
            (status, more, response.into_body().collect_up_to(1 << 20).await.unwrap())
        })
    }

    /// Pushes one image to every repository and tags it in one of them.
    fn push(&self, tags: &[String]) {
        for number in 0..REPOSITORIES {
            let uri = format!("/v2/team/app-{number:02}/manifests/first");
            let (status, ..) = self.send(Method::PUT, &uri, r#"{"schemaVersion": 2, "manifests": []}"#);
            assert_eq!(status, StatusCode::CREATED);
        }
        self.tag(tags);
    }

    /// Adds tags by writing their keys, because pushes would write twice as much, and one after
    /// another.
    fn tag(&self, tags: &[String]) {
        let key = |tag: &String| format!("tag/{REPOSITORY}!{tag}");
        let value = block_on(self.files.get(&key(&"first".into()))).unwrap().expect("a tag that was pushed").value;
        at_once(tags, |tag| drop(block_on(self.files.put(&key(tag), value.clone(), When::Always)).unwrap()));
    }

    fn page(&self, uri: &str, field: &str, cost: &mut Cost) -> (Vec<String>, bool) {
        self.keys.counts.take();
        let before = self.files.entries_read();
        let (status, more, body) = self.send(Method::GET, uri, "");
        assert_eq!(status, StatusCode::OK, "{uri}");
        cost.entries = cost.entries.max(self.files.entries_read() - before);
        cost.calls = cost.calls.max(self.keys.counts.take().iter().sum());
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let entries = json[field].as_array().unwrap().iter();
        (entries.map(|entry| entry.as_str().unwrap().to_owned()).collect(), more)
    }

    /// Returns all entries of a list, read in pages, and the cost of the most expensive page.
    /// `turned` receives each page's last entry before the next page is read.
    fn pages(&self, list: &str, field: &str, count: usize, turned: impl Fn(&str)) -> (Vec<String>, Cost) {
        let (mut all, mut cost): (Vec<String>, _) = (Vec::new(), Cost::default());
        loop {
            let last = all.last().map_or(String::new(), |last| format!("&last={last}"));
            let (page, more) = self.page(&format!("{list}?n={count}{last}"), field, &mut cost);
            assert!(page.len() == count || !more, "a short page is the last one");
            all.extend(page);
            if !more {
                return (all, cost);
            }
            turned(&all[all.len() - 1]);
        }
    }

    fn tags(&self, turned: impl Fn(&str)) -> (Vec<String>, Cost) {
        self.pages(&format!("/v2/{REPOSITORY}/tags/list"), "tags", PAGE, turned)
    }
}

fn at_once(names: &[String], work: impl Fn(&String) + Sync) {
    std::thread::scope(|scope| {
        for names in names.chunks(names.len().div_ceil(WRITERS)) {
            scope.spawn(|| names.iter().for_each(&work));
        }
    });
}

/// Tags of the kinds that people use, in the order of time.
fn tags() -> Vec<String> {
    let tag = |n: usize| match n % 10 {
        0..5 => format!("build-{n:05}"),
        5..8 => format!("{:08x}", (n as u32).wrapping_mul(2_654_435_761)),
        8 => format!("v{}.{}.{}", n / 1000, n / 100 % 10, n % 100),
        _ => format!("release-candidate-2024.{}_{n}", n % 12),
    };
    (0..TAGS - 1).map(tag).collect()
}

fn sorted(tags: &[String]) -> Vec<String> {
    let first = "first".to_owned();
    tags.iter().chain([&first]).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn a_page_of_ten_thousand_tags_costs_what_one_of_a_thousand_does() {
    let (files, tags) = (Files::new(), tags());
    let (some, rest) = tags.split_at(999);
    files.push(some);
    let (listed, before) = files.tags(|_| ());
    assert_eq!(listed, sorted(some));

    files.tag(rest);
    let (listed, after) = files.tags(|_| ());
    assert_eq!(listed.len(), TAGS);
    assert!(listed == sorted(&tags), "the tags that were pushed, in order");
    println!("pages of {PAGE} tags of 1,000: {before:?}; of {TAGS}: {after:?}");
    assert_eq!((before.calls, after.calls), (1, 1));
    // The costs differ: a thousand names with the same beginning do not yet fill all folders on the
    // path of that beginning.
    assert!(after.entries <= PAGE_ENTRIES_MAX && after.entries <= before.entries * 3, "{before:?}, {after:?}");

    // The tag at which a page ended is deleted before the next page is requested.
    let (all, _) = files.tags(|last| {
        let (status, ..) = files.send(Method::DELETE, &format!("/v2/{REPOSITORY}/manifests/{last}"), "");
        assert_eq!(status, StatusCode::ACCEPTED);
    });
    assert!(all == listed, "nothing is missing and nothing comes twice");
    let (left, cost) = files.tags(|_| ());
    let gone: BTreeSet<_> = listed.chunks(PAGE).take(TAGS / PAGE - 1).filter_map(<[String]>::last).collect();
    assert!(left.iter().eq(listed.iter().filter(|tag| !gone.contains(tag))));
    assert!(cost.entries <= PAGE_ENTRIES_MAX, "{cost:?}");

    let (repositories, cost) = files.pages("/v2/_catalog", "repositories", 10, |_| ());
    println!("pages of 10 repositories of {REPOSITORIES}: {cost:?}");
    assert!(repositories.into_iter().eq((0..REPOSITORIES).map(|number| format!("team/app-{number:02}"))));
    assert!(cost.calls == 1 && cost.entries <= PAGE_ENTRIES_MAX, "{cost:?}");
}

#[test]
fn a_page_of_four_thousand_repositories_costs_what_one_of_four_hundred_does() {
    let files = Files::new();
    let names: Vec<String> = (0..4000).map(|number| format!("team/app-{number:05}")).collect();
    let key = |name: &String| format!("repository/{name}!");
    let costs = [0..400, 400..4000].map(|more| {
        at_once(&names[more.clone()], |name| {
            block_on(files.files.put(&key(name), Bytes::new(), When::Always)).unwrap();
        });
        let (listed, cost) = files.pages("/v2/_catalog", "repositories", PAGE, |_| ());
        assert!(listed == names[..more.end]);
        println!("pages of {PAGE} repositories of {}: {cost:?}", more.end);
        assert!(cost.calls == 1 && cost.entries <= PAGE_ENTRIES_MAX, "{cost:?}");
        cost.entries
    });
    assert!(costs[1] <= costs[0] * 2, "{costs:?}");
    at_once(&names, |name| block_on(files.files.delete(&key(name))).unwrap());
    let left = std::fs::read_dir(files.folder.path().join("keys")).unwrap();
    assert_eq!(left.count(), 0, "no folder is left of what all was deleted at the same time");
}
