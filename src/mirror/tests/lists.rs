//! Lists of mirrored repositories.

use super::*;
use crate::registry::{Page, PageRequest, Referrers, ReferrersRequest};

/// The upstream's answer to a request for a list; `None` if there is no list.
pub(super) fn answer(upstream: &Upstream, request: &Request<Body>, name: &str) -> Option<Response<Body>> {
    let uri = request.uri();
    let query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let query: HashMap<String, String> = query.into_owned().collect();
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<usize>().ok());
    let most = Some(upstream.entries_per_page).filter(|most| *most > 0).unwrap_or(usize::MAX);
    let (shown, next) = if name == "list" {
        let after = |tag: &&String| query.get("last").is_none_or(|last| *tag > last);
        let count = most.min(number("n").unwrap_or(usize::MAX));
        let rest: Vec<&String> = upstream.tag_list.iter().filter(after).collect();
        let page: Vec<&String> = rest.iter().take(count).copied().collect();
        let next = page.last().filter(|_| rest.len() > page.len()).map(|last| format!("n={count}&last={last}"));
        (serde_json::json!({ "name": "x", "tags": page }), next)
    } else {
        let all = upstream.referrers.get(name)?;
        let number = number("page").unwrap_or(0);
        let next = (all.len() > (number + 1).saturating_mul(most)).then(|| format!("page={}", number + 1));
        let page: Vec<_> = all.iter().skip(number.saturating_mul(most)).take(most).collect();
        (serde_json::json!({ "schemaVersion": 2, "manifests": page }), next)
    };
    if name == "list" && upstream.tag_list.is_empty() {
        return None;
    }
    let response = Response::builder().status(200);
    let link = next.map(|next| format!("<{}?{next}>; rel=\"next\"", uri.path()));
    let response = link.iter().fold(response, |response, link| response.header("link", link));
    Some(response.body(shown.to_string().into_bytes().into()).unwrap())
}

fn names(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn referrer(content: &[u8], artifact_type: &str) -> serde_json::Value {
    serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(content), "size": 9, "artifactType": artifact_type,
    })
}

impl Setup {
    fn tags(&self, count: Option<usize>, last: Option<&str>) -> Result<Listed<Page>> {
        block_on(self.repository().tags(&PageRequest { count, last: last.map(str::to_owned) }))
    }

    fn all_tags(&self) -> Vec<String> {
        self.tags(None, None).unwrap().list.entries
    }

    fn referrers(&self, subject: &Digest, last: Option<String>) -> Listed<Referrers> {
        block_on(self.repository().referrers(subject, &ReferrersRequest { artifact_type: None, last })).unwrap()
    }

    fn push_own(&self, tag: &str) {
        let bytes = manifest(&digest(tag.as_bytes()));
        let (name, reference) = (self.repository().name().clone(), tag.parse().unwrap());
        block_on(self.registry.push_manifest(&name, &reference, &[], None, bytes.into())).unwrap();
    }
}

#[test]
fn tags_are_asked_once_and_cut_into_pages_of_any_size() {
    let setup = Setup::new();
    setup.push_own("b-own");
    (setup.up().tag_list, setup.up().entries_per_page) = (names(&["a", "b", "c", "d", "e"]), 2);
    let all = names(&["a", "b", "b-own", "c", "d", "e"]);
    for count in [1, 2, 4, 6] {
        let (mut found, mut last) = (Vec::new(), None);
        loop {
            let Listed { list, warning } = setup.tags(Some(count), last.as_deref()).unwrap();
            assert!(list.entries.len() <= count && warning.is_none());
            found.extend(list.entries);
            last = list.next;
            if last.is_none() {
                break;
            }
        }
        assert_eq!(found, all, "{count} a page");
    }
    // The upstream was asked for its three pages once.
    assert_eq!(setup.requests().len(), 3);
    setup.up().tag_list.push("f".into());
    assert_eq!(setup.all_tags(), all);
    assert_eq!(setup.requests(), [""; 0]);
    setup.platform.pass_ms(61 * SECOND_MS);
    assert_eq!(setup.all_tags().len(), all.len() + 1);
    assert_eq!(setup.tags(Some(0), None).unwrap().list.entries, [""; 0]);
    assert_eq!(setup.keys("mirror/list/"), ["mirror/list/docker.io/library/app!tags"]);
}

