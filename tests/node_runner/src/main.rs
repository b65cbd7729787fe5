//! Cargo's runner for a test file of `#[wasm_bindgen_test]` functions: runs them under Node.
//!
//! The runner uses the same library as wasm-bindgen's own `wasm-bindgen-test-runner` in its Node
//! mode, and builds in a tenth of the time, because the runner has no browsers, drivers and
//! servers. The runner is also stricter: a run fails if no test ran, or if the run ended before
//! every test had ended.
//!
//! `CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=<this> cargo test --target wasm32-unknown-unknown --test <file>`

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::{env, fs, process};

use anyhow::{Context, Result, ensure};
use wasm_bindgen_cli_support::Bindgen;

/// The name by which the harness calls the generated module.
const MODULE: &str = "tests";
const HARNESS: &str = include_str!("harness.cjs");
/// The custom section in which `wasm_bindgen_test_configure!` stores the choice of another
/// environment.
const CONFIGURATION: &str = "__wasm_bindgen_test_unstable";

fn main() -> Result<ExitCode> {
    let mut args = env::args_os().skip(1);
    let wasm = PathBuf::from(args.next().context("usage: node_runner TESTS.wasm [FILTER...]")?);

    let mut output = Bindgen::new()
        .nodejs(true)?
        .input_bytes(MODULE, fs::read(&wasm).with_context(|| wasm.display().to_string())?)
        // `debug` turns on assertions in the JavaScript, not debug information.
        .debug(true)
        // The tests are plain exports of the module, which the glue code would hide.
        .export_wasm(true)
        // `main` belongs to libtest, which does not run these tests.
        .emit_start(false)
        .generate_output()
        .context("wasm-bindgen failed (it also does on a file without any test)")?;
    let elsewhere = output.wasm_mut().customs.remove_raw(CONFIGURATION);
    ensure!(elsewhere.is_none(), "these tests ask for a browser or an ES module, this runs plain Node only");

    // The output folder lies beside the wasm file, in Cargo's target folder. The process id in its
    // name separates parallel runs.
    let dir = wasm.with_extension(format!("node-{}", process::id()));
    output.emit(&dir).context("writing the bindings")?;
    let harness = dir.join("harness.cjs");
    fs::write(&harness, HARNESS)?;
    let status = Command::new("node").arg(&harness).args(args).status().context("node");
    fs::remove_dir_all(&dir)?;

    Ok(if status?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
