//! Where a round stands, between its steps.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Collector;
use super::marks::{self, Marks};
use super::report::Report;
use crate::registry::{Registry, Result, facts, layout};
use crate::store::{self, When};

/// How many bytes of the marks lie in one value.
const MARKS_VALUE_BYTES: usize = 256 * 1024;

/// What a round does, in this order: what is of one repository, for each of them; then what is of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    #[default]
    NextRepository,
    /// Removes sessions that have expired.
    Uploads,
    /// Marks what is tagged.
    Tags,
    /// Marks what is about to be tagged.
    Pushes,
    /// Notes which manifests there are.
    Present,
    /// Notes which manifest holds which.
    Graph,
    /// Judges manifests, and marks everything that those name that stay.
    Manifests,
    /// Judges blobs.
    Blobs,
    /// Finds out which manifests name blobs that are not there.
    Holes,
    Ways,
    Referrers,
    Adopted,
    Large,
    /// Judges the repository itself.
    Repository,
    /// Marks what uploads hold; before anything that an upload may become.
    ContentOfUploads,
    ContentOfManifests,
    ContentOfBlobs,
    /// Judges the keys by which content is found.
    Contents,
    /// Judges what the blob store holds.
    Stored,
    /// Forgets the condemnation of what is no longer there.
    Condemned,
    /// Removes what killed writers left in the key-value store, and finds what is not its own.
    TidyKeys,
    /// The same in the blob store.
    TidyContent,
    /// Lets pushes go on without care, then forgets what they rescued.
    Rescued,
}

/// Where a round stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub phase: Phase,
    /// The repository that is looked at, or was last.
    pub repository: Option<String>,
    /// The last key or name of the phase that was looked at.
    pub after: Option<String>,
    pub grace_ms: u64,
    pub untagged_lifetime_ms: Option<u64>,
    /// Whether something could not be read, so that what is not marked may be in use.
    pub unsure: bool,
    pub report: Report,
    /// How often it was written down; marks of another time are never taken for its own.
    saves: u64,
    /// How many values the marks fill.
    marks_values: usize,
    kept_bytes: usize,
    present_bytes: usize,
    marks_bytes: usize,
    /// What is in use.
    #[serde(skip, default = "none")]
    pub marks: Marks,
    /// Which manifests of the repository, and which ways to them, are.
    #[serde(skip, default = "none")]
    pub kept: Marks,
    /// Which manifests the repository has.
    #[serde(skip, default = "none")]
    pub present: Marks,
    /// Which manifest is in use if which other is.
    #[serde(skip)]
    pub edges: Vec<(u64, u64)>,
}

fn none() -> Marks {
    Marks::new(0)
}

impl Cursor {
    pub(super) fn new(report: Report, grace_ms: u64, untagged_lifetime_ms: Option<u64>, marks_max: usize) -> Self {
        Self {
            phase: Phase::default(),
            repository: None,
            after: None,
            grace_ms,
            untagged_lifetime_ms,
            unsure: false,
            report,
            saves: 0,
            marks_values: 0,
            kept_bytes: 0,
            present_bytes: 0,
            marks_bytes: 0,
            marks: Marks::new(marks_max),
            kept: Marks::new(marks_max),
            present: Marks::new(marks_max),
            edges: Vec::new(),
        }
    }

    /// Goes on with `phase`, from its beginning.
    pub(super) fn go_on(&mut self, phase: Phase) {
        self.phase = phase;
        self.after = None;
    }
}

/// All marks of a cursor, of whatever time.
fn marks_prefix(dry_run: bool) -> String {
    format!("{}!", layout::collection_cursor(dry_run))
}

impl Cursor {
    fn marks_key(&self, number: usize) -> String {
        format!("{}{}!{number:04}", marks_prefix(self.report.dry_run), self.saves)
    }
}

impl Registry {
    pub(super) async fn load_cursor(&self, dry_run: bool) -> Result<Option<Cursor>> {
        let key = layout::collection_cursor(dry_run);
        let Some(mut cursor) = self.load::<Cursor>(key).await? else { return Ok(None) };
        let corrupt = || store::Error::Corrupt(format!("the marks of {key}"));
        let mut bytes = Vec::new();
        for number in 0..cursor.marks_values {
            bytes.extend_from_slice(&self.keys.get(&cursor.marks_key(number)).await?.ok_or_else(corrupt)?.value);
        }
        let mut bytes = Bytes::from(bytes);
        if bytes.len() < cursor.kept_bytes + cursor.present_bytes + cursor.marks_bytes {
            return Err(corrupt().into());
        }
        let most = self.limits.marks_max;
        cursor.kept = Marks::from_bytes(bytes.split_to(cursor.kept_bytes), most).ok_or_else(corrupt)?;
        cursor.present = Marks::from_bytes(bytes.split_to(cursor.present_bytes), most).ok_or_else(corrupt)?;
        cursor.marks = Marks::from_bytes(bytes.split_to(cursor.marks_bytes), most).ok_or_else(corrupt)?;
        cursor.edges = marks::edges_from_bytes(bytes).ok_or_else(corrupt)?;
        Ok(Some(cursor))
    }
}

impl Collector<'_> {
    /// The marks first: a cursor never speaks of marks that are not there.
    pub(super) async fn save_cursor(&mut self) -> Result<()> {
        let cursor = &mut self.cursor;
        let all = [&cursor.kept, &cursor.present, &cursor.marks].map(Marks::to_bytes);
        [cursor.kept_bytes, cursor.present_bytes, cursor.marks_bytes] = all.each_ref().map(Vec::len);
        let all = [all.concat(), marks::edges_to_bytes(&cursor.edges)].concat();
        cursor.saves += 1;
        cursor.marks_values = all.len().div_ceil(MARKS_VALUE_BYTES);
        let cursor = &self.cursor;
        for (number, value) in all.chunks(MARKS_VALUE_BYTES).enumerate() {
            self.check_lease()?;
            let value = Bytes::copy_from_slice(value);
            self.registry.keys.put(&cursor.marks_key(number), value, When::Always).await?;
        }
        let key = layout::collection_cursor(cursor.report.dry_run);
        self.check_lease()?;
        self.registry.keys.put(key, facts::to_line(key, cursor, &[])?, When::Always).await?;
        let mine: Vec<String> = (0..cursor.marks_values).map(|number| cursor.marks_key(number)).collect();
        self.forget_marks(&mine).await
    }

    pub(super) async fn forget_cursor(&self) -> Result<()> {
        self.check_lease()?;
        self.registry.keys.delete(layout::collection_cursor(self.cursor.report.dry_run)).await?;
        self.forget_marks(&[]).await
    }

    /// Forgets all marks but these, also what a step that was cut off left.
    async fn forget_marks(&self, but: &[String]) -> Result<()> {
        let prefix = marks_prefix(self.cursor.report.dry_run);
        for key in self.registry.keys.list(&prefix, None, self.registry.limits.page_entries_max).await? {
            if !but.contains(&key) {
                self.check_lease()?;
                self.registry.keys.delete(&key).await?;
            }
        }
        Ok(())
    }
}
