//! The command line of the native program.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

use super::config::Config;
use super::export::{self, Export};
use super::log::{escape_panics, log_to_standard_error, visible};
use super::outbound::NativePlatform;
use super::ready::{self, Ready};
use super::settings::{Host, Values, help, help_of, nearest_setting, read_secret_files};
use super::tls::Certificate;
use super::users::{self, User};
use super::{import, native, prune};
use crate::http::audit_own;
use crate::platform::Causes;
use crate::registry::{CollectRequest, Report};
use crate::store::check::Verdict;

const EXAMPLES: &str = "\
Settings are environment variables. Secrets are given there, or in files: NAME_FILE is the file of
the secret NAME. See `eyot settings`.

Try it:
  eyot serve --data /tmp/registry &
  skopeo copy --dest-tls-verify=false oci:IMAGE docker://127.0.0.1:5000/team/app:v1
  eyot collect --data /tmp/registry --dry-run";

/// An OCI registry
#[derive(Parser)]
#[command(name = "eyot", version, after_help = EXAMPLES, disable_help_subcommand = false)]
struct CommandLine {
    /// The folder of the store files, in place of DATA_DIR; created if missing
    #[arg(long, value_name = "FOLDER", global = true)]
    data: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a registry over HTTP until SIGTERM or SIGINT
    Serve(Serve),
    /// Remove unused content; a server may run meanwhile
    ///
    /// Runs whole rounds of the garbage collection. Progress goes to standard error, and a report
    /// of each round in JSON to standard output.
    Collect(Collect),
    /// Write repositories to a folder for a web server, or as OCI layouts
    Export(Export),
    /// Try what the stores guarantee and whether the upstreams answer, and print what follows
    ///
    /// Exits with status 1 if a store breaks a guarantee that eyot needs, or if an upstream does not
    /// answer as a registry or refuses its login.
    Check,
    /// Ask a running server whether its stores answer, for health checks
    ///
    /// Exits with status 0 if GET /readyz of the server answers 200, else with status 1. Reads no
    /// settings.
    Ready(Ready),
    /// Take images from a folder, an archive or another registry
    Import(import::Import),
    /// Add, remove and list users
    #[command(subcommand)]
    User(User),
    /// Print the settings, with their values and defaults
    #[command(after_help = help())]
    Settings {
        /// The name of a setting, in lower or upper case; all settings if missing
        name: Option<String>,
    },
}

#[derive(Args)]
struct Serve {
    /// The address to listen on
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST.into())]
    address: IpAddr,
    /// The port to listen on; 0: any free port
    #[arg(long, default_value_t = 5000)]
    port: u16,
}

#[derive(Args)]
struct Collect {
    /// Change nothing, and report what would be removed
    #[arg(long)]
    dry_run: bool,
    /// In place of GRACE_SECONDS and UNTAGGED_LIFETIME_SECONDS
    #[arg(long, value_name = "SECONDS", value_parser = milliseconds)]
    grace: Option<u64>,
    /// In place of UNTAGGED_LIFETIME_SECONDS; never: keep untagged manifests
    #[arg(long, value_name = "SECONDS|never", value_parser = Lifetime::parse)]
    untagged: Option<Lifetime>,
}

/// How long untagged manifests stay, in milliseconds; `None`: for good.
#[derive(Clone, Copy)]
struct Lifetime(Option<u64>);

impl Lifetime {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self(None)),
            text => milliseconds(text).map(|lifetime| Self(Some(lifetime))),
        }
    }
}

/// Parses a number of seconds; returns milliseconds.
fn milliseconds(text: &str) -> Result<u64, String> {
    let seconds = text.parse::<u64>().ok().and_then(|seconds| seconds.checked_mul(1000));
    seconds.ok_or_else(|| "not a number of seconds".to_owned())
}

