//! The native binary: `eyot serve`.

#[cfg(not(target_family = "wasm"))]
fn main() -> std::process::ExitCode {
    eyot::host::command::main()
}

/// As WebAssembly eyot is the library, which a host calls; see `scripts/build`.
#[cfg(target_family = "wasm")]
fn main() {}
