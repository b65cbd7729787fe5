//! Cargo's runner for a test file of `#[wasm_bindgen_test]` functions: runs them under Node.
//!
//! It does what wasm-bindgen's own `wasm-bindgen-test-runner` does in its Node mode, with the same library,
//! and builds in a tenth of the time, for it has no browsers, drivers and servers. It is also stricter:
//! a run in which no test ran fails, and so does one that ended before every test had.
//!
//! `CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=<this> cargo test --target wasm32-unknown-unknown --test <file>`

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::{env, fs, process};

use anyhow::{Context, Result, ensure};
use wasm_bindgen_cli_support::Bindgen;

/// What the harness calls the generated module.
const MODULE: &str = "tests";
const HARNESS: &str = include_str!("harness.cjs");
/// Where `wasm_bindgen_test_configure!` leaves its choice of another environment.
const CONFIGURATION: &str = "__wasm_bindgen_test_unstable";

fn main() -> Result<ExitCode> {
    let mut args = env::args_os().skip(1);
    let wasm = PathBuf::from(args.next().context("usage: node_runner TESTS.wasm [FILTER...]")?);

    let mut output = Bindgen::new()
        .nodejs(true)?
        .input_bytes(MODULE, fs::read(&wasm).with_context(|| wasm.display().to_string())?)
        // Assertions in the JavaScript, not debug information.
        .debug(true)
        // The tests are plain exports of the module, which the glue would hide.
        .export_wasm(true)
        // `main` belongs to libtest, which knows nothing of these tests.
        .emit_start(false)
        .generate_output()
        .context("wasm-bindgen failed (it also does on a file without any test)")?;
    let elsewhere = output.wasm_mut().customs.remove_raw(CONFIGURATION);
    ensure!(elsewhere.is_none(), "these tests ask for a browser or an ES module, this runs plain Node only");

    // Beside the wasm file, so in Cargo's target folder, with the process's id: two runs at once do not meet.
    let dir = wasm.with_extension(format!("node-{}", process::id()));
    output.emit(&dir).context("writing the bindings")?;
    let harness = dir.join("harness.cjs");
    fs::write(&harness, HARNESS)?;
    let status = Command::new("node").arg(&harness).args(args).status().context("node");
    fs::remove_dir_all(&dir)?;

    Ok(if status?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
