//! The command line of the native binary.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::{Long, Short, Value, ValueExt as _};

use super::config::{Config, SETTINGS};
use super::outbound::NativePlatform;
use super::spelling::meant;
use super::log::{log_to_standard_error, visible};
use super::tls::Certificate;
use super::{native, prune, users};
use crate::http::audit_own;
use crate::registry::{CollectRequest, Report};
use crate::store::check::Verdict;

const USAGE: &str = "\
eyot: an OCI registry

  eyot serve [OPTIONS]    serve a registry over HTTP until told to stop
  eyot collect [OPTIONS]  remove what nothing uses any more, to the end; serving goes on meanwhile
  eyot check [OPTIONS]    try what the stores give, and say what follows
  eyot user add NAME      add a user, or change a password; it is read from standard input
  eyot user remove NAME   remove a user
  eyot user list          list the users that were added

Options:
  --data FOLDER           the folder of files (data); made if missing
  -h, --help              this text
  --version               the version

Options of serve:
  --address ADDRESS       the address to listen on (127.0.0.1)
  --port PORT             the port to listen on; 0: any free one (5000)

Options of collect:
  --dry-run               change nothing; tell what would be removed
  --grace SECONDS         in place of GRACE_SECONDS, and of UNTAGGED_LIFETIME_SECONDS
  --untagged SECONDS      in place of UNTAGGED_LIFETIME_SECONDS; never: keep untagged manifests
It tells its progress on standard error and prints a report a round, in JSON.

Settings are environment variables:
";

const TRY: &str = "
Try it:
  eyot serve --data /tmp/registry &
  skopeo copy --dest-tls-verify=false oci:IMAGE docker://127.0.0.1:5000/team/app:v1
  eyot collect --data /tmp/registry --dry-run
";

/// The parsed command line.
struct Command {
    words: Vec<String>,
    address: IpAddr,
    port: u16,
    data: Option<String>,
    dry_run: bool,
    grace_ms: Option<u64>,
    untagged_lifetime_ms: Option<Option<u64>>,
}

impl Command {
    fn is(&self, name: &str) -> bool {
        self.words.first().is_some_and(|word| word == name)
    }
}