/// Runs the command that the command line names. Errors go to standard error.
pub fn main() -> ExitCode {
    escape_panics();
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return print_usage(&error),
    };
    match run(&line) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("eyot: {}", visible(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Prints an error of the command line, or the help or version that the command line asks for.
fn print_usage(error: &clap::Error) -> ExitCode {
    for line in error.render().to_string().lines() {
        // An error quotes arguments, which may have control characters. Ignore errors: the output
        // may be closed.
        let line = visible(line);
        let _ = match error.use_stderr() {
            true => writeln!(std::io::stderr(), "{line}"),
            false => writeln!(std::io::stdout(), "{line}"),
        };
    }
    ExitCode::from(error.exit_code() as u8)
}

fn run(line: &CommandLine) -> Result<ExitCode> {
    if let Command::Settings { name } = &line.command {
        let text = name.as_deref().map_or_else(|| Ok(help()), help_of).map_err(anyhow::Error::msg)?;
        writeln!(std::io::stdout(), "{}", text.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Ready(ready) = &line.command {
        return ready::run(ready).map(|()| ExitCode::SUCCESS);
    }
    let secrets = read_secret_files(&|name| std::env::var(name).ok())?;
    let config = Config::read(Values::new(Host::Native, &|name| match (name, &line.data, &line.command) {
        ("data_dir", Some(folder), _) => Some(folder.clone()),
        ("listen_address", _, Command::Serve(serve)) => Some(serve.address.to_string()),
        _ => secrets.get(name).cloned().or_else(|| std::env::var(name.to_uppercase()).ok()),
    }))?;
    log_to_standard_error(config.log);
    for (name, _) in std::env::vars_os() {
        // Only a warning: an environment serves other programs too.
        if let Some(setting) = name.to_str().and_then(nearest_setting) {
            tracing::warn!(
                "environment variable {}: eyot has no such setting; {setting} has a similar name",
                name.display()
            );
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match &line.command {
            Command::Serve(serve) => self::serve(serve, &config).await,
            Command::Collect(options) => collect(options, &config).await,
            Command::Export(options) => export::run(options, &config).await,
            Command::Check => check(&config).await,
            Command::Import(request) => import::run(request, &config).await,
            Command::User(request) => users::manage(&config, request).await.map(|()| ExitCode::SUCCESS),
            Command::Ready(_) | Command::Settings { .. } => Ok(ExitCode::SUCCESS),
        }
    })
}

async fn serve(options: &Serve, config: &Config) -> Result<ExitCode> {
    config.access.log_warnings();
    let schedule = config.prune_schedule.as_deref().map(prune::parse).transpose()?;
    let stores = config.open(Arc::new(NativePlatform::default()), None)?;
    if let Some(schedule) = schedule {
        let registry = stores.registry();
        tokio::spawn(async move { prune::follow(&schedule, &registry).await });
    }
    if let Some(s3) = stores.s3.clone() {
        tokio::spawn(async move {
            // The server starts even if the bucket cannot be reached: S3 may come up later.
            if let Err(error) = s3.reach().await {
                tracing::error!("cannot use the bucket: {}", Causes(&error));
            }
        });
    }
    let address = SocketAddr::new(options.address, options.port);
    let certificate = config.tls.as_ref().map(|(chain, key)| Certificate::open(chain, key)).transpose()?;
    let scheme = if certificate.is_some() { "https" } else { "http" };
    native::serve(stores.handler(), address, config.connections, certificate, |address| {
        // Ignore errors: standard output may be closed.
        let _ = writeln!(std::io::stdout(), "listening on {scheme}://{address}");
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

async fn collect(options: &Collect, config: &Config) -> Result<ExitCode> {
    let registry = config.open(Arc::new(NativePlatform::default()), None)?.registry();
    let defaults = registry.collect_request();
    let request = CollectRequest {
        grace_ms: options.grace.unwrap_or(defaults.grace_ms),
        untagged_lifetime_ms: match (options.untagged, options.grace) {
            (Some(Lifetime(lifetime_ms)), _) => lifetime_ms,
            (None, Some(grace_ms)) => Some(grace_ms),
            (None, None) => defaults.untagged_lifetime_ms,
        },
        dry_run: options.dry_run,
    };
    if !request.dry_run {
        audit_own("collect", "eyot collect");
    }
    for report in prune::collect(&registry, &request, print_progress).await? {
        println!("{}", serde_json::json!(report));
    }
    Ok(ExitCode::SUCCESS)
}

fn print_progress(report: &Report) {
    let removed = report.manifests.removed + report.blobs.removed + report.content.removed;
    eprintln!(
        "round {}: {} looked at, {} repositories, {removed} removed, {} bytes freed; {}",
        report.round, report.looked_at, report.repositories, report.bytes_freed, report.phase
    );
}

async fn check(config: &Config) -> Result<ExitCode> {
    let stores = config.open(Arc::new(NativePlatform::default()), None)?;
    let findings = stores.registry().check().await.context("cannot use the stores")?;
    let upstreams = stores.handler().check_upstreams().await;
    let of_stores = findings.into_iter().map(|found| (found.verdict, found.guarantee.to_owned(), found.means));
    let of_upstreams =
        upstreams.into_iter().map(|found| (found.verdict, format!("upstream {}", found.upstream), found.means));
    let mut is_broken = false;
    for (verdict, subject, means) in of_stores.chain(of_upstreams) {
        is_broken |= verdict == Verdict::Broken;
        let verdict = match verdict {
            Verdict::Holds => "holds  ",
            Verdict::Missing => "missing",
            Verdict::Broken => "BROKEN ",
        };
        writeln!(std::io::stdout(), "{verdict}  {}", visible(&format!("{subject}: {means}")))?;
    }
    Ok(if is_broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_collection_takes_seconds_or_never() {
        let untagged = |text| {
            let line = CommandLine::try_parse_from(["eyot", "collect", "--untagged", text]).ok()?;
            let Command::Collect(options) = line.command else { return None };
            options.untagged.map(|lifetime| lifetime.0)
        };
        assert_eq!(untagged("never"), Some(None));
        assert_eq!(untagged("7"), Some(Some(7000)));
        for wrong in ["-1", "1m", "18446744073709551615"] {
            assert_eq!(untagged(wrong), None, "{wrong}");
        }
    }
}
