//! Requests about the objects of a bucket: a page of their list, and a removal.

use http::StatusCode;
use rusty_s3::Method;

use super::answer::Objects;
use super::client::{Call, Client};
use crate::store::{Error, Result};

/// The most objects that one request lists: S3's own limit.
pub(super) const LIST_OBJECTS_MAX: usize = 1000;
/// The most empty pages in a row that are accepted.
const PAGES_EMPTY_MAX: usize = 1000;

/// A page of the objects of a bucket: their names and sizes in bytes.
pub(super) struct ObjectPage {
    pub(super) objects: Vec<(String, Option<u64>)>,
    pub(super) more: bool,
}

impl Client {
    /// Lists objects whose names begin with `prefix` and sort after `after`, in byte order. The page
    /// has at least one object if any object is left.
    pub(super) async fn list_objects(&self, prefix: &str, after: Option<String>, limit: usize) -> Result<ObjectPage> {
        let unreadable = |why: &dyn std::fmt::Display| {
            Error::unavailable(format!("S3 answered the list of {prefix:?} wrongly: {why}"))
        };
        let mut token: Option<String> = None;
        for _ in 0..PAGES_EMPTY_MAX {
            let call = Call::new(Method::Get, "").query("list-type", "2").query("encoding-type", "url");
            let call =
                call.query("prefix", self.full_name(prefix)).query("max-keys", limit.min(LIST_OBJECTS_MAX).to_string());
            let call = match (&token, &after) {
                (Some(token), _) => call.query("continuation-token", token.as_str()),
                (None, Some(after)) => call.query("start-after", self.full_name(after)),
                (None, None) => call,
            };
            let answer = self.expect(call, &[]).await?;
            let page = answer.parse(&format!("the list of {prefix:?}"), Objects::parse)?;
            let mut objects = Vec::with_capacity(page.objects.len());
            for object in &page.objects {
                let name = self.own_name(&object.name).filter(|name| name.starts_with(prefix));
                // A wrong list would make the caller skip or repeat keys.
                let name = name.ok_or_else(|| unreadable(&format!("{} does not belong there", object.name)))?;
                objects.push((name.to_owned(), object.bytes));
            }
            let begins_behind =
                objects.first().is_none_or(|(first, _)| after.as_ref().is_none_or(|after| first > after));
            if !objects.is_sorted_by(|(one, _), (next, _)| one < next) || !begins_behind {
                return Err(unreadable(&"the names are not in byte order"));
            }
            // S3 may send empty pages where many objects were deleted.
            match page.next {
                Some(next) if objects.is_empty() && token.as_ref() != Some(&next) => token = Some(next),
                Some(_) if objects.is_empty() => break,
                next => return Ok(ObjectPage { objects, more: next.is_some() }),
            }
        }
        Err(unreadable(&"the list does not continue"))
    }

    /// Removes an object. A missing object is no error.
    pub(super) async fn delete_object(&self, object: &str) -> Result<()> {
        let answer = self.expect(Call::new(Method::Delete, object), &[StatusCode::NOT_FOUND]).await?;
        match answer.status.is_success() || answer.code() == "NoSuchKey" {
            true => Ok(()),
            false => Err(self.refusal(&format!("DELETE {object}"), &answer)),
        }
    }
}
