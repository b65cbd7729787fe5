//! What holds of any input. Each function takes bytes of any kind and panics where a property is broken. cargo-fuzz calls them
//! (`fuzz_targets/`), and so does `tests/fuzz.rs`, which takes this very file in as a module.

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
