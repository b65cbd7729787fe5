//! The protocol: runs every file in `tests/transcripts` in-process on the memory store.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_executor::block_on;
use http::{Request, Response};
use http_body_util::BodyExt as _;

use crate::support::runner::{self, Target};

struct InProcess(eyot::Handler);

impl Target for InProcess {
    async fn send(&self, request: Request<Bytes>, streamed: bool) -> Result<Response<Bytes>, String> {
        let request = request.map(|body| {
            if streamed {
                eyot::Body::from_stream(futures_util::stream::iter(
                    runner::pieces(body).map(Ok::<_, eyot::store::Error>),
                ))
            } else {
                eyot::Body::from(body)
            }
        });
        let (head, body) = self.0.handle(request).await.into_parts();
        let body = body.collect().await.map_err(|why| format!("{why:?}"))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

#[test]
fn transcripts() {
    block_on(runner::run_all(&InProcess(eyot::Handler::in_memory())));
}

/// Rows of the checklist that no exchange can prove, each with the reason.
const EXEMPT: [(u32, &str); 4] = [
    (44, "abandoned sessions end by time: unit tests with a clock of their own"),
    (79, "a list that fills a page: storage_calls.rs pushes a thousand"),
    (90, "lists from before the referrers API: unit tests that look into the store"),
    (91, "as row 90"),
];

#[test]
fn every_row_of_the_checklist_has_a_case() {
    let proven: BTreeSet<u32> =
        runner::all().iter().flat_map(|transcript| &transcript.cases).flat_map(|case| case.rows.clone()).collect();
    let exempt = EXEMPT.map(|(row, _)| row);
    let missing: Vec<u32> =
        (1..=86).chain(92..=93).chain(95..=97).filter(|row| !proven.contains(row) && !exempt.contains(row)).collect();
    assert!(missing.is_empty(), "rows without a case: {missing:?}");
    for (row, why) in EXEMPT {
        assert!(!proven.contains(&row), "row {row} has a case, it is not exempt ({why})");
    }
}

#[test]
fn the_table_of_conformance_names_each_proof() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/conformance.md");
    let table = std::fs::read_to_string(path).unwrap();
    for transcript in runner::all() {
        let file = transcript.file.rsplit('/').next().unwrap();
        for row in transcript.cases.iter().flat_map(|case| &case.rows) {
            let line = table.lines().find(|line| line.starts_with(&format!("| {row} |")));
            assert!(line.is_some_and(|line| line.contains(file)), "row {row} does not name {file}");
        }
    }
}

#[test]
fn the_table_of_conformance_names_files_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/conformance.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.split(" | ").count() == 5);
    let files = rows.flat_map(|row| row.split(" | ").nth(3).unwrap_or_default().split([',', ' ', ':']));
    let files: BTreeSet<&str> = files.filter(|word| word.ends_with(".rs") || word.ends_with('/')).collect();
    assert!(files.len() > 10, "the scan finds files: {files:?}");
    let missing: Vec<_> = files.iter().filter(|file| !root.join("src").join(file).exists()).collect();
    assert!(missing.is_empty(), "no such files: {missing:?}");
}
