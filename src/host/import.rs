//! `eyot import`: takes images from elsewhere into the stores of the settings.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;

use super::config::Config;
use super::log::visible;
use super::outbound::NativePlatform;
use super::settings::{Values, read_bucket};
use crate::auth::{Pattern, TagPattern};
use crate::http::audit_own;
use crate::import::{
    Options, Progress, Remote, RemoteAddress, Report, Source, Step, Target, import, open, open_bucket,
};
use crate::oci::RepositoryName;
use crate::platform::Platform;
use crate::store::KeyValue;
use crate::store::memory::MemoryKeyValue;
use crate::store::s3::{BucketAddress, S3};
use crate::upstream::{Client, Upstream};

const EXAMPLES: &str = "\
Examples:
  eyot import oci-layout/ --as team/app            an OCI layout, with its tags
  eyot import app.tar                              an archive of docker save or podman save
  eyot import skopeo-dir/ --as team/app:v1         a dir: of skopeo, which knows no tag
  eyot import /var/lib/registry                    the data of docker-registry (distribution)
  eyot import docker://quay.io/team/app --tags 'v1.*'
  eyot import s3://old-registry                    the data of distribution, or a layout, in a bucket
  eyot import /var/lib/zot --prefix old --dry-run  all that zot has, below old/

A server may run on the same stores. What is here already is not read again, so the same command
goes on where an earlier one was cut off. Exits with status 1 if anything could not be taken.
The server and the login of a bucket are in the settings S3_ENDPOINT, S3_ACCESS_KEY_ID and
S3_SECRET_ACCESS_KEY. The logins of other registries are in the settings UPSTREAMS and UPSTREAM_LOGINS.";

/// The options of `eyot import`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Import {
    /// A folder, an archive (tar or tar.gz), s3://BUCKET/PREFIX, or docker://HOST/REPOSITORY with or
    /// without :TAG
    source: String,
    /// The name here of the only repository of the source, and the tag of its only image
    #[arg(long = "as", value_name = "NAME[:TAG]")]
    target: Option<Target>,
    /// Put the names of all repositories below this one
    #[arg(long, value_name = "NAME")]
    prefix: Option<RepositoryName>,
    /// Take only repositories of this pattern, as in team/**; may be repeated
    #[arg(long, value_name = "PATTERN")]
    repositories: Vec<Pattern>,
    /// Take only tags of this pattern, as in v1.*, and what refers to their images; may be repeated
    #[arg(long, value_name = "PATTERN")]
    tags: Vec<TagPattern>,
    /// Change nothing, and report what would be taken
    #[arg(long)]
    dry_run: bool,
}

/// Runs an import. Progress goes to standard error, and a summary to standard output.
pub(super) async fn run(request: &Import, config: &Config, values: Values<'_>) -> Result<ExitCode> {
    let platform: Arc<dyn Platform> = Arc::new(NativePlatform::default());
    let stores = config.open(platform.clone(), None)?;
    let registry = stores.registry();
    let manifest_bytes_max = registry.limits().manifest_bytes_max;
    let source: Box<dyn Source> = if RemoteAddress::is_one(&request.source) {
        Box::new(remote(&request.source, config, platform)?)
    } else if BucketAddress::is_one(&request.source) {
        let settings = read_bucket(values, &request.source.parse()?)?;
        let bucket = S3::new(settings, platform).map_err(anyhow::Error::msg)?;
        open_bucket(bucket.tree(), manifest_bytes_max).await?
    } else {
        open(Path::new(&request.source), manifest_bytes_max).await?
    };
    let options = Options {
        target: request.target.clone(),
        prefix: request.prefix.clone(),
        repositories: request.repositories.clone(),
        tags: request.tags.clone(),
        dry_run: request.dry_run,
    };
    if !options.dry_run {
        audit_own("import", "eyot import");
    }
    let report = import(&registry, &stores.keys, &*source, &options, &print_progress).await;
    print_summary(&report, request)?;
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The repository at an address. The login is that of the upstream in the settings with the host.
fn remote(address: &str, config: &Config, platform: Arc<dyn Platform>) -> Result<Remote> {
    let address: RemoteAddress = address.parse()?;
    let upstream = match config.mirrors.mirroring.in_namespace(&address.host) {
        Some(upstream) => upstream.clone(),
        None => {
            let url = format!("{}://{}", address.scheme, address.host);
            Upstream::new(&address.host, &url, false).with_context(|| format!("cannot import from {url}"))?
        }
    };
    // Tokens of an import are of no use to the pulls of a server.
    let tokens: Arc<dyn KeyValue> = Arc::new(MemoryKeyValue::default());
    let client = Client::new(upstream, tokens, platform, config.mirrors.seal());
    Ok(Remote::new(client, &address.repository, address.tag)?)
}

fn print_progress(progress: &Progress<'_>) {
    let Progress { name, step } = progress;
    let line = match step {
        Step::Taken => format!("taken   {name}"),
        Step::Here => format!("here    {name}"),
        Step::Failed(why) => format!("FAILED  {name}: {why}"),
        Step::Blob { digest, stored, size } => {
            format!("        {name}: {digest}: {} of {}", bytes(*stored), bytes(*size))
        }
    };
    // Ignore errors: standard error may be closed.
    let _ = writeln!(std::io::stderr(), "{}", visible(&line));
}

fn print_summary(report: &Report, request: &Import) -> Result<()> {
    let mut lines = vec![summary(report, request.dry_run)];
    if report.unnamed > 0 {
        lines.push(format!(
            "{} of the manifests have no tag: a collection removes them after UNTAGGED_LIFETIME_SECONDS",
            report.unnamed
        ));
    }
    if report.problems_total > 0 {
        lines.push(format!("not taken: {}", report.problems_total));
        lines.extend(report.problems.iter().map(|problem| format!("  {}: {}", problem.name, problem.why)));
        if report.problems_total > report.problems.len() as u64 {
            lines.push(format!("  and {} more", report.problems_total - report.problems.len() as u64));
        }
    }
    if let Some(error) = &report.ended {
        lines.push(format!("the import ended early: {error}"));
        if report.manifests + report.manifests_here > 0 {
            lines.push("what was taken is stored; the same command goes on from there".to_owned());
        }
    }
    for line in lines {
        writeln!(std::io::stdout(), "{}", visible(&line))?;
    }
    Ok(())
}

fn summary(report: &Report, dry_run: bool) -> String {
    let verb = if dry_run { "would take" } else { "took" };
    format!(
        "{verb} {} tags, {} manifests and {} blobs ({}) of {} repositories; {} tags, {} manifests and {} blobs were here",
        report.tags,
        report.manifests,
        report.blobs,
        bytes(report.bytes),
        report.repositories,
        report.tags_here,
        report.manifests_here,
        report.blobs_here
    )
}

/// A number of bytes for people.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = count as f64;
    let mut unit = "bytes";
    for larger in UNITS {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    if unit == "bytes" { format!("{count} bytes") } else { format!("{size:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_bytes() {
        for (count, expected) in
            [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (5 << 50, "5120.0 TiB")]
        {
            assert_eq!(bytes(count), expected);
        }
    }
}
