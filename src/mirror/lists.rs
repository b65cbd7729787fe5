//! Lists of mirrored repositories: tags and referrers. The lists are the upstream's, with those that
//! are here. The upstream's part is cached as tags are: served without a question while fresh, and
//! while the upstream fails.
//!
//! The cached part is one value in the key-value store. Pages of any size are cut from the value, so
//! a client cannot fill the store by asking for many different pages.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::facts::{self, ABSENT_MS, ListFact};
use super::{MirroredRepository, Result};
use crate::oci::{Descriptor, Digest};
use crate::registry::{self, Page, PageRequest, REFERRERS_PAGE_BYTES_MAX, Referrers, ReferrersRequest};
use crate::upstream::{self, WholeList};

/// A list of a mirrored repository.
#[derive(Debug)]
pub struct Listed<T> {
    /// The list, or a page of the list.
    pub list: T,
    /// Why the list may be outdated or incomplete.
    pub warning: Option<String>,
}

/// The upstream's part of a list.
enum Part<T> {
    /// The whole list, and a warning if the list could not be checked.
    Whole(Vec<T>, Option<String>),
    /// The upstream's list is too large for one value.
    TooLarge,
    /// The upstream has no list, or says so for a while.
    Absent,
    /// The upstream fails, and no list is cached.
    Failed(upstream::Error),
}

impl MirroredRepository {
    /// A page of the upstream's tags and of those that are here. A list that is too large to be
    /// cached is passed on page by page. While the upstream fails, the tags are the cached ones.
    ///
    /// # Errors
    /// [`registry::Error::NameUnknown`] when neither the upstream nor this registry has the
    /// repository; the error of the upstream when no tag is here.
    pub async fn tags(&self, request: &PageRequest) -> Result<Listed<Page>> {
        self.check()?;
        let (registry, client) = (&self.mirror.registry, &self.mirror.client);
        let limits = registry.limits();
        let count = request.count.map_or(limits.page_entries_max, |count| count.min(limits.page_entries_max));
        if count == 0 {
            return Ok(Listed { list: Page { entries: Vec::new(), count, next: None }, warning: None });
        }
        let ask = async {
            let WholeList { entries, is_complete } =
                client.all_tags(&self.remote, limits.manifest_inline_bytes_max).await?;
            let entries = entries.iter().map(|tag| tag.as_str().to_owned()).collect();
            Ok(WholeList { entries, is_complete })
        };
        let part: Part<String> = self.part(&facts::tag_list(&self.local), "tags", ask).await?;
        let own = registry.tags(&self.local, request).await;
        let (tags, warning) = match part {
            Part::Whole(tags, warning) => (tags, warning),
            Part::TooLarge => return self.passed_on(count, request.last.as_deref()).await,
            Part::Absent => return Ok(Listed { list: own?, warning: None }),
            Part::Failed(error) => {
                return match own {
                    Ok(list) => Ok(Listed { list, warning: Some(format!("incomplete: {error}")) }),
                    Err(registry::Error::NameUnknown(_)) => Err(error.into()),
                    Err(other) => Err(other.into()),
                };
            }
        };
        let own = match own {
            Err(registry::Error::NameUnknown(_)) => Page { entries: Vec::new(), count, next: None },
            own => own?,
        };
        let mut entries = BTreeSet::from_iter(tags);
        entries.retain(|tag| request.last.as_ref().is_none_or(|last| tag > last));
        entries.extend(own.entries);
        Ok(Listed { list: cut(entries, count, own.next), warning })
    }

    /// A page of the upstream's tags, in the upstream's order.
    async fn passed_on(&self, count: usize, last: Option<&str>) -> Result<Listed<Page>> {
        let page = self.mirror.client.tags(&self.remote, count, last).await?;
        let mut entries: Vec<String> = page.tags.iter().map(|tag| tag.as_str().to_owned()).collect();
        // An upstream without pages sends all tags at once.
        let continues = page.continues || entries.len() > count;
        entries.truncate(count);
        let next = entries.last().cloned().filter(|_| continues);
        Ok(Listed { list: Page { entries, count, next }, warning: None })
    }

    /// A page of the upstream's referrers of `subject` and of those that are here, in the order of
    /// their digests. While the upstream fails, its referrers are the cached ones.
    ///
    /// # Errors
    /// When the registry fails, and for a repository that is not mirrored.
    pub async fn referrers(&self, subject: &Digest, request: &ReferrersRequest) -> Result<Listed<Referrers>> {
        self.check()?;
        let (registry, client) = (&self.mirror.registry, &self.mirror.client);
        let ask = client.referrers(&self.remote, subject);
        let part = match self.part(&facts::referrer_list(&self.local, subject), "referrers", ask).await? {
            Part::TooLarge => match client.referrers(&self.remote, subject).await {
                Ok(WholeList { entries, is_complete }) => {
                    let more = || "incomplete: the upstream has more referrers than are read".to_owned();
                    Part::Whole(entries, (!is_complete).then(more))
                }
                Err(error) => Part::Failed(error),
            },
            part => part,
        };
        let (theirs, warning) = match part {
            Part::Whole(theirs, warning) => (theirs, warning),
            Part::Failed(error) => (Vec::new(), Some(format!("incomplete: {error}"))),
            Part::Absent | Part::TooLarge => (Vec::new(), None),
        };
        let mut page = registry.referrers(&self.local, subject, request).await?;
        let is_here =
            |found: &Descriptor| request.last.as_ref().is_none_or(|last| found.digest.as_str() > last.as_str());
        let theirs = theirs.into_iter().filter(|found| request.wants(found) && is_here(found));
        let all: BTreeMap<String, Descriptor> =
            theirs.chain(page.descriptors).map(|found| (found.digest.to_string(), found)).collect();
        let (descriptors, next) = cut_referrers(all, registry.limits().referrers_per_page_max, page.next);
        (page.descriptors, page.next) = (descriptors, next);
        Ok(Listed { list: page, warning })
    }

