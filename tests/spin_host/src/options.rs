//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use wasmtime::error::Context as _;
use wasmtime::{Result, bail, format_err};

pub const HELP: &str = "\
Runs a Spin HTTP component of WASI 0.3 or 0.2 under wasmtime, for tests.

usage: spin-host --component FILE.wasm --state DIR --listen ADDRESS:PORT [option]...

  --component FILE           the component: exports wasi:http/handler@0.3 or wasi:http/incoming-handler@0.2
  --state DIR                where the key-value and SQLite data live; made when missing
  --listen ADDRESS:PORT      port 0 takes any free port; the line on stdout names it
  --variable NAME=VALUE      a Spin variable, or NAME=@FILE for what a file holds; may be repeated. Others come from the
                             environment, where SPIN_VARIABLE_NAME names them in capitals
  --manifest FILE            outbound requests go only to the allowed_outbound_hosts of this manifest
  --mount HOSTDIR::GUESTDIR  a read-write directory for the guest; may be repeated
  --value-bytes-max N        larger key-value values are refused (134217728)
  --idle-milliseconds N      an instance idle for so long is dropped (1000)
  --manners quick|real       real: as slow as Spin where Spin is slow, see README.md (quick)
  --compiled FILE            keep the compiled component here, to start faster next time

GET /__host/calls answers the storage calls so far, and what SQLite did for them, as JSON; GET /__host/calls/reset sets them to 0.
";

const VALUE_BYTES_MAX: usize = 128 * 1024 * 1024;
const IDLE: Duration = Duration::from_secs(1);

/// How closely this host follows Spin in details that only cost time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manners {
    /// TCP_NODELAY, no fsync, lists in batches and in random order: fast, and strict with the
    /// guest.
    #[default]
    Quick,
    /// As Spin 4.1: Nagle's algorithm, SQLite's default fsyncs, lists through a channel of 4.
    Real,
}

impl FromStr for Manners {
    type Err = std::io::Error;

    fn from_str(text: &str) -> std::io::Result<Self> {
        match text {
            "quick" => Ok(Self::Quick),
            "real" => Ok(Self::Real),
            _ => Err(std::io::Error::other(format!("{text:?} is neither quick nor real"))),
        }
    }
}

pub struct Options {
    pub component: PathBuf,
    pub state: PathBuf,
    pub listen: SocketAddr,
    pub variables: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub manifest: Option<PathBuf>,
    pub value_bytes_max: usize,
    pub idle: Duration,
    pub compiled: Option<PathBuf>,
    pub manners: Manners,
}

#[derive(Clone)]
pub struct Mount {
    pub host: PathBuf,
    pub guest: String,
}

impl Options {
    /// Returns `None` if the user asked for help.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Option<Self>> {
        let mut arguments = arguments;
        let mut component = None;
        let mut state = None;
        let mut listen = None;
        let mut variables = Vec::new();
        let mut mounts = Vec::new();
        let mut manifest = None;
        let mut value_bytes_max = VALUE_BYTES_MAX;
        let mut idle = IDLE;
        let mut compiled = None;
        let mut manners = Manners::default();

        while let Some(name) = arguments.next() {
            let name = text(name)?;
            if name == "--help" || name == "-h" {
                return Ok(None);
            }
            let value = arguments.next().with_context(|| format!("{name} wants a value; see --help"))?;
            match name.as_str() {
                "--component" => component = Some(PathBuf::from(value)),
                "--state" => state = Some(PathBuf::from(value)),
                "--listen" => listen = Some(parsed(&name, value)?),
                "--variable" => variables.push(variable(&text(value)?)?),
                "--mount" => {
                    let (host, guest) = pair(&text(value)?, "::")?;
                    let host = host.into();
                    mounts.push(Mount { host, guest });
                }
                "--manifest" => manifest = Some(PathBuf::from(value)),
                "--value-bytes-max" => value_bytes_max = parsed(&name, value)?,
                "--idle-milliseconds" => idle = Duration::from_millis(parsed(&name, value)?),
                "--manners" => manners = parsed(&name, value)?,
                "--compiled" => compiled = Some(PathBuf::from(value)),
                _ => bail!("unknown option {name}; see --help"),
            }
        }
        Ok(Some(Self {
            component: component.context("--component is missing; see --help")?,
            state: state.context("--state is missing; see --help")?,
            listen: listen.context("--listen is missing; see --help")?,
            variables,
            mounts,
            manifest,
            value_bytes_max,
            idle,
            compiled,
            manners,
        }))
    }
}

/// Parses a variable as Spin's command line does.
fn variable(argument: &str) -> Result<(String, String)> {
    let (name, value) = pair(argument, "=")?;
    match value.strip_prefix('@') {
        Some(file) => Ok((name, std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?)),
        None => Ok((name, value)),
    }
}

fn text(argument: OsString) -> Result<String> {
    argument.into_string().map_err(|argument| format_err!("{argument:?} is not UTF-8"))
}

fn parsed<T>(name: &str, argument: OsString) -> Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    text(argument)?.parse::<T>().with_context(|| name.to_owned())
}

fn pair(value: &str, separator: &str) -> Result<(String, String)> {
    let (left, right) = value.split_once(separator).with_context(|| format!("no {separator} in {value}"))?;
    Ok((left.to_owned(), right.to_owned()))
}