/// Runs the command that the command line names. Errors go to standard error.
pub fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("eyot: {}", visible(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let Some(command) = parse(lexopt::Parser::from_env())? else { return Ok(ExitCode::SUCCESS) };
    let config = Config::read(&native::OFFER, |name| match (name, &command.data) {
        ("data_dir", Some(folder)) => Some(folder.clone()),
        ("listen_address", _) => Some(command.address.to_string()),
        _ => std::env::var(name.to_uppercase()).ok(),
    })?;
    log_to_standard_error(config.log);
    for (name, _) in std::env::vars_os() {
        // Only a warning: an environment serves other programs too.
        if let Some(setting) = name.to_str().and_then(|name| meant(name, SETTINGS)) {
            tracing::warn!("environment variable {} is no setting; {setting} may be meant", name.display());
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let words: Vec<&str> = command.words.iter().map(String::as_str).collect();
        match words[..] {
            ["serve"] => serve(&command, &config).await,
            ["collect"] => collect(&command, &config).await,
            ["check"] => check(&config).await,
            ["user", ref request @ ..] => users::manage(&config, request).await.map(|()| ExitCode::SUCCESS),
            _ => bail!("there is no command {}; see eyot --help", words.join(" ")),
        }
    })
}

async fn serve(command: &Command, config: &Config) -> Result<ExitCode> {
    config.access.tell();
    let schedule = config.prune_schedule.as_deref().map(prune::parse).transpose()?;
    let stores = config.open(Arc::new(NativePlatform::default()), None)?;
    if let Some(schedule) = schedule {
        let registry = stores.registry();
        tokio::spawn(async move { prune::keep_to(&schedule, &registry).await });
    }
    if let Some(s3) = stores.s3.clone() {
        tokio::spawn(async move {
            // The server starts even if the bucket cannot be reached: S3 may come up later.
            if let Err(error) = s3.reach().await {
                tracing::error!("the bucket cannot be used: {error}");
            }
        });
    }
    let address = SocketAddr::new(command.address, command.port);
    let certificate = config.tls.as_ref().map(|(chain, key)| Certificate::open(chain, key)).transpose()?;
    let scheme = if certificate.is_some() { "https" } else { "http" };
    native::serve(stores.handler(), address, config.connections, certificate, |address| {
        // Ignore errors: standard output may be closed.
        let _ = writeln!(std::io::stdout(), "listening on {scheme}://{address}");
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

async fn collect(command: &Command, config: &Config) -> Result<ExitCode> {
    let registry = config.open(Arc::new(NativePlatform::default()), None)?.registry();
    let defaults = registry.collect_request();
    let request = CollectRequest {
        grace_ms: command.grace_ms.unwrap_or(defaults.grace_ms),
        untagged_lifetime_ms: command.untagged_lifetime_ms.unwrap_or(match command.grace_ms {
            Some(grace_ms) => Some(grace_ms),
            None => defaults.untagged_lifetime_ms,
        }),
        dry_run: command.dry_run,
    };
    if !request.dry_run {
        audit_own("collect", "eyot collect");
    }
    for report in prune::collect(&registry, &request, tell).await? {
        println!("{}", serde_json::json!(report));
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(report: &Report) {
    let removed = report.manifests.removed + report.blobs.removed + report.content.removed;
    eprintln!(
        "round {}: {} looked at, {} repositories, {removed} removed, {} bytes freed; {}",
        report.round, report.looked_at, report.repositories, report.bytes_freed, report.phase
    );
}

async fn check(config: &Config) -> Result<ExitCode> {
    let findings = config
        .open(Arc::new(NativePlatform::default()), None)?
        .registry()
        .check()
        .await
        .context("the stores cannot be used")?;
    for finding in &findings {
        let verdict = match finding.verdict {
            Verdict::Holds => "holds  ",
            Verdict::Missing => "missing",
            Verdict::Broken => "BROKEN ",
        };
        println!("{verdict}  {}: {}", finding.guarantee, finding.means);
    }
    let broken = findings.iter().any(|finding| finding.verdict == Verdict::Broken);
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Parses the command line. Returns `None` when the command line asked only for a text (help or
/// version), which was printed.
fn parse(mut arguments: lexopt::Parser) -> Result<Option<Command>> {
    let mut command = Command {
        words: Vec::new(),
        address: Ipv4Addr::LOCALHOST.into(),
        port: 5000,
        data: None,
        dry_run: false,
        grace_ms: None,
        untagged_lifetime_ms: None,
    };
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(word) => command.words.push(word.string()?),
            Long("address") if command.is("serve") => {
                command.address = arguments.value()?.parse().context("--address")?;
            }
            Long("port") if command.is("serve") => command.port = arguments.value()?.parse().context("--port")?,
            Long("data") => command.data = Some(arguments.value()?.string()?),
            Long("dry-run") if command.is("collect") => command.dry_run = true,
            Long("grace") if command.is("collect") => {
                command.grace_ms = Some(seconds("--grace", &arguments.value()?.string()?)?);
            }
            Long("untagged") if command.is("collect") => {
                command.untagged_lifetime_ms = Some(match arguments.value()?.string()?.as_str() {
                    "never" => None,
                    text => Some(seconds("--untagged", text)?),
                });
            }
            Short('h') | Long("help") => {
                print!("{}", help());
                return Ok(None);
            }
            Long("version") => {
                println!("eyot {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            other => bail!("{}; see eyot --help", other.unexpected()),
        }
    }
    if command.words.is_empty() {
        bail!("want a command; see eyot --help");
    }
    Ok(Some(command))
}

/// Parses a number of seconds; returns milliseconds.
fn seconds(option: &str, text: &str) -> Result<u64> {
    let seconds = text.parse::<u64>().ok().and_then(|seconds| seconds.checked_mul(1000));
    seconds.with_context(|| format!("{option}: {text:?} is not a number of seconds"))
}

fn help() -> String {
    let mut text = USAGE.to_owned();
    for (name, takes, what) in SETTINGS {
        text.push_str(&format!("  {:<27}{takes}\n{:29}{what}\n", name.to_uppercase(), ""));
    }
    text + TRY
}
