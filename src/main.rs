//! The native binary: `eyot serve`.

#[cfg(not(target_family = "wasm"))]
fn main() -> std::process::ExitCode {
    eyot::host::command::main()
}

/// Empty in a WebAssembly build: there a host calls eyot's library. See `scripts/build`.
#[cfg(target_family = "wasm")]
fn main() {}