    /// The upstream's part of a list: the fact under `key`, or what `ask` gets from the upstream.
    /// `noun` names the entries in the log.
    async fn part<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        noun: &str,
        ask: impl Future<Output = upstream::Result<WholeList<T>>>,
    ) -> Result<Part<T>> {
        let (mirror, now_ms) = (&self.mirror, self.mirror.platform.now_ms());
        let (fresh_ms, served_ms) =
            (mirror.options.fresh_ms, mirror.options.fresh_ms.saturating_add(mirror.options.stale_ms));
        let mut cached = None;
        if let Some(ListFact { checked_ms, is_absent, entries, .. }) = mirror.load::<ListFact<T>>(key).await? {
            let age_ms = now_ms.abs_diff(checked_ms);
            match entries {
                _ if is_absent && age_ms < ABSENT_MS => return Ok(Part::Absent),
                _ if is_absent => {}
                Some(entries) if age_ms < fresh_ms => {
                    mirror.counters.hit();
                    return Ok(Part::Whole(entries, None));
                }
                None if age_ms < fresh_ms.max(ABSENT_MS) => return Ok(Part::TooLarge),
                entries => cached = entries.filter(|_| age_ms < served_ms),
            }
        }
        if cached.is_some()
            && let Some(why) = mirror.troubles.current(self.upstream()).await
        {
            return Ok(self.stale_part(noun, cached.unwrap_or_default(), &why));
        }
        mirror.counters.miss();
        let mut fact = ListFact { checked_ms: now_ms, until_ms: now_ms + served_ms, is_absent: false, entries: None };
        match ask.await {
            Ok(list) => {
                let (count, rest) = (list.entries.len(), mirror.rate_limit());
                tracing::info!("{}: fetched the list of {count} {noun} from {}{rest}", self.local, self.upstream());
                fact.entries = list.is_complete.then_some(list.entries);
                if !mirror.note_up_to(key, &fact, mirror.registry.limits().manifest_inline_bytes_max).await {
                    fact.entries = None;
                    mirror.note(key, &fact).await;
                }
                Ok(fact.entries.map_or(Part::TooLarge, |entries| Part::Whole(entries, None)))
            }
            Err(error) if error.kind.is_absence() => {
                (fact.is_absent, fact.until_ms) = (true, now_ms + ABSENT_MS);
                mirror.note(key, &fact).await;
                Ok(Part::Absent)
            }
            Err(error) => {
                mirror.troubles.note(&error).await;
                Ok(match cached {
                    Some(entries) => self.stale_part(noun, entries, &error.to_string()),
                    None => Part::Failed(error),
                })
            }
        }
    }

    fn stale_part<T>(&self, noun: &str, entries: Vec<T>, why: &str) -> Part<T> {
        tracing::warn!("{}: {noun} are listed from the cache without a check: {why}", self.local);
        self.mirror.counters.stale();
        Part::Whole(entries, Some(format!("stale: {why}")))
    }
}

/// The page of the first `count` of `entries`. Beyond `own_next`, entries of this registry are not
/// known yet, so the page ends there.
fn cut(mut entries: BTreeSet<String>, count: usize, own_next: Option<String>) -> Page {
    entries.retain(|entry| own_next.as_ref().is_none_or(|end| entry <= end));
    let is_cut = entries.len() > count;
    let entries: Vec<String> = entries.into_iter().take(count).collect();
    let next = if is_cut { entries.last().cloned() } else { own_next };
    Page { entries, count, next }
}

/// The first of `all` referrers that fit on a page of at most `count`, and the digest after which the
/// next page begins. The first referrer is on the page in any case.
fn cut_referrers(
    all: BTreeMap<String, Descriptor>,
    count: usize,
    own_next: Option<String>,
) -> (Vec<Descriptor>, Option<String>) {
    let (mut page, mut bytes) = (Vec::new(), 0);
    for (digest, found) in all {
        let bytes_before = bytes;
        bytes += serde_json::to_vec(&found).map_or(0, |json| json.len() as u64 + 1);
        let is_full = page.len() >= count || bytes_before > 0 && bytes > REFERRERS_PAGE_BYTES_MAX;
        if is_full || own_next.as_ref().is_some_and(|end| digest > *end) {
            let last = page.last().map(|found: &Descriptor| found.digest.to_string());
            return (page, if is_full { last } else { own_next });
        }
        page.push(found);
    }
    (page, own_next)
}