#[test]
fn cached_tags_are_listed_while_the_upstream_fails() {
    let setup = Setup::new();
    setup.up().tag_list = names(&["a", "b"]);
    setup.all_tags();
    setup.requests();
    setup.platform.pass_ms(61 * SECOND_MS);
    setup.up().trouble = Some((503, None));
    for _ in 0..2 {
        let Listed { list, warning } = setup.tags(None, None).unwrap();
        assert_eq!(list.entries, names(&["a", "b"]));
        let expected = "stale: upstream docker.io: the upstream fails: answer 503 Service Unavailable";
        assert_eq!(warning.as_deref(), Some(expected));
    }
    // For a while the upstream is not asked again.
    assert_eq!(setup.requests().len(), 1);
    // The time of stale lists ends: what is here is listed, or else the answer is the upstream's error.
    setup.platform.pass_ms(700 * SECOND_MS);
    assert!(matches!(setup.tags(None, None).unwrap_err(), Error::Upstream(_)));
    setup.push_own("own");
    let Listed { list, warning } = setup.tags(None, None).unwrap();
    assert_eq!(list.entries, names(&["own"]));
    assert!(warning.unwrap().starts_with("incomplete: upstream docker.io"));
}

#[test]
fn an_absent_repository_is_remembered_for_a_minute() {
    let setup = Setup::new();
    for _ in 0..2 {
        let error = setup.tags(None, None).unwrap_err();
        assert_eq!(error, registry::Error::NameUnknown(setup.repository().name().clone()).into());
    }
    assert_eq!(setup.requests().len(), 1);
    setup.up().tag_list = names(&["a"]);
    setup.platform.pass_ms(59 * SECOND_MS);
    assert!(setup.tags(None, None).is_err());
    setup.platform.pass_ms(2 * SECOND_MS);
    assert_eq!(setup.all_tags(), names(&["a"]));
}

#[test]
fn a_list_that_is_too_large_to_be_cached_is_passed_on_page_by_page() {
    let setup = Setup::new();
    let all: Vec<String> = (0..20_000).map(|number| format!("nightly-{number:05}-of-the-build")).collect();
    (setup.up().tag_list, setup.up().entries_per_page) = (all.clone(), 1000);
    let (mut found, mut last) = (Vec::new(), None);
    loop {
        let Listed { list, warning } = setup.tags(None, last.as_deref()).unwrap();
        assert_eq!(warning, None);
        found.extend(list.entries);
        last = list.next;
        if last.is_none() {
            break;
        }
    }
    assert!(found == all, "{} of {} tags", found.len(), all.len());
    let value = block_on(setup.keys.get("mirror/list/docker.io/library/app!tags")).unwrap().unwrap().value;
    assert!(value.len() < 200, "{} bytes", value.len());
    // 20 pages were passed on. Before, the list was read as far as a value can have.
    let limit_pages = Limits::default().manifest_inline_bytes_max as usize / (29 * 1000) + 1;
    assert!(setup.requests().len() <= 20 + limit_pages);
}

