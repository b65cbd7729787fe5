//! The command line of the native binary.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::{Long, Short, Value, ValueExt as _};

use super::config::{Config, SETTINGS, log_to_standard_error};
use super::native;
use super::outbound::NativePlatform;
use crate::store::check::{Finding, Outcome, check};

const USAGE: &str = "\
eyot: an OCI registry

  eyot serve [OPTIONS]    serve a registry over HTTP until told to stop
  eyot check              look whether the stores that the settings choose do what is needed

Options:
  --address ADDRESS       the address to listen on (127.0.0.1)
  --port PORT             the port to listen on; 0: any free one (5000)
  --data FOLDER           the folder of files (data); made if missing
  -h, --help              this text
  --version               the version

Settings are environment variables:
";

const TRY: &str = "
Try it:
  eyot serve --data /tmp/registry &
  skopeo copy --dest-tls-verify=false oci:IMAGE docker://127.0.0.1:5000/team/app:v1
";

#[derive(PartialEq)]
enum Command {
    Serve,
    Check,
}

struct Serve {
    address: IpAddr,
    port: u16,
    data: Option<String>,
}

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("eyot: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Some((command, serve)) = parse(lexopt::Parser::from_env())? else { return Ok(()) };
    let config = Config::read(&native::OFFER, |name| match (name, &serve.data) {
        ("data_dir", Some(folder)) => Some(folder.clone()),
        _ => std::env::var(name.to_uppercase()).ok(),
    })?;
    log_to_standard_error(config.log);
    let platform = Arc::new(NativePlatform::default());
    let stores = config.open(platform.clone(), None)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if command == Command::Check {
        return report(&runtime.block_on(check(stores.keys, stores.blobs, &*platform)));
    }
    let handler = stores.handler();
    runtime.block_on(native::serve(handler, SocketAddr::new(serve.address, serve.port), |address| {
        // Nobody need be listening to us.
        let _ = writeln!(std::io::stdout(), "listening on http://{address}");
    }))
}

/// Prints what the check has found.
fn report(findings: &[Finding]) -> Result<()> {
    for Finding { what, outcome } in findings {
        match outcome {
            Outcome::Good => println!("good    {what}"),
            Outcome::Absent => println!("absent  {what}: the store cannot, the registry does without"),
            Outcome::Bad(why) => println!("BAD     {what}: {why}"),
        }
    }
    let bad = findings.iter().filter(|finding| matches!(finding.outcome, Outcome::Bad(_))).count();
    if bad == 0 { Ok(()) } else { bail!("{bad} of {} are bad; README.md says what to do", findings.len()) }
}

/// Reads the command line. `None` when it asked only for a text, which was given.
fn parse(mut arguments: lexopt::Parser) -> Result<Option<(Command, Serve)>> {
    let mut serve = Serve { address: Ipv4Addr::LOCALHOST.into(), port: 5000, data: None };
    let mut command = None;
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(word) if command.is_none() => command = Some(word.string()?),
            Long("address") => serve.address = arguments.value()?.parse().context("--address")?,
            Long("port") => serve.port = arguments.value()?.parse().context("--port")?,
            Long("data") => serve.data = Some(arguments.value()?.string()?),
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
    match command.as_deref() {
        Some("serve") => Ok(Some((Command::Serve, serve))),
        Some("check") => Ok(Some((Command::Check, serve))),
        Some(other) => bail!("there is no command {other}; see eyot --help"),
        None => bail!("want a command; see eyot --help"),
    }
}

fn help() -> String {
    let mut text = USAGE.to_owned();
    for (name, takes, what) in SETTINGS {
        text.push_str(&format!("  {:<27}{takes}\n{:29}{what}\n", name.to_uppercase(), ""));
    }
    text + TRY
}
