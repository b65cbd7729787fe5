//! `spin-host` runs eyot's Spin components the way `spin up` does, on machines that have no Spin.
//!
//! The host is a test tool. The host has the same pitfalls as Spin, and reports an error where Spin
//! would hang silently. `--help` lists the options.

mod allowed;
mod bindings;
mod calls;
mod guest;
mod key_value;
mod lock;
mod options;
mod outbound;
mod received;
mod server;
mod sqlite;
mod variables;
mod wasi_key_value;

use std::io::Write as _;
use std::sync::Arc;

use wasmtime::Result;
use wasmtime::error::Context as _;

use crate::guest::Services;
use crate::options::Options;

const WORKER_THREADS_MIN: usize = 4;

fn main() -> Result<()> {
    let Some(options) = Options::parse(std::env::args_os().skip(1))? else {
        print!("{}", options::HELP);
        return Ok(());
    };
    // A guest's key-value call blocks its thread, as in Spin. A few threads more than a small
    // machine has cores let other instances continue meanwhile.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.max(WORKER_THREADS_MIN))
        .enable_all()
        .build()?
        .block_on(run(options))
}

async fn run(options: Options) -> Result<()> {
    std::fs::create_dir_all(&options.state).with_context(|| format!("cannot create {}", options.state.display()))?;
    let services = Arc::new(Services::open(&options)?);
    let component = guest::load(&options.component, options.compiled.as_deref())?;
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    let address = listener.local_addr()?;

    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on http://{address}")?;
    stdout.flush()?;

    server::serve(listener, component, services, &options).await
}
