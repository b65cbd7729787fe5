//! Garbage collection on the native host: complete rounds with progress, on demand or on a
//! schedule.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use croner::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::Registry;
use crate::http::audit_own;
use crate::registry::{CollectRequest, Error, Report};

/// The longest pause before another round of the same collection. A collection waits for objects
/// that become due within this time: keys condemned in the last round, if the grace period is
/// short, or leftovers of a push that broke off. Objects that become due later are left to the next
/// collection.
const WAIT_MAX: Duration = Duration::from_secs(40);
/// The pause when another process is at a step of the collection, and the most such pauses in a
/// row.
const BUSY_WAIT: Duration = Duration::from_secs(1);
const BUSY_TRIES_MAX: u32 = 180;
/// The most rounds of one collection. A round may free more candidates for the next one.
const ROUNDS_MAX: u32 = 10;

/// Runs rounds until no more objects can be removed now, at most 10 rounds. `progress` gets the
/// report of each step. Returns the report of each round.
///
/// # Errors
/// When a store fails, or another process stays busy with the collection. Completed steps keep
/// their effect, and the next call continues after them.
pub async fn collect(
    registry: &Registry,
    request: &CollectRequest,
    mut progress: impl FnMut(&Report),
) -> Result<Vec<Report>> {
    let mut reports: Vec<Report> = Vec::new();
    let mut busy = 0;
    loop {
        let report = match registry.collect_step(request).await {
            Err(Error::Busy) if busy < BUSY_TRIES_MAX => {
                busy += 1;
                tokio::time::sleep(BUSY_WAIT).await;
                continue;
            }
            report => report.context("cannot continue the collection")?,
        };
        busy = 0;
        progress(&report);
        if !report.done {
            continue;
        }
        let wait = report.next_due_ms.map(|due_ms| Duration::from_millis(due_ms.saturating_sub(registry.now_ms())));
        let again = !request.dry_run && wait.is_some_and(|wait| wait <= WAIT_MAX);
        reports.push(report);
        if !again || reports.len() as u32 >= ROUNDS_MAX {
            return Ok(reports);
        }
        tokio::time::sleep(wait.unwrap_or_default()).await;
    }
}

/// Parses a cron expression.
///
/// # Errors
/// When `expression` is not a cron expression; the text names the setting.
pub fn parse(expression: &str) -> Result<Cron> {
    Cron::from_str(expression).with_context(|| {
        format!("setting prune_schedule: {expression:?} is not a cron expression, as in \"0 3 * * *\": every day at 3:00 UTC")
    })
}

/// Runs a collection at every time of `schedule`; returns only if the schedule has no next time.
pub async fn follow(schedule: &Cron, registry: &Registry) {
    loop {
        let Some(wait) = until_next(schedule, registry.now_ms()) else {
            tracing::warn!("setting prune_schedule: the schedule has no next time, so nothing is collected any more");
            return;
        };
        tokio::time::sleep(wait).await;
        audit_own("collect", "prune_schedule");
        match collect(registry, &registry.collect_request(), |_| ()).await {
            Ok(reports) => {
                for report in reports {
                    tracing::info!("collected: {}", serde_json::json!(report));
                }
            }
            // The next scheduled collection continues where this one stopped.
            Err(error) => tracing::error!("{error:#}"),
        }
    }
}

fn until_next(schedule: &Cron, now_ms: u64) -> Option<Duration> {
    let now = Timestamp::from_millisecond(now_ms as i64).ok()?.to_zoned(TimeZone::UTC);
    let next = schedule.find_next_occurrence(&now, false).ok()?;
    next.duration_since(&now).try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_time_is_after_now() {
        let schedule = parse("0 3 * * *").unwrap();
        // 1970-01-02, 2:59:00 and 3:00:00.
        for (now_ms, expected) in [((24 * 60 + 179) * 60_000, 60), ((24 * 60 + 180) * 60_000, 24 * 60 * 60)] {
            assert_eq!(until_next(&schedule, now_ms), Some(Duration::from_secs(expected)));
        }
    }

    #[test]
    fn a_text_that_is_not_a_schedule_is_refused() {
        let error = parse("every day").unwrap_err().to_string();
        assert!(error.starts_with("setting prune_schedule: \"every day\" is not"), "{error}");
    }
}
