//! The command line of the native binary.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::{Long, Short, Value, ValueExt as _};

use super::config::{Config, SETTINGS, log_to_standard_error};
use super::native;
use super::tls::Certificate;
use crate::auth::{Directory, Secret};
use crate::store::SystemPlatform;

const USAGE: &str = "\
eyot: an OCI registry

  eyot serve [OPTIONS]    serve a registry over HTTP until told to stop
  eyot user add NAME      add a user, or change a password; it is read from standard input
  eyot user remove NAME   remove a user
  eyot user list          list the users that were added

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

struct Arguments {
    words: Vec<String>,
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
    let Some(arguments) = parse(lexopt::Parser::from_env())? else { return Ok(()) };
    let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve"] => serve(&arguments),
        ["user", "add", name] => user(&arguments, |users| block_on(add_user(users, name))),
        ["user", "remove", name] => user(&arguments, |users| block_on(users.remove_user(name))),
        ["user", "list"] => user(&arguments, |users| block_on(list_users(users))),
        [] => bail!("want a command; see eyot --help"),
        _ => bail!("there is no command {}; see eyot --help", words.join(" ")),
    }
}

fn config(arguments: &Arguments) -> Result<Config> {
    Config::read(&native::OFFER, |name| match (name, &arguments.data) {
        ("data_dir", Some(folder)) => Some(folder.clone()),
        _ => std::env::var(name.to_uppercase()).ok(),
    })
}

fn serve(arguments: &Arguments) -> Result<()> {
    let config = config(arguments)?;
    log_to_standard_error(config.log);
    let handler = config.open(None)?.handler();
    let certificate = config.tls.as_ref().map(|(chain, key)| Certificate::open(chain, key)).transpose()?;
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let address = SocketAddr::new(arguments.address, arguments.port);
    runtime.block_on(native::serve(handler, address, certificate, |address| {
        // Nobody need be listening to us.
        let _ = writeln!(std::io::stdout(), "listening on {scheme}://{address}");
    }))
}

/// Does something with the users in the key-value store; a server that runs over the same one goes on meanwhile.
fn user(arguments: &Arguments, act: impl FnOnce(&Directory) -> Result<()>) -> Result<()> {
    let config = config(arguments)?;
    if config.keys == "memory" {
        bail!("with keys=memory no users are kept");
    }
    let platform = Arc::new(SystemPlatform);
    act(&Directory::new(config.open(None)?.keys, platform))
}

async fn add_user(users: &Directory, name: &str) -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(users.add_user(name, &Secret::new(line.trim_end_matches(['\r', '\n']))).await?)
}

async fn list_users(users: &Directory) -> Result<()> {
    let mut last = None;
    loop {
        let names = users.users(last.as_deref()).await?;
        if names.is_empty() {
            return Ok(());
        }
        for name in &names {
            writeln!(std::io::stdout(), "{name}")?;
        }
        last = names.into_iter().next_back();
    }
}

/// Runs what waits for a store of files.
fn block_on<T>(future: impl Future<Output = Result<T, impl Into<anyhow::Error>>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future).map_err(Into::into)
}

/// Reads the command line. `None` when it asked only for a text, which was given.
fn parse(mut arguments: lexopt::Parser) -> Result<Option<Arguments>> {
    let mut parsed = Arguments { words: Vec::new(), address: Ipv4Addr::LOCALHOST.into(), port: 5000, data: None };
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(word) => parsed.words.push(word.string()?),
            Long("address") => parsed.address = arguments.value()?.parse().context("--address")?,
            Long("port") => parsed.port = arguments.value()?.parse().context("--port")?,
            Long("data") => parsed.data = Some(arguments.value()?.string()?),
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
    Ok(Some(parsed))
}

fn help() -> String {
    let mut text = USAGE.to_owned();
    for (name, takes, what) in SETTINGS {
        text.push_str(&format!("  {:<27}{takes}\n{:29}{what}\n", name.to_uppercase(), ""));
    }
    text + TRY
}
