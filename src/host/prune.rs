//! Collecting garbage natively: to the end with progress, and on a schedule.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use croner::Cron;

use crate::Registry;
use crate::http::audit_own;
use crate::registry::{CollectRequest, Error, Report};

/// How long it is worth waiting for what was condemned just now, or for a push that was cut off.
const WAIT_MAX: Duration = Duration::from_secs(40);
/// How long to wait when another process is at a step, and how often.
const BUSY_WAIT: Duration = Duration::from_secs(1);
const BUSY_TRIES_MAX: u32 = 180;
/// How many rounds one collection has at most: what a round removes may leave more to be removed.
const ROUNDS_MAX: u32 = 10;

/// Runs rounds until there is nothing more to remove for now. Each step is told to `progress`.
///
/// # Errors
/// When a store fails, or another process does not let go of the collection. What was done is done; the next call goes on from there.
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
            report => report.context("the collection cannot go on")?,
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

/// Reads a cron expression.
///
/// # Errors
/// When it is none; the text names the setting.
pub fn parse(expression: &str) -> Result<Cron> {
    Cron::from_str(expression).with_context(|| {
        format!("setting prune_schedule: {expression:?} is not a cron expression, as in \"0 3 * * *\": every day at 3:00 UTC")
    })
}

/// Collects whenever `schedule` says so, for good.
pub async fn keep_to(schedule: &Cron, registry: &Registry) {
    loop {
        let Some(wait) = until_next(schedule, registry.now_ms()) else {
            log::warn!("prune_schedule: there is no next time");
            return;
        };
        tokio::time::sleep(wait).await;
        audit_own("collect", "prune_schedule");
        match collect(registry, &registry.collect_request(), |_| ()).await {
            Ok(reports) => {
                for report in reports {
                    log::info!("collected: {}", serde_json::json!(report));
                }
            }
            // The next time goes on where this one ended.
            Err(error) => log::error!("{error:#}"),
        }
    }
}

fn until_next(schedule: &Cron, now_ms: u64) -> Option<Duration> {
    let now: DateTime<Utc> = DateTime::from_timestamp_millis(now_ms as i64)?;
    let next = schedule.find_next_occurrence(&now, false).ok()?;
    (next - now).to_std().ok()
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
    fn what_is_no_schedule_is_refused() {
        let error = parse("every day").unwrap_err().to_string();
        assert!(error.starts_with("setting prune_schedule: \"every day\" is not"), "{error}");
    }
}
