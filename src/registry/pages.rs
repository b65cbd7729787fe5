//! Lists the keys under a prefix page by page.

use super::layout::{Key, Prefix};
use crate::store::{KeyValue, Result};

/// A listing in pages.
pub(super) struct KeyPages<'a> {
    keys: &'a dyn KeyValue,
    prefix: Prefix,
    /// The listing continues after this key, which need not exist.
    after: Option<String>,
    page_keys_max: usize,
    is_over: bool,
}

impl<'a> KeyPages<'a> {
    /// The keys under `prefix` that sort after `after`, at most `page_keys_max` in each page.
    pub(super) fn new(keys: &'a dyn KeyValue, prefix: Prefix, after: Option<String>, page_keys_max: usize) -> Self {
        Self { keys, prefix, after, page_keys_max, is_over: false }
    }

    /// The next page. `None` after the last page; a page is never empty.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Key>>> {
        if self.is_over {
            return Ok(None);
        }
        let page = self.keys.list(&self.prefix, self.after.as_deref(), self.page_keys_max).await?;
        self.is_over = page.len() < self.page_keys_max;
        let Some(last) = page.last() else { return Ok(None) };
        self.after = Some(last.clone());
        Ok(Some(page.into_iter().map(Key::listed).collect()))
    }

    /// Whether the last page was read.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}