#[test]
fn referrers_are_cached_and_come_in_pages() {
    let setup = Setup::new();
    let subject = digest(b"subject");
    let mut all: Vec<_> = (0..1201_u32).map(|number| referrer(&number.to_le_bytes(), "sig")).collect();
    setup.up().referrers.insert(subject.to_string(), all[..701].to_vec());
    setup.up().entries_per_page = 100;
    let every = || {
        let (mut found, mut last) = (Vec::new(), None);
        loop {
            let Listed { list, warning } = setup.referrers(&subject, last.clone());
            assert!(list.descriptors.len() <= Limits::default().referrers_per_page_max);
            assert_eq!(warning, None);
            found.extend(list.descriptors.iter().map(|found| found.digest.to_string()));
            last = list.next;
            if last.is_none() {
                return found;
            }
        }
    };
    let expected = |all: &[serde_json::Value]| {
        let mut digests: Vec<String> = all.iter().map(|one| one["digest"].as_str().unwrap().to_owned()).collect();
        digests.sort();
        digests
    };
    assert_eq!(every(), expected(&all[..701]));
    assert_eq!(setup.requests().len(), 8);
    assert_eq!(every(), expected(&all[..701]));
    assert_eq!(setup.requests(), [""; 0]);
    // A list that is too large for one value is asked for each time.
    all.truncate(1201);
    setup.up().referrers.insert(subject.to_string(), all.clone());
    setup.platform.pass_ms(61 * SECOND_MS);
    assert!(every() == expected(&all));
    assert!(setup.requests().len() >= 13);
}

#[test]
fn referrers_that_are_here_are_listed_too_and_while_the_upstream_fails() {
    let setup = Setup::new();
    let (subject, name) = (digest(b"subject"), setup.repository().name().clone());
    let own = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"artifactType":"own",
        "subject":{{"mediaType":"x/y","digest":"{subject}","size":7}}}}"#
    );
    let own_digest = digest(own.as_bytes());
    let reference = Reference::Digest(own_digest.clone());
    block_on(setup.registry.push_manifest(&name, &reference, &[], None, own.into_bytes().into())).unwrap();
    setup.up().referrers.insert(subject.to_string(), vec![referrer(b"theirs", "sig")]);
    let listed = |setup: &Setup| {
        let Listed { list, warning } = setup.referrers(&subject, None);
        let digests: Vec<Digest> = list.descriptors.into_iter().map(|found| found.digest).collect();
        (digests, warning)
    };
    let mut both = vec![own_digest.clone(), digest(b"theirs")];
    both.sort_by_key(Digest::to_string);
    assert_eq!(listed(&setup), (both.clone(), None));
    for (wanted, expected) in [("SIG", digest(b"theirs")), ("own", own_digest.clone())] {
        let request = ReferrersRequest { artifact_type: Some(wanted.into()), last: None };
        let found = block_on(setup.repository().referrers(&subject, &request)).unwrap().list.descriptors;
        assert_eq!(found.iter().map(|found| &found.digest).collect::<Vec<_>>(), [&expected], "{wanted}");
    }
    setup.platform.pass_ms(61 * SECOND_MS);
    setup.up().hangs = true;
    let (stale, warning) = listed(&setup);
    assert!(stale == both && warning.unwrap().starts_with("stale: upstream docker.io"));
    setup.platform.pass_ms(700 * SECOND_MS);
    let (here, warning) = listed(&setup);
    assert!(here == [own_digest] && warning.unwrap().starts_with("incomplete: upstream docker.io"));
}

#[test]
fn facts_about_lists_expire() {
    let setup = Setup::new();
    setup.up().tag_list = names(&["a"]);
    setup.all_tags();
    setup.referrers(&digest(b"subject"), None);
    let now_ms = setup.platform.now_ms();
    for (key, lasts_ms) in [("tags".to_owned(), 660 * SECOND_MS), (digest(b"subject").to_string(), 660 * SECOND_MS)] {
        let key = format!("mirror/list/docker.io/library/app!{key}");
        let value = block_on(setup.keys.get(&key)).unwrap().unwrap().value;
        for (later_ms, expected) in [(0, false), (lasts_ms, false), (lasts_ms + 1, true)] {
            assert_eq!((facts::LISTS.is_expired)(&value, now_ms + later_ms), expected, "{key} {later_ms}");
        }
    }
    assert!((facts::LISTS.is_expired)(b"garbage", now_ms));
}
