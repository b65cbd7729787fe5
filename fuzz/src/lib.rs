//! Properties that hold for any input. Each function takes bytes of any kind and panics if a
//! property is broken. Two callers run the functions: cargo-fuzz (`fuzz_targets/`), and
//! `tests/attacks/fuzz.rs`, which includes this file as a module.

mod answers;
mod logins;
mod manifests;
mod ranges;
mod registry;
mod requests;
mod rules;
mod uploads;
mod words;

pub use answers::answers;
pub use logins::{LOGINS_REACHED, logins};
pub use manifests::manifests;
pub use ranges::ranges;
pub use requests::{REACHED, requests};
pub use rules::rules;
pub use uploads::uploads;
pub use words::words;
